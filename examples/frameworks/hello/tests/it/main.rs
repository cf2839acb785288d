//! `hello` against the scripted cluster.

use tepui_hello::Hello;
use tepui_sdk::TaskState;
use tepui_sdk::resources::{Bytes, MilliCpus, Resources};
use tepui_sdk::testing::Cluster;

const CONFIG: &str = r#"{"command": {"argv": ["echo", "hello"]}}"#;

fn page(cluster: &mut Cluster<Hello>) -> String {
    let response = cluster.request("GET", "/", "");
    assert_eq!(response.status, 200);
    String::from_utf8(response.body).unwrap()
}

#[test]
fn one_task_is_run_and_the_page_says_how_far_it_is() {
    let mut cluster = Cluster::<Hello>::deploy(CONFIG).discard_every_turn();
    assert!(page(&mut cluster).contains("it waits"));
    for _ in 0..2 {
        cluster.agent(Resources {
            cpus: MilliCpus(1000),
            mem: Bytes::gib(1),
            ..Resources::default()
        });
    }
    assert_eq!(cluster.offer_all(), 2);
    cluster.settle();
    assert_eq!(cluster.tasks().len(), 1, "one task, however many offers");
    assert_eq!(cluster.demand("hello"), 0);
    cluster.update("hello", TaskState::Finished);
    cluster.settle();
    assert!(page(&mut cluster).contains("task hello.0 is finished on a1"));
}

#[test]
fn a_configuration_that_describes_no_task_is_refused() {
    for (config, says) in [
        ("", "the configuration is empty"),
        ("{}", "the configuration does not fit"),
        (r#"{"command": {"argv": []}}"#, "argv is empty"),
    ] {
        let error = Cluster::<Hello>::try_deploy(config).err().unwrap();
        assert!(error.contains(says), "{config}: {error}");
    }
}
