//! `tepui run`: a program or a command, from its upload to its exit code.
//!
//! The work is a job of the framework `batch`, or of another of its kind. A single task's output is copied
//! to this process's as it is written, and this process ends with the task's
//! code; of an array, the count of ended tasks is shown. Ctrl-C asks for the
//! job's end, and a second one leaves it to itself.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tepui_types::api::job::{JobRequest, MAX_COUNT};
use tepui_types::constraint::{Constraint, Constraints};
use tepui_types::resources::{Amounts, ResourceRequest};
use tepui_types::task::{CommandWorkload, WasmWorkload};
use tepui_types::{Bytes, Gang, ImageRef, MilliCpus, PartitionPolicy, Role, WasmOptions, Workload};

use crate::client::{BATCH, Client};
use crate::output::{self, Format};
use crate::{amounts, artifact};

use checks::CheckOptions;
use companions::CompanionOptions;
use container::ContainerOptions;
use life::LifeOptions;
use program::{MAIN, image, is_archive, is_program, refuse_folder};
use wasm::WasmFlags;

mod checks;
mod companions;
mod container;
pub mod follow;
mod life;
mod program;
mod verdict;
mod wasm;
mod watch;

/// Headings of `tepui run --help`.
const RESOURCES: &str = "Resources";
const PLACEMENT: &str = "Where and when";

/// What to run, and how.
#[derive(Debug, Args)]
#[command(override_usage = "tepui run [OPTIONS] FILE.wasm [ARGS]...\n       \
                            tepui run [OPTIONS] IMAGE [ARGS]...\n       \
                            tepui run [OPTIONS] -- COMMAND [ARGS]...")]
