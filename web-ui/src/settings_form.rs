//! The cluster's settings as text, and what they make.

use std::collections::BTreeMap;

use tepui_types::resources::Amounts;
use tepui_types::setting::{GpuAgents, Settings};

/// A field that a message can stand at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// How long an offer is held.
    OfferTimeout,
    /// The least that is offered.
    MinimumOffer,
    /// Which hosts are offered.
    AllowedHosts,
    /// What counts in nobody's share.
    Unshared,
    /// The most tasks ended in a minute for others.
    Preemptions,
}

/// The form's fields as they were typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettingsForm {
    /// Whether everybody is offered agents with gpus.
    pub gpus_for_all: bool,
    /// Seconds.
    pub offer_timeout: String,
    /// Amounts by name, a line each, of which an offer has one at least.
    pub minimum_offer: String,
    /// Patterns, a line each; all hosts when empty.
    pub allowed_hosts: String,
    /// Names, a line each.
    pub unshared: String,
    /// A number.
    pub preemptions: String,
}

impl SettingsForm {
    /// What is set now.
    pub fn of(settings: &Settings) -> Self {
        let lines = |lines: Vec<String>| lines.join("\n");
        let minimums = settings.minimum_offer.iter().map(|minimum| {
            let named = minimum.entries().filter(|(_, amount)| *amount > 0);
            Amounts::from_entries(named).to_string()
        });
        Self {
            gpus_for_all: settings.gpu_agents == GpuAgents::ForAll,
            offer_timeout: seconds(settings.offer_timeout_ms),
            minimum_offer: lines(minimums.collect()),
            allowed_hosts: lines(settings.allowed_hosts.clone().unwrap_or_default()),
            unshared: lines(settings.unshared.iter().cloned().collect()),
            preemptions: settings.preemptions_per_minute.to_string(),
        }
    }

    /// What is to be set, or what is wrong at which field.
    pub fn settings(&self) -> Result<Settings, BTreeMap<Field, String>> {
        let mut problems = BTreeMap::new();
        let timeout = self.timeout();
        let timeout = timeout.map_err(|problem| problems.insert(Field::OfferTimeout, problem));
        let minimums = lines(&self.minimum_offer).map(str::parse::<Amounts>);
        let minimums: Result<Vec<_>, _> = minimums.collect();
        let minimums = minimums
            .map_err(|why| problems.insert(Field::MinimumOffer, format!("Not understood: {why}.")));
        let preemptions = self.preemptions.trim().parse();
        let preemptions = preemptions.map_err(|_| {
            problems.insert(Field::Preemptions, "Use a whole number from 0 up.".into())
        });
        let hosts: Vec<_> = lines(&self.allowed_hosts).map(str::to_owned).collect();
        match (timeout, minimums, preemptions) {
            (Ok(offer_timeout_ms), Ok(minimums), Ok(preemptions_per_minute)) => Ok(Settings {
                gpu_agents: match self.gpus_for_all {
                    true => GpuAgents::ForAll,
                    false => GpuAgents::ForGpus,
                },
                unshared: lines(&self.unshared).map(str::to_owned).collect(),
                minimum_offer: minimums.iter().map(Amounts::request).collect(),
                offer_timeout_ms,
                allowed_hosts: (!hosts.is_empty()).then_some(hosts),
                preemptions_per_minute,
            }),
            _ => Err(problems),
        }
    }

    fn timeout(&self) -> Result<u64, String> {
        let (least, most) = Settings::OFFER_TIMEOUTS_MS.into_inner();
        let millis = tepui_types::resources::thousandths(self.offer_timeout.trim());
        millis
            .filter(|millis| Settings::OFFER_TIMEOUTS_MS.contains(millis))
            .ok_or_else(|| {
                let (least, most) = (seconds(least), seconds(most));
                format!("Use a number of seconds from {least} to {most}.")
            })
    }
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

/// Thousandths of a second, as people write them.
fn seconds(millis: u64) -> String {
    tepui_types::MilliCpus(millis).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_back_as_they_were() {
        let all = Settings {
            gpu_agents: GpuAgents::ForAll,
            unshared: ["fpga".to_owned()].into(),
            offer_timeout_ms: 1_500,
            allowed_hosts: Some(vec!["a-*".into(), "b".into()]),
            preemptions_per_minute: 7,
            ..Settings::default()
        };
        for settings in [Settings::default(), all] {
            assert_eq!(SettingsForm::of(&settings).settings(), Ok(settings));
        }
        let usual = SettingsForm::of(&Settings::default());
        assert_eq!(usual.minimum_offer, "cpus=0.01\nmem=32MiB");
    }

    #[test]
    fn each_wrong_field_has_its_message() {
        let form = SettingsForm {
            offer_timeout: "0.5".into(),
            minimum_offer: "cpus".into(),
            preemptions: "-1".into(),
            ..SettingsForm::of(&Settings::default())
        };
        let problems = form.settings().unwrap_err();
        assert_eq!(problems.len(), 3);
        assert_eq!(
            problems[&Field::OfferTimeout],
            "Use a number of seconds from 1 to 86400."
        );
    }
}
