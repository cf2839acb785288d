//! `tepui top`: what running tasks use, beside what they were given.
//!
//! How much of the processors a task takes follows from two looks; on a terminal there is one after
//! another, each in the place of the one before.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use futures::{StreamExt, stream};
use serde::Serialize;
use tepui_types::api::usage::{UsageView, Used};
use tepui_types::{AgentId, AgentStatus, Bytes, MilliCpus, TaskId};

use crate::client::Client;
use crate::output::{self, Columns, Format};
use crate::{amounts, terminal};

/// Between two looks where nobody says how often.
const INTERVAL: Duration = Duration::from_secs(2);
/// The shortest time between two: clocks of agents have ten milliseconds, and it is said in tenths of a
/// percent.
const SHORTEST: Duration = Duration::from_millis(500);
/// Agents that are asked at the same time.
const AT_ONCE: usize = 8;
/// Tasks that are looked at: some megabytes, and more than anybody reads.
const MOST: usize = 20_000;
/// What a terminal takes for: to the top left, and everything below is cleared.
const REDRAW: &str = "\x1b[H\x1b[J";

/// Which tasks, and how often.
#[derive(Debug, Args)]
pub struct Options {
    /// Only on this agent
    #[arg(long, value_name = "AGENT")]
    agent: Option<AgentId>,
    /// Only of this framework, by name or id
    #[arg(long, value_name = "FRAMEWORK")]
    framework: Option<String>,
    /// By what they are sorted
    #[arg(long, value_enum, default_value = "cpu", value_name = "COLUMN")]
    sort: Sort,
    /// At most so many; as many as fit on a terminal, and all elsewhere, when absent
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Look again and again, such as every 5s; on a terminal that is done unasked, every 2s
    #[arg(
        long,
        value_name = "TIME",
        value_parser = amounts::duration,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2s"
    )]
    watch: Option<Duration>,
    /// One table, also on a terminal
    #[arg(long, conflicts_with = "watch")]
    once: bool,
}

/// By what tasks are sorted: the most first, or by their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    // (Doc comments here would stretch the help.)
    Cpu,
    Mem,
    Disk,
    Id,
}

/// What was found at one time.
#[derive(Debug, Default)]
struct Look {
    tasks: Vec<(AgentId, UsageView)>,
    /// How many run, as far as their agents were asked.
    total: u64,
    /// Agents that could not be asked, and why.
    silent: Vec<(AgentId, String)>,
}

/// A task as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Row {
    agent: AgentId,
    #[serde(flatten)]
    task: UsageView,
    /// How much of the processors it takes, in thousandths of one; none where that is not known.
    cpus_milli: Option<MilliCpus>,
}

/// Shows what tasks use, once or until Ctrl-C.
pub async fn run(options: Options, client: &Client, format: Format) -> Result<()> {
    let is_drawn = format == Format::Table && !options.once && io::stdout().is_terminal();
    let goes_on = is_drawn || options.watch.is_some();
    let interval = options.watch.unwrap_or(INTERVAL).max(SHORTEST);
    let mut before = look(&options, client).await?;
    // The first is there soon.
    let mut pause = interval.min(2 * SHORTEST);
    loop {
        tokio::time::sleep(pause).await;
        let now = look(&options, client).await?;
        let mut rows = rows(&before, &now);
        sort(&mut rows, options.sort);
        let room = is_drawn.then(|| usize::from(terminal::size().rows).saturating_sub(3));
        let limit = options.limit.or(room).unwrap_or(usize::MAX);
        let shown = &rows[..limit.min(rows.len())];
        match format {
            Format::Json if goes_on => output::json_line(&shown)?,
            Format::Json => output::json(&shown)?,
            Format::Table if is_drawn => {
                output::line(&format!(
                    "{REDRAW}{}\n{}",
                    summary(&rows, &now),
                    table(shown)
                ))?;
            }
            Format::Table => output::line(&table(shown))?,
        }
        if !is_drawn {
            say_gaps(&now);
        }
        if !goes_on {
            return Ok(());
        }
        (before, pause) = (now, interval);
    }
}

