//! What running tasks use, told to who asks; and what of it is known when an executor was killed.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tepui_types::api::usage::{UsageList, UsageView, Used};
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::stream::{StreamRequest, UsageRequest};
use tepui_types::{Bytes, MilliCpus, Reason, TaskId, TaskState};

use crate::images::ImageLayout;
use crate::master::{DEADLINE, FakeMaster, Session, contained, eventually, shell, wasm, within};
use crate::process::AgentProcess;

/// Takes a processor, and has a second process.
const SPIN: &str = "sleep 1000 & while :; do :; done";
/// Takes some time of a processor, and then none.
const WORK: &str = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
const ALL: UsageRequest = UsageRequest::Page {
    after: None,
    limit: 100,
};

/// Asks over and over.
struct Looks {
    master: FakeMaster,
    session: Session,
    next: u128,
}

impl Looks {
    async fn start(mut master: FakeMaster) -> Self {
        let session = master.session().await;
        Self {
            master,
            session,
            next: 1,
        }
    }

    async fn run(&mut self, tasks: &[&TaskLaunch]) {
        for task in tasks {
            self.session.launch(task).await;
            self.session.until(&task.task, TaskState::Running).await;
        }
    }

    async fn try_look(&mut self, request: UsageRequest) -> Result<UsageList, Reason> {
        let id = self.next;
        self.next += 1;
        self.session.open(id, StreamRequest::Usage(request)).await;
        let Self {
            master, session, ..
        } = self;
        let answer = async { master.stream(id).await.all().await };
        let (json, end) = session.meanwhile(answer).await;
        end.map(|()| serde_json::from_str(&json).unwrap())
    }

    async fn look(&mut self, request: UsageRequest) -> UsageList {
        self.try_look(request).await.unwrap()
    }

    async fn of(&mut self, task: &TaskId) -> UsageView {
        let mut list = self.look(UsageRequest::Task(task.clone())).await;
        assert_eq!(list.tasks.len(), 1);
        let view = list.tasks.remove(0);
        assert_eq!(view.id, *task);
        view
    }

    /// What a task uses, once that is so.
    async fn until(&mut self, task: &TaskId, done: impl Fn(&Used) -> bool) -> Used {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let used = self.of(task).await.used;
            if let Some(used) = used.filter(&done) {
                return used;
            }
            let now = tokio::time::Instant::now();
            assert!(now < deadline, "{task} used only {used:?}");
        }
    }
}

fn has_cgroups() -> bool {
    let able = tepui_executor::cgroup::available();
    able.inspect_err(|error| eprintln!("skipped: {error}"))
        .is_ok()
}

fn ids(list: &UsageList) -> Vec<&str> {
    let ids = list.tasks.iter().map(|view| view.id.name.as_str());
    ids.collect()
}

fn kill_executors(agent: &AgentProcess) {
    for executor in agent.executors() {
        kill(Pid::from_raw(executor.pid), Signal::SIGKILL).unwrap();
    }
}

#[tokio::test]
async fn what_a_task_has_in_an_enforced_sandbox_is_told() {
    if !has_cgroups() || !crate::volumes::can_enforce() {
        return;
    }
    let master = FakeMaster::start().await;
    let _agent = AgentProcess::start_with(&master, &["--sandbox-sizes", "enforced"]);
    let mut looks = Looks::start(master).await;
    let mut task = shell("full", "head -c 4194304 /dev/zero > file; exec sleep 1000");
    task.resources.disk = Bytes::mib(32);
    looks.run(&[&task]).await;
    let has_all = |used: &Used| used.disk_bytes.is_some_and(|bytes| bytes >= 4 << 20);
    let used = looks.until(&task.task, has_all).await;
    assert!(used.disk_bytes < Some(32 << 20), "{used:?}");
}

