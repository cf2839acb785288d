//! `tepui role`: who counts how much, and what each is promised and may have.

use anyhow::Result;
use clap::{Args, Subcommand};
use tepui_types::MilliCpus;
use tepui_types::Role;
use tepui_types::api::role::{RoleRequest, RoleView};
use tepui_types::resources::{Amounts, ResourceRequest};

use crate::amounts;
use crate::client::Client;
use crate::output::{self, Columns, Fields, Format};

/// What can be done with roles.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the roles that are set or used, and those above them
    List,
    /// Show one role
    Show {
        /// Its path such as eng/web
        role: Role,
    },
    /// Set a role's weight, guarantee or limit; what is not named stays
    Set(Set),
    /// Forget what was set of a role: weight 1, no guarantee, no limit
    Remove {
        /// Its path such as eng/web
        role: Role,
    },
}

/// What is to be set.
#[derive(Debug, Args)]
pub struct Set {
    /// Its path such as eng/web
    role: Role,
    /// How much it counts beside its siblings, such as 2 or 0.5
    #[arg(long, value_name = "N", value_parser = amounts::weight)]
    weight: Option<u32>,
    /// What is laid away for it, such as cpus=4,mem=8GiB; `none` takes it back
    #[arg(long, value_name = "AMOUNTS")]
    guarantee: Option<Amounts>,
    /// The most that it may have, such as cpus=8,gpus=2; `none` takes it back
    #[arg(long, value_name = "AMOUNTS")]
    limit: Option<Amounts>,
    /// Whether its tasks may be ended for roles below their guarantee;
    /// `inherit` leaves that to the role above it
    #[arg(long, value_name = "yes|no|inherit", value_parser = preemptible)]
    preemptible: Option<Preemptible>,
    /// Also where the cluster has less than is guaranteed, or the role more than its limit
    #[arg(long)]
    force: bool,
}

/// What is said of a role's tasks, or that nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Preemptible(Option<bool>);

fn preemptible(text: &str) -> Result<Preemptible, String> {
    match text {
        "yes" => Ok(Preemptible(Some(true))),
        "no" => Ok(Preemptible(Some(false))),
        "inherit" => Ok(Preemptible(None)),
        other => Err(format!("`{other}` is not one of yes, no and inherit")),
    }
}

/// Runs one of the commands.
pub async fn run(command: Command, client: &Client, format: Format) -> Result<()> {
    match command {
        Command::List => list(&client.roles().await?, format),
        Command::Show { role } => show(&client.role(&role).await?, format),
        Command::Set(set) => {
            let known = client.role(&set.role).await?;
            let request = request(&set, &known);
            let view = client.set_role(&set.role, &request, known.revision).await?;
            show(&view, format)
        }
        Command::Remove { role } => {
            client.remove_role(&role).await?;
            match format {
                Format::Json => output::json(&serde_json::json!({ "removed": role })),
                Format::Table => output::line(&format!("nothing is set of {role} any more")),
            }
        }
    }
}

/// What is known of the role, with what was named in its place.
fn request(set: &Set, known: &RoleView) -> RoleRequest {
    let guarantee = set.guarantee.as_ref().map(Amounts::request);
    let limit = set.limit.as_ref().map(Amounts::limit);
    RoleRequest {
        weight_milli: Some(set.weight.unwrap_or(known.weight_milli)),
        guarantee: guarantee.unwrap_or_else(|| known.guarantee.clone()),
        limit: limit.unwrap_or_else(|| known.limit.clone()),
        preemptible: set.preemptible.map_or(known.preemptible, |said| said.0),
        force: set.force,
    }
}

fn list(roles: &[RoleView], format: Format) -> Result<()> {
    if format == Format::Json {
        return output::json(&roles);
    }
    let mut table = Columns::new(&[
        "role",
        "weight",
        "share",
        "used",
        "offered",
        "guarantee",
        "limit",
        "frameworks",
        "waiting",
    ]);
    for role in roles {
        table.row([
            role.role.to_string(),
            MilliCpus(role.weight_milli.into()).to_string(),
            percent(role.share_ppm),
            amounts_of(role.used.entries()),
            amounts_of(role.offered.entries()),
            amounts_of(role.guarantee.entries()),
            amounts_of(role.limit.entries()),
            role.frameworks.to_string(),
            role.waiting.to_string(),
        ]);
    }
    for column in [1, 2, 7, 8] {
        table.right(column);
    }
    table.print("no role is set or used")
}

fn show(role: &RoleView, format: Format) -> Result<()> {
    if format == Format::Json {
        return output::json(role);
    }
    let mut fields = Fields::new();
    fields
        .add("role", &role.role)
        .add("weight", MilliCpus(role.weight_milli.into()))
        .add("guarantee", amounts_of(role.guarantee.entries()))
        .add("limit", amounts_of(role.limit.entries()))
        .add(
            "preemptible",
            match role.preemptible {
                Some(true) => "yes",
                Some(false) => "no",
                None => "inherit",
            },
        )
        .add("used", amounts_of(role.used.entries()))
        .maybe(
            "claimed",
            (!role.claimed.is_empty()).then(|| amounts_of(role.claimed.entries())),
        )
        .add("offered", amounts_of(role.offered.entries()))
        .add("share", percent(role.share_ppm))
        .add("frameworks", role.frameworks)
        .add("waiting", role.waiting);
    fields.print()
}

/// Amounts by name, as they are typed.
fn amounts_of<'a>(entries: impl Iterator<Item = (&'a str, u64)>) -> String {
    let parts: Vec<_> = entries
        .map(|(name, amount)| format!("{name} {}", ResourceRequest::show_amount(name, amount)))
        .collect();
    if parts.is_empty() {
        "-".into()
    } else {
        parts.join(", ")
    }
}

fn percent(ppm: u64) -> String {
    format!("{}.{} %", ppm / 10_000, ppm / 1_000 % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let known = RoleView {
            role: Role::default(),
            is_set: true,
            weight_milli: 2_000,
            guarantee: "cpus=2".parse::<Amounts>().unwrap().request(),
            limit: Default::default(),
            preemptible: Some(true),
            claimed: ResourceRequest::default(),
            used: ResourceRequest::default(),
            offered: ResourceRequest::default(),
            share_ppm: 123_456,
            frameworks: 1,
            waiting: 0,
            revision: 7,
        };
        let set = Set {
            role: Role::default(),
            weight: None,
            guarantee: None,
            limit: Some("cpus=4,mem=1GiB".parse().unwrap()),
            preemptible: None,
            force: false,
        };
        let request = request(&set, &known);
        assert_eq!(request.weight_milli, Some(2_000));
        assert_eq!(request.guarantee, known.guarantee);
        assert_eq!(request.preemptible, Some(true));
        assert_eq!(preemptible("inherit"), Ok(Preemptible(None)));
        assert_eq!(amounts_of(request.limit.entries()), "cpus 4, mem 1 GiB");
        assert_eq!(amounts_of(known.used.entries()), "-");
        assert_eq!(percent(known.share_ppm), "12.3 %");
    }
}
