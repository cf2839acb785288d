//! What people use to look: `dig`, where it is installed. The other tests need none.

use std::process::Stdio;

use tokio::process::Command;
use tokio::time::timeout;

use crate::host::*;

/// What `dig +short` prints; none where there is no dig.
async fn dig(host: &Host, arguments: &[&str]) -> Option<Vec<String>> {
    let mut command = Command::new("dig");
    command
        .args([
            "@127.0.0.1",
            "-p",
            &host.address.port().to_string(),
            "+short",
        ])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(DEADLINE, command.output())
        .await
        .expect("dig hangs");
    let text = String::from_utf8(output.ok()?.stdout).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    lines.sort();
    Some(lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn dig_understands_the_answers() {
    let host = Host::with_web(&config(), 60).await;
    let Some(all) = dig(&host, &["+noedns", "web.batch.tepui"]).await else {
        eprintln!("dig is not installed (bind9-dnsutils): nothing was checked");
        return;
    };
    // It was cut over UDP, and asked again over TCP.
    assert_eq!(all.len(), 60, "{all:?}");
    assert_eq!(host.server.counts().truncated, 1);
    let one = dig(&host, &["web-7.batch.tepui"]).await.unwrap();
    assert_eq!(one, ["10.0.0.7"]);
    let port = dig(&host, &["_http._tcp.web-7.batch.tepui", "SRV"])
        .await
        .unwrap();
    assert_eq!(port, ["0 1 80 web-7.batch.tepui."]);
    let name = dig(&host, &["-x", "10.0.0.7"]).await.unwrap();
    assert_eq!(name, ["web-7.batch.tepui."]);
}
