//! The container of a job's tasks, as flags say it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use clap::Args;
use tepui_types::Bytes;
use tepui_types::container::{
    Container, Mount, MountSource, NamedNetwork, Namespace, Network, PortMapping, Protocol, Rlimit,
    Userns,
};
use tepui_types::image::{ImageRef, PullPolicy};

/// What the container of a command is like; any of these puts it into one.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Containers")]
pub struct ContainerOptions {
    /// Run a command of the agents' machines in namespaces of its own
    #[arg(long)]
    isolate: bool,
    /// When to ask for an image that is there already: `if-not-present`, `always` or `never` to ask
    /// for any
    #[arg(long, value_parser = pull, value_name = "WHEN")]
    pull: Option<PullPolicy>,
    /// Run this in place of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// As whom: `name`, `uid`, `name:group` or `uid:gid`
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Where, within the container
    #[arg(long, value_name = "DIR")]
    workdir: Option<String>,
    /// Keep all but mounts, volumes, the sandbox and /tmp from being written to
    #[arg(long)]
    read_only: bool,
    /// Keep this path from being written to, and what is below it from being executed; again for more
    #[arg(long, value_name = "PATH")]
    read_only_path: Vec<String>,
    /// Mount a file or folder of the machine that its agent allows, or of the sandbox where FROM is not
    /// absolute (so a volume, too), as FROM:PATH or FROM:PATH:ro
    #[arg(long, value_parser = mount, value_name = "FROM:PATH[:ro]")]
    mount: Vec<Mount>,
    /// Find a secret of the task's role as this file, as NAME=PATH; again for more
    #[arg(long, value_parser = secret, value_name = "NAME=PATH")]
    secret: Vec<Mount>,
    /// Mount memory that counts as the task's, as PATH=SIZE
    #[arg(long, value_parser = tmpfs, value_name = "PATH=SIZE")]
    tmpfs: Vec<Mount>,
    /// `host` (the machine's network, unless said otherwise), `none`, or a network that the agents'
    /// operator has configured
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Let a port of the machine lead to this one, as CONTAINER, HOST:CONTAINER, or either with /udp
    #[arg(long, value_parser = publish, requires = "network", value_name = "PORTS")]
    publish: Vec<PortMapping>,
    /// Ask this name server; again for more
    #[arg(long, requires = "network", value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Look names up in this domain, too; again for more
    #[arg(long, requires = "network", value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Its name for itself; the task's unless said otherwise
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Share the machine's `pid`, `ipc` or `uts` namespace; again for more
    #[arg(long, value_parser = namespace, value_name = "WHICH")]
    share: Vec<Namespace>,
    /// Have users of its own (`private`), so that its root is none of the machine's; `host` for the
    /// machine's, as unless said otherwise
    #[arg(
        long,
        value_parser = userns,
        value_name = "WHICH",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "private"
    )]
    userns: Option<Userns>,
    /// A limit of setrlimit(2), as NAME=SOFT or NAME=SOFT:HARD; again for more
    #[arg(long, value_parser = ulimit, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<(String, Rlimit)>,
}

impl ContainerOptions {
    /// The container that a task with this image has, or one that is asked for without any.
    ///
    /// # Errors
    /// Says which flag cannot be, and why.
    pub fn container(&self, image: Option<ImageRef>) -> Result<Option<Box<Container>>> {
        let container = Container {
            pull: self.pull.unwrap_or_default(),
            entrypoint: self.entrypoint.clone().map(|program| vec![program]),
            user: self.user.clone(),
            workdir: self.workdir.clone(),
            read_only: self.read_only,
            read_only_paths: self.read_only_path.iter().cloned().collect(),
            mounts: self
                .mount
                .iter()
                .chain(&self.tmpfs)
                .chain(&self.secret)
                .cloned()
                .collect(),
            network: self.network()?,
            hostname: self.hostname.clone(),
            share: self.share.iter().copied().collect::<BTreeSet<_>>(),
            rlimits: self.ulimit.iter().cloned().collect::<BTreeMap<_, _>>(),
            userns: self.userns.unwrap_or_default(),
            image,
        };
        if !self.isolate && container == Container::default() {
            return Ok(None);
        }
        container
            .validate()
            .map_err(anyhow::Error::msg)
            .context("the container")?;
        Ok(Some(Box::new(container)))
    }

    fn network(&self) -> Result<Network> {
        let is_plain = self.publish.is_empty() && self.dns.is_empty() && self.dns_search.is_empty();
        let network = match self.network.as_deref() {
            None | Some("host") => Network::Host,
            Some("none") => Network::None,
            Some(name) => Network::Named(NamedNetwork {
                name: name.to_owned(),
                ports: self.publish.clone(),
                nameservers: self.dns.clone(),
                search: self.dns_search.clone(),
            }),
        };
        anyhow::ensure!(
            is_plain || matches!(network, Network::Named(_)),
            "--publish, --dns and --dns-search are for a network of the container's own: name one \
             with --network"
        );
        Ok(network)
    }
}

fn pull(text: &str) -> Result<PullPolicy, String> {
    match text {
        "if-not-present" => Ok(PullPolicy::IfNotPresent),
        "always" => Ok(PullPolicy::Always),
        "never" => Ok(PullPolicy::Never),
        _ => Err("choose if-not-present, always or never".into()),
    }
}

fn mount(text: &str) -> Result<Mount, String> {
    let (text, read_only) = match text.strip_suffix(":ro") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (from, path) = text
        .split_once(':')
        .ok_or("write FROM:PATH, or FROM:PATH:ro for one that cannot be written to")?;
    Ok(Mount {
        path: path.to_owned(),
        source: match from.starts_with('/') {
            true => MountSource::Host(from.to_owned()),
            false => MountSource::Sandbox(from.to_owned()),
        },
        read_only,
    })
}