pub struct Options {
    /// The framework that runs it, which takes jobs as batch does
    #[arg(long, default_value = BATCH, value_name = "FRAMEWORK")]
    framework: String,
    /// The job's name; made up if none is given
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Processors for each task
    #[arg(help_heading = RESOURCES, long, default_value = "0.1", value_parser = amounts::cpus, value_name = "CPUS")]
    cpus: MilliCpus,
    /// Memory for each task
    #[arg(help_heading = RESOURCES, long, default_value = "64MiB", value_name = "AMOUNT")]
    mem: Bytes,
    /// Disk for each task
    #[arg(help_heading = RESOURCES, long, default_value = "0B", value_name = "AMOUNT")]
    disk: Bytes,
    /// Gpus for each task, such as 1 or 0.5 of one
    #[arg(help_heading = RESOURCES, long, default_value = "0", value_parser = amounts::cpus, value_name = "GPUS")]
    gpus: MilliCpus,
    /// Any other resource of agents for each task, such as licenses=1; again for more
    #[arg(help_heading = RESOURCES, long, value_parser = other, value_name = "NAME=AMOUNT")]
    resource: Vec<Amounts>,
    /// Let tasks take what can be taken back at any time
    #[arg(help_heading = RESOURCES, long)]
    revocable: bool,
    /// Host ports for each task; it finds them in TEPUI_PORTS
    #[arg(help_heading = RESOURCES, long, default_value_t = 0, value_name = "N")]
    ports: u32,
    /// How many tasks; each finds its number in TEPUI_ARRAY_INDEX
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_COUNT)), value_name = "N")]
    count: u32,
    /// So many tasks that start together or not at all; each finds its number in
    /// TEPUI_ARRAY_INDEX
    #[arg(help_heading = PLACEMENT, long, conflicts_with = "count", value_parser = clap::value_parser!(u32).range(1..=i64::from(Gang::MAX_TASKS)), value_name = "N")]
    gang: Option<u32>,
    /// Fail if a gang has not fitted at once after so long [default: wait]
    #[arg(help_heading = PLACEMENT, long, requires = "gang", value_parser = amounts::duration, value_name = "SPAN")]
    gang_wait: Option<Duration>,
    /// Environment of each task; may be given more than once
    #[arg(long, value_parser = amounts::setting, value_name = "NAME=VALUE")]
    env: Vec<(String, String)>,
    /// A label of each task; `service=NAME` makes it an instance of that service; again for more
    #[arg(long, value_parser = amounts::setting, value_name = "NAME=VALUE")]
    label: Vec<(String, String)>,
    /// The most processes and threads of a command [default: 1024]
    #[arg(help_heading = RESOURCES, long, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pids: Option<u32>,
    /// How often a failed task is run again
    #[arg(long, default_value_t = 0, value_name = "N")]
    restarts: u32,
    /// Higher goes first, from -1000 to 1000
    #[arg(help_heading = PLACEMENT, long, default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1000..=1000), value_name = "N")]
    priority: i32,
    /// How long a task may take to end by itself when its end is asked for
    #[arg(long, default_value = "5s", value_parser = amounts::duration, value_name = "SPAN")]
    grace: Duration,
    /// Run a task elsewhere so long after its agent became unreachable; it may
    /// then run twice for a while [default: wait]
    #[arg(help_heading = PLACEMENT, long, value_parser = amounts::duration, value_name = "SPAN")]
    replace_after: Option<Duration>,
    /// Let its agent end a task before it has heard nothing of the masters for
    /// so long, and run it elsewhere no sooner than that
    #[arg(help_heading = PLACEMENT, long, value_parser = amounts::duration, value_name = "SPAN", conflicts_with = "replace_after")]
    stop_after: Option<Duration>,
    /// Run only on agents of which this holds; of several, all must: `zone=a`,
    /// `zone!=a`, `rack~r*`, `rack!~r*`, or `ssd` and `!ssd` for whether there is
    /// such an attribute. `hostname` is one, too
    #[arg(help_heading = PLACEMENT, long = "where", value_name = "TEST")]
    constraints: Vec<Constraint>,
    /// Charge its tasks to this role of the framework, not to the first
    #[arg(help_heading = PLACEMENT, long, value_name = "ROLE")]
    role: Option<Role>,
    /// Run where this persistent volume is, and find it in the sandbox; again for more
    #[arg(help_heading = PLACEMENT, long, value_name = "VOLUME")]
    volume: Vec<String>,
    /// End a task, as failed, so long after its launch
    #[arg(long, value_parser = amounts::duration, value_name = "SPAN")]
    time_limit: Option<Duration>,
    /// Print the job's name and do not wait
    #[arg(short, long)]
    detach: bool,
    /// A WebAssembly program with its arguments; an image with those that follow its entrypoint
    /// (`busybox:1.36 sh -c …`, or an archive of one), which may be a WebAssembly program, too; or,
    /// after two dashes, a command of the agents' machines
    // What begins with a dash before it is an option, and all that follows is the program's.
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    words: Vec<OsString>,
    #[command(flatten)]
    container: ContainerOptions,
    #[command(flatten)]
    companions: CompanionOptions,
    #[command(flatten)]
    checks: CheckOptions,
    #[command(flatten)]
    life: LifeOptions,
    #[command(flatten)]
    wasm: WasmFlags,
}

impl Options {
    /// Whether two dashes stood before the words. Clap drops them, and the
    /// words are always the end of the line.
    fn is_command(&self, line: &[OsString]) -> bool {
        let before = line.len().checked_sub(self.words.len() + 1);
        before.is_some_and(|position| line[position] == "--")
    }

    fn resources(&self) -> ResourceRequest {
        let others = self.resource.iter().map(Amounts::request);
        ResourceRequest {
            cpus: self.cpus,
            mem: self.mem,
            disk: self.disk,
            ports: self.ports.into(),
            gpus_milli: self.gpus.0,
            custom: others.flat_map(|amounts| amounts.custom).collect(),
        }
    }

    fn request(&self, workload: Workload) -> JobRequest {
        JobRequest {
            name: self.name.clone(),
            workload,
            resources: self.resources(),
            count: self.gang.unwrap_or(self.count),
            gang: self.gang.is_some(),
            gang_wait_ms: self.gang_wait.map(millis),
            max_restarts: self.restarts,
            priority: self.priority,
            kill_grace_ms: millis(self.grace),
            labels: self.label.iter().cloned().collect(),
            partition: match (self.replace_after, self.stop_after) {
                (_, Some(span)) => PartitionPolicy::StopAfter(millis(span)),
                (Some(span), None) => PartitionPolicy::ReplaceAfter(millis(span)),
                (None, None) => PartitionPolicy::Wait,
            },
            constraints: match self.constraints.is_empty() {
                true => Constraints::default(),
                false => Constraints(vec![self.constraints.clone()]),
            },
            role: self.role.clone(),
            volumes: self.volume.clone(),
            revocable: self.revocable,
            time_limit_ms: self.time_limit.map(millis),
            checks: self.checks.checks(),
            fetch: self.life.fetch(),
        }
    }
}

