//! Tasks with containers: prepared first, released at last, whatever happens between.

use tepui_types::wire::executor::LocalImage;
use tepui_types::{Bytes, Container};

use super::*;

fn container(name: &str) -> TaskLaunch {
    let mut command = CommandWorkload::new(vec!["true".into()]);
    command.container = Some(Box::new(Container::default()));
    launch(name, Workload::Command(command))
}

fn prepared() -> Prepared {
    Prepared {
        image: Some(Arc::new(LocalImage {
            digest: Digest::of(b"image"),
            layers: vec!["/layer".into()],
            config: Default::default(),
        })),
        ..Prepared::default()
    }
}

/// A command whose image turns out to be a program, with what it reads as an artifact.
fn program(name: &str) -> TaskLaunch {
    let command: CommandWorkload = serde_json::from_value(serde_json::json!({
        "argv": ["word"], "container": {"image": "r.example/p"},
        "options": {"wasm": {"stdin": {"artifact": Digest::of(b"program")}}},
    }))
    .unwrap();
    launch(name, Workload::Command(command))
}

fn prepared_program() -> Prepared {
    Prepared {
        program: Some(Arc::new(LocalProgram {
            image: Digest::of(b"image"),
            digest: Digest::of(b"wasm"),
            path: "/components/wasm".into(),
        })),
        ..Prepared::default()
    }
}

/// Looks at the launch of `a` as its executor gets it.
fn is_of_a_program(actions: &[Action]) {
    let [Action::Send(_, ToExecutor::Launch(launch))] = actions else {
        panic!("{actions:?}");
    };
    let Workload::Wasm(wasm) = &launch.launch.spec.workload else {
        panic!("{launch:?}");
    };
    assert_eq!(wasm.artifact, Digest::of(b"wasm"));
    assert_eq!(wasm.args, ["word"]);
    assert_eq!(launch.program.as_deref(), Some("/components/wasm"));
    let stdin = layout().artifact(&Digest::of(b"program"));
    assert_eq!(launch.stdin.as_deref(), stdin.to_str());
}

impl Bench {
    fn prepare(&mut self, name: &str, result: Result<Prepared, Reason>) -> Vec<Action> {
        self.on(|agent, out| agent.on_prepared(out, &id(name), result))
    }
}

fn released(actions: &[Action], name: &str) -> usize {
    let release = Action::Release(id(name));
    actions.iter().filter(|action| **action == release).count()
}

#[test]
fn a_container_is_prepared_then_handed_over_with_all_that_it_has() {
    let mut bench = Bench::new();
    let actions = bench.launch(container("a"));
    assert_eq!(actions, [Action::Prepare(Arc::new(container("a")))]);
    let actions = bench.prepare("a", Ok(prepared()));
    assert!(
        matches!(actions[..], [Action::Start(_, ExecutorKind::Container(_))]),
        "{actions:?}"
    );
    let actions = bench.attach(0, vec![]);
    let [Action::Send(_, ToExecutor::Launch(launch))] = &actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!(launch.image, prepared().image);
    let actions = bench.update(0, "a", TaskState::Finished);
    assert_eq!(released(&actions, "a"), 1, "{actions:?}");
}

#[test]
fn what_cannot_be_prepared_ends_its_task_and_is_released() {
    let mut bench = Bench::new();
    bench.launch(container("a"));
    let why = Reason::new("image-unknown", "no such image");
    let actions = bench.prepare("a", Err(why));
    assert_eq!(released(&actions, "a"), 1, "{actions:?}");
    assert_eq!(bench.agent.life(&id("a")), Life::Ended);
}

