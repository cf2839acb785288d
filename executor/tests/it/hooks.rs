//! Programs of the machine that are run for a container's devices.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tepui_executor::runtime::Runtime;
use tepui_types::wire::executor::{
    DeviceHook, DeviceMount, HookPoint, ImageConfig, LocalDevices, TaskUpdate,
};

use crate::containers::{IMAGE, finished, image, runtimes};
use crate::env::{Builder, Executor, check, eventually};

const POINTS: [(&str, HookPoint); 5] = [
    ("prestart", HookPoint::Prestart),
    ("createRuntime", HookPoint::CreateRuntime),
    ("createContainer", HookPoint::CreateContainer),
    ("poststart", HookPoint::Poststart),
    ("poststop", HookPoint::Poststop),
];
/// Where a container finds the folder of hooks.
const INSIDE: &str = "/opt/hooks";
/// Keeps the state that it was given, and says that it was there.
const RECORD: &str = "#!/bin/sh\nset -e\ncat > \"$1/$2\"\necho \"$2 $SAID\" >> \"$1/order\"\n";

/// A folder with a hook of that text, and one for what it records.
fn folder(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
    let records = dir.path().join("records");
    fs::create_dir(&records).unwrap();
    fs::set_permissions(&records, Permissions::from_mode(0o777)).unwrap();
    let hook = dir.path().join("hook");
    fs::write(&hook, text).unwrap();
    fs::set_permissions(&hook, Permissions::from_mode(0o755)).unwrap();
    dir
}

/// That hook at one point: its arguments are where it records, and the point's name.
fn hook(dir: &Path, name: &str, point: HookPoint, timeout_s: u32) -> DeviceHook {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    DeviceHook {
        point,
        path: text(&dir.join("hook")),
        args: vec!["hook".into(), text(&dir.join("records")), name.into()],
        env: vec![
            ("SAID".into(), "hello".into()),
            ("PATH".into(), "/usr/bin:/bin".into()),
        ],
        timeout_s,
    }
}

fn devices(dir: &Path, hooks: Vec<DeviceHook>) -> LocalDevices {
    LocalDevices {
        mounts: vec![DeviceMount {
            host_path: dir.to_str().unwrap().to_owned(),
            path: INSIDE.into(),
        }],
        hooks,
        ..LocalDevices::default()
    }
}

fn run(executor: &mut Executor, dir: &Path, hooks: Vec<DeviceHook>, script: &str) -> TaskUpdate {
    let layers = tempfile::tempdir().unwrap();
    let builder = Builder::script("task", script).container(IMAGE);
    let builder = builder.image(image(layers.path(), ImageConfig::default()));
    executor.launch(builder.devices(devices(dir, hooks)));
    executor.end("task")
}

#[test]
fn hooks_for_devices_run_around_the_start_and_after_the_end() {
    for runtime in runtimes() {
        let Some(mut executor) = Executor::container(runtime) else {
            return;
        };
        let dir = folder(RECORD);
        let hooks = POINTS.map(|(name, point)| hook(dir.path(), name, point, 20));
        // The program runs before `poststart` does.
        let script = format!(
            "until test -e {INSIDE}/records/poststart; do sleep 0.02; done; \
             touch {INSIDE}/records/x 2>/dev/null && echo written; true"
        );
        let end = run(&mut executor, dir.path(), hooks.into(), &script);
        finished(&executor, &end);
        let out = executor.output("task", "stdout");
        assert_eq!(out, "", "it wrote to the machine's folder");
        let order = fs::read_to_string(dir.path().join("records/order")).unwrap();
        let all = "prestart hello\ncreateRuntime hello\ncreateContainer hello\npoststart hello\n\
                   poststop hello\n";
        assert_eq!(order, all);
        for (name, point) in POINTS {
            let state = fs::read(dir.path().join("records").join(name)).unwrap();
            let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
            assert_eq!(state["id"], "task", "{name} {state}");
            let bundle = Path::new(state["bundle"].as_str().unwrap());
            assert!(bundle.join("config.json").is_file(), "{name} {state}");
            if point == HookPoint::Poststop {
                assert_eq!(state["status"], "stopped", "{state}");
            }
        }
    }
}

