//! Plugins that fail, hang, lie or are missing, and agents that are killed meanwhile.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tepui_network::{NetworkError, PluginError};

use crate::host::{Host, attach, eventually, id, on_a_host};

/// Short, for plugins that hang.
const SHORT: Duration = Duration::from_millis(300);
/// Names the folder of the machine to a process that is to be killed on it.
const KILLED_ON: &str = "TEPUI_NETWORK_TEST_KILLED_ON";

/// A plugin that notes its calls and answers with what it was told.
const NOTES: &str = r#"config=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID $(basename "$0")" >> "$(dirname "$0")/../calls"
case "$CNI_COMMAND" in ADD) echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/8"}]}';; esac"#;

fn plugin(name: &str) -> String {
    format!(r#"{{"type": "{name}"}}"#)
}

/// Whether it is gone, or dead and its new parent has not looked yet.
fn is_dead(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.contains(") Z"))
}

/// The error of a network of three plugins, of which the second is this script.
fn error_of(host: &Host, script: &str, timeout: Duration) -> NetworkError {
    host.plugin("first", NOTES);
    host.plugin("second", script);
    host.plugin("third", NOTES);
    let plugins = ["first", "second", "third"].map(plugin).join(",");
    host.list("web", "1.0.0", &plugins);
    let error = host.networks_within(timeout).attach(attach("one", "web"));
    error.unwrap_err()
}

/// The same, with a second plugin that does this on ADD and is well otherwise.
fn error_of_add(host: &Host, script: &str, timeout: Duration) -> PluginError {
    let script = format!("[ \"$CNI_COMMAND\" = ADD ] && {{\n{script}\n}}\n{NOTES}");
    let error = error_of(host, &script, timeout);
    // All were told of the end, the last first, and nothing is left.
    let calls = [
        "ADD one first",
        "DEL one third",
        "DEL one second",
        "DEL one first",
    ];
    assert_eq!(host.lines("calls"), calls);
    assert_eq!(host.records(), [""; 0]);
    match error {
        NetworkError::Plugin(error) => error,
        error => panic!("{error}"),
    }
}

#[test]
fn a_plugin_that_hangs_is_killed_with_all_that_it_started() {
    on_a_host(|host| {
        let script = "sleep 1000 &\necho $! > \"$(dirname \"$0\")/../pid\"\nsleep 1000";
        let error = error_of_add(host, script, SHORT);
        let text = error.to_string();
        assert!(
            text.contains("`second` did not answer ADD within 0.3 s"),
            "{text}"
        );
        let pid = &host.lines("pid")[0];
        eventually("the plugin's child is dead", || is_dead(pid));
    });
}

#[test]
fn a_plugins_refusal_is_told_in_its_words() {
    on_a_host(|host| {
        let script =
            r#"echo '{"cniVersion": "1.0.0", "code": 7, "msg": "no", "details": "d"}'; exit 1"#;
        let text = error_of_add(host, script, SHORT).to_string();
        assert_eq!(
            text,
            "the CNI plugin `second` refused ADD with code 7: no; d (correct the network's list)"
        );
    });
}

#[test]
fn what_a_plugin_writes_when_it_breaks_is_told() {
    on_a_host(|host| {
        let text = error_of_add(host, "echo no such thing >&2; exit 3", SHORT).to_string();
        assert!(
            text.contains("`second` failed ADD (exit status: 3)"),
            "{text}"
        );
        assert!(text.ends_with("it said: no such thing"), "{text}");
    });
}

#[test]
fn an_answer_that_is_no_result_is_refused() {
    for (script, says) in [
        ("echo '<html>'; exit 0", "it said: <html>"),
        ("exit 0", "it said nothing"),
        ("echo '[]'; exit 0", "not a JSON object"),
        ("yes; exit 0", "wrote more than"),
    ] {
        on_a_host(|host| {
            let text = error_of_add(host, script, Duration::from_secs(60)).to_string();
            assert!(text.contains("`second`") && text.contains(says), "{text}");
        });
    }
}

