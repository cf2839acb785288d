//! The submit form as text, and the job that it describes.
//!
//! [`JobForm::job`] answers with a request, or with one message for each field
//! that is not right yet. The cluster checks everything again; the messages
//! here only come earlier and stand beside their field.

use std::collections::BTreeMap;

use tepui_types::api::job::{self, JobRequest};
use tepui_types::constraint::{Constraint, Constraints};
use tepui_types::ids::is_label;
use tepui_types::resources::ResourceRequest;
use tepui_types::task::{CommandWorkload, WasmWorkload};
use tepui_types::wasm::{Destination, Stdin};
use tepui_types::{
    Bytes, Container, Demand, Digest, Gang, ImageRef, MilliCpus, Role, WasmOptions, Workload,
};

use crate::argv;

/// The longest name of a job, in bytes: its tasks' names add a number to it.
const MAX_NAME: usize = 50;
/// The most processors that can be asked for; beyond it the amount is a slip.
const MAX_CPUS: f64 = 1_000_000.0;
/// The most memory that can be asked for, in MiB: a pebibyte.
const MAX_MEM_MIB: u64 = 1 << 30;
/// The longest time that can be asked for, in seconds: a year.
const MAX_SECONDS: u64 = 365 * 24 * 3600;
/// The widest range of a job's priority, on both sides of 0.
const MAX_PRIORITY: i32 = 1_000;

/// What kind of program is submitted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// An uploaded WebAssembly program.
    #[default]
    Wasm,
    /// A command of the agents' machines.
    Command,
}

/// A field that a message can stand at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// The file to upload.
    File,
    /// The command line.
    Argv,
    /// The image that a command runs from.
    Image,
    /// The job's name.
    Name,
    /// Arguments of the WebAssembly program.
    Args,
    /// Whom the WebAssembly program may connect to.
    Connect,
    /// What the WebAssembly program reads.
    Stdin,
    /// Environment, a line each.
    Env,
    /// Processors.
    Cpus,
    /// Memory in MiB.
    Mem,
    /// How many tasks.
    Count,
    /// How many ports.
    Ports,
    /// How often a failed task is run again.
    Restarts,
    /// What goes first.
    Priority,
    /// Which role is charged.
    Role,
    /// Seconds after which a task is ended.
    TimeLimit,
    /// On which agents.
    Where,
    /// Which volumes.
    Volumes,
    /// Seconds after which a gang is given up.
    GangWait,
}

/// The messages, by field.
pub type Problems = BTreeMap<Field, String>;

/// The form's fields as they were typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobForm {
    /// Which of the two tabs is open.
    pub kind: Kind,
    /// The file's name and digest, once it was chosen and read.
    pub artifact: Option<Digest>,
    /// The command line.
    pub argv: String,
    /// The image that it runs from; the agents' machines when empty.
    pub image: String,
    /// The job's name; one is made up when empty.
    pub name: String,
    /// Arguments of the WebAssembly program.
    pub args: String,
    /// Whom the WebAssembly program may connect to, with spaces or commas between them.
    pub connect: String,
    /// What the WebAssembly program reads.
    pub stdin: String,
    /// Environment, a line each.
    pub env: String,
    /// Processors, such as `0.5`.
    pub cpus: String,
    /// Memory in MiB.
    pub mem_mib: String,
    /// How many tasks.
    pub count: String,
    /// Ports of each task.
    pub ports: String,
    /// How often a failed task is run again.
    pub restarts: String,
    /// Higher goes first.
    pub priority: String,
    /// Which role is charged; the framework's first when empty.
    pub role: String,
    /// Seconds after which a task is ended; none when empty.
    pub time_limit: String,
    /// Tests of agents' attributes, a line each, all of which must hold.
    pub wanted: String,
    /// Names of volumes, with commas between them.
    pub volumes: String,
    /// Whether all tasks start together or not at all.
    pub is_gang: bool,
    /// Seconds after which a gang that did not fit is given up; never when empty.
    pub gang_wait: String,
}

impl Default for JobForm {
    fn default() -> Self {
        Self {
            kind: Kind::Wasm,
            artifact: None,
            argv: String::new(),
            image: String::new(),
            name: String::new(),
            args: String::new(),
            connect: String::new(),
            stdin: String::new(),
            env: String::new(),
            cpus: "0.1".into(),
            mem_mib: "64".into(),
            count: "1".into(),
            ports: "0".into(),
            restarts: "0".into(),
            priority: "0".into(),
            role: String::new(),
            time_limit: String::new(),
            wanted: String::new(),
            volumes: String::new(),
            is_gang: false,
            gang_wait: String::new(),
        }
    }
}