#[test]
fn a_command_is_prepared_for_its_disk_where_the_kernel_keeps_sizes() {
    let mut bench = Bench::new();
    let mut sized = native("a");
    sized.resources.disk = Bytes::mib(32);
    let mut guest = wasm("guest");
    guest.resources.disk = Bytes::mib(32);
    let prepares = |actions: &[Action]| {
        let mut prepared = actions.iter();
        prepared.any(|action| matches!(action, Action::Prepare(_)))
    };
    let same = TaskLaunch {
        task: id("measured"),
        ..sized.clone()
    };
    assert!(!prepares(&bench.launch(same)));
    bench.on(|agent, _| agent.keep_disks(true));
    for other in [native("without"), guest] {
        assert!(!prepares(&bench.launch(other)));
    }
    assert!(prepares(&bench.launch(sized.clone())));
    bench.prepare("a", Ok(Prepared::default()));
    // Whatever is set when it ends, it is released.
    bench.on(|agent, _| agent.keep_disks(false));
    assert_eq!(released(&bench.kill("a"), "a"), 1);

    // Without room on its machine it runs elsewhere.
    bench.on(|agent, _| agent.keep_disks(true));
    let full = TaskLaunch {
        task: id("full"),
        ..sized
    };
    bench.launch(full);
    bench.prepare("full", Err(Reason::new(reason::AGENT_FULL, "no room")));
    let reports = bench.agent.take_statuses(Urgency::End, 10);
    let full = reports.iter().find(|report| report.task == id("full"));
    assert_eq!(full.unwrap().state, TaskState::Dropped);
}

#[test]
fn a_task_killed_while_it_is_prepared_is_released_and_stays_ended() {
    let mut bench = Bench::new();
    bench.launch(container("a"));
    let actions = bench.kill("a");
    assert_eq!(released(&actions, "a"), 1, "{actions:?}");
    assert_eq!(bench.prepare("a", Ok(prepared())), []);
    assert_eq!(bench.agent.prepared().count(), 0);
}

#[test]
fn an_agent_that_starts_anew_knows_what_its_containers_have() {
    let mut bench = Bench::new();
    bench.launch(container("a"));
    bench.launch(container("b"));
    bench.prepare("a", Ok(prepared()));
    bench.attach(0, vec![]);
    let actions = bench.restart();
    assert!(
        actions.contains(&Action::Prepare(Arc::new(container("b")))),
        "{actions:?}"
    );
    let kept: Vec<_> = bench.agent.prepared().collect();
    assert_eq!(kept, [(&id("a"), &prepared())]);
    // Its executor has not heard of it: it is told again, with the same.
    let actions = bench.attach(0, vec![]);
    assert!(is_launch_of(&actions[0], "a"), "{actions:?}");
}

#[test]
fn a_container_has_its_process_for_itself() {
    let mut bench = Bench::new();
    bench.launch(native("first"));
    bench.attach(0, vec![]);
    bench.update(0, "first", TaskState::Finished);
    bench.launch(container("a"));
    let actions = bench.prepare("a", Ok(prepared()));
    assert!(
        matches!(actions[..], [Action::Start(ExecutorId(1), _)]),
        "{actions:?}"
    );
    bench.attach(1, vec![]);
    bench.update(1, "a", TaskState::Finished);
    let actions = bench.recorded("a", TaskState::Finished);
    assert!(
        actions.contains(&Action::Send(ExecutorId(1), ToExecutor::Retire)),
        "{actions:?}"
    );
}

#[test]
fn an_image_that_is_a_program_runs_where_programs_do_and_is_fetched_from_no_master() {
    let mut bench = Bench::new();
    let actions = bench.launch(program("a"));
    assert_eq!(actions, [Action::Prepare(Arc::new(program("a")))]);
    let actions = bench.prepare("a", Ok(prepared_program()));
    // What it reads alone; the program came with the image.
    assert_eq!(actions, [Action::Fetch(Digest::of(b"program"))]);
    let actions = bench.fetched();
    assert!(
        matches!(actions[..], [Action::Start(_, ExecutorKind::Wasm(_))]),
        "{actions:?}"
    );
    is_of_a_program(&bench.attach(0, vec![]));
    let actions = bench.update(0, "a", TaskState::Finished);
    assert_eq!(released(&actions, "a"), 1, "{actions:?}");
}

#[test]
fn an_agent_that_starts_anew_knows_which_images_are_programs() {
    let mut bench = Bench::new();
    bench.launch(program("a"));
    bench.prepare("a", Ok(prepared_program()));
    bench.fetched();
    bench.attach(0, vec![]);
    for _ in 0..2 {
        bench.restart();
        let kept: Vec<_> = bench.agent.prepared().collect();
        assert_eq!(kept, [(&id("a"), &prepared_program())]);
        // Its executor has not heard of it: it is told again.
        is_of_a_program(&bench.attach(0, vec![]));
        // The next one reads a journal that was written anew.
        bench.journal = bench.agent.records("boot");
    }
    let actions = bench.update(0, "a", TaskState::Finished);
    assert_eq!(released(&actions, "a"), 1, "{actions:?}");
}