#[test]
fn a_plugin_that_is_missing_is_named_with_its_folders_and_package() {
    on_a_host(|host| {
        host.plugin("first", NOTES);
        host.list(
            "web",
            "1.0.0",
            &["first", "no-such-plugin"].map(plugin).join(","),
        );
        let networks = host.networks();
        let text = networks
            .attach(attach("one", "web"))
            .unwrap_err()
            .to_string();
        assert!(text.contains("`no-such-plugin` is in none of"), "{text}");
        assert!(text.contains("/bin, /usr/lib/cni"), "{text}");
        let ipam = r#"{"type": "first", "ipam": {"type": "no-such-ipam"}}"#;
        host.list("web", "1.0.0", ipam);
        let text = networks
            .attach(attach("one", "web"))
            .unwrap_err()
            .to_string();
        assert!(text.contains("`no-such-ipam`"), "{text}");
        // That is seen before anything is done.
        assert_eq!(host.records(), [""; 0]);
        assert_eq!(host.lines("calls"), [""; 0]);
    });
}

#[test]
fn what_cannot_be_detached_now_is_detached_later() {
    on_a_host(|host| {
        let script = format!(
            "[ \"$CNI_COMMAND\" = DEL ] && [ ! -e \"$(dirname \"$0\")/../well\" ] && exit 1\n{NOTES}"
        );
        host.plugin("first", NOTES);
        host.plugin("second", &script);
        host.list("web", "1.0.0", &["first", "second"].map(plugin).join(","));
        let networks = host.networks();
        let one = networks.attach(attach("one", "web")).unwrap();
        let text = networks.detach(&id("one")).unwrap_err().to_string();
        assert!(text.contains("`second` failed DEL"), "{text}");
        // The other was called all the same; the record and the namespace stay for the next time.
        assert_eq!(host.lines("calls").last().unwrap(), "DEL one first");
        assert!(one.netns.exists());
        assert_eq!(networks.attachment(&id("one")).unwrap(), None);
        let recovered = host.networks().recover(&BTreeSet::new()).unwrap();
        assert_eq!(recovered.failed[0].0, id("one"));
        // The list that it was attached by counts, not what has become of it.
        std::fs::remove_file(host.path("net.d/web.conflist")).unwrap();
        std::fs::write(host.path("well"), "").unwrap();
        let recovered = host.networks().recover(&BTreeSet::new()).unwrap();
        assert_eq!(recovered.detached, [id("one")]);
        assert_eq!(host.records(), [""; 0]);
        assert!(!one.netns.exists());
    });
}

#[test]
fn an_agent_killed_in_the_middle_leaves_nothing_behind() {
    // The process that is killed: it attaches, and a plugin holds it up.
    if let Some(folder) = std::env::var_os(KILLED_ON) {
        let networks = Host::at(Path::new(&folder)).networks();
        networks.attach(attach("kept", "well")).unwrap();
        networks.attach(attach("gone", "well")).unwrap();
        networks.attach(attach("half", "hangs")).unwrap();
        return;
    }
    on_a_host(|host| {
        // What it starts is not its child any more, and in no group of its.
        let hangs = "setsid sleep 1000 &\necho $! > \"$(dirname \"$0\")/../pid\"\nsleep 1000";
        let told = "case \"$config\" in *prevResult*) echo > \"$(dirname \"$0\")/../told\";; esac";
        let script = format!("[ \"$CNI_COMMAND\" = ADD ] && {{\n{hangs}\n}}\n{NOTES}\n{told}");
        host.plugin("hangs", &script);
        host.bridge("well", "1.0.0", &[]);
        host.bridge("hangs", "1.0.0", &[&plugin("hangs")]);
        let mut agent = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "faults::an_agent_killed_in_the_middle_leaves_nothing_behind",
            ])
            .env(KILLED_ON, host.folder())
            .spawn()
            .unwrap();
        eventually("the plugin hangs", || !host.lines("pid").is_empty());
        agent.kill().unwrap();
        agent.wait().unwrap();
        assert_eq!(host.leases("hangs").len(), 1);

        let networks = host.networks();
        let kept = networks.attachment(&id("kept")).unwrap().unwrap();
        let mut recovered = networks.recover(&[id("kept")].into()).unwrap();
        recovered.detached.sort();
        assert_eq!(recovered.detached, [id("gone"), id("half")]);
        assert!(recovered.failed.is_empty());
        assert_eq!(host.records(), ["kept"]);
        assert_eq!(host.leases("hangs"), [""; 0]);
        assert_eq!(host.leases("well").len(), 1);
        assert_eq!(host.lines("calls"), ["DEL half hangs"]);
        // What the plugin before it has answered was on disk.
        assert!(host.path("told").exists());
        eventually("what the plugin started is dead", || {
            is_dead(&host.lines("pid")[0])
        });
        networks.check(&id("kept")).unwrap();
        assert_eq!(networks.attach(attach("kept", "well")).unwrap(), kept);
        // What was half done begins anew.
        host.plugin("hangs", NOTES);
        networks.attach(attach("half", "hangs")).unwrap();
    });
}

