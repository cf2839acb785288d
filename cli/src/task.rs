//! `tepui task`: the tasks of all frameworks.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use tepui_types::api::task::{KillRequest, TaskHistory, TaskView};
use tepui_types::api::usage::UsageView;
use tepui_types::command::CommandStdin;
use tepui_types::{AgentId, TaskId, TaskState, Timestamp, Workload};

use crate::client::{Client, ClientError, LogStream, TaskFilter};
use crate::logs::Wanted;
use crate::output::{self, Columns, Fields, Format};
use crate::{amounts, files, logs};

/// How many tasks a list shows unless it is told to show all.
const SHOWN: usize = 100;
/// Characters of a reason in a table.
const REASON: usize = 100;

/// What can be done with tasks.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show tasks, the newest first
    List {
        /// Only in these states, such as running,failed
        #[arg(long, value_delimiter = ',', value_name = "STATES")]
        state: Vec<TaskState>,
        /// Only of this framework, by name or id
        #[arg(long, value_name = "FRAMEWORK")]
        framework: Option<String>,
        /// Only on this agent
        #[arg(long, value_name = "AGENT")]
        agent: Option<AgentId>,
        /// Only those whose id holds this text
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// All that the cluster remembers, not only the newest hundred
        #[arg(long)]
        all: bool,
    },
    /// Show all that is known of a task
    Show {
        /// Its id such as f1.hello.0, or its name for the newest of that name
        task: String,
    },
    /// Show where a task has been: every attempt of its name, the offer it took and each of its
    /// moves
    History {
        /// Its id such as f1.hello.0, or its name for the newest of that name
        task: String,
    },
    /// Print what a task wrote
    Logs {
        /// Its id such as f1.hello.0, or its name for the newest of that name
        task: String,
        /// Go on until the task has ended
        #[arg(short, long)]
        follow: bool,
        /// What it wrote to its stderr in place of its stdout
        #[arg(long)]
        stderr: bool,
        /// What this companion wrote, in place of its command
        #[arg(long, value_name = "NAME")]
        member: Option<String>,
        /// Begin with so many of the last lines, of what is there
        #[arg(long, value_parser = clap::value_parser!(u64).range(0..=logs::MAX_TAIL), value_name = "N")]
        tail: Option<u64>,
    },
    /// Show what is in a task's sandbox
    Files {
        /// Its id such as f1.hello.0, or its name for the newest of that name
        task: String,
        /// A folder below the sandbox
        #[arg(default_value = "", hide_default_value = true)]
        path: String,
    },
    /// Print a file of a task's sandbox
    Cat {
        /// Its id such as f1.hello.0, or its name for the newest of that name
        task: String,
        /// The file, below the sandbox
        path: String,
    },
    /// Have a file of a task's sandbox, or a folder as a tar archive
    Download {
        /// Its id such as f1.hello.0, or its name for the newest of that name
        task: String,
        /// The file or folder, below the sandbox; all of it when absent
        #[arg(default_value = "", hide_default_value = true)]
        path: String,
        /// The file that is written; named as the one there unless said, `-` is stdout
        #[arg(long, value_name = "FILE")]
        to: Option<std::path::PathBuf>,
    },
    /// Ask for the end of tasks
    Kill {
        /// Their ids such as f1.hello.0, or names for the newest of each name
        #[arg(required = true, value_name = "TASK")]
        tasks: Vec<String>,
        /// How long it may take to end by itself, in place of its own grace
        #[arg(long, value_parser = amounts::duration, value_name = "SPAN")]
        grace: Option<Duration>,
    },
}

/// Runs one of the commands.
pub async fn run(command: Command, client: &Client, format: Format) -> Result<()> {
    match command {
        Command::List {
            state,
            framework,
            agent,
            search,
            all,
        } => {
            let filter = TaskFilter {
                states: state,
                framework,
                agent,
                search,
            };
            list(&filter, all, client, format).await
        }
        Command::Show { task } => {
            let view = client.task(&find(&task, client).await?).await?;
            match format {
                Format::Json => output::json(&view),
                Format::Table => show(&view, usage(&view, client).await),
            }
        }
        Command::History { task } => {
            let history = client.task_history(&find(&task, client).await?).await?;
            match format {
                Format::Json => output::json(&history),
                Format::Table => show_history(&history),
            }
        }
        Command::Logs {
            task,
            follow,
            stderr,
            member,
            tail,
        } => {
            let id = find(&task, client).await?;
            let stream = match stderr {
                true => LogStream::Stderr,
                false => LogStream::Stdout,
            };
            let all = Wanted {
                task: &id,
                stream,
                member: member.as_deref(),
                offset: 0,
                follow,
            };
            let offset = match tail {
                Some(lines) => logs::tail(client, all, lines).await?,
                None => 0,
            };
            logs::copy(client, Wanted { offset, ..all }, tokio::io::stdout()).await
        }
        Command::Files { task, path } => {
            files::list(&find(&task, client).await?, &path, client, format).await
        }
        Command::Cat { task, path } => {
            files::print(&find(&task, client).await?, &path, client).await
        }
        Command::Download { task, path, to } => {
            files::download(&find(&task, client).await?, &path, to, client).await
        }
        Command::Kill { tasks, grace } => {
            let grace_ms = grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
            kill(&tasks, &KillRequest { grace_ms }, client, format).await
        }
    }
}

