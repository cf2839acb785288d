//! What the words of a script's lines mean.

use std::sync::Arc;

use tepui_types::constraint::{Constraint, Constraints, Test};
use tepui_types::resources::{Disk, Pool, PoolKind, Pools, ResourceLimit, ResourceRequest};
use tepui_types::setting::{GpuAgents, Settings};
use tepui_types::*;

use crate::support::spec;

/// What stands before `in ROLE`, and the role.
pub fn in_role<'a, 'b>(words: &'a [&'b str]) -> (&'a [&'b str], Option<Role>) {
    match words {
        [rest @ .., "in", role] => (rest, Some(role.parse().unwrap())),
        _ => (words, None),
    }
}

/// `3*cpus=2,mem=1 2*cpus=1@zone=a wait=10 in y`, or `none`.
pub fn gang(words: &[&str]) -> Option<Gang> {
    if words == ["none"] {
        return None;
    }
    let (words, role) = in_role(words);
    let (mut parts, mut wait_ms) = (Vec::new(), None);
    for word in words {
        if let Some(seconds) = word.strip_prefix("wait=") {
            wait_ms = Some(1000 * seconds.parse::<u64>().unwrap());
            continue;
        }
        let (count, rest) = word.split_once('*').unwrap();
        let (amounts, tests) = rest.split_once('@').unwrap_or((rest, ""));
        let amounts: Vec<_> = amounts.split(',').collect();
        let tests = tests.split(',').filter(|test| !test.is_empty());
        let tests: Vec<_> = tests.map(constraint).collect();
        parts.push(GangPart {
            count: count.parse().unwrap(),
            request: ResourceRequest::from(&resources(&amounts)),
            constraints: Constraints(match tests.is_empty() {
                true => Vec::new(),
                false => vec![tests],
            }),
        });
    }
    Some(Gang {
        parts,
        role,
        wait_ms,
    })
}

/// A task's specification with `priority=N` and `limit=SECONDS`, and the other words.
pub fn spec_of<'a>(words: &[&'a str]) -> (Vec<&'a str>, Arc<TaskSpec>) {
    let mut spec = TaskSpec::clone(&spec());
    let mut others = Vec::new();
    for word in words {
        match word.split_once('=') {
            Some(("priority", priority)) => spec.priority = priority.parse().unwrap(),
            Some(("limit", seconds)) => {
                spec.time_limit_ms = Some(1000 * seconds.parse::<u64>().unwrap());
            }
            _ => others.push(*word),
        }
    }
    (others, Arc::new(spec))
}

/// A machine of this name: `@zone=a` is an attribute, `full` that it takes nothing, the rest what it has.
pub fn named(name: &str, words: &[&str]) -> AgentInfo {
    let (attributes, rest): (Vec<&str>, Vec<&str>) =
        words.iter().partition(|word| word.starts_with('@'));
    let attributes = attributes.iter().map(|word| {
        let (name, value) = word[1..].split_once('=').unwrap();
        (name.to_owned(), value.to_owned())
    });
    let (full, rest): (Vec<&str>, Vec<&str>) = rest.into_iter().partition(|word| *word == "full");
    AgentInfo {
        address: None,
        hostname: name.into(),
        resources: lent(&rest),
        attributes: Arc::new(attributes.collect()),
        version: "0.1.0".into(),
        full: full.first().map(|_| "its disk is full".into()),
    }
}

/// What a machine has: `eng:cpus=2` is statically reserved, `revocable:cpus=1` may be taken back,
/// `mount:ssd=10` and `path:hdd=10` are disks.
pub fn lent(words: &[&str]) -> Resources {
    let (special, plain): (Vec<&str>, Vec<&str>) =
        words.iter().partition(|word| word.contains(':'));
    let pool = |word: &&str| {
        let (of, what) = word.split_once(':').unwrap();
        let disk = |make: fn(String) -> Disk| {
            let (id, gib) = what.split_once('=').unwrap();
            let kind = PoolKind {
                disk: Some(make(id.into())),
                ..PoolKind::default()
            };
            Pool::disk(kind, Bytes::gib(gib.parse().unwrap()))
        };
        match of {
            "mount" => disk(Disk::Mount),
            "path" => disk(Disk::Path),
            "revocable" => Pool {
                kind: PoolKind {
                    revocable: true,
                    ..PoolKind::default()
                },
                amounts: resources(&[what]),
            },
            role => {
                let mut kind = PoolKind::reserved(role.parse().unwrap());
                kind.reservations[0].is_static = true;
                let amounts = resources(&[what]);
                Pool { kind, amounts }
            }
        }
    };
    let pools: Vec<_> = special.iter().map(pool).collect();
    let all = Resources {
        pools: Pools::try_from(pools).unwrap(),
        ..resources(&plain)
    };
    all.validate().unwrap();
    all
}

