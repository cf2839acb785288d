//! What a task runs, in words: a line for tables, and facts for its own page.
//!
//! Only what was said is told: a container that asks for nothing special has few facts.

use tepui_types::check::{Check, Checks, Probe};
use tepui_types::command::{Companion, CompanionRole, MAIN, Restart, RestartAfter};
use tepui_types::container::{
    Container, Mount, MountSource, Namespace, Network, PortMapping, Protocol, Userns,
};
use tepui_types::resources::PortRanges;
use tepui_types::{PullPolicy, TaskSpec, Workload};

use crate::{amounts, argv};

/// A term, and what is said of it, line by line.
pub type Fact = (&'static str, Vec<String>);

/// In one line.
pub fn line(workload: &Workload) -> String {
    match workload {
        Workload::Command(command) => {
            let image = command.image().map(|image| format!("image {image}"));
            let words = Some(argv::join(&command.argv)).filter(|words| !words.is_empty());
            let parts: Vec<String> = image.into_iter().chain(words).collect();
            parts.join(" ")
        }
        Workload::Wasm(wasm) => {
            let short: String = wasm.artifact.hex().chars().take(12).collect();
            let args = argv::join(&wasm.args);
            format!("wasm:{short} {args}").trim_end().to_owned()
        }
    }
}

/// The names of a task's commands, its own first; none where it has but one.
pub fn members(spec: &TaskSpec) -> Vec<String> {
    let companions = companions(spec);
    let own = companions.first().map(|_| MAIN.to_owned());
    let theirs = companions.iter().map(|companion| companion.name.clone());
    own.into_iter().chain(theirs).collect()
}

/// What runs with it.
pub fn companions(spec: &TaskSpec) -> &[Companion] {
    match &spec.workload {
        Workload::Command(command) => command.companions(),
        Workload::Wasm(_) => &[],
    }
}

/// What a companion is to the others, and what it runs.
pub fn companion(companion: &Companion) -> String {
    let role = role(companion.role);
    let container = companion.container.as_deref();
    let image = container.and_then(|container| container.image.as_ref());
    let image = image.map(|image| format!("image {image}"));
    let words = Some(argv::join(&companion.argv)).filter(|words| !words.is_empty());
    let restart = companion.restart.as_ref().map(restart);
    let most = companion
        .mem_bytes
        .map(|bytes| format!("{bytes} of the task's memory at most"));
    let program: Vec<String> = image.into_iter().chain(words).collect();
    let parts = [Some(program.join(" ")), restart, most];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!("{} ({role}): {}", companion.name, parts.join(", "))
}

/// When a companion runs.
pub fn role(role: CompanionRole) -> &'static str {
    match role {
        CompanionRole::Init => "before it",
        CompanionRole::Sidecar => "beside it",
        CompanionRole::Peer => "as important as it",
    }
}

/// When a command is started again.
pub fn restart(restart: &Restart) -> String {
    let after = match restart.after {
        RestartAfter::Failure => "started again after failures",
        RestartAfter::Any => "started again whenever it ends",
    };
    match restart.most {
        None => after.to_owned(),
        Some(most) => format!("{after}, {most} times at most"),
    }
}

/// Its checks.
pub fn checks(checks: &Checks) -> Vec<String> {
    let said = |(role, check): (_, &Check)| format!("{role}: {}", check_text(check));
    checks.all().map(said).collect()
}

fn check_text(check: &Check) -> String {
    let port = |port: u16| match port {
        0 => "its first port".to_owned(),
        port => format!("port {port}"),
    };
    let probe = match &check.probe {
        Probe::Command(command) => {
            let member = command.member.as_ref();
            let beside = member.map_or_else(String::new, |name| format!(" beside {name}"));
            format!("{}{beside}", argv::join(&command.argv))
        }
        Probe::Http(http) => format!("GET {} at {}", http.path, port(http.port)),
        Probe::Tcp(tcp) => format!("a connection to {}", port(tcp.port)),
    };
    let delay = match check.delay_ms {
        0 => String::new(),
        delay => format!(", first after {}", amounts::duration(delay)),
    };
    format!(
        "{probe}, every {}{delay}, for {} at most; fails after {}",
        amounts::duration(check.interval_ms),
        amounts::duration(check.timeout_ms),
        amounts::counted(check.failures.into(), "failure"),
    )
}

/// What a container is like beyond its image, network and user; `ports` are the task's.
pub fn container(container: &Container, ports: &PortRanges) -> Vec<Fact> {
    let published = match &container.network {
        Network::Named(network) => published(&network.ports, ports),
        Network::Host | Network::None => Vec::new(),
    };
    let entrypoint = container.entrypoint.as_ref().map(|words| argv::join(words));
    let userns = (container.userns == Userns::Private)
        .then(|| "its own, which nobody else on the machine has".to_owned());
    let pull = match container.pull {
        PullPolicy::IfNotPresent => None,
        PullPolicy::Always => Some("asked for anew each time".to_owned()),
        PullPolicy::Never => Some("only what the agent has".to_owned()),
    };
    let limit = |(name, limit): (&String, &tepui_types::container::Rlimit)| {
        format!("{name} {} (up to {})", limit.soft, limit.hard)
    };
    let facts = [
        ("Entrypoint", entrypoint.into_iter().collect()),
        ("Image is pulled", pull.into_iter().collect()),
        ("Published ports", published),
        ("User namespace", userns.into_iter().collect()),
        ("Works in", container.workdir.iter().cloned().collect()),
        ("Hostname", container.hostname.iter().cloned().collect()),
        ("Mounts", container.mounts.iter().map(mount).collect()),
        (
            "Read-only",
            container.read_only_paths.iter().cloned().collect(),
        ),
        ("Limits", container.rlimits.iter().map(limit).collect()),
        ("Shares", container.share.iter().map(namespace).collect()),
    ];
    let is_said = |(_, lines): &Fact| !lines.is_empty();
    facts.into_iter().filter(is_said).collect()
}

