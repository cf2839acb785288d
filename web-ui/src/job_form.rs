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
use tepui_types::{Bytes, Container, Demand, Digest, Gang, ImageRef, MilliCpus, Role, Workload};

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
    /// Environment, a line each.
    Env,
    /// Processors.
    Cpus,
    /// Memory in MiB.
    Mem,
    /// How many tasks.
    Count,
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
    /// Environment, a line each.
    pub env: String,
    /// Processors, such as `0.5`.
    pub cpus: String,
    /// Memory in MiB.
    pub mem_mib: String,
    /// How many tasks.
    pub count: String,
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
            env: String::new(),
            cpus: "0.1".into(),
            mem_mib: "64".into(),
            count: "1".into(),
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
                Some(Workload::Wasm(WasmWorkload {
                    args: args?,
                    env,
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
mod tests {
    use super::*;

    fn command_form(argv: &str) -> JobForm {
        JobForm {
            kind: Kind::Command,
            argv: argv.into(),
            ..JobForm::default()
        }
    }

    #[test]
    fn a_command_becomes_a_job_with_the_usual_resources() {
        let job = command_form("echo 'hello there'").job().unwrap();
        assert_eq!(job.name, None);
        assert_eq!(job.resources, job::default_resources());
        assert_eq!((job.count, job.max_restarts, job.priority), (1, 0, 0));
        let Workload::Command(command) = job.workload else {
            panic!("not a command")
        };
        assert_eq!(command.argv, ["echo", "hello there"]);
    }

    #[test]
    fn an_image_needs_no_command_and_must_be_one() {
        let form = |image: &str, argv: &str| JobForm {
            image: image.into(),
            ..command_form(argv)
        };
        let job = form(" busybox:1.36 ", "").job().unwrap();
        let Workload::Command(command) = job.workload else {
            panic!("not a command")
        };
        assert_eq!(command.image().unwrap().to_string(), "busybox:1.36");
        assert!(command.argv.is_empty());
        let problems = form("Not An Image", "true").job().unwrap_err();
        assert_eq!(problems.into_keys().collect::<Vec<_>>(), [Field::Image]);
    }

    #[test]
    fn a_program_becomes_a_job_once_its_file_is_known() {
        let mut form = JobForm {
            args: "-n 'two words'".into(),
            ..JobForm::default()
        };
        form.env = "A=1\n\nB=x=y\n".into();
        assert_eq!(
            form.job().unwrap_err().into_keys().collect::<Vec<_>>(),
            [Field::File]
        );
        form.artifact = Some(Digest::of(b"\0asm"));
        let Workload::Wasm(wasm) = form.job().unwrap().workload else {
            panic!("not wasm")
        };
        assert_eq!(wasm.args, ["-n", "two words"]);
        assert_eq!(wasm.env["B"], "x=y");
    }

    #[test]
    fn all_tests_of_agents_must_hold() {
        let form = JobForm {
            role: " eng/web ".into(),
            time_limit: "90".into(),
            wanted: "zone=a\n\n !ssd\n".into(),
            ..command_form("true")
        };
        let job = form.job().unwrap();
        let tests = ["zone=a", "!ssd"].map(|test| test.parse().unwrap());
        assert_eq!(job.constraints, Constraints(vec![tests.to_vec()]));
        assert_eq!(job.time_limit_ms, Some(90_000));
        assert_eq!(job.role.unwrap().as_str(), "eng/web");
        let plain = command_form("true").job().unwrap();
        assert!(
            plain.constraints.is_empty() && plain.role.is_none() && plain.time_limit_ms.is_none()
        );
    }

    #[test]
    fn gangs_and_volumes_are_asked_for() {
        let form = JobForm {
            count: "3".into(),
            volumes: " data, logs ,".into(),
            is_gang: true,
            gang_wait: "60".into(),
            ..command_form("true")
        };
        let job = form.job().unwrap();
        assert_eq!(job.volumes, ["data", "logs"]);
        assert_eq!((job.gang, job.gang_wait_ms), (true, Some(60_000)));
        let lone = JobForm {
            is_gang: false,
            ..form.clone()
        };
        assert!(lone.job().unwrap_err().contains_key(&Field::GangWait));
        let large = JobForm {
            count: "100000".into(),
            ..form
        };
        assert!(large.job().unwrap_err().contains_key(&Field::Count));
    }

    #[test]
    fn each_wrong_field_has_its_message() {
        let form = JobForm {
            name: "Not A Name".into(),
            env: "A=1\nnothing".into(),
            cpus: "0".into(),
            mem_mib: "1.5".into(),
            count: "100001".into(),
            restarts: "-1".into(),
            priority: "1001".into(),
            role: "Eng".into(),
            time_limit: "soon".into(),
            wanted: "zone=a\n=b".into(),
            ..command_form("echo 'open")
        };
        let problems = form.job().unwrap_err();
        assert_eq!(problems.len(), 11);
        assert_eq!(
            problems[&Field::Where],
            "Line 2 is not like zone=a, zone!=a, rack~r* or !ssd."
        );
        assert_eq!(problems[&Field::Env], "Line 2 is not NAME=VALUE.");
        assert_eq!(
            problems[&Field::Count],
            "Use a whole number from 1 to 100,000."
        );
        assert_eq!(
            problems[&Field::Argv],
            "Cannot be split: a ' is opened and not closed."
        );
    }

    #[test]
    fn fields_of_the_other_tab_do_not_matter() {
        let form = JobForm {
            args: "'open".into(),
            ..command_form("true")
        };
        assert!(form.job().is_ok());
        assert!(
            command_form(" ")
                .job()
                .unwrap_err()
                .contains_key(&Field::Argv)
        );
        assert!(command_form("'' x").job().is_err());
    }

    #[test]
    fn amounts_are_exact() {
        for (text, milli) in [("0.1", 100), ("2", 2000), (" 0.001 ", 1), ("1.2345", 1235)] {
            assert_eq!(milli_cpus(text), Ok(MilliCpus(milli)), "{text}");
        }
        for text in ["", "nan", "inf", "-1", "0.0001", "1e9", "one"] {
            assert!(milli_cpus(text).is_err(), "{text}");
        }
        assert_eq!(memory("64"), Ok(Bytes::mib(64)));
        assert!(memory("99999999999").is_err());
    }

    #[test]
    fn a_name_is_set_once() {
        assert_eq!(
            environment("A=1\n A=2").unwrap_err(),
            "Line 2 sets A a second time."
        );
        assert_eq!(environment("=1").unwrap_err(), "Line 1 is not NAME=VALUE.");
        assert!(environment("  \n").unwrap().is_empty());
    }
}