/// Amounts of what has no flag of its own.
fn other(text: &str) -> Result<Amounts, String> {
    let amounts: Amounts = text.parse()?;
    let known = ResourceRequest {
        custom: Default::default(),
        ..amounts.request()
    };
    match known.is_empty() {
        true => Ok(amounts),
        false => Err("cpus, mem, disk, gpus and ports have flags of their own".into()),
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Runs it. `line` is the whole command line as the shell gave it.
pub async fn run(
    options: Options,
    line: &[OsString],
    client: &Client,
    format: Format,
) -> Result<ExitCode> {
    let workload = match options.is_command(line) {
        true => {
            options.wasm.refuse_for_commands()?;
            command(&options, &options.words, None, None)?
        }
        false => program(&options, client).await?,
    };
    let is_attached = options.life.is_attached();
    anyhow::ensure!(
        !is_attached || (options.count == 1 && options.gang.is_none() && !options.detach),
        "-i is for one task that is waited for: leave out --count, --gang and --detach"
    );
    let jobs = client.jobs_of(&options.framework);
    let job = jobs.submit(&options.request(workload)).await;
    let job = job.context("the job was not accepted")?;
    if options.detach {
        match format {
            Format::Json => output::json(&job)?,
            Format::Table => output::line(&job.name)?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    follow::to_the_end(job, &jobs, format, is_attached).await
}

/// A WebAssembly program or an archive of an image, brought to the cluster; or an image that the
/// agents get by themselves.
async fn program(options: &Options, client: &Client) -> Result<Workload> {
    // clap requires at least one word.
    let (file, args) = options.words.split_first().context("nothing to run")?;
    let path = PathBuf::from(file);
    if is_program(&path)? {
        anyhow::ensure!(
            options.container.container(None)?.is_none(),
            "{} is a WebAssembly program, which runs in no container: leave those flags out",
            path.display()
        );
        options.life.refuse_for_wasm()?;
        options.companions.refuse_for_wasm()?;
        let given = options.wasm.options(client).await?;
        let artifact = artifact::upload(&path, client).await?;
        return Ok(Workload::Wasm(WasmWorkload {
            args: texts(args)?,
            env: options.env.iter().cloned().collect(),
            options: given,
            ..WasmWorkload::new(artifact)
        }));
    }
    refuse_folder(&path)?;
    let image = match is_archive(&path)? {
        true => {
            let artifact = artifact::upload(&path, client).await?;
            format!("artifact:{artifact}").parse()
        }
        false => image(&path, &MAIN)?.parse::<ImageRef>(),
    };
    let image = image.map_err(|why| {
        let shown = path.display();
        anyhow::anyhow!(
            "{shown} is neither a WebAssembly program nor an image ({why}); a command of the \
             agents' machines comes after two dashes: tepui run -- {shown} …"
        )
    })?;
    // Whether it is a program or a container's root, its agent will see.
    let given = options.wasm.options(client).await?;
    command(options, args, Some(image), given)
}

fn command(
    options: &Options,
    words: &[OsString],
    image: Option<ImageRef>,
    wasm: Option<Box<WasmOptions>>,
) -> Result<Workload> {
    let container = options.container.container(image)?;
    let companions = &options.companions;
    companions.refuse_without_container(container.as_deref())?;
    options.checks.refuse_beside_nobody(companions)?;
    let mut done = options.life.command(wasm)?;
    if companions.all().next().is_some() {
        done.get_or_insert_default().companions = companions.all().cloned().collect();
    }
    Ok(Workload::Command(CommandWorkload {
        argv: texts(words)?,
        env: options.env.iter().cloned().collect(),
        pids: options.pids,
        container,
        options: done,
    }))
}

fn texts(words: &[OsString]) -> Result<Vec<String>> {
    let text = |word: &OsString| {
        let word = word.clone();
        let text = word.into_string();
        text.map_err(|word| anyhow::anyhow!("{} is not UTF-8", word.to_string_lossy()))
    };
    words.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use tepui_types::TaskSpec;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parse(line: &str) -> (Options, Vec<OsString>) {
        let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        (Line::parse_from(&line).options, line)
    }

    #[test]
    fn what_follows_two_dashes_is_a_command() {
        let (options, line) = parse("run --cpus 2 -- ls --name x -- y");
        assert!(options.is_command(&line));
        assert_eq!(
            texts(&options.words).unwrap(),
            ["ls", "--name", "x", "--", "y"]
        );
        assert_eq!(options.cpus, MilliCpus(2000));
    }

    #[test]
    fn a_programs_own_options_are_left_to_it() {
        let (options, line) = parse("run --count 3 a.wasm --count 7 -v -- z");
        assert!(!options.is_command(&line));
        assert_eq!(
            texts(&options.words).unwrap(),
            ["a.wasm", "--count", "7", "-v", "--", "z"]
        );
        assert_eq!(options.count, 3);
    }

    #[test]
    fn a_mistyped_option_is_no_program() {
        let refused = |line: &str| {
            let parsed = Line::try_parse_from(line.split(' '));
            parsed.unwrap_err().to_string()
        };
        let error = refused("run --memry 5 -- true");
        assert!(error.contains("unexpected argument '--memry'"), "{error}");
        assert!(error.contains("'--mem'"), "{error}");
        let error = refused("run --cpus 1 -x a.wasm");
        assert!(error.contains("unexpected argument '-x'"), "{error}");
    }

    #[test]
    fn companions_and_checks_beside_them_are_one_task() {
        let words = ["web:2", "serve"].map(OsString::from);
        let parse = |flags: &[&str]| {
            let line = [&["run"], flags, &["web:2", "serve"]].concat();
            Line::try_parse_from(line).unwrap().options
        };
        let workload = |flags: &[&str]| {
            let image = Some("web:2".parse().unwrap());
            command(&parse(flags), &words, image, None)
        };
        let peer = ["--peer", "worker=web:2 work"];
        let sidecar = [
            "--sidecar",
            "proxy=proxy:1",
            "--health",
            "cmd@proxy:test -e up",
        ];
        let init = [
            "--init",
            "fill=-- sh -c 'echo a > b'",
            "--ready",
            "cmd@main:true",
        ];
        let flags = [&peer[..], &sidecar, &init].concat();
        let mut spec = TaskSpec::new(workload(&flags).unwrap());
        spec.checks = parse(&flags).checks.checks();
        spec.validate().unwrap();
        let Workload::Command(made) = spec.workload else {
            panic!("it is a command");
        };
        let names = made.companions().iter().map(|one| &*one.name);
        assert_eq!(names.collect::<Vec<_>>(), ["fill", "proxy", "worker"]);
        let Workload::Command(alone) = workload(&[]).unwrap() else {
            panic!("it is a command");
        };
        assert_eq!(alone.options, None);

        let beside_nobody = workload(&["--health", "cmd@cache:true"]).unwrap_err();
        assert!(beside_nobody.to_string().contains("--sidecar cache=IMAGE"));
        let options = parse(&["--sidecar", "proxy=proxy:1"]);
        let bare = command(&options, &words, None, None).unwrap_err();
        assert!(bare.to_string().contains("--isolate"), "{bare}");
        let wasm = options.companions.refuse_for_wasm().unwrap_err();
        assert!(wasm.to_string().contains("--sidecar"), "{wasm}");
    }

    #[test]
    fn a_command_line_without_work_is_refused() {
        assert!(Line::try_parse_from(["run"]).is_err());
        assert!(Line::try_parse_from(["run", "--count", "0", "a.wasm"]).is_err());
        assert!(Line::try_parse_from(["run", "--priority", "1001", "a.wasm"]).is_err());
        assert!(Line::try_parse_from(["run", "--priority", "-5", "a.wasm"]).is_ok());
    }
}
