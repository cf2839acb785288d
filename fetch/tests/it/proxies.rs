//! Proxies of the agent's environment. An environment is the whole process's, so a process of its own
//! asks through each.

use tepui_fetch::FetchConfig;
use tokio::process::Command;

use crate::server::{Answer, Scripted};
use crate::site::{Site, url};

/// What the process of its own is told: a server on the machine itself, which no task may ask.
const SERVER: &str = "TEPUI_FETCH_TEST_BEHIND_PROXY";

async fn nothing_allowed() -> Site {
    Site::with(|config| config.allow = FetchConfig::default().allow).await
}

/// Runs one of the processes below, as an agent with this in its environment.
async fn run(process: &str, environment: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("proxies::{process}")]);
    for scheme in ["http", "https", "all", "no"] {
        let name = format!("{scheme}_proxy");
        command.env_remove(name.to_uppercase()).env_remove(name);
    }
    let ran = command
        .envs(environment.iter().copied())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success() && said.contains("1 passed"),
        "{said} {}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

/// A proxy, by the name of the machine itself.
fn named(proxy: &Scripted) -> String {
    proxy.url.replace("127.0.0.1", "localhost")
}

/// No test by itself: what `a_proxy_on_the_machine_itself_is_asked_and_asks_nobody_there` runs.
#[tokio::test]
async fn process_behind_a_proxy() {
    let Ok(server) = std::env::var(SERVER) else {
        return;
    };
    let site = nothing_allowed().await;
    site.fetch(url("http://files.example/a")).await.unwrap();
    assert_eq!(site.read("a"), "through the proxy");
    let port = server.rsplit(':').next().unwrap();
    for host in ["127.0.0.1", "localhost", "a.localhost.", "[::1]", "0.0.0.0"] {
        let error = site.fetch(url(format!("http://{host}:{port}/b"))).await;
        assert_eq!(error.unwrap_err().code(), "fetch-address-refused", "{host}");
    }
    let metadata = site.fetch(url("http://169.254.169.254/b")).await;
    assert_eq!(metadata.unwrap_err().code(), "fetch-address-refused");
    let led = site.fetch(url("http://files.example/led")).await;
    assert_eq!(led.unwrap_err().code(), "fetch-address-refused");
}

#[tokio::test]
async fn a_proxy_on_the_machine_itself_is_asked_and_asks_nobody_there() {
    let server = Scripted::start(|_, _| Answer::body("secret")).await;
    let location = format!("location: {}", server.url("b"));
    let proxy = Scripted::start(move |head, _| match head.contains("/led ") {
        true => Answer::status(302).head(&location),
        false => Answer::body("through the proxy"),
    })
    .await;
    for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let before = proxy.asked();
        run(
            "process_behind_a_proxy",
            &[(variable, &named(&proxy)), (SERVER, &server.url)],
        )
        .await;
        let asked = proxy.heads().split_off(before);
        let lines: Vec<&str> = asked
            .iter()
            .filter_map(|head| head.lines().next())
            .collect();
        assert_eq!(
            lines,
            [
                "get http://files.example/a http/1.1",
                "get http://files.example/led http/1.1"
            ],
            "{variable}"
        );
    }
    assert_eq!(server.asked(), 0);
}

/// No test by itself: what `who_is_not_asked_through_a_proxy_is_judged_by_address` runs.
#[tokio::test]
async fn process_beside_a_proxy() {
    let Ok(server) = std::env::var(SERVER) else {
        return;
    };
    let site = nothing_allowed().await;
    let port = server.rsplit(':').next().unwrap();
    // The proxy is for others; its name is none that tasks may ask.
    let direct = site.fetch(url(format!("http://localhost:{port}/a"))).await;
    assert_eq!(direct.unwrap_err().code(), "fetch-address-refused");
    let secret = site.fetch(url("https://files.example/a")).await;
    assert_eq!(secret.unwrap_err().code(), "fetch-unavailable");
}

#[tokio::test]
async fn who_is_not_asked_through_a_proxy_is_judged_by_address() {
    let server = Scripted::start(|_, _| Answer::body("secret")).await;
    let proxy = Scripted::start(|_, _| Answer::status(502)).await;
    let proxy_url = named(&proxy);
    for environment in [
        &[("HTTPS_PROXY", &*proxy_url)] as &[_],
        &[("ALL_PROXY", &*proxy_url), ("NO_PROXY", "localhost")],
    ] {
        let before = proxy.asked();
        let environment = [environment, &[(SERVER, &server.url)]].concat();
        run("process_beside_a_proxy", &environment).await;
        let asked = proxy.heads().split_off(before);
        let is_tunnel = |head: &String| head.starts_with("connect files.example:443 ");
        assert!(
            !asked.is_empty() && asked.iter().all(is_tunnel),
            "{asked:?}"
        );
    }
    assert_eq!(server.asked(), 0);
}
