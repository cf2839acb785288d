//! Tasks with GPUs and without, on a machine that seems to have two of AMD's: in the agent's own mounts,
//! sysfs tells of them, their nodes lead to what any program may read, and a vendor's file describes them.

use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tepui_executor::cgroup::devices;
use tepui_types::command::CommandOptions;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::{TaskState, Workload};

use crate::containers::can_contain;
use crate::master::{FakeMaster, Session, contained, shell};
use crate::process::AgentProcess;

/// Of the render nodes, the first is a twin of `/dev/zero`, the second of `/dev/full`.
const MACHINE: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs none /sys/class
for n in 1 2; do
    node=/sys/class/kfd/kfd/topology/nodes/$n
    device=/sys/class/devices/0000:0$n:00.0
    render=renderD$((127 + n))
    mkdir -p $node $device/drm/$render /sys/class/drm/$render
    printf "simd_count 4\nunique_id $n\ndrm_render_minor $((127 + n))\n" > $node/properties
    echo 1073741824 > $device/mem_info_vram_total
    ln -s $device /sys/class/drm/$render/device
done
mkdir -p /tmp/$$ && mount -t tmpfs none /tmp/$$ && mkdir /tmp/$$/dri
for node in null zero full random urandom tty; do cp -a /dev/$node /tmp/$$; done
mknod /tmp/$$/kfd c 1 9
mknod /tmp/$$/dri/renderD128 c 1 5
mknod /tmp/$$/dri/renderD129 c 1 7
mount --move /tmp/$$ /dev && rmdir /tmp/$$
mkdir -m 755 /dev/cdi
cat > /dev/cdi/amd.json << 'END'
{"cdiVersion": "0.6.0", "kind": "amd.com/gpu", "containerEdits": {
    "env": ["VENDOR=amd"],
    "hooks": [{"hookName": "createContainer", "path": "/dev/cdi/hook", "args": ["hook", "links"],
               "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}]},
 "devices": [
    {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/kfd"}, {"path": "/dev/dri/renderD128"}]}},
    {"name": "1", "containerEdits": {"deviceNodes": [{"path": "/dev/kfd"}, {"path": "/dev/dri/renderD129"}]}}]}
END
cat > /dev/cdi/hook << 'END'
#!/bin/sh
set -e
bundle=$(sed 's/.*"bundle":"\([^"]*\)".*/\1/')
root=$(sed 's/.*"root":{"path":"\([^"]*\)".*/\1/' "$bundle/config.json")
mount -t tmpfs none "$root/mnt"
echo "$1" > "$root/mnt/hook"
END
chmod 755 /dev/cdi/hook
printf '[gpus]\ncdi_folders = ["/dev/cdi"]\n' > /dev/agent.toml
"#;
const IDS: [&str; 2] = ["GPU-0000000000000001", "GPU-0000000000000002"];
/// Says which nodes it can read, and what it was told.
const LOOK: &str = "for node in kfd dri/renderD128 dri/renderD129; do \
                    head -c 1 /dev/$node > /dev/null 2>&1 && echo $node; done; \
                    echo \"${ROCR_VISIBLE_DEVICES-none} ${CUDA_VISIBLE_DEVICES-unset}\"";

const WORK: &str = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";

fn with(name: &str, gpus: &[&str]) -> TaskLaunch {
    let mut task = shell(name, LOOK);
    let gpus = gpus.iter().map(|id| ((*id).to_owned(), 1_000));
    task.resources.gpus = gpus.collect();
    task
}

async fn seen(agent: &AgentProcess, session: &mut Session, task: &TaskLaunch) -> String {
    session.launch(task).await;
    session.until(&task.task, TaskState::Finished).await;
    let output = std::fs::read_to_string(agent.layout().task(&task.task).join("stdout"));
    output.unwrap().replace('\n', " ")
}

/// Whether this test can be on this machine; says so if not.
fn can_be_here() -> bool {
    let why = match devices::available() {
        Ok(()) if geteuid().is_root() => return true,
        Ok(()) => "it takes root".to_owned(),
        Err(error) => error.to_string(),
    };
    eprintln!("without GPUs: {why}");
    false
}

#[tokio::test]
async fn a_native_task_uses_the_gpus_that_it_was_given_and_no_others() {
    if !can_be_here() {
        return;
    }
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start_on(&master, MACHINE, &["--config", "/dev/agent.toml"]);
    let mut session = master.session().await;
    let lent = &session.hello.info.resources.gpus;
    assert_eq!(lent.keys().collect::<Vec<_>>(), IDS);
    // One after another, in the executor that is there.
    let all = "kfd dri/renderD128 dri/renderD129 GPU-0000000000000001,GPU-0000000000000002 unset ";
    for (name, gpus, expected) in [
        (
            "first",
            &IDS[..1],
            "kfd dri/renderD128 GPU-0000000000000001 unset ",
        ),
        (
            "second",
            &IDS[1..],
            "kfd dri/renderD129 GPU-0000000000000002 unset ",
        ),
        ("neither", &[], "kfd none  "),
        ("both", &IDS, all),
        ("again", &[], "kfd none  "),
    ] {
        let task = with(name, gpus);
        assert_eq!(seen(&agent, &mut session, &task).await, expected, "{name}");
    }
    assert_eq!(agent.executors().len(), 1, "all had the same executor");
    let unknown = with("unknown", &["GPU-0000000000000003"]);
    session.launch(&unknown).await;
    let end = session.until(&unknown.task, TaskState::Error).await;
    let why = end.reason.unwrap().message;
    assert!(why.contains("is not on this machine"), "{why}");
}

#[tokio::test]
async fn a_container_has_what_its_gpus_vendor_says_with_hooks() {
    if !can_be_here() || !can_contain() {
        return;
    }
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start_on(&master, MACHINE, &["--config", "/dev/agent.toml"]);
    let mut session = master.session().await;
    for (name, id, node) in [("left", IDS[0], "128"), ("right", IDS[1], "129")] {
        let script = format!("{LOOK}; echo $VENDOR; cat /mnt/hook");
        let mut task = contained(name, "{}", &["sh", "-c", &script]);
        task.resources.gpus = [(id.to_owned(), 1_000)].into();
        let expected = format!("kfd dri/renderD{node} none unset amd links ");
        assert_eq!(seen(&agent, &mut session, &task).await, expected);
    }
}

#[tokio::test]
async fn a_dead_executors_task_is_charged_nothing_of_the_one_before_it() {
    if !can_be_here() {
        return;
    }
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start_on(&master, MACHINE, &["--config", "/dev/agent.toml"]);
    let mut session = master.session().await;
    let mut first = shell("first", WORK);
    if let Workload::Command(command) = &mut Arc::make_mut(&mut first.spec).workload {
        // No other task gets its cgroup, but the one around that counts both.
        command.options = Some(Box::new(CommandOptions {
            cpuset: Some("0".into()),
            ..CommandOptions::default()
        }));
    }
    session.launch(&first).await;
    let end = session.until(&first.task, TaskState::Finished).await;
    let first = end.usage.unwrap().cpu_micros;
    let second = shell("second", "sleep 1000");
    session.launch(&second).await;
    session.until(&second.task, TaskState::Running).await;
    let executors = agent.executors();
    assert_eq!(executors.len(), 1, "it has the process of the first");
    kill(Pid::from_raw(executors[0].pid), Signal::SIGKILL).unwrap();
    let end = session.until(&second.task, TaskState::Failed).await;
    let told = end.usage.unwrap().cpu_micros;
    assert!(told < first / 2, "{told} after {first}");
}
