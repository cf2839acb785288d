//! Network plugins that fail or hang: a task says so in time, the agent goes on, nothing is left.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tepui_types::TaskState;
use tepui_types::task::reason;
use tepui_types::wire::agent::TaskLaunch;

use crate::containers::can_contain;
use crate::images::ImageLayout;
use crate::master::{FakeMaster, contained, eventually, shell};
use crate::process::{AgentProcess, is_alive};

/// A folder with a network `tests`, whose plugin is a script, and a configuration that names it.
struct Scripted(tempfile::TempDir);

impl Scripted {
    fn make(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let list = r#"{"cniVersion": "1.0.0", "name": "tests", "plugins": [{"type": "scripted"}]}"#;
        std::fs::write(folder.path().join("tests.conflist"), list).unwrap();
        let plugin = folder.path().join("scripted");
        let script = format!("#!/bin/sh\ncd {}\n{script}\n", folder.path().display());
        std::fs::write(&plugin, script).unwrap();
        std::fs::set_permissions(&plugin, PermissionsExt::from_mode(0o755)).unwrap();
        let path = folder.path().display();
        let config = format!(
            "[containers]\nnetwork_configs = [\"{path}\"]\nnetwork_plugins = [\"{path}\"]\n\
             network_timeout_seconds = 1\n"
        );
        std::fs::write(folder.path().join("agent.toml"), config).unwrap();
        Self(folder)
    }

    fn arguments(&self) -> &'static [&'static str] {
        let config: &str = self.file("agent.toml").to_str().unwrap().to_owned().leak();
        vec!["--config", config].leak()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The process that a script has written of.
    fn pid(&self) -> i32 {
        let text = std::fs::read_to_string(self.file("pid")).unwrap();
        text.trim().parse().unwrap()
    }
}

fn attached(name: &str, image: &ImageLayout) -> TaskLaunch {
    let container = format!(
        r#"{{"image": "{}", "network": {{"named": {{"name": "tests"}}}}}}"#,
        image.name()
    );
    contained(name, &container, &["echo"])
}

fn records(agent: &AgentProcess) -> usize {
    std::fs::read_dir(agent.layout().networks())
        .unwrap()
        .count()
}

#[tokio::test]
async fn a_plugin_that_hangs_fails_its_task_in_time_and_holds_up_no_other() {
    if !can_contain() {
        return;
    }
    let image = ImageLayout::make();
    let script = "test $CNI_COMMAND = ADD || exit 0; echo $$ > pid; exec sleep 1000";
    let network = Scripted::make(script);
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start_with(&master, network.arguments());
    let mut session = master.session().await;
    let hangs = attached("hangs", &image);
    session.launch(&hangs).await;
    let begun = eventually("the plugin is called", || network.file("pid").exists());
    session.meanwhile(begun).await;
    let other = shell("other", "true");
    session.launch(&other).await;
    session.until(&other.task, TaskState::Finished).await;
    let end = session.until(&hangs.task, TaskState::Error).await;
    let why = end.reason.unwrap();
    assert_eq!(why.code, reason::NETWORK_FAILED);
    assert!(
        why.message.contains("`scripted` did not answer ADD"),
        "{why}"
    );
    assert!(why.message.contains("network_timeout_seconds"), "{why}");
    assert!(!is_alive(network.pid()));
    eventually("nothing is left", || records(&agent) == 0).await;
}

#[tokio::test]
async fn a_plugins_refusal_is_its_tasks_reason() {
    if !can_contain() {
        return;
    }
    let image = ImageLayout::make();
    let script = r#"test $CNI_COMMAND = ADD || exit 0
                    echo '{"cniVersion": "1.0.0", "code": 7, "msg": "no more vlans"}'; exit 1"#;
    let network = Scripted::make(script);
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start_with(&master, network.arguments());
    let mut session = master.session().await;
    let refused = attached("refused", &image);
    session.launch(&refused).await;
    let end = session.until(&refused.task, TaskState::Error).await;
    let why = end.reason.unwrap();
    assert_eq!(why.code, reason::NETWORK_FAILED);
    assert!(why.message.contains("no more vlans"), "{why}");
    eventually("nothing is left", || records(&agent) == 0).await;
}

#[tokio::test]
async fn a_task_whose_network_hangs_is_killed_at_once() {
    if !can_contain() {
        return;
    }
    let image = ImageLayout::make();
    let network = Scripted::make("echo $$ > pid; exec sleep 1000");
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start_with(&master, network.arguments());
    let mut session = master.session().await;
    let hangs = attached("hangs", &image);
    session.launch(&hangs).await;
    let begun = eventually("the plugin is called", || network.file("pid").exists());
    session.meanwhile(begun).await;
    session.kill(&hangs.task, 0).await;
    session.until(&hangs.task, TaskState::Killed).await;
}

#[tokio::test]
async fn networks_that_do_not_let_go_keep_no_agent_from_its_tasks() {
    if !can_contain() {
        return;
    }
    let image = ImageLayout::make();
    let script = "test $CNI_COMMAND = ADD || exec sleep 1000
                  echo '{\"cniVersion\": \"1.0.0\", \"ips\": [{\"address\": \"10.0.0.2/8\"}]}'";
    let network = Scripted::make(script);
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start_with(&master, network.arguments());
    let mut session = master.session().await;
    let task = attached("left", &image);
    session.launch(&task).await;
    session.until(&task.task, TaskState::Finished).await;
    assert_eq!(records(&agent), 1);
    agent.kill();
    agent.start_again(&master);
    let mut session = master.session().await;
    let other = shell("other", "true");
    session.launch(&other).await;
    session.until(&other.task, TaskState::Finished).await;
    assert!(!agent.log().contains("an earlier agent left stays"));
    let told = eventually("it is told", || {
        agent.log().contains("an earlier agent left stays")
    });
    session.meanwhile(told).await;
}