/// Which ports of the machine lead where: those that are named, and for the others the task's first
/// that are not, as its agent gives them.
fn published(mappings: &[PortMapping], ports: &PortRanges) -> Vec<String> {
    let is_named = |port: &u16| mappings.iter().any(|mapping| mapping.host == Some(*port));
    let mut free = ports.iter().filter(|port| !is_named(port));
    let said = |mapping: &PortMapping| {
        let host = mapping.host.or_else(|| free.next());
        let host = host.map_or_else(|| "no port".to_owned(), |port| port.to_string());
        let protocol = match mapping.protocol {
            Protocol::Tcp => "",
            Protocol::Udp => "/udp",
        };
        format!("{host} → {}{protocol}", mapping.container)
    };
    mappings.iter().map(said).collect()
}

fn mount(mount: &Mount) -> String {
    let source = match &mount.source {
        MountSource::Host(path) => format!("{path} of the machine"),
        MountSource::Tmpfs(size) => format!("memory, {size}"),
        MountSource::Sandbox(path) => format!("{path} of the sandbox"),
        MountSource::Secret(name) => format!("the secret {name}"),
        MountSource::Image(image) => format!("image {image}"),
    };
    let read_only = if mount.read_only { ", read-only" } else { "" };
    format!("{}: {source}{read_only}", mount.path)
}

fn namespace(namespace: &Namespace) -> String {
    match namespace {
        Namespace::Pid => "the machine's processes",
        Namespace::Ipc => "the machine's shared memory",
        Namespace::Uts => "the machine's name",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(workload: serde_json::Value) -> TaskSpec {
        TaskSpec::new(serde_json::from_value(workload).unwrap())
    }

    #[test]
    fn an_image_that_runs_its_own_command_is_named() {
        let line_of = |command| line(&spec(json!({ "command": command })).workload);
        let container = json!({"image": "web:2"});
        let own = json!({"argv": [], "container": container});
        assert_eq!(line_of(own), "image web:2");
        let given = json!({"argv": ["a", "b c"], "container": container});
        assert_eq!(line_of(given), "image web:2 a 'b c'");
        assert_eq!(line_of(json!({"argv": ["true"]})), "true");
    }

    #[test]
    fn a_container_tells_what_was_asked_of_it_and_no_more() {
        let parse = |json| serde_json::from_value::<Container>(json).unwrap();
        let ports = PortRanges::from_range(31_000, 31_002);
        assert_eq!(container(&parse(json!({"image": "a"})), &ports), []);
        let mappings = json!([
            {"container": 80}, {"container": 53, "host": 31000, "protocol": "udp"},
            {"container": 443}, {"container": 444}
        ]);
        let full = parse(json!({
            "image": "a", "userns": "private", "pull": "always",
            "network": {"named": {"name": "web", "ports": mappings}},
            "mounts": [
                {"path": "/tmp/x", "source": {"tmpfs": 1048576}},
                {"path": "/d", "source": {"host": "/srv"}, "read_only": true}
            ],
            "rlimits": {"nofile": {"soft": 10, "hard": 20}}
        }));
        let facts = container(&full, &ports);
        let said = |term: &str| {
            let fact = facts.iter().find(|(said, _)| *said == term);
            fact.map(|(_, lines)| lines.join("; ")).unwrap_or_default()
        };
        assert_eq!(
            said("Published ports"),
            "31001 → 80; 31000 → 53/udp; 31002 → 443; no port → 444"
        );
        assert_eq!(
            said("Mounts"),
            "/tmp/x: memory, 1 MiB; /d: /srv of the machine, read-only"
        );
        assert_eq!(said("Limits"), "nofile 10 (up to 20)");
        assert!(said("User namespace").contains("its own"));
        assert_eq!(facts.len(), 5, "{facts:?}");
    }

    #[test]
    fn checks_are_told_with_what_makes_them_fail() {
        let command = json!({"command": {"argv": ["test", "-e", "x"], "member": "side"}});
        let parsed = serde_json::from_value(json!({
            "health": {"probe": {"http": {"path": "/ok"}}, "failures": 1},
            "startup": {"probe": command, "delay_ms": 2000}
        }));
        assert_eq!(
            checks(&parsed.unwrap()),
            [
                "start-up: test -e x beside side, every 10 s, first after 2 s, for 5 s at most; \
                 fails after 3 failures",
                "health: GET /ok at its first port, every 10 s, for 5 s at most; fails after \
                 1 failure",
            ]
        );
    }

    #[test]
    fn companions_are_told_with_what_they_run() {
        let fill = json!({"name": "fill", "role": "init", "argv": ["sh", "-c", "a b"]});
        let side = json!({
            "name": "side", "container": {"image": "web:1"}, "restart": {"most": 3},
            "mem_bytes": 1048576
        });
        let options = json!({"companions": [fill, side]});
        let command = json!({"argv": ["true"], "container": {}, "options": options});
        let pod = spec(json!({ "command": command }));
        assert_eq!(members(&pod), ["main", "fill", "side"]);
        let told: Vec<_> = companions(&pod).iter().map(companion).collect();
        assert_eq!(
            told,
            [
                "fill (before it): sh -c 'a b'",
                "side (beside it): image web:1, started again after failures, 3 times at most, \
                 1 MiB of the task's memory at most",
            ]
        );
        let alone = spec(json!({"command": {"argv": ["true"]}}));
        assert_eq!(members(&alone), [""; 0]);
    }
}
