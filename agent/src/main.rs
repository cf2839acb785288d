//! `tepui-agent`: parses the command line and calls [`tepui_agent::run`].

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tepui_agent::config::{Config, ContainerSettings, Settings, parse_attributes};
use tepui_agent::containers::UserPool;
use tepui_agent::pools::DiskSettings;
use tepui_agent::ports::TaskPorts;
use tepui_agent::sizes::Keeping;
use tepui_fetch::{FetchConfig, Network};
use tepui_image::ImagesConfig;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Runs a machine's share of a Tepui cluster's tasks.
///
/// Stopping the agent (SIGTERM, Ctrl-C) stops no task: executors go on, and the
/// next agent on the same folder finds them again.
#[derive(Debug, Parser)]
#[command(name = "tepui-agent", version)]
struct Arguments {
    /// The data folder; made when absent. One agent a folder.
    #[arg(long, env = "TEPUI_AGENT_DIR")]
    dir: Option<PathBuf>,
    /// URLs of masters, such as http://127.0.0.1:5050, divided by commas: any tells who leads.
    #[arg(
        long = "master",
        env = "TEPUI_MASTER",
        value_name = "URL",
        value_delimiter = ','
    )]
    masters: Option<Vec<String>>,
    /// What to lend instead of what is detected:
    /// cpus=2,mem=4GiB,disk=10GiB,ports=31000-32000,gpus=0,NAME=AMOUNT.
    #[arg(long)]
    resources: Option<String>,
    /// What is reserved for a role from the start, out of what is lent, such as
    /// eng/web:cpus=2,mem=4GiB; once for each role.
    #[arg(long, value_name = "ROLE:AMOUNTS", value_parser = parse_reserve)]
    reserve: Vec<(String, String)>,
    /// What may be taken back at any time, on top of what is lent: cpus=2,mem=4GiB.
    #[arg(long, value_name = "AMOUNTS")]
    revocable: Option<String>,
    /// How much of what tasks were given and do not use is lent at most, to tasks that take what may be
    /// taken back: cpus=4,mem=8GiB. Nothing when absent.
    #[arg(long, value_name = "AMOUNTS")]
    slack: Option<String>,
    /// A disk beside that of the data folder, for volumes: NAME=mount:/mnt/ssd is had as a
    /// whole, NAME=path:/mnt/hdd:100GiB in parts; once for each.
    #[arg(long = "disk", value_name = "NAME=KIND:PATH[:SIZE]", value_parser = parse_disk)]
    disks: Vec<(String, DiskSettings)>,
    /// What frameworks may choose by: KEY=VALUE,…
    #[arg(long, value_parser = parse_attributes)]
    attributes: Option<BTreeMap<String, String>>,
    /// The name that people see; the machine's own when absent.
    #[arg(long)]
    hostname: Option<String>,
    /// Where the agent's own health and metrics are served; loopback only.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// The folder of the executors' binaries; that of this program when absent.
    #[arg(long)]
    executors: Option<PathBuf>,
    /// How much of each output of a task is kept: 64MiB when absent.
    #[arg(long, value_name = "SIZE")]
    output_limit: Option<String>,
    /// What native tasks may do on this machine: `confined` (few capabilities, a seccomp filter,
    /// no cores) when absent, or `all` that the agent may.
    #[arg(long, value_name = "WHICH")]
    task_privileges: Option<String>,
    /// Where tasks may listen that are in the machine's own network: on no port that is lent to others
    /// (`unlent`, when absent), on their own alone (`own`), or anywhere (`any`). Others are ended.
    #[arg(long, value_name = "WHICH")]
    task_ports: Option<TaskPorts>,
    /// How the sizes of volumes are kept: tasks of one that is over it are ended (`measured`, when
    /// absent), nothing more can be written where this machine can do that (`enforced`, for volumes that
    /// are made from then on), or not at all (`unlimited`).
    #[arg(long, value_name = "HOW")]
    volume_sizes: Option<Keeping>,
    /// How the sizes of sandboxes are kept of native tasks and containers that were given a part of the
    /// disk: who is over it is ended (`measured`, when absent), nothing more can be written where this
    /// machine can do that (`enforced`), or not at all (`unlimited`).
    #[arg(long, value_name = "HOW")]
    sandbox_sizes: Option<Keeping>,
    /// A file or folder of the machine that containers may mount, with what is below it; may be
    /// given more than once. None when absent.
    #[arg(long, value_name = "PATH")]
    host_path: Vec<PathBuf>,
    /// Who makes containers: `builtin` when absent, or the path of a program with runc's command
    /// line.
    #[arg(long, value_name = "WHICH")]
    oci_runtime: Option<String>,
    /// A registry that is spoken to in plain HTTP, as HOST:PORT; may be given more than once.
    #[arg(long, value_name = "HOST")]
    insecure_registry: Vec<String>,
    /// A folder with CNI network lists; may be given more than once. /etc/cni/net.d when absent.
    #[arg(long, value_name = "DIR")]
    network_config: Vec<PathBuf>,
    /// A folder with CNI plugins; may be given more than once. /opt/cni/bin and /usr/lib/cni when
    /// absent.
    #[arg(long, value_name = "DIR")]
    network_plugins: Vec<PathBuf>,
    /// By which others reach this machine, for service discovery: that by which it reaches a master
    /// when absent.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<std::net::IpAddr>,
    /// A folder of the machine that tasks may fetch `file://` URLs from, with what is below it; may be
    /// given more than once. None when absent.
    #[arg(long, value_name = "DIR")]
    fetch_folder: Vec<PathBuf>,
    /// An address or network, as 127.0.0.0/8, that tasks may fetch from although it is this machine's own
    /// (loopback) or link-local; may be given more than once. Public and private networks alone when absent.
    #[arg(long, value_name = "NETWORK")]
    fetch_allow: Vec<Network>,
    /// A folder with secrets for containers, ROLE/NAME each.
    #[arg(long, value_name = "DIR")]
    secrets: Option<PathBuf>,
    /// Users and groups of the machine that containers may have of their own (user namespaces), which
    /// nobody else has: the first id, how many, and how many for each container (65536 when absent). None
    /// when absent.
    #[arg(long, value_name = "FIRST:COUNT[:EACH]")]
    userns_range: Option<UserPool>,
    /// A file with the masters' token, which masters on other machines ask for.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A TOML file of the same settings, which flags override.
    #[arg(long)]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TEPUI_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // Where the log cannot be written (whoever read it is gone) the agent goes on.
        .log_internal_errors(false)
        .init();
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tepui-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse_reserve(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once(':');
    let pair = pair.map(|(role, amounts)| (role.to_owned(), amounts.to_owned()));
    pair.ok_or_else(|| format!("`{text}` is not ROLE:AMOUNTS, such as eng/web:cpus=2,mem=4GiB"))
}