impl JobForm {
    /// The request, or what is wrong at which field. A WebAssembly program
    /// needs its `artifact`; until it is known, its field has a message.
    pub fn job(&self) -> Result<JobRequest, Problems> {
        let mut problems = Problems::new();
        let name = note(&mut problems, Field::Name, name(&self.name));
        let env = note(&mut problems, Field::Env, environment(&self.env));
        let cpus = note(&mut problems, Field::Cpus, milli_cpus(&self.cpus));
        let mem = note(&mut problems, Field::Mem, memory(&self.mem_mib));
        let count = note(
            &mut problems,
            Field::Count,
            whole(&self.count, 1, job::MAX_COUNT.into()),
        );
        let most_ports = ResourceRequest::MAX_PORTS;
        let ports = note(
            &mut problems,
            Field::Ports,
            whole(&self.ports, 0, most_ports),
        );
        let restarts = note(
            &mut problems,
            Field::Restarts,
            whole(&self.restarts, 0, u32::MAX.into()),
        );
        let priority = note(&mut problems, Field::Priority, priority(&self.priority));
        let role = note(&mut problems, Field::Role, role(&self.role));
        let limit = note(&mut problems, Field::TimeLimit, seconds(&self.time_limit));
        let volumes = note(&mut problems, Field::Volumes, volumes(&self.volumes));
        let gang_wait = note(&mut problems, Field::GangWait, self.gang_wait());
        if self.is_gang && count.is_some_and(|count| count > Gang::MAX_TASKS.into()) {
            let most = format!("A gang has at most {} tasks.", Gang::MAX_TASKS);
            problems.insert(Field::Count, most);
        }
        let wanted = note(&mut problems, Field::Where, constraints(&self.wanted));
        let workload = self.workload(env.unwrap_or_default(), &mut problems);
        // Whatever is missing has its message.
        let job = || {
            Some(JobRequest {
                name: name?,
                workload: workload?,
                resources: ResourceRequest {
                    cpus: cpus?,
                    mem: mem?,
                    ports: ports?,
                    ..ResourceRequest::default()
                },
                // Both are bounded by u32 above.
                count: count? as u32,
                max_restarts: restarts? as u32,
                priority: priority?,
                kill_grace_ms: tepui_types::task::default_kill_grace_ms(),
                labels: BTreeMap::new(),
                partition: tepui_types::task::PartitionPolicy::Wait,
                constraints: wanted?,
                role: role?,
                volumes: volumes?,
                revocable: false,
                gang: self.is_gang,
                gang_wait_ms: gang_wait?,
                time_limit_ms: limit?,
                checks: None,
                fetch: Vec::new(),
            })
        };
        match job() {
            Some(job) if problems.is_empty() => Ok(job),
            _ => Err(problems),
        }
    }

    fn gang_wait(&self) -> Result<Option<u64>, String> {
        match (self.is_gang, seconds(&self.gang_wait)?) {
            (false, Some(_)) => {
                Err("This is for gangs: say that it is one, or leave it empty.".into())
            }
            (_, wait) => Ok(wait),
        }
    }

    fn workload(&self, env: BTreeMap<String, String>, problems: &mut Problems) -> Option<Workload> {
        match self.kind {
            Kind::Wasm => {
                let args = note(problems, Field::Args, words(&self.args));
                let chosen = self
                    .artifact
                    .ok_or_else(|| "Choose a .wasm file.".to_owned());
                let artifact = note(problems, Field::File, chosen);
                let connect = note(problems, Field::Connect, destinations(&self.connect));
                let stdin = note(problems, Field::Stdin, input(&self.stdin));
                let options = WasmOptions {
                    connect: connect?,
                    stdin: stdin?,
                    ..WasmOptions::default()
                };
                let has_options = options != WasmOptions::default();
                Some(Workload::Wasm(WasmWorkload {
                    args: args?,
                    env,
                    options: has_options.then(|| Box::new(options)),
                    ..WasmWorkload::new(artifact?)
                }))
            }
            Kind::Command => {
                let image = note(problems, Field::Image, image(&self.image))?;
                // An image says itself what it runs.
                let argv = match image {
                    Some(_) => words(&self.argv),
                    None => command(&self.argv),
                };
                let argv = note(problems, Field::Argv, argv);
                let container = image.map(|image| {
                    Box::new(Container {
                        image: Some(image),
                        ..Container::default()
                    })
                });
                Some(Workload::Command(CommandWorkload {
                    argv: argv?,
                    env,
                    pids: None,
                    container,
                    options: None,
                }))
            }
        }
    }
}

fn note<T>(problems: &mut Problems, field: Field, value: Result<T, String>) -> Option<T> {
    value
        .map_err(|problem| problems.insert(field, problem))
        .ok()
}

fn name(text: &str) -> Result<Option<String>, String> {
    let text = text.trim();
    if text.is_empty() {
        Ok(None)
    } else if is_label(text) && text.len() <= MAX_NAME {
        Ok(Some(text.to_owned()))
    } else {
        Err(format!(
            "Use 1 to {MAX_NAME} lower-case letters, digits and dashes, with no dash at either end."
        ))
    }
}

fn image(text: &str) -> Result<Option<ImageRef>, String> {
    match text.trim() {
        "" => Ok(None),
        text => {
            let image = text.parse::<ImageRef>();
            image.map(Some).map_err(|why| format!("{why}."))
        }
    }
}

fn words(line: &str) -> Result<Vec<String>, String> {
    argv::split(line).map_err(|error| format!("Cannot be split: {error}."))
}