async fn look(options: &Options, client: &Client) -> Result<Look> {
    let framework = match &options.framework {
        Some(name) => Some(client.framework(name).await?.id),
        None => None,
    };
    let agents = client.agents().await?.into_iter().filter(|agent| {
        let is_wanted = options.agent.is_none_or(|wanted| wanted == agent.id);
        is_wanted && agent.tasks > 0 && agent.status != AgentStatus::Gone
    });
    let ask = async |agent| (agent, client.agent_usage(agent, MOST).await);
    let asked = agents.map(|agent| ask(agent.id));
    let mut answers = stream::iter(asked).buffer_unordered(AT_ONCE);
    let mut look = Look::default();
    while let Some((agent, answer)) = answers.next().await {
        match answer {
            Ok((tasks, total)) => {
                let tasks = tasks.into_iter().map(|task| (agent, task));
                let room = MOST.saturating_sub(look.tasks.len());
                look.tasks.extend(tasks.take(room));
                look.total = look.total.saturating_add(total);
            }
            Err(error) => look.silent.push((agent, error.to_string())),
        }
    }
    look.silent.sort();
    look.tasks
        .retain(|(_, task)| framework.is_none_or(|wanted| task.id.framework == wanted));
    Ok(look)
}

/// The tasks of the later look, with what they took of the processors since the earlier one.
fn rows(before: &Look, now: &Look) -> Vec<Row> {
    let earlier = before.tasks.iter();
    let earlier = earlier.filter_map(|(_, task)| Some((&task.id, task.used?)));
    let earlier: HashMap<&TaskId, Used> = earlier.collect();
    let row = |(agent, task): &(AgentId, UsageView)| {
        let pair = task.used.zip(earlier.get(&task.id));
        Row {
            agent: *agent,
            task: task.clone(),
            cpus_milli: pair.and_then(|(used, earlier)| used.cpus_since(earlier)),
        }
    };
    now.tasks.iter().map(row).collect()
}

fn sort(rows: &mut [Row], by: Sort) {
    let used = |row: &Row, read: fn(&Used) -> u64| row.task.used.as_ref().map(read);
    let key = |row: &Row| match by {
        Sort::Cpu => row.cpus_milli.map(|cpus| cpus.0),
        Sort::Mem => used(row, |used| used.mem_bytes),
        Sort::Disk => used(row, |used| used.disk_bytes.unwrap_or(0)),
        Sort::Id => None,
    };
    rows.sort_by(|one, other| {
        let most_first = Reverse(key(one)).cmp(&Reverse(key(other)));
        most_first.then_with(|| one.task.id.cmp(&other.task.id))
    });
}

fn table(rows: &[Row]) -> String {
    let names = [
        "id", "agent", "cpu", "of", "mem", "of", "disk", "of", "pids",
    ];
    let mut table = Columns::new(&names);
    let dash = || "-".to_owned();
    for Row {
        agent,
        task,
        cpus_milli,
    } in rows
    {
        let bytes = |read: fn(&Used) -> Option<u64>| {
            let bytes = task.used.as_ref().and_then(read);
            bytes.map_or_else(dash, |bytes| Bytes(bytes).to_string())
        };
        let given = |amount: Bytes| match amount {
            Bytes(0) => dash(),
            amount => amount.to_string(),
        };
        let pids = task.used.and_then(|used| used.pids);
        table.row([
            task.id.to_string(),
            agent.to_string(),
            cpus_milli.map_or_else(dash, percent),
            percent(task.given.cpus),
            bytes(|used| Some(used.mem_bytes)),
            given(task.given.mem),
            bytes(|used| used.disk_bytes),
            given(task.given.disk),
            pids.map_or_else(dash, |pids| pids.to_string()),
        ]);
    }
    (2..names.len()).for_each(|column| table.right(column));
    table.text("no tasks run")
}

/// Of one processor.
fn percent(cpus: MilliCpus) -> String {
    format!("{}.{}%", cpus.0 / 10, cpus.0 % 10)
}

/// All tasks in a line, and what is missing in the next.
fn summary(rows: &[Row], look: &Look) -> String {
    let cpus = rows.iter().filter_map(|row| row.cpus_milli);
    let cpus = cpus.fold(0_u64, |sum, cpus| sum.saturating_add(cpus.0));
    let mem = rows.iter().filter_map(|row| row.task.used);
    let mem = mem.fold(0_u64, |sum, used| sum.saturating_add(used.mem_bytes));
    let count = rows.len();
    let mut text = format!(
        "{count} tasks, {} cpu, {} mem",
        percent(MilliCpus(cpus)),
        Bytes(mem)
    );
    if let Some(gaps) = gaps(look) {
        let _ = write!(text, "; {gaps}");
    }
    text
}