fn parse_disk(text: &str) -> Result<(String, DiskSettings), String> {
    let (id, disk) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not NAME=KIND:PATH, such as ssd=mount:/mnt/ssd"))?;
    Ok((id.to_owned(), DiskSettings::parse(disk)?))
}

/// What was given by name, if anything was, and none of it twice.
fn once<T>(pairs: Vec<(String, T)>, flag: &str) -> anyhow::Result<Option<BTreeMap<String, T>>> {
    let mut named = BTreeMap::new();
    for (name, value) in pairs {
        anyhow::ensure!(
            named.insert(name.clone(), value).is_none(),
            "{flag} {name} is given twice"
        );
    }
    Ok(Some(named).filter(|named| !named.is_empty()))
}

/// What was given, if anything was.
fn given<T>(values: Vec<T>) -> Option<Vec<T>> {
    Some(values).filter(|values| !values.is_empty())
}

fn fetch(file_folders: Vec<PathBuf>, allow: Vec<Network>) -> Option<FetchConfig> {
    let config = FetchConfig {
        file_folders,
        allow,
        ..FetchConfig::default()
    };
    Some(config).filter(|config| *config != FetchConfig::default())
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let file = arguments
        .config
        .as_deref()
        .map(Settings::read)
        .transpose()?
        .unwrap_or_default();
    let flags = Settings {
        dir: arguments.dir,
        masters: arguments.masters,
        listen: arguments.listen,
        hostname: arguments.hostname,
        address: arguments.address,
        resources: arguments.resources,
        reserve: once(arguments.reserve, "--reserve")?,
        revocable: arguments.revocable,
        slack: arguments.slack,
        disks: once(arguments.disks, "--disk")?,
        attributes: arguments.attributes,
        executors: arguments.executors,
        output_limit: arguments.output_limit,
        task_privileges: arguments.task_privileges,
        task_ports: arguments.task_ports,
        volume_sizes: arguments.volume_sizes,
        sandbox_sizes: arguments.sandbox_sizes,
        containers: Some(ContainerSettings {
            host_paths: given(arguments.host_path),
            runtime: arguments.oci_runtime,
            network_configs: given(arguments.network_config),
            network_plugins: given(arguments.network_plugins),
            network_timeout_seconds: None,
            images: given(arguments.insecure_registry).map(|registries| ImagesConfig {
                insecure: registries.into_iter().collect(),
                ..ImagesConfig::default()
            }),
            secrets: arguments.secrets,
            userns_range: arguments.userns_range,
        }),
        fetch: fetch(arguments.fetch_folder, arguments.fetch_allow),
        gpus: None,
        token_file: arguments.token_file,
    };
    let config = Config::new(flags.or(file))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // The loop and its connections wait most of the time.
        .worker_threads(2)
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("failed to watch SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("failed to watch SIGINT")?;
        let stopper = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stopper.cancel();
        });
        // A task like its connections, so that what one tells another wakes no thread.
        let agent = tokio::spawn(tepui_agent::run(config, stop)).await;
        anyhow::Ok(agent.context("the agent broke off")??)
    });
    // A blocked helper (a slow disk, a fork) must not hold up the end.
    runtime.shutdown_background();
    result
}
