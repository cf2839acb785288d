//! Images that are not as they should be, and what images say of their end.

use tepui_types::TaskState;
use tepui_types::wire::agent::TaskLaunch;

use crate::containers::{can_contain, stdout};
use crate::images::ImageLayout;
use crate::master::{FakeMaster, contained, eventually};
use crate::process::AgentProcess;

fn of_image(name: &str, image: &str, argv: &[&str]) -> TaskLaunch {
    contained(name, &format!(r#"{{"image": "{image}"}}"#), argv)
}

#[tokio::test]
async fn a_container_is_stopped_by_the_signal_that_its_image_names() {
    if !can_contain() {
        return;
    }
    let image = ImageLayout::make();
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let script = "for signal in TERM INT USR1 37; do trap \"echo $signal; exit 7\" $signal; done
                  echo up; while :; do sleep 0.02; done";
    for (signal, caught) in [
        ("SIGINT", "INT"),
        ("USR1", "USR1"),
        ("10", "USR1"),
        ("SIGRTMIN+3", "37"),
        ("", "TERM"),
    ] {
        let flags = match signal {
            "" => vec![],
            signal => vec!["--config.stopsignal", signal],
        };
        let name = format!("by{}", signal.to_lowercase().replace('+', "-"));
        let tagged = image.configured(&name, &flags);
        let task = of_image(&name, &tagged, &["sh", "-c", script]);
        session.launch(&task).await;
        session.until(&task.task, TaskState::Running).await;
        let up = eventually("it is up", || stdout(&agent, &task) == "up\n");
        session.meanwhile(up).await;
        session.kill(&task.task, 20_000).await;
        let end = session.until(&task.task, TaskState::Killed).await;
        assert_eq!(stdout(&agent, &task), format!("up\n{caught}\n"), "{end:?}");
        assert_eq!(end.exit_code, Some(7));
    }
}

#[tokio::test]
async fn a_first_process_that_waits_for_its_signal_is_asked_and_not_killed() {
    if !can_contain() {
        return;
    }
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    // As tini and dumb-init do it: without a handler.
    let script = "import signal; asked = {signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, asked); print('up', flush=True)
signal.sigwait(asked); print('asked', flush=True); exit(5)";
    let argv = ["python3", "-c", script];
    let task = contained("waits", r#"{"read_only": true}"#, &argv);
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    let up = eventually("it is up", || stdout(&agent, &task) == "up\n");
    session.meanwhile(up).await;
    let first = agent.processes_in_cgroups();
    let waits = eventually("it waits", || {
        let calls = first.iter().map(|pid| format!("/proc/{pid}/syscall"));
        let mut calls = calls.flat_map(std::fs::read_to_string);
        let waiting = format!("{} ", nix::libc::SYS_rt_sigtimedwait);
        calls.any(|call| call.starts_with(&waiting))
    });
    session.meanwhile(waits).await;
    session.kill(&task.task, 20_000).await;
    let end = session.until(&task.task, TaskState::Killed).await;
    assert_eq!(end.exit_code, Some(5), "{end:?}");
    assert_eq!(stdout(&agent, &task), "up\nasked\n");
}

#[tokio::test]
async fn an_image_that_cannot_run_here_is_told_with_its_fix() {
    if !can_contain() {
        return;
    }
    let image = ImageLayout::make();
    let foreign = image.configured("foreign", &["--architecture", "s390x"]);
    let bare = image.configured("bare", &["--clear", "config.cmd"]);
    let signal = image.configured("signal", &["--config.stopsignal", "SIGNONSENSE"]);
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    for (name, image, state, code, words) in [
        (
            "foreign",
            &foreign,
            TaskState::Error,
            "image-architecture",
            "s390x",
        ),
        (
            "bare",
            &bare,
            TaskState::Error,
            "command-failed",
            "neither entrypoint nor command",
        ),
        (
            "signal",
            &signal,
            TaskState::Error,
            "image-invalid",
            "SIGNONSENSE",
        ),
    ] {
        let task = of_image(name, image, &[]);
        session.launch(&task).await;
        let ended = session.until_all(|latest| {
            let report = latest.get(&task.task);
            report.is_some_and(|report| report.state.is_terminal())
        });
        ended.await;
        let end = &session.latest[&task.task];
        let why = end.reason.as_ref().unwrap();
        assert_eq!((end.state, why.code.as_str()), (state, code), "{why}");
        assert!(why.message.contains(words), "{why}");
    }
    // Without an entrypoint a task says itself what is run.
    let told = of_image("told", &bare, &["echo", "told"]);
    session.launch(&told).await;
    session.until(&told.task, TaskState::Finished).await;
    assert_eq!(stdout(&agent, &told), "told\n");
}

#[tokio::test]
async fn an_archive_that_is_cut_short_is_told_and_leaves_nothing() {
    if !can_contain() {
        return;
    }
    let image = ImageLayout::make();
    let archive = image.archive();
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    for (number, part) in [1, 512, archive.len() / 2, archive.len() - 4096]
        .into_iter()
        .enumerate()
    {
        let digest = master.add_artifact(&archive[..part]);
        let task = of_image(&format!("cut{number}"), &format!("artifact:{digest}"), &[]);
        session.launch(&task).await;
        let end = session.until(&task.task, TaskState::Error).await;
        let why = end.reason.unwrap();
        assert_eq!(why.code, "image-invalid", "{part} bytes: {why}");
        assert!(why.message.contains("save"), "{why}");
    }
    let drafts = agent.layout().images().join("drafts");
    assert_eq!(std::fs::read_dir(drafts).unwrap().count(), 0);
    let digest = master.add_artifact(&archive);
    let whole = of_image("whole", &format!("artifact:{digest}"), &[]);
    session.launch(&whole).await;
    session.until(&whole.task, TaskState::Finished).await;
    assert_eq!(stdout(&agent, &whole), "hello\n");
}
