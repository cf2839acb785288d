//! What is set of a role as text, and the request that it makes.

use std::collections::BTreeMap;

use tepui_types::api::role::{RoleRequest, RoleView};
use tepui_types::resources::{Amounts, thousandths};
use tepui_types::role::RoleSettings;
use tepui_types::{MilliCpus, Role};

/// A field that a message can stand at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// Its path.
    Role,
    /// How much it counts.
    Weight,
    /// What is laid away for it.
    Guarantee,
    /// The most that it may have.
    Limit,
}

/// The form's fields as they were typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleForm {
    /// Its path.
    pub role: String,
    /// How much it counts beside its siblings.
    pub weight: String,
    /// Amounts by name; nothing when empty.
    pub guarantee: String,
    /// Amounts by name; none when empty.
    pub limit: String,
    /// Whether others may take back what its tasks have, if that is said.
    pub preemptible: Option<bool>,
    /// Whether sums are not looked at.
    pub force: bool,
}

impl Default for RoleForm {
    fn default() -> Self {
        Self {
            role: String::new(),
            weight: "1".into(),
            guarantee: String::new(),
            limit: String::new(),
            preemptible: None,
            force: false,
        }
    }
}

impl RoleForm {
    /// What is set of a role now.
    pub fn of(view: &RoleView) -> Self {
        let guarantee = view.guarantee.entries().filter(|(_, amount)| *amount > 0);
        Self {
            role: view.role.to_string(),
            weight: MilliCpus(view.weight_milli.into()).to_string(),
            guarantee: Amounts::from_entries(guarantee).to_string(),
            limit: Amounts::from_entries(view.limit.entries()).to_string(),
            preemptible: view.preemptible,
            force: false,
        }
    }

    /// The role and what is to be set of it, or what is wrong at which field.
    pub fn request(&self) -> Result<(Role, RoleRequest), BTreeMap<Field, String>> {
        let mut problems = BTreeMap::new();
        let role = self.role.trim().parse::<Role>();
        let role = role.map_err(|_| {
            let names = "Use names of lower-case letters, digits and dashes, joined by slashes";
            problems.insert(Field::Role, format!("{names}: eng/web."));
        });
        let weight = weight(&self.weight);
        let weight = weight.map_err(|problem| problems.insert(Field::Weight, problem));
        let guarantee = amounts(&self.guarantee);
        let guarantee = guarantee.map_err(|problem| problems.insert(Field::Guarantee, problem));
        let limit = amounts(&self.limit);
        let limit = limit.map_err(|problem| problems.insert(Field::Limit, problem));
        match (role, weight, guarantee, limit) {
            (Ok(role), Ok(weight), Ok(guarantee), Ok(limit)) => {
                let request = RoleRequest {
                    weight_milli: Some(weight),
                    guarantee: guarantee.request(),
                    limit: limit.limit(),
                    preemptible: self.preemptible,
                    force: self.force,
                };
                Ok((role, request))
            }
            _ => Err(problems),
        }
    }
}

fn weight(text: &str) -> Result<u32, String> {
    let milli = thousandths(text.trim()).and_then(|milli| u32::try_from(milli).ok());
    let wanted = || "Use a number above 0 such as 2 or 0.5.".to_owned();
    milli.filter(|milli| *milli > 0).ok_or_else(wanted)
}

/// Nothing where nothing is typed.
fn amounts(text: &str) -> Result<Amounts, String> {
    match text.trim() {
        "" => Ok(Amounts::default()),
        text => text
            .parse()
            .map_err(|why: String| format!("Not understood: {why}.")),
    }
}

const _: () = assert!(
    RoleSettings::DEFAULT_WEIGHT_MILLI == 1_000,
    "the form's `1`"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_becomes_a_request_and_is_shown_again() {
        let form = RoleForm {
            role: " eng/web ".into(),
            weight: "0.5".into(),
            guarantee: "cpus=1.5, mem=1GiB".into(),
            limit: "gpus=0".into(),
            preemptible: Some(true),
            force: false,
        };
        let (role, request) = form.request().unwrap();
        assert_eq!(role.as_str(), "eng/web");
        assert_eq!(request.weight_milli, Some(500));
        assert_eq!(request.guarantee.cpus, MilliCpus(1_500));
        assert_eq!(request.limit.gpus_milli, Some(0));
        let view = RoleView {
            role,
            is_set: true,
            weight_milli: 500,
            guarantee: request.guarantee.clone(),
            limit: request.limit.clone(),
            preemptible: Some(true),
            claimed: Default::default(),
            used: Default::default(),
            offered: Default::default(),
            share_ppm: 0,
            frameworks: 0,
            waiting: 0,
            revision: 3,
        };
        let shown = RoleForm::of(&view);
        assert_eq!(
            (shown.role.as_str(), shown.weight.as_str()),
            ("eng/web", "0.5")
        );
        assert_eq!(shown.guarantee, "cpus=1.5,mem=1GiB");
        assert_eq!(shown.limit, "gpus=0");
        assert_eq!(shown.request().unwrap().1, request);
    }

    #[test]
    fn each_wrong_field_has_its_message() {
        let form = RoleForm {
            role: "Eng".into(),
            weight: "0".into(),
            guarantee: "mem=1".into(),
            limit: "cpus".into(),
            ..RoleForm::default()
        };
        let problems = form.request().unwrap_err();
        assert_eq!(problems.len(), 4);
        assert!(problems[&Field::Guarantee].contains("no unit"));
    }
}