/// Asks for the end of each. Who names one that is not there has none of them ended.
async fn kill(
    tasks: &[String],
    request: &KillRequest,
    client: &Client,
    format: Format,
) -> Result<()> {
    let mut ids = Vec::new();
    for task in tasks {
        ids.push(find(task, client).await?);
    }
    let mut failed = None;
    for id in ids {
        match client.kill_task(&id, request).await {
            Ok(view) => match format {
                Format::Json => output::json(&view)?,
                Format::Table => output::line(&format!("{id} is {}", view.status.state))?,
            },
            // The others are to end all the same.
            Err(error) => {
                let error = anyhow::Error::from(error).context(format!("{id} is not ended"));
                if let Some(earlier) = failed.replace(error) {
                    output::note(&format!("error: {earlier:#}"));
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn list(filter: &TaskFilter, all: bool, client: &Client, format: Format) -> Result<()> {
    let (tasks, more) = match all {
        true => (client.all_tasks(filter).await?, false),
        false => client.tasks(filter, SHOWN).await?,
    };
    match format {
        Format::Json => output::json(&tasks)?,
        Format::Table => {
            let mut table = Columns::new(&["id", "state", "agent", "age", "ran", "what", "reason"]);
            for task in &tasks {
                table.row([
                    task.id.to_string(),
                    task.status.state.to_string(),
                    task.agent.to_string(),
                    output::age(task.launched_at),
                    ran(task).unwrap_or_default(),
                    cut(&what(&task.spec.workload), 32),
                    task.status
                        .reason
                        .as_ref()
                        .map(|reason| reason.code.clone())
                        .unwrap_or_default(),
                ]);
            }
            table.print("no tasks")?;
        }
    }
    if more {
        output::note(&format!(
            "the newest {SHOWN} are shown; --all shows the rest"
        ));
    }
    Ok(())
}

/// What a running task uses, or why that cannot be had.
type Usage = std::result::Result<UsageView, ClientError>;

/// Of a task that runs.
async fn usage(task: &TaskView, client: &Client) -> Option<Usage> {
    let runs = matches!(task.status.state, TaskState::Running | TaskState::Killing);
    match runs {
        true => Some(client.task_usage(&task.id).await),
        false => None,
    }
}

/// What is known of what a task uses now.
fn add_usage(fields: &mut Fields, usage: Usage) {
    let bytes = |bytes| tepui_types::Bytes(bytes).to_string();
    match usage.map(|usage| usage.used) {
        Ok(Some(used)) => {
            fields
                .add("cpu time", output::span(used.cpu_micros / 1000))
                .add("memory", bytes(used.mem_bytes))
                .add("memory peak", bytes(used.mem_peak_bytes))
                .maybe("disk", used.disk_bytes.map(bytes))
                .maybe("processes", used.pids)
                .maybe("instances", used.instances);
        }
        Ok(None) => {
            fields.add(
                "usage",
                "not known now: nobody counts it, or who does is silent",
            );
        }
        Err(error) => {
            fields.add("usage", format!("not known now: {error}"));
        }
    }
}

fn show(task: &TaskView, usage: Option<Usage>) -> Result<()> {
    let mut fields = Fields::new();
    fields
        .add("id", &task.id)
        .add("state", task.status.state)
        .maybe("reason", task.status.reason.as_ref())
        .maybe("exit code", task.status.exit_code)
        .add("framework", &task.framework_name)
        .add("role", &task.role)
        .add("agent", format!("{} ({})", task.agent, task.hostname))
        .add("resources", &task.resources)
        .add("runs", what(&task.spec.workload))
        .maybe("array index", task.array_index)
        .maybe(
            "priority",
            Some(task.spec.priority).filter(|priority| *priority != 0),
        )
        .maybe("time limit", task.spec.time_limit_ms.map(output::span))
        .maybe("waits after", task.after.as_ref())
        .add("launched", output::instant(task.launched_at))
        .maybe("started", task.started_at.map(output::instant))
        .maybe("ended", task.ended_at.map(output::instant))
        .maybe("ran for", ran(task));
    if let Some(usage) = &task.status.usage {
        fields
            .add("cpu time", output::span(usage.cpu_micros / 1000))
            .add("memory peak", tepui_types::Bytes(usage.mem_peak_bytes))
            .maybe("instances", usage.instances);
    } else if let Some(usage) = usage {
        add_usage(&mut fields, usage);
    }
    if let Some(signs) = &task.status.signs {
        let addresses: Vec<_> = signs.addresses.iter().map(ToString::to_string).collect();
        fields.maybe(
            "addresses",
            Some(addresses.join(", ")).filter(|text| !text.is_empty()),
        );
        for check in &signs.checks {
            fields.add("check", check);
        }
        for member in &signs.members {
            let (name, state) = (&member.name, member.state.as_str());
            let restarts = member.restarts;
            let message = match member.message.as_str() {
                "" => String::new(),
                message => format!(": {message}"),
            };
            let text = format!("{name} is {state}, started again {restarts} times{message}");
            fields.add("command", text);
        }
    }
    if !task.spec.user.is_empty() {
        fields.add("for", &task.spec.user);
    }
    for (name, value) in &task.spec.labels {
        fields.add("label", format!("{name}={value}"));
    }
    fields.print()
}

/// The oldest attempt first: it reads as a story.
fn show_history(history: &TaskHistory) -> Result<()> {
    let mut table = Columns::new(&["task", "agent", "offer", "state", "at", "after", "reason"]);
    for attempt in history.attempts.iter().rev() {
        let offer = attempt.chosen.as_ref();
        let offer = offer.map(|chosen| format!("{} ({} at hand)", chosen.offer, chosen.among));
        let mut head = Some([
            attempt.id.to_string(),
            format!("{} ({})", attempt.agent, attempt.hostname),
            offer.unwrap_or_default(),
        ]);
        let first = attempt.steps.first().map_or(Timestamp(0), |step| step.time);
        for step in &attempt.steps {
            let head = head.take().unwrap_or_default();
            let reason = step.reason.as_ref().map(ToString::to_string);
            let reason = reason.map(|reason| cut(&reason, REASON));
            table.row(head.into_iter().chain([
                step.state.to_string(),
                output::instant(step.time),
                output::span(step.time.millis_since(first)),
                reason.unwrap_or_default(),
            ]));
        }
    }
    table.print("no attempts")?;
    let forgotten = history.attempts.iter().map(|attempt| attempt.forgotten);
    if history.more || forgotten.sum::<u32>() > 0 {
        output::note("older attempts or steps are not kept");
    }
    Ok(())
}

/// What a workload runs, in a line.
pub fn what(workload: &Workload) -> String {
    match workload {
        Workload::Wasm(wasm) => {
            let mut words = vec![format!("wasm {}", output::short(&wasm.artifact))];
            words.extend(wasm.args.iter().cloned());
            words.join(" ")
        }
        Workload::Command(command) => {
            let image = command.image().map(|image| format!("image {image}"));
            let words = image.into_iter().chain(command.argv.iter().cloned());
            words.collect::<Vec<_>>().join(" ")
        }
    }
}

fn ran(task: &TaskView) -> Option<String> {
    let started = task.started_at?;
    Some(match task.ended_at {
        Some(ended) => output::span(ended.millis_since(started)),
        None => output::age(started),
    })
}

fn cut(text: &str, most: usize) -> String {
    let text = text.replace(char::is_control, " ");
    if text.chars().count() <= most {
        return text;
    }
    let kept: String = text.chars().take(most - 1).collect();
    format!("{kept}…")
}

/// Whether what it reads comes from a terminal.
pub fn has_terminal(workload: &Workload) -> bool {
    match workload {
        Workload::Command(command) => command.stdin() == CommandStdin::Terminal,
        Workload::Wasm(_) => false,
    }
}

/// The task of that id, or the newest of that name.
pub async fn find(text: &str, client: &Client) -> Result<TaskId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    if !tepui_types::ids::is_label(text) {
        bail!("`{text}` is neither a task id such as f1.hello.0 nor a task's name");
    }
    let filter = TaskFilter {
        search: Some(text.to_owned()),
        ..TaskFilter::default()
    };
    let (tasks, _) = client.tasks(&filter, SHOWN).await?;
    tasks
        .into_iter()
        .map(|task| task.id)
        .find(|id| id.name.as_str() == text)
        .with_context(|| format!("no task is named `{text}`: see `tepui task list`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_at_characters() {
        assert_eq!(cut("short", 8), "short");
        assert_eq!(cut("ééééééééé", 8), "ééééééé…");
        assert_eq!(cut("a\nb", 8), "a b");
    }
}
