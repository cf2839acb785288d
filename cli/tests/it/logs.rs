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
        asked.line.ends_with("offset=0&follow=false&exact=true"),
        "{}",
        asked.line
    );
    asked.bytes(b"one\ntwo\nthree\n").await;
    let asked = master.request().await;
    assert!(
        asked.line.ends_with("offset=4&follow=true&exact=true"),
        "{}",
        asked.line
    );
    asked.part(4, b"two\nthree\nfo").await;
    let asked = master.request().await;
    assert!(
        asked.line.ends_with("offset=16&follow=true&exact=true"),
        "{}",
        asked.line
    );
    asked.bytes(b"ur\n").await;
    assert_eq!(tepui.rest().await, "two\nthree\nfour\n");
}

#[tokio::test]
async fn what_was_rotated_away_is_told_and_what_follows_has_its_place() {
    let master = Master::start().await;
    let args = ["task", "logs", "--follow", "f1.t.0"];
    let tepui = Tepui::start_heard(&master, &args);
    let asked = master.request().await;
    assert!(asked.line.contains("offset=0&"), "{}", asked.line);
    asked.part(100, b"one\n").await;
    let asked = master.request().await;
    assert!(asked.line.contains("offset=104&"), "{}", asked.line);
    asked.part(104, b"two\n").await;
    let asked = master.request().await;
    assert!(asked.line.contains("offset=108&"), "{}", asked.line);
    asked.part(1_108, b"").await;
    let asked = master.request().await;
    assert!(asked.line.contains("offset=1108&"), "{}", asked.line);
    asked.bytes(b"end\n").await;
    let (said, complained) = tepui.both().await;
    assert_eq!(said, "one\ntwo\nend\n");
    let told = |bytes| {
        format!("tepui: {bytes} bytes of its stdout were rotated away before they could be read\n")
    };
    assert_eq!(complained, told(100) + &told(1_000));
}
