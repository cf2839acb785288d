//! `tepui explain`: why a job, or what a framework wants, is not placed.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use clap::Args;
use tepui_types::Role;
use tepui_types::api::demand::DemandView;
use tepui_types::api::job::JobView;

use crate::client::{BATCH, Client};
use crate::job;
use crate::output::{self, Fields, Format};

/// What is to be explained.
#[derive(Debug, Args)]
pub struct Options {
    /// A job's name, or the key of a framework's demand
    name: String,
    /// Of this framework's jobs, which takes them as batch does
    #[arg(long, default_value = BATCH, value_name = "FRAMEWORK")]
    framework: String,
}

/// Explains.
pub async fn run(options: Options, client: &Client, format: Format) -> Result<()> {
    let name = options.name;
    let mut demands = client.demands().await?;
    demands.retain(|demand| demand.key == name);
    let job = match client.jobs_of(&options.framework).get(&name).await {
        Ok(job) => Some(job),
        Err(error) if error.status() == Some(404) => None,
        Err(error) => return Err(error.into()),
    };
    if demands.is_empty() && job.is_none() {
        bail!("nothing that waits is named `{name}`: see `tepui job list`");
    }
    if format == Format::Json {
        return output::json(&serde_json::json!({ "job": job, "demands": demands }));
    }
    if let Some(job) = &job {
        output::line(&about_job(job))?;
    }
    for demand in &demands {
        about_demand(demand)?;
    }
    Ok(())
}

fn about_job(view: &JobView) -> String {
    let mut text = format!(
        "job {} is {}: {}",
        view.name,
        job::state(view.state),
        job::counts(view)
    );
    if let Some(reason) = &view.reason {
        text.push_str(&format!("\n{reason}"));
    }
    text
}

fn about_demand(demand: &DemandView) -> Result<()> {
    let explanation = &demand.explanation;
    let mut fields = Fields::new();
    fields
        .add(
            "wanted",
            format!(
                "{} of {} by {}, for {}",
                demand.count,
                output::request(&demand.request),
                demand.framework_name,
                output::age(demand.since)
            ),
        )
        .maybe(
            "role",
            (demand.role != Role::default()).then_some(&demand.role),
        )
        .add("why", &explanation.summary)
        .add(
            "agents",
            format!("{}, fits on {}", explanation.agents, explanation.fitting),
        );
    for (resource, most) in &explanation.largest {
        fields.add("largest", format!("{most} {resource}"));
    }
    for (name, agents) in [
        ("too small", &explanation.too_small),
        ("busy", &explanation.busy),
    ] {
        if !agents.is_empty() {
            fields.add(name, short_of(agents));
        }
    }
    if explanation.constrained > 0 {
        let mut rule_out = format!("rule out {}", explanation.constrained);
        // Older masters do not say which.
        if !explanation.unmet.is_empty() {
            rule_out = format!("{rule_out}: {}", explanation.unmet_in_words());
        }
        fields.add("constraints", rule_out);
    }
    if explanation.held > 0 {
        fields.add("offered to others", explanation.held);
    }
    for (name, count) in [
        ("kept for gpus", explanation.spared),
        ("too little left", explanation.slivers),
        ("kept for guarantees", explanation.withheld),
        ("kept for a gang", explanation.behind_gang),
        ("reserved for others", explanation.reserved),
        ("not allowed", explanation.disallowed),
    ] {
        if count > 0 {
            fields.add(name, count);
        }
    }
    if let Some(gang) = &demand.gang {
        let parts: Vec<_> = gang
            .parts
            .iter()
            .map(|part| format!("{} of {}", part.count, output::request(&part.request)))
            .collect();
        fields
            .add("gang", parts.join(" and "))
            .maybe("starts by", gang.starts_by.map(output::instant))
            .maybe("given up", gang.deadline.map(output::instant));
    }
    fields.maybe("quota", explanation.quota.as_ref());
    if explanation.lacking > 0 {
        fields.add("lacks what is reserved", explanation.lacking);
    }
    if explanation.inactive > 0 {
        fields.add("inactive", explanation.inactive);
    }
    if explanation.filtered > 0 {
        fields.add("declined", explanation.filtered);
    }
    fields.print()
}

fn short_of(agents: &BTreeMap<String, u64>) -> String {
    let parts: Vec<_> = agents
        .iter()
        .map(|(resource, count)| format!("{count} short of {resource}"))
        .collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortages_are_counted_by_resource() {
        let agents = BTreeMap::from([("cpus".to_owned(), 3), ("mem".to_owned(), 1)]);
        assert_eq!(short_of(&agents), "3 short of cpus, 1 short of mem");
    }
}