#[tokio::test]
async fn what_commands_containers_and_programs_use_is_told_while_they_run() {
    if !has_cgroups() {
        return;
    }
    let image = ImageLayout::make();
    let master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let program = master.add_artifact(&crate::wasm::spin());
    let mut looks = Looks::start(master).await;
    let container = format!(r#"{{"image": "{}"}}"#, image.name());
    let mut command = shell("a-command", &format!("echo 12345 > file; {SPIN}"));
    command.resources.disk = Bytes::mib(8);
    let contained = contained("b-container", &container, &["sh", "-c", SPIN]);
    let program = wasm("c-program", program);
    let tasks = [&command, &contained, &program];
    looks.run(&tasks).await;
    for task in tasks {
        let first = looks.until(&task.task, |used| used.cpu_micros > 0).await;
        assert!(first.mem_bytes > 0, "{first:?}");
        let later = |used: &Used| {
            let cpus = used.cpus_since(&first);
            cpus.is_some_and(|cpus| cpus > MilliCpus(0))
        };
        let later = looks.until(&task.task, later).await;
        assert!(later.mem_peak_bytes >= later.mem_bytes, "{later:?}");
        match task.task.name.as_str() {
            "c-program" => {
                assert_eq!((later.pids, later.mem_bytes), (None, 65_536));
                assert_eq!(later.instances, Some(1));
            }
            _ => {
                assert!(later.pids >= Some(2), "{later:?}");
                assert_eq!(later.instances, None);
            }
        }
    }
    // The disk is measured every now and then.
    let has_disk = |used: &Used| used.disk_bytes.is_some_and(|bytes| bytes >= 4_096);
    looks.until(&command.task, has_disk).await;

    let all = looks.look(ALL).await;
    assert_eq!(ids(&all), ["a-command", "b-container", "c-program"]);
    assert_eq!((all.total, all.more), (3, false));
    for (view, task) in all.tasks.iter().zip(tasks) {
        assert_eq!(view.given.cpus, task.resources.cpus);
        assert_eq!(view.given.mem, task.resources.mem);
        assert_eq!(view.framework_name, "batch");
        assert!(view.used.is_some(), "{view:?}");
    }
    let page = |after: Option<&TaskLaunch>| UsageRequest::Page {
        after: after.map(|launch| launch.task.clone()),
        limit: 2,
    };
    let first = looks.look(page(None)).await;
    assert_eq!((first.more, first.total), (true, 3));
    let second = looks.look(page(Some(&contained))).await;
    assert_eq!((ids(&second), second.more), (vec!["c-program"], false));
    // Control groups go on counting without anybody.
    kill_executors(&agent);
    for (view, task) in all.tasks.iter().zip([&command, &contained]) {
        let report = looks.session.until(&task.task, TaskState::Failed).await;
        let (told, seen) = (report.usage.expect("it is known"), view.used.unwrap());
        assert!(told.cpu_micros >= seen.cpu_micros, "{told:?} of {seen:?}");
    }
}

#[tokio::test]
async fn nothing_is_told_of_who_does_not_run() {
    let master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut looks = Looks::start(master).await;
    let unknown: TaskId = "f1.unknown.0".parse().unwrap();
    let refused = looks.try_look(UsageRequest::Task(unknown)).await;
    assert_eq!(refused.unwrap_err().code, "task-gone");
    let none = looks.look(ALL).await;
    assert_eq!((ids(&none), none.total), (vec![], 0));
    let task = shell("ended", "echo x");
    looks.session.launch(&task).await;
    looks.session.until(&task.task, TaskState::Finished).await;
    let folder = agent.layout().task(&task.task);
    assert!(folder.is_dir(), "something is left of it");
    let refused = looks.try_look(UsageRequest::Task(task.task)).await;
    assert_eq!(refused.unwrap_err().code, "task-ended");
}

#[tokio::test]
async fn a_task_is_told_and_charged_nothing_of_the_one_before_it_also_when_all_are_killed() {
    if !has_cgroups() {
        return;
    }
    let master = FakeMaster::start().await;
    let mut agent = AgentProcess::start(&master);
    let mut looks = Looks::start(master).await;
    let first = shell("first", WORK);
    looks.session.launch(&first).await;
    let first = looks.session.until(&first.task, TaskState::Finished).await;
    let first = first.usage.unwrap().cpu_micros;
    let second = shell("second", "sleep 1000");
    looks.run(&[&second]).await;
    assert_eq!(
        agent.executors().len(),
        1,
        "it has the process of the first"
    );
    let used = looks.until(&second.task, |used| used.cpu_micros > 0).await;
    assert!(used.cpu_micros < first / 2, "{used:?} after {first}");

    agent.kill();
    kill_executors(&agent);
    eventually("the executor is dead", || agent.executors().is_empty()).await;
    agent.start_again(&looks.master);
    looks.session = looks.master.session().await;
    let report = looks.session.until(&second.task, TaskState::Failed).await;
    let told = report.usage.unwrap().cpu_micros;
    assert!(
        (used.cpu_micros..first / 2).contains(&told),
        "{told} of {used:?} after {first}"
    );
}

#[tokio::test]
async fn what_programs_had_used_outlives_their_executor_and_agent() {
    let master = FakeMaster::start().await;
    let mut agent = AgentProcess::start(&master);
    let program = master.add_artifact(&crate::wasm::spin());
    let mut looks = Looks::start(master).await;
    let tasks = ["a", "b"].map(|name| wasm(name, program));
    looks.run(&[&tasks[0], &tasks[1]]).await;
    // What was used until a while ago has been written down.
    let mut seen = Vec::new();
    for task in &tasks {
        seen.push(looks.until(&task.task, |used| used.cpu_micros > 0).await);
    }
    let id = agent.layout();
    let noted = || {
        let folders = std::fs::read_dir(id.executors()).unwrap().flatten();
        let mut known = folders.filter_map(|it| tepui_executor::usage::read(&it.path()).ok());
        let used = known.next().map(|known| known.used).unwrap_or_default();
        let of = |(task, seen): (&TaskLaunch, &Used)| {
            let noted = used.get(&task.task);
            noted.is_some_and(|noted| noted.cpu_micros >= seen.cpu_micros)
        };
        tasks.iter().zip(&seen).all(of)
    };
    let Looks { session, .. } = &mut looks;
    session.meanwhile(eventually("it is noted", noted)).await;

    agent.kill();
    kill_executors(&agent);
    eventually("the executor is dead", || agent.executors().is_empty()).await;
    agent.start_again(&looks.master);
    looks.session = looks.master.session().await;
    for (task, seen) in tasks.iter().zip(&seen) {
        let report = looks.session.until(&task.task, TaskState::Failed).await;
        let told = report.usage.unwrap();
        assert!(told.cpu_micros >= seen.cpu_micros, "{told:?} of {seen:?}");
        assert_eq!(told.mem_peak_bytes, 65_536);
    }
}

#[tokio::test]
async fn an_executor_that_does_not_answer_holds_up_no_other_tasks() {
    let master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let program = master.add_artifact(&crate::wasm::spin());
    let mut looks = Looks::start(master).await;
    let stopped = wasm("stopped", program);
    looks.run(&[&stopped]).await;
    let executor = Pid::from_raw(agent.executors()[0].pid);
    let mut other = wasm("other", program);
    std::sync::Arc::make_mut(&mut other.spec).user = "bob".into();
    looks.run(&[&other]).await;
    kill(executor, Signal::SIGSTOP).unwrap();
    let all = within(looks.look(ALL)).await;
    assert_eq!(ids(&all), ["other", "stopped"]);
    assert!(all.tasks[0].used.is_some(), "{all:?}");
    assert_eq!(all.tasks[1].used, None);
    kill(executor, Signal::SIGCONT).unwrap();
    looks.until(&stopped.task, |used| used.cpu_micros > 0).await;
}
