//! `tepui setting`: what is decided for the whole cluster.

use anyhow::{Context, Result, bail};
use clap::{Subcommand, ValueEnum};
use tepui_types::resources::{Amounts, ResourceRequest};
use tepui_types::setting::{GpuAgents, Settings};

use crate::amounts;
use crate::client::Client;
use crate::output::{self, Columns, Format};

/// What can be done with settings.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show all settings
    List,
    /// Change one
    Set {
        /// Which
        #[arg(value_enum)]
        name: Name,
        /// `for-gpus` or `for-all`; names; amounts such as cpus=0.01, of which an
        /// offer has one at least; a time such as 30s; patterns such as node-*;
        /// a number; `none`
        #[arg(required = true)]
        value: Vec<String>,
    },
    /// Let one be as it is without being set
    Reset {
        /// Which
        #[arg(value_enum)]
        name: Name,
    },
}

/// Which setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// Who is offered agents with gpus
    GpuAgents,
    /// Resources that count in nobody's share
    Unshared,
    /// The least that is offered
    MinimumOffer,
    /// How long an offer is held
    OfferTimeout,
    /// Which hosts are offered
    AllowedHosts,
    /// The most tasks ended in a minute for roles below their guarantee
    PreemptionsPerMinute,
}

/// What is shown and typed where no list of hosts restricts offers.
const ALL_HOSTS: &str = "all";

/// Runs one of the commands.
pub async fn run(command: Command, client: &Client, format: Format) -> Result<()> {
    let (settings, tag) = client.settings().await?;
    let settings = match command {
        Command::List => settings,
        Command::Set { name, value } => {
            let wanted = set(settings, name, &value)?;
            client.set_settings(&wanted, &tag).await?
        }
        Command::Reset { name } => client.set_settings(&reset(settings, name), &tag).await?,
    };
    match format {
        Format::Json => output::json(&settings),
        Format::Table => show(&settings),
    }
}

fn set(mut settings: Settings, name: Name, value: &[String]) -> Result<Settings> {
    let is_none = value == ["none"];
    let one = || match value {
        [one] => Ok(one.as_str()),
        _ => bail!("this setting has one value"),
    };
    match name {
        Name::GpuAgents => {
            settings.gpu_agents = match one()? {
                "for-gpus" => GpuAgents::ForGpus,
                "for-all" => GpuAgents::ForAll,
                other => bail!("`{other}` is not one of `for-gpus` and `for-all`"),
            }
        }
        Name::Unshared if is_none => settings.unshared.clear(),
        Name::Unshared => settings.unshared = value.iter().cloned().collect(),
        Name::MinimumOffer if is_none => settings.minimum_offer.clear(),
        Name::MinimumOffer => {
            let amounts = value.iter().map(|text| text.parse());
            let amounts: Result<Vec<Amounts>, _> = amounts.collect();
            let amounts = amounts.map_err(anyhow::Error::msg)?;
            settings.minimum_offer = amounts.iter().map(Amounts::request).collect();
        }
        Name::OfferTimeout => {
            let time = amounts::duration(one()?).map_err(anyhow::Error::msg)?;
            let millis = u64::try_from(time.as_millis());
            settings.offer_timeout_ms = millis.context("that is too long")?;
        }
        Name::PreemptionsPerMinute => {
            let count = one()?;
            let count = count
                .parse()
                .with_context(|| format!("`{count}` is no number"))?;
            settings.preemptions_per_minute = count;
        }
        Name::AllowedHosts if value == [ALL_HOSTS] => settings.allowed_hosts = None,
        Name::AllowedHosts if is_none => bail!(
            "say `{ALL_HOSTS}` to offer every host; who shall be offered none deactivates its agents"
        ),
        Name::AllowedHosts => settings.allowed_hosts = Some(value.to_vec()),
    }
    Ok(settings)
}

fn reset(settings: Settings, name: Name) -> Settings {
    let usual = Settings::default();
    match name {
        Name::GpuAgents => Settings {
            gpu_agents: usual.gpu_agents,
            ..settings
        },
        Name::Unshared => Settings {
            unshared: usual.unshared,
            ..settings
        },
        Name::MinimumOffer => Settings {
            minimum_offer: usual.minimum_offer,
            ..settings
        },
        Name::OfferTimeout => Settings {
            offer_timeout_ms: usual.offer_timeout_ms,
            ..settings
        },
        Name::PreemptionsPerMinute => Settings {
            preemptions_per_minute: usual.preemptions_per_minute,
            ..settings
        },
        Name::AllowedHosts => Settings {
            allowed_hosts: usual.allowed_hosts,
            ..settings
        },
    }
}

fn show(settings: &Settings) -> Result<()> {
    let mut table = Columns::new(&["setting", "value", "meaning"]);
    for name in Name::value_variants() {
        let Some(shown) = name.to_possible_value() else {
            continue;
        };
        let meaning = shown.get_help().map(ToString::to_string);
        table.row([
            shown.get_name().to_owned(),
            value(settings, *name),
            meaning.unwrap_or_default(),
        ]);
    }
    table.print("there are no settings")
}

/// As it is typed.
fn value(settings: &Settings, name: Name) -> String {
    let text = match name {
        Name::GpuAgents => match settings.gpu_agents {
            GpuAgents::ForGpus => "for-gpus".into(),
            GpuAgents::ForAll => "for-all".into(),
        },
        Name::Unshared => settings
            .unshared
            .iter()
            .cloned()
            .collect::<Vec<_>>()
            .join(" "),
        Name::MinimumOffer => {
            let amounts = settings.minimum_offer.iter().map(typed);
            amounts.collect::<Vec<_>>().join(" ")
        }
        Name::OfferTimeout => output::span(settings.offer_timeout_ms),
        Name::PreemptionsPerMinute => settings.preemptions_per_minute.to_string(),
        Name::AllowedHosts => match &settings.allowed_hosts {
            None => ALL_HOSTS.into(),
            Some(hosts) => hosts.join(" "),
        },
    };
    match text.as_str() {
        "" => "none".into(),
        _ => text,
    }
}

/// `cpus=0.01,mem=32MiB`.
fn typed(amounts: &ResourceRequest) -> String {
    let amounts = amounts.entries().map(|(name, amount)| {
        let amount = ResourceRequest::show_amount(name, amount);
        format!("{name}={}", amount.replace(' ', ""))
    });
    amounts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn what_is_shown_can_be_typed() {
        for (name, text) in [
            (Name::GpuAgents, "for-all"),
            (Name::Unshared, "licences tokens"),
            (Name::MinimumOffer, "cpus=0.5,mem=2GiB gpus=1"),
            (Name::MinimumOffer, "none"),
            (Name::AllowedHosts, "node-* gateway"),
            (Name::AllowedHosts, "all"),
            (Name::PreemptionsPerMinute, "7"),
        ] {
            let settings = set(Settings::default(), name, &words(text)).unwrap();
            assert_eq!(value(&settings, name), text);
            assert_eq!(settings.validate(), Ok(()));
            assert_eq!(reset(settings, name), Settings::default());
        }
        let usual = value(&Settings::default(), Name::MinimumOffer);
        assert_eq!(usual, "cpus=0.01 mem=32MiB");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (name, text) in [
            (Name::GpuAgents, "some"),
            (Name::OfferTimeout, "soon"),
            (Name::OfferTimeout, "5s 6s"),
            (Name::MinimumOffer, "cpus"),
            (Name::AllowedHosts, "none"),
            (Name::PreemptionsPerMinute, "-1"),
        ] {
            assert!(set(Settings::default(), name, &words(text)).is_err());
        }
    }
}