#[test]
fn a_hook_sees_the_containers_root_before_its_program_does() {
    for runtime in runtimes() {
        let Some(mut executor) = Executor::container(runtime) else {
            return;
        };
        // As those do that link libraries: by the bundle, whose specification names the root.
        let text = "#!/bin/sh\nset -e\n\
                    bundle=$(sed 's/.*\"bundle\":\"\\([^\"]*\\)\".*/\\1/')\n\
                    root=$(sed 's/.*\"root\":{\"path\":\"\\([^\"]*\\)\".*/\\1/' $bundle/config.json)\n\
                    ln -s libcuda.so.1 $root/srv/libcuda.so\n";
        let dir = folder(text);
        let hooks = vec![hook(dir.path(), "links", HookPoint::CreateContainer, 20)];
        let end = run(&mut executor, dir.path(), hooks, "ls -l /srv");
        finished(&executor, &end);
        let out = executor.output("task", "stdout");
        assert!(out.contains("libcuda.so -> libcuda.so.1"), "{out}");
    }
}

#[test]
fn a_hook_that_fails_or_hangs_is_the_end_of_its_container() {
    let hangs = "#!/bin/sh\nexec sleep 10000\n";
    for text in ["#!/bin/sh\nexit 3\n", hangs] {
        for (name, point) in &POINTS[..3] {
            let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
                return;
            };
            let dir = folder(text);
            let hooks = vec![hook(dir.path(), name, *point, 1)];
            let end = run(&mut executor, dir.path(), hooks, "echo ran");
            check(&end, "error", "executor-failed", None, "hook");
            assert_eq!(executor.output("task", "stdout"), "");
        }
    }
}

#[test]
fn what_a_hook_leaves_running_goes_with_its_task() {
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let dir = folder("#!/bin/sh\nsleep 10000 & echo $! > \"$1/$2\"\n");
    let points = [POINTS[1], POINTS[4]];
    let hooks = points.map(|(name, point)| hook(dir.path(), name, point, 20));
    let end = run(&mut executor, dir.path(), hooks.into(), "echo ran");
    finished(&executor, &end);
    for (name, _) in points {
        let pid = fs::read_to_string(dir.path().join("records").join(name)).unwrap();
        let process = Path::new("/proc").join(pid.trim());
        assert!(!process.exists(), "{name}");
    }
    let log = fs::read_to_string(executor.dir().join("log")).unwrap();
    assert!(!log.contains("stays"), "{log}");
}

#[test]
fn a_command_with_companions_comes_back_after_the_last_hook_of_its_end() {
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let dir = folder(
        "#!/bin/sh\ncd \"$1\"\ncase $2 in\n\
         createRuntime) ! test -e leaving || echo overlap >> order ;;\n\
         poststop) touch leaving; sleep 1; rm -f leaving; echo left >> order ;;\n\
         esac\n",
    );
    let hooks = [POINTS[1], POINTS[4]];
    let hooks = hooks.map(|(name, point)| hook(dir.path(), name, point, 20));
    let life = format!(
        r#"{{"restart": {{"most": 1, "backoff_ms": 1}}, "companions": [{{"name": "beside",
            "role": "sidecar", "argv": ["sleep", "10000"], "container": {IMAGE}}}]}}"#
    );
    let layers = tempfile::tempdir().unwrap();
    let image = image(layers.path(), ImageConfig::default());
    let builder = Builder::script("task", "exit 3")
        .container(IMAGE)
        .life(&life);
    let builder = builder.image(image.clone()).other_image("test", image);
    executor.launch(builder.devices(devices(dir.path(), hooks.into())));
    let end = executor.end("task");
    check(&end, "failed", "exit-code", Some(3), "");
    let order = fs::read_to_string(dir.path().join("records/order")).unwrap();
    assert!(order.starts_with("left\nleft\n"), "{order}");
    assert!(!order.contains("overlap"), "{order}");
}

#[test]
fn what_hangs_after_the_end_does_not_hold_it_up() {
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let dir = folder("#!/bin/sh\necho $$ > \"$1/pid\"\nexec sleep 10000\n");
    let hooks = vec![hook(dir.path(), "poststop", HookPoint::Poststop, 1)];
    let end = run(&mut executor, dir.path(), hooks, "echo ran");
    finished(&executor, &end);
    let pid = fs::read_to_string(dir.path().join("records/pid")).unwrap();
    eventually("the hook is gone", || {
        !Path::new("/proc").join(pid.trim()).exists()
    });
    let log = fs::read_to_string(executor.dir().join("log")).unwrap();
    assert!(log.contains("after the container's end"), "{log}");
}
