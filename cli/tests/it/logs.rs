//! A task's output.

use crate::master::Master;
use crate::process::Tepui;

#[tokio::test]
async fn the_last_lines_are_followed_over_a_connection_that_breaks() {
    let master = Master::start().await;
    let args = ["task", "logs", "--follow", "--tail", "2", "f1.t.0"];
    let tepui = Tepui::start(&master, &args);
    let asked = master.request().await;
    assert!(
        asked.line.ends_with("offset=0&follow=false"),
        "{}",
        asked.line
    );
    asked.bytes(b"one\ntwo\nthree\n").await;
    let asked = master.request().await;
    assert!(
        asked.line.ends_with("offset=4&follow=true"),
        "{}",
        asked.line
    );
    asked.part(b"two\nthree\nfo").await;
    let asked = master.request().await;
    assert!(
        asked.line.ends_with("offset=16&follow=true"),
        "{}",
        asked.line
    );
    asked.bytes(b"ur\n").await;
    assert_eq!(tepui.rest().await, "two\nthree\nfour\n");
}