/// `cpus=2 where zone=a rack!=r1 or hostname~node-*`; a name alone, or after `!`, asks whether it is
/// there.
pub fn demand(count: u32, words: &[&str]) -> Demand {
    let (words, role) = in_role(words);
    let mut parts = words.splitn(2, |word| *word == "where");
    let (special, plain): (Vec<&str>, Vec<&str>) = parts.next().unwrap().iter().partition(|word| {
        **word == "revocable" || word.starts_with("volume=") || word.starts_with("limit=")
    });
    let mut limits = special
        .iter()
        .filter_map(|word| word.strip_prefix("limit="));
    let time_limit_ms = limits
        .next()
        .map(|seconds| 1000 * seconds.parse::<u64>().unwrap());
    let volumes = special
        .iter()
        .filter_map(|word| word.strip_prefix("volume="));
    let request = ResourceRequest::from(&resources(&plain));
    let groups = parts.next().unwrap_or(&[]).split(|word| *word == "or");
    let groups = groups.filter(|group| !group.is_empty());
    let groups = groups.map(|group| group.iter().map(|word| constraint(word)).collect());
    Demand {
        constraints: Constraints(groups.collect()),
        role,
        revocable: special.contains(&"revocable"),
        time_limit_ms,
        volumes: volumes.map(str::to_owned).collect(),
        ..Demand::new(count, request)
    }
}

/// `gpu-agents=all unshared=a,b minimum=none timeout=5 hosts=a*,b`; what is not named is as usual.
/// Each `minimum` is one more.
pub fn settings(words: &[&str]) -> Settings {
    let mut settings = Settings::default();
    if words.iter().any(|word| word.starts_with("minimum=")) {
        settings.minimum_offer.clear();
    }
    for word in words {
        let (name, value) = word.split_once('=').unwrap();
        let names = || value.split(',').map(str::to_owned);
        match (name, value) {
            ("gpu-agents", "all") => settings.gpu_agents = GpuAgents::ForAll,
            ("unshared", _) => settings.unshared = names().collect(),
            ("minimum", "none") => {}
            ("minimum", least_offer) => settings.minimum_offer.push(least(least_offer)),
            ("timeout", seconds) => {
                settings.offer_timeout_ms = 1000 * seconds.parse::<u64>().unwrap();
            }
            ("preemptions", count) => {
                settings.preemptions_per_minute = count.parse().unwrap();
            }
            ("hosts", _) => settings.allowed_hosts = Some(names().collect()),
            other => panic!("no such setting: {other:?}"),
        }
    }
    settings
}

/// `cpus:2,mem:1`.
pub fn least(text: &str) -> ResourceRequest {
    let words: Vec<_> = text.split(',').map(|word| word.replace(':', "=")).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    ResourceRequest::from(&resources(&words))
}

pub fn cpus(amounts: &ResourceRequest) -> String {
    format!("{} cpus", amounts.show("cpus"))
}

pub fn constraint(word: &str) -> Constraint {
    type Sign = (&'static str, fn(String) -> Test);
    let tests: [Sign; 4] = [
        ("!=", Test::NotEquals),
        ("!~", Test::NotMatches),
        ("=", Test::Equals),
        ("~", Test::Matches),
    ];
    let named = tests.iter().find_map(|(sign, test)| {
        let (name, text) = word.split_once(sign)?;
        Some((name, test(text.into())))
    });
    let (attribute, test) = named.unwrap_or(match word.strip_prefix('!') {
        Some(name) => (name, Test::NotExists),
        None => (word, Test::Exists),
    });
    let attribute = attribute.into();
    Constraint { attribute, test }
}

/// `cpus=2 mem=1 gpus=g0,g1 ports=2`: memory and disk in GiB.
pub fn resources(words: &[&str]) -> Resources {
    let mut resources = Resources::default();
    for word in words {
        let (name, amount) = word
            .split_once('=')
            .unwrap_or_else(|| panic!("no amount: {word}"));
        match name {
            "cpus" => resources.cpus = MilliCpus(thousandths(amount)),
            "mem" => resources.mem = Bytes::gib(amount.parse().unwrap()),
            "disk" => resources.disk = Bytes::gib(amount.parse().unwrap()),
            "ports" => {
                let count: u16 = amount.parse().unwrap();
                resources.ports = resources::PortRanges::from_range(31000, 30999 + count);
            }
            "gpus" => {
                let devices = amount.split(',').map(|name| (name.to_owned(), 1000));
                resources.gpus = devices.collect();
            }
            name => _ = resources.custom.insert(name.into(), thousandths(amount)),
        }
    }
    resources
}

pub fn limit(limit: &mut ResourceLimit, amounts: &Resources) {
    let amounts = ResourceRequest::from(amounts);
    // A limit of nothing is written `limit.cpus=0`, the only one that a script has needed.
    if amounts.is_empty() {
        limit.cpus = Some(MilliCpus(0));
    }
    for (name, amount) in amounts.entries() {
        match name {
            "cpus" => limit.cpus = Some(MilliCpus(amount)),
            "mem" => limit.mem = Some(Bytes(amount)),
            "disk" => limit.disk = Some(Bytes(amount)),
            "ports" => limit.ports = Some(amount as u32),
            "gpus" => limit.gpus_milli = Some(amount),
            name => _ = limit.custom.insert(name.into(), amount),
        }
    }
}

pub fn thousandths(text: &str) -> u64 {
    tepui_types::resources::thousandths(text).unwrap()
}