#[test]
fn an_agent_may_be_killed_after_every_step_of_attaching() {
    on_a_host(|host| {
        let ill = "[ -e \"$(dirname \"$0\")/../well\" ] || exit 1";
        host.plugin("first", &format!("{ill}\n{NOTES}"));
        host.list("web", "1.0.0", &plugin("first"));
        host.networks().attach(attach("one", "web")).unwrap_err();
        std::fs::write(host.path("well"), "").unwrap();
        let folder = host.path("state/one");
        let record = std::fs::read(folder.join("record.json")).unwrap();
        // The namespace is there, the plugin was called, or was not.
        let recovered = host.networks().recover(&BTreeSet::new()).unwrap();
        assert_eq!(recovered.detached, [id("one")]);
        assert_eq!(host.records(), [""; 0]);
        let earlier: [&[(&str, &[u8])]; 4] = [
            &[],
            &[("record.json.new", &record[..9])],
            &[("record.json", &record)],
            &[("record.json", &record), ("lock", b""), ("netns", b"")],
        ];
        for files in earlier {
            std::fs::create_dir(&folder).unwrap();
            for (name, bytes) in files {
                std::fs::write(folder.join(name), bytes).unwrap();
            }
            let networks = host.networks();
            assert_eq!(networks.attachment(&id("one")).unwrap(), None);
            let recovered = networks.recover(&BTreeSet::new()).unwrap();
            assert_eq!(recovered.detached, [id("one")], "{files:?}");
            assert_eq!(host.records(), [""; 0]);
        }
        assert_eq!(host.lines("calls"), ["DEL one first"; 3]);
    });
}

#[test]
fn a_record_that_cannot_be_read_is_left_and_named() {
    on_a_host(|host| {
        host.list("web", "1.0.0", &plugin("first"));
        host.plugin("first", NOTES);
        let networks = host.networks();
        for (text, says) in [("{", "EOF"), (r#"{"version": 2}"#, "format 2")] {
            std::fs::create_dir_all(host.path("state/one")).unwrap();
            std::fs::write(host.path("state/one/record.json"), text).unwrap();
            let recovered = networks.recover(&BTreeSet::new()).unwrap();
            let text = recovered.failed[0].1.to_string();
            assert!(
                text.contains("state/one/record.json") && text.contains(says),
                "{text}"
            );
            assert!(text.contains("remove its folder"), "{text}");
            networks.attach(attach("one", "web")).unwrap_err();
        }
        // It keeps nobody else from anything.
        networks.attach(attach("two", "web")).unwrap();
        std::fs::remove_dir_all(host.path("state/one")).unwrap();
        networks.attach(attach("one", "web")).unwrap();
    });
}

#[test]
fn what_ended_with_the_machine_is_attached_anew() {
    on_a_host(|host| {
        host.bridge("web", "1.0.0", &[]);
        let networks = host.networks();
        let one = networks.attach(attach("one", "web")).unwrap();
        // A restart leaves the files, and no namespace.
        nix::mount::umount(&one.netns).unwrap();
        assert_eq!(networks.attachment(&id("one")).unwrap(), None);
        networks.attach(attach("one", "web")).unwrap();
        networks.check(&id("one")).unwrap();
        assert_eq!(host.leases("web").len(), 1);
    });
}
