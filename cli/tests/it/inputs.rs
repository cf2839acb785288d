//! Input of a task, over connections that break and attempts that fail.

use tepui_types::wire::stream::{ClientFrame, StreamFrame};

use crate::master::{Master, job};
use crate::process::Tepui;

#[tokio::test]
async fn a_broken_connection_is_made_again_and_nothing_is_lost_or_shown_twice() {
    let master = Master::start().await;
    let mut tepui = Tepui::start(&master, &["attach", "f1.t.0"]);
    let mut channel = master.until("/attach", 0).await.upgrade().await;
    let (source, at) = channel.source().await;
    assert_eq!(at, 0);
    tepui.types("one\n").await;
    assert_eq!(channel.data().await, "one\n");
    channel.say(StreamFrame::Taken(1)).await;
    channel.say(StreamFrame::Data(b"got one\n".to_vec())).await;
    assert_eq!(tepui.line().await, "got one\n");
    tepui.types("two\n").await;
    assert_eq!(channel.data().await, "two\n");
    // It was sent, and the master is gone before anybody has taken it.
    drop(channel);
    let mut channel = master.until("/attach", 0).await.upgrade().await;
    // Had it been taken all the same, it would be known by its place.
    assert_eq!(channel.source().await, (source, 4));
    assert_eq!(channel.data().await, "two\n");
    channel.say(StreamFrame::Taken(1)).await;
    tepui.ends_input();
    assert_eq!(channel.next().await, Some(ClientFrame::End));
    let all = b"got one\ngot two\n".to_vec();
    channel.say(StreamFrame::Data(all)).await;
    channel.say(StreamFrame::End).await;
    assert_eq!(tepui.rest().await, "got two\n");
}

#[tokio::test]
async fn what_no_attempt_has_taken_is_the_next_ones_and_each_is_told_the_end() {
    let master = Master::start().await;
    let mut tepui = Tepui::start(&master, &["run", "-i", "--restarts", "1", "--", "cat"]);
    master
        .until("post /frameworks/batch/jobs", 0)
        .await
        .json(&job(0, "running"))
        .await;
    let mut channel = master.until("f1.t.0/attach", 0).await.upgrade().await;
    let (source, _) = channel.source().await;
    tepui.types("first\n").await;
    assert_eq!(channel.data().await, "first\n");
    channel.say(StreamFrame::Taken(1)).await;
    tepui.types("second\n").await;
    assert_eq!(channel.data().await, "second\n");
    channel.say(StreamFrame::End).await;
    // Typed while nothing runs.
    tepui.types("third\n").await;
    tepui.ends_input();
    let mut channel = master.until("f1.t.1/attach", 1).await.upgrade().await;
    assert_eq!(channel.source().await, (source, 6));
    let mut got = channel.data().await;
    while got.len() < "second\nthird\n".len() {
        got.push_str(&channel.data().await);
    }
    assert_eq!(got, "second\nthird\n");
    assert_eq!(channel.next().await, Some(ClientFrame::End));
    channel.say(StreamFrame::Data(b"done\n".to_vec())).await;
    channel.say(StreamFrame::End).await;
    let over = master.until("get /frameworks/batch/jobs/t", 1).await;
    over.json(&job(1, "finished")).await;
    assert_eq!(tepui.rest().await, "done\n");
}
