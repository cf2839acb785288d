//! What native commands may do on their machine.

use tepui_types::wire::executor::ImageConfig;

use crate::containers::{finished, run_in, runtimes};
use crate::env::{Builder, Executor, check};

/// A field of proc_pid_status(5) as a command sees it.
fn field(executor: &mut Executor, name: &str, field: &str) -> String {
    let script = format!("grep {field}: /proc/self/status | cut -f 2");
    executor.launch(Builder::script(name, &script));
    check(&executor.end(name), "finished", "", Some(0), "");
    executor.output(name, "stdout").trim().to_owned()
}

/// That this script succeeds, or not.
fn may(executor: &mut Executor, name: &str, script: &str) -> bool {
    executor.launch(Builder::script(name, script));
    executor.end(name).exit_code == Some(0)
}

/// chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, sys_chroot
/// and setfcap, as capabilities(7) numbers them.
const KEPT: u64 = 0x8004_05fb;

#[test]
fn a_confined_command_has_few_capabilities_and_is_filtered() {
    let mut executor = Executor::native();
    if nix::unistd::geteuid().is_root() {
        for set in ["CapBnd", "CapPrm", "CapEff"] {
            let kept = field(&mut executor, &set.to_lowercase(), set);
            let kept = u64::from_str_radix(&kept, 16).unwrap();
            assert_eq!(kept & !KEPT, 0, "{set} {kept:x}");
        }
        assert!(may(&mut executor, "chown", "touch x && chown 1:1 x"));
    }
    assert_eq!(field(&mut executor, "seccomp", "Seccomp"), "2");
    assert_eq!(field(&mut executor, "privs", "NoNewPrivs"), "1");
    let refused = [
        ("mount", "mkdir m && mount -t tmpfs none m"),
        ("userns", "unshare --user true"),
        ("hostname", "hostname other"),
        ("clock", "date -s 2001-01-01"),
    ];
    for (name, script) in refused {
        assert!(!may(&mut executor, name, script), "{name}");
    }
    // Threads and processes are made as ever.
    assert!(may(
        &mut executor,
        "children",
        "true | true; (true &) ; wait"
    ));
}

#[test]
fn where_an_operator_says_so_a_command_has_all_that_its_agent_has() {
    let mut executor = Executor::native_with_all_privileges();
    assert_eq!(field(&mut executor, "seccomp", "Seccomp"), "0");
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    assert_eq!(field(&mut executor, "bound", "CapBnd"), own.unwrap().trim());
}

#[test]
fn a_container_has_all_of_it_as_well_if_it_runs_as_root() {
    for runtime in runtimes() {
        for user in ["root", "web"] {
            let executor = Executor::container_with_all_privileges(runtime.clone());
            let Some(mut executor) = executor else {
                return;
            };
            let path = format!("/proc/{}/status", executor.identity.pid);
            let own = std::fs::read_to_string(path).unwrap();
            let own = own.lines().find_map(|line| line.strip_prefix("CapPrm:"));
            let has = match user {
                "root" => own.unwrap().trim(),
                _ => "0000000000000000",
            };
            let container = format!(r#"{{"image": "test", "user": "{user}"}}"#);
            let script = "busybox grep CapEff: /proc/self/status";
            let (end, out) = run_in(&mut executor, &container, ImageConfig::default(), script);
            finished(&executor, &end);
            assert_eq!(out.split_whitespace().last(), Some(has), "{user}");
        }
    }
}