fn say_gaps(look: &Look) {
    if let Some(gaps) = gaps(look) {
        output::note(&format!("tepui: {gaps}"));
    }
}

/// What was not looked at, if anything.
fn gaps(look: &Look) -> Option<String> {
    let mut gaps = Vec::new();
    if look.total > look.tasks.len() as u64 && look.tasks.len() >= MOST {
        gaps.push(format!(
            "only {MOST} of {} tasks are looked at: name an --agent",
            look.total
        ));
    }
    if let Some((agent, why)) = look.silent.first() {
        let others = match look.silent.len() {
            1 => String::new(),
            count => format!(", nor do {} others", count - 1),
        };
        gaps.push(format!("{agent} does not tell ({why}){others}"));
    }
    (!gaps.is_empty()).then(|| gaps.join("; "))
}

#[cfg(test)]
mod tests {
    use tepui_types::resources::ResourceRequest;

    use super::*;

    fn task(name: &str, used: Option<(u64, u64, u64)>) -> (AgentId, UsageView) {
        let used = used.map(|(at_ms, cpu_micros, mem_bytes)| Used {
            at_ms,
            cpu_micros,
            mem_bytes,
            mem_peak_bytes: mem_bytes,
            disk_bytes: None,
            pids: Some(3),
            instances: None,
        });
        let view = UsageView {
            id: format!("f1.{name}.0").parse().unwrap(),
            framework_name: "batch".into(),
            given: ResourceRequest {
                cpus: MilliCpus(500),
                mem: Bytes::mib(64),
                ..ResourceRequest::default()
            },
            used,
        };
        (AgentId(1), view)
    }

    fn look(tasks: Vec<(AgentId, UsageView)>) -> Look {
        Look {
            total: tasks.len() as u64,
            tasks,
            silent: Vec::new(),
        }
    }

    fn names(rows: &[Row]) -> Vec<&str> {
        let names = rows.iter().map(|row| row.task.id.name.as_str());
        names.collect()
    }

    #[test]
    fn the_most_is_first_and_who_is_not_known_last() {
        let before = look(vec![
            task("idle", Some((1_000, 5, 2 << 20))),
            task("busy", Some((1_000, 0, 1 << 20))),
        ]);
        let now = look(vec![
            task("idle", Some((3_000, 5, 2 << 20))),
            task("busy", Some((3_000, 2_469_000, 1 << 20))),
            task("new", Some((3_000, 9_000_000, 3 << 20))),
            task("silent", None),
        ]);
        let mut rows = rows(&before, &now);
        sort(&mut rows, Sort::Cpu);
        assert_eq!(names(&rows), ["busy", "idle", "new", "silent"]);
        let lines: Vec<String> = table(&rows).lines().map(str::to_owned).collect();
        let words = |line: &str| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            words(&lines[1]).join(" "),
            "f1.busy.0 a1 123.4% 50.0% 1 MiB 64 MiB - - 3"
        );
        assert_eq!(
            words(&lines[3]).join(" "),
            "f1.new.0 a1 - 50.0% 3 MiB 64 MiB - - 3"
        );
        assert_eq!(
            words(&lines[4]).join(" "),
            "f1.silent.0 a1 - 50.0% - 64 MiB - - -"
        );
        assert_eq!(summary(&rows, &now), "4 tasks, 123.4% cpu, 6 MiB mem");
        sort(&mut rows, Sort::Mem);
        assert_eq!(names(&rows), ["new", "idle", "busy", "silent"]);
        sort(&mut rows, Sort::Id);
        assert_eq!(names(&rows), ["busy", "idle", "new", "silent"]);
        assert_eq!(table(&[]), "no tasks run");
    }

    #[test]
    fn what_is_missing_is_said() {
        assert_eq!(gaps(&look(Vec::new())), None);
        let away = |number| (AgentId(number), "it is away".to_owned());
        let one = Look {
            silent: vec![away(1)],
            ..Look::default()
        };
        assert_eq!(gaps(&one).unwrap(), "a1 does not tell (it is away)");
        let more = Look {
            tasks: vec![task("t", None); MOST],
            total: 30_000,
            silent: vec![away(1), away(2), away(3)],
        };
        let said = gaps(&more).unwrap();
        assert!(said.contains("20000 of 30000"), "{said}");
        assert!(said.ends_with("(it is away), nor do 2 others"), "{said}");
    }
}