/// Whom a program may connect to; none where nothing is typed.
fn destinations(text: &str) -> Result<Vec<Destination>, String> {
    let words = text.split(|c: char| c == ',' || c.is_whitespace());
    let words = words.filter(|word| !word.is_empty());
    let all = words
        .map(str::parse)
        .collect::<Result<Vec<Destination>, _>>();
    let all = all.map_err(|why| format!("{why}."))?;
    match all.len() > WasmOptions::MAX_DESTINATIONS {
        true => Err(format!(
            "A program has at most {} of them: name networks, such as 10.0.0.0/8:5432.",
            WasmOptions::MAX_DESTINATIONS
        )),
        false => Ok(all),
    }
}

/// What a program reads, as it was typed.
fn input(text: &str) -> Result<Option<Stdin>, String> {
    match text.len() {
        0 => Ok(None),
        len if len > WasmOptions::MAX_STDIN_TEXT => Err(format!(
            "It has {} bytes, and {} is the most: `tepui run --stdin FILE` takes more.",
            crate::amounts::count(len as u64),
            crate::amounts::count(WasmOptions::MAX_STDIN_TEXT as u64)
        )),
        _ => Ok(Some(Stdin::Text(text.to_owned()))),
    }
}

fn command(line: &str) -> Result<Vec<String>, String> {
    let argv = words(line)?;
    match argv.first() {
        None => Err("Type a command, such as: echo hello".into()),
        Some(program) if program.is_empty() => {
            Err("The first word is empty: name the program to run.".into())
        }
        Some(_) => Ok(argv),
    }
}

/// `NAME=VALUE` lines; empty ones are skipped.
pub fn environment(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut environment = BTreeMap::new();
    for (position, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let number = position + 1;
        let (name, value) = match line.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => (name.trim(), value),
            _ => return Err(format!("Line {number} is not NAME=VALUE.")),
        };
        if environment
            .insert(name.to_owned(), value.to_owned())
            .is_some()
        {
            return Err(format!("Line {number} sets {name} a second time."));
        }
    }
    Ok(environment)
}

fn milli_cpus(text: &str) -> Result<MilliCpus, String> {
    let wrong = || "Use a number from 0.001 up, such as 0.5 or 2.".to_owned();
    let cpus: f64 = text.trim().parse().map_err(|_| wrong())?;
    let milli = (cpus * 1000.0).round();
    if milli >= 1.0 && cpus <= MAX_CPUS {
        Ok(MilliCpus(milli as u64))
    } else {
        Err(wrong())
    }
}

fn memory(text: &str) -> Result<Bytes, String> {
    Ok(Bytes::mib(whole(text, 1, MAX_MEM_MIB)?))
}

fn whole(text: &str, least: u64, most: u64) -> Result<u64, String> {
    match text.trim().parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ if most == u64::from(u32::MAX) => Err(format!("Use a whole number from {least} up.")),
        _ => Err(format!(
            "Use a whole number from {least} to {}.",
            crate::amounts::count(most)
        )),
    }
}

fn role(text: &str) -> Result<Option<Role>, String> {
    match text.trim() {
        "" => Ok(None),
        path => path.parse().map(Some).map_err(|_| {
            "Use names of lower-case letters, digits and dashes, joined by slashes: eng/web.".into()
        }),
    }
}

/// Milliseconds, of a time in seconds that may be left out.
fn seconds(text: &str) -> Result<Option<u64>, String> {
    match text.trim() {
        "" => Ok(None),
        seconds => Ok(Some(whole(seconds, 1, MAX_SECONDS)? * 1000)),
    }
}

fn volumes(text: &str) -> Result<Vec<String>, String> {
    let names = text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    let names: Vec<_> = names.map(str::to_owned).collect();
    match names.len() > Demand::MAX_VOLUMES {
        true => Err(format!(
            "A task has at most {} volumes.",
            Demand::MAX_VOLUMES
        )),
        false => Ok(names),
    }
}

/// Tests of agents' attributes, a line each; empty ones are skipped.
fn constraints(text: &str) -> Result<Constraints, String> {
    let mut all = Vec::new();
    for (position, line) in text.lines().enumerate() {
        let line = line.trim();
        if !line.is_empty() {
            let wrong = |_| {
                format!(
                    "Line {} is not like zone=a, zone!=a, rack~r* or !ssd.",
                    position + 1
                )
            };
            all.push(line.parse::<Constraint>().map_err(wrong)?);
        }
    }
    let constraints = Constraints(match all.is_empty() {
        true => Vec::new(),
        false => vec![all],
    });
    constraints
        .validate()
        .map(|()| constraints)
        .map_err(|why| format!("Too much: {why}."))
}

fn priority(text: &str) -> Result<i32, String> {
    match text.trim().parse() {
        Ok(priority) if (-MAX_PRIORITY..=MAX_PRIORITY).contains(&priority) => Ok(priority),
        _ => Err(format!(
            "Use a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}."
        )),
    }
}

#[cfg(test)]
mod tests;
