//! Masters that do not answer, or cannot.

use tokio::net::TcpListener;

use crate::master::{Master, within};
use crate::process::Tepui;

#[tokio::test]
async fn what_one_master_says_counts_more_than_that_another_is_away() {
    let mut master = Master::start().await;
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = away.local_addr().unwrap();
    drop(away);
    master.url = format!("{},http://{address}", master.url);
    let tepui = Tepui::start_heard(&master, &["task", "kill", "f1.t.0"]);
    let refusing = async {
        loop {
            master.request().await.refuse(503, "no majority").await;
        }
    };
    let (code, said) = tokio::select! {
        ended = tepui.ends() => ended,
        () = refusing => unreachable!(),
    };
    assert_eq!(code, Some(1));
    assert!(said.contains("no majority"), "{said}");
}

#[tokio::test]
async fn a_master_that_hangs_is_not_waited_for_for_long() {
    // Its connections are made, and nobody takes them.
    let master = Master::start().await;
    let tepui = Tepui::start_heard(&master, &["status"]);
    let (code, said) = within(tepui.ends()).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("does not answer"), "{said}");
}
