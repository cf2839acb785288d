//! What running tasks use, for somebody who asks: measured then, and at no other time.
//!
//! Commands have cgroups, which are read here and wake nobody. Programs are parts of a process, which
//! alone knows, and is asked for those that are wanted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tepui_executor::cgroup::{self, Group, Reach};
use tepui_executor::usage;
use tepui_types::api::list::MAX_LIMIT;
use tepui_types::api::usage::{UsageList, UsageView, Used};
use tepui_types::resources::ResourceRequest;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::executor::TaskMeasure;
use tepui_types::wire::stream::UsageRequest;
use tepui_types::{Bytes, TaskId};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::agent::{ExecutorId, Place, Running};
use crate::event_loop::{Event, census};
use crate::sandbox::Layout;
use crate::sizes::DiskUse;
use crate::task_disks::TaskDisks;
use crate::uptime;

/// How long an executor may take to answer: it has little to do for it. Of the tasks of one that does
/// not, nothing is told.
const PATIENCE: Duration = Duration::from_secs(2);

/// A process is to be asked what some of its tasks use.
#[derive(Debug)]
pub struct Question {
    /// Which process.
    pub executor: ExecutorId,
    /// Which of its tasks.
    pub tasks: Vec<TaskId>,
    /// Dropped where it cannot be asked.
    pub answer: oneshot::Sender<Vec<TaskMeasure>>,
}

/// With what it is measured.
#[derive(Debug, Clone)]
pub struct Gauge {
    /// Where cgroups and executors' folders are.
    pub layout: Layout,
    /// What tasks have on the disk, as far as it is measured.
    pub disk_use: DiskUse,
    /// Where the kernel counts it.
    pub disks: Arc<TaskDisks>,
    /// The loop.
    pub events: mpsc::Sender<Event>,
}

impl Gauge {
    /// What those tasks use that are asked for.
    pub async fn look(&self, request: &UsageRequest) -> UsageList {
        // The loop is gone only when the agent ends.
        let running = census(&self.events).await.unwrap_or_default();
        let total = running.len() as u64;
        let (running, more) = piece(running, request);
        let used = self.measure(&running).await;
        let view = |one: Running| view(&one.launch, used.get(&one.launch.task).copied());
        UsageList {
            tasks: running.into_iter().map(view).collect(),
            more,
            total,
        }
    }

    async fn measure(&self, running: &[Running]) -> HashMap<TaskId, Used> {
        let mut grouped = Vec::new();
        let mut within: BTreeMap<ExecutorId, Vec<TaskId>> = BTreeMap::new();
        for one in running {
            let task = one.launch.task.clone();
            match &one.place {
                Place::Alone(Some(path)) => grouped.push((task, one.executor, path.clone())),
                // Nothing counts for it.
                Place::Alone(None) => {}
                Place::Within(executor) => within.entry(*executor).or_default().push(task),
            }
        }
        let tasks: Vec<TaskId> = running.iter().map(|one| one.launch.task.clone()).collect();
        let (layout, disks) = (self.layout.clone(), self.disks.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let read = |(task, executor, path): (TaskId, ExecutorId, String)| {
                let used = read_group(&layout, &task, executor, &path)?;
                Some((task, used))
            };
            let counted = |task: TaskId| {
                let bytes = disks.used(&task)?;
                Some((task, bytes))
            };
            let grouped: Vec<_> = grouped.into_iter().filter_map(read).collect();
            let counted: HashMap<TaskId, Bytes> = tasks.into_iter().filter_map(counted).collect();
            (grouped, counted)
        });
        let mut used = self.ask(within).await;
        // One that breaks off has read nothing.
        let (grouped, counted) = reading.await.unwrap_or_default();
        used.extend(grouped);
        for (task, used) in &mut used {
            let bytes = counted.get(task).copied();
            used.disk_bytes = bytes.or_else(|| self.disk_use.of(task)).map(|it| it.0);
        }
        used
    }

    /// Asks all these processes at once.
    async fn ask(&self, within: BTreeMap<ExecutorId, Vec<TaskId>>) -> HashMap<TaskId, Used> {
        let mut asked = JoinSet::new();
        for (executor, tasks) in within {
            let events = self.events.clone();
            asked.spawn(async move {
                let (answer, answered) = oneshot::channel();
                let question = Question {
                    executor,
                    tasks,
                    answer,
                };
                events.send(Event::UsageWanted(question)).await.ok()?;
                let answered = tokio::time::timeout(PATIENCE, answered).await.ok()?;
                answered.ok().map(|tasks| (uptime::now_ms(), tasks))
            });
        }
        let mut used = HashMap::new();
        for (at_ms, tasks) in asked.join_all().await.into_iter().flatten() {
            used.extend(
                tasks
                    .into_iter()
                    .map(|it| (it.task.clone(), program(at_ms, &it))),
            );
        }
        used
    }
}