fn secret(text: &str) -> Result<Mount, String> {
    let (name, path) = text
        .split_once('=')
        .ok_or("write NAME=PATH, such as key=/run/secrets/key")?;
    Ok(Mount {
        path: path.to_owned(),
        source: MountSource::Secret(name.to_owned()),
        read_only: true,
    })
}

fn tmpfs(text: &str) -> Result<Mount, String> {
    let (path, size) = text
        .split_once('=')
        .ok_or("write PATH=SIZE, such as /cache=64MiB")?;
    Ok(Mount {
        path: path.to_owned(),
        source: MountSource::Tmpfs(size.parse::<Bytes>()?),
        read_only: false,
    })
}

fn publish(text: &str) -> Result<PortMapping, String> {
    let (ports, protocol) = match text.split_once('/') {
        None | Some((_, "tcp")) => (text.split('/').next().unwrap_or(text), Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some((_, other)) => return Err(format!("`{other}` is neither tcp nor udp")),
    };
    let port = |text: &str| {
        let port = text.parse::<u16>().ok().filter(|port| *port > 0);
        port.ok_or_else(|| format!("`{text}` is no port: write 1 to 65535"))
    };
    let (host, container) = match ports.split_once(':') {
        Some((host, container)) => (Some(port(host)?), port(container)?),
        None => (None, port(ports)?),
    };
    Ok(PortMapping {
        container,
        host,
        protocol,
    })
}

fn namespace(text: &str) -> Result<Namespace, String> {
    match text {
        "pid" => Ok(Namespace::Pid),
        "ipc" => Ok(Namespace::Ipc),
        "uts" => Ok(Namespace::Uts),
        _ => Err("choose pid, ipc or uts".into()),
    }
}

fn userns(text: &str) -> Result<Userns, String> {
    match text {
        "private" => Ok(Userns::Private),
        "host" => Ok(Userns::Host),
        _ => Err("choose private or host".into()),
    }
}

fn ulimit(text: &str) -> Result<(String, Rlimit), String> {
    let hint = "write NAME=SOFT or NAME=SOFT:HARD, such as nofile=1024:4096";
    let (name, limits) = text.split_once('=').ok_or(hint)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| text.parse::<u64>().map_err(|_| hint.to_owned());
    let limit = Rlimit {
        soft: number(soft)?,
        hard: number(hard)?,
    };
    Ok((name.to_owned(), limit))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: ContainerOptions,
    }

    fn parse(line: &str) -> Result<Option<Box<Container>>> {
        let words = std::iter::once("tepui").chain(line.split_whitespace());
        Line::try_parse_from(words)?.options.container(None)
    }

    #[test]
    fn without_flags_there_is_no_container() {
        assert_eq!(parse("").unwrap(), None);
        assert_eq!(parse("--isolate").unwrap(), Some(Box::default()));
    }

    #[test]
    fn flags_say_all_that_a_container_can_be() {
        let words = [
            "--user 1:2 --workdir /w --read-only --mount /srv:/data:ro --tmpfs /t=1MiB",
            "--network web --publish 80 --publish 31000:53/udp --dns 1.1.1.1 --hostname h",
            "--share pid --ulimit nofile=1:2 --read-only-path /usr",
        ];
        let container = parse(&words.join(" ")).unwrap().unwrap();
        let json = serde_json::to_value(&container).unwrap();
        let ports = serde_json::json!([
            {"container": 80, "host": null, "protocol": "tcp"},
            {"container": 53, "host": 31000, "protocol": "udp"},
        ]);
        assert_eq!(json["network"]["named"]["ports"], ports);
        assert_eq!(json["mounts"][0]["source"]["host"], "/srv");
        assert_eq!(json["mounts"][0]["read_only"], true);
        assert_eq!(json["mounts"][1]["source"]["tmpfs"], 1_048_576);
        assert_eq!(json["rlimits"]["nofile"]["hard"], 2);
        assert_eq!(json["share"][0], "pid");
    }

    #[test]
    fn a_container_has_users_of_its_own_where_that_is_said() {
        let parse = |line: &str| {
            let words = std::iter::once("tepui").chain(line.split_whitespace());
            let image = Some("busybox".parse().unwrap());
            let container = Line::try_parse_from(words)?.options.container(image)?;
            anyhow::Ok(container.unwrap().userns)
        };
        assert_eq!(parse("").unwrap(), Userns::Host);
        assert_eq!(parse("--userns").unwrap(), Userns::Private);
        assert_eq!(parse("--userns=private").unwrap(), Userns::Private);
        assert_eq!(parse("--userns=host").unwrap(), Userns::Host);
        let error = format!("{:#}", parse("--userns --share pid").unwrap_err());
        assert!(error.contains("leave out share"), "{error}");
    }

    #[test]
    fn flags_that_cannot_be_say_why() {
        for (line, hint) in [
            ("--mount /srv", "FROM:PATH"),
            ("--mount ../srv:/data", "`..`"),
            ("--tmpfs /t=1", "MiB"),
            ("--publish 0 --network web", "65535"),
            ("--publish 80", "--network"),
            ("--publish 80 --network none", "of the container's own"),
            ("--publish 80/sctp --network web", "udp"),
            ("--ulimit files=1", "nofile"),
            ("--ulimit nofile", "nofile=1024"),
            ("--share net", "pid, ipc or uts"),
            ("--pull sometimes", "never"),
            ("--userns=own", "private or host"),
            ("--userns", "without an image"),
        ] {
            let error = format!("{:#}", parse(line).unwrap_err());
            assert!(error.contains(hint), "{line}: {error}");
        }
    }
}
