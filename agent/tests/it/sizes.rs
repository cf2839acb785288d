//! Tasks with more in their sandboxes than they were given.

use tepui_types::task::reason;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::{Bytes, TaskState};

use crate::images::ImageLayout;
use crate::master::{FakeMaster, contained, shell};
use crate::process::AgentProcess;

fn with_disk(mut task: TaskLaunch, disk: Bytes) -> TaskLaunch {
    task.resources.disk = disk;
    task
}

#[tokio::test]
async fn a_task_with_more_than_it_was_given_is_ended_and_others_go_on() {
    if tepui_executor::cgroup::available().is_err() {
        eprintln!("skipped: it needs cgroups");
        return;
    }
    let image = ImageLayout::make();
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let write = "head -c 33554432 /dev/zero > big; exec sleep 1000";
    let over = with_disk(shell("over", write), Bytes::mib(8));
    let within = with_disk(shell("within", write), Bytes::mib(64));
    let free = shell("free", write);
    // Where its image would be, and not in its sandbox.
    let above = format!("cd /; exec /bin/busybox sh -c '/bin/busybox {write}'");
    let container = format!(r#"{{"image": "{}"}}"#, image.name());
    let above = contained("above", &container, &["sh", "-c", &above]);
    let above = with_disk(above, Bytes::mib(8));
    for task in [&within, &free, &over, &above] {
        session.launch(task).await;
    }
    for task in [&over, &above] {
        let report = session.until(&task.task, TaskState::Failed).await;
        let why = report.reason.unwrap();
        assert_eq!(why.code, reason::DISK_LIMIT, "{why}");
        let says = |word| why.message.contains(word);
        assert!(says("8 MiB") && says("--disk"), "{why}");
    }
    for task in [&within, &free] {
        let report = &session.latest[&task.task];
        assert_eq!(report.state, TaskState::Running, "{report:?}");
    }
}
