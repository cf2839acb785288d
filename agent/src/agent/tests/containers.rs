//! Tasks with containers: prepared first, released at last, whatever happens between.

use tepui_types::Container;
use tepui_types::wire::executor::LocalImage;

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