/// Those that are asked for, and whether others follow them.
fn piece(mut running: Vec<Running>, request: &UsageRequest) -> (Vec<Running>, bool) {
    match request {
        UsageRequest::Task(task) => {
            running.retain(|one| one.launch.task == *task);
            (running, false)
        }
        UsageRequest::Page { after, limit } => {
            let start = after.as_ref().map_or(0, |after| {
                running.partition_point(|one| one.launch.task <= *after)
            });
            let limit = usize::try_from(*limit).unwrap_or(MAX_LIMIT).min(MAX_LIMIT);
            let mut piece = running.split_off(start);
            let more = piece.len() > limit;
            piece.truncate(limit);
            (piece, more)
        }
    }
}

/// A task beside what it uses.
pub fn view(launch: &TaskLaunch, used: Option<Used>) -> UsageView {
    UsageView {
        id: launch.task.clone(),
        framework_name: launch.framework_name.clone(),
        given: ResourceRequest::from(&launch.resources),
        used,
    }
}

/// What a cgroup counts of the task that has it; none before that has begun, and where it is not there.
/// Blocks.
fn read_group(layout: &Layout, task: &TaskId, executor: ExecutorId, path: &str) -> Option<Used> {
    let (latest, before) = usage::read(&layout.executor(executor)).ok()?.before?;
    if latest != *task {
        return None;
    }
    let group = Group::open(path, Reach::All).ok()?;
    let at_ms = uptime::now_ms();
    command(at_ms, group.usage(), before.cpu_micros)
}

/// One that has counted nothing is not there: a task's has had its processes.
fn command(at_ms: u64, counted: cgroup::Usage, cpu_micros_before: u64) -> Option<Used> {
    let is_there = (counted.cpu_micros, counted.mem_bytes, counted.pids) != (0, 0, 0);
    is_there.then(|| Used {
        at_ms,
        cpu_micros: counted.cpu_micros.saturating_sub(cpu_micros_before),
        mem_bytes: counted.mem_bytes,
        mem_peak_bytes: counted.mem_peak_bytes,
        disk_bytes: None,
        pids: Some(counted.pids),
        instances: None,
    })
}

fn program(at_ms: u64, measure: &TaskMeasure) -> Used {
    Used {
        at_ms,
        cpu_micros: measure.usage.cpu_micros,
        mem_bytes: measure.mem_bytes,
        mem_peak_bytes: measure.usage.mem_peak_bytes,
        disk_bytes: None,
        pids: None,
        instances: measure.usage.instances,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tepui_types::task::{CommandWorkload, TaskSpec};
    use tepui_types::{OperationId, Resources, Role, Workload};

    use super::*;

    fn running(name: &str) -> Running {
        let command = CommandWorkload::new(vec!["true".into()]);
        let launch = TaskLaunch {
            operation: OperationId {
                index: 1,
                ordinal: 0,
            },
            task: id(name),
            framework_name: "batch".into(),
            role: Role::default(),
            spec: Arc::new(TaskSpec::new(Workload::Command(command))),
            resources: Resources::default(),
            revocable: Resources::default(),
            volumes: Vec::new(),
            array_index: None,
            after: None,
        };
        Running {
            launch: Arc::new(launch),
            executor: ExecutorId(0),
            place: Place::Alone(None),
            has_own_network: false,
        }
    }

    fn id(name: &str) -> TaskId {
        format!("f1.{name}.0").parse().unwrap()
    }

    fn names(running: &[Running]) -> Vec<&str> {
        let names = running.iter().map(|one| one.launch.task.name.as_str());
        names.collect()
    }

    #[test]
    fn pieces_follow_one_another_also_where_tasks_have_gone() {
        let all = || ["a", "b", "d", "e"].map(running).to_vec();
        let page = |after: Option<&str>, limit| {
            let after = after.map(id);
            piece(all(), &UsageRequest::Page { after, limit })
        };
        let (first, more) = page(None, 2);
        assert_eq!((names(&first), more), (vec!["a", "b"], true));
        let (second, more) = page(Some("b"), 2);
        assert_eq!((names(&second), more), (vec!["d", "e"], false));
        let (rest, more) = page(Some("c"), 9);
        assert_eq!((names(&rest), more), (vec!["d", "e"], false));
        let (none, more) = page(Some("e"), 9);
        assert_eq!((names(&none), more), (vec![], false));
        let (one, more) = piece(all(), &UsageRequest::Task(id("d")));
        assert_eq!((names(&one), more), (vec!["d"], false));
    }

    #[test]
    fn of_a_cgroup_that_is_not_there_nothing_is_told() {
        assert_eq!(command(1, cgroup::Usage::default(), 0), None);
        let counted = cgroup::Usage {
            cpu_micros: 7,
            ..Default::default()
        };
        let used = command(1, counted, 5).unwrap();
        assert_eq!((used.cpu_micros, used.pids), (2, Some(0)));
    }

    #[test]
    fn a_piece_is_bounded_whatever_is_asked_for() {
        let all = (0..MAX_LIMIT + 1).map(|number| running(&format!("t{number:05}")));
        let request = UsageRequest::Page {
            after: None,
            limit: u32::MAX,
        };
        let (piece, more) = piece(all.collect(), &request);
        assert_eq!((piece.len(), more), (MAX_LIMIT, true));
    }
}
