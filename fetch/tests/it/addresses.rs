//! Servers on the machine itself, and what leads to them: nobody is asked there unless that is
//! allowed.

use tepui_fetch::{FetchConfig, FetchError};

use crate::server::{Answer, Scripted};
use crate::site::{Site, cached, list, url};

/// What it is by default.
fn nothing_allowed(config: &mut FetchConfig) {
    config.allow = FetchConfig::default().allow;
}

fn only(address: &str) -> impl FnOnce(&mut FetchConfig) {
    let address = address.parse().unwrap();
    move |config| config.allow = vec![address]
}

fn assert_refused(error: &FetchError, address: &str) {
    assert_eq!(error.code(), "fetch-address-refused", "{error}");
    assert!(!error.retryable());
    let said = error.to_string();
    let fix = format!("allow {address} with --fetch-allow");
    assert!(said.contains(&fix), "{said}");
}

#[tokio::test]
async fn the_machine_itself_is_not_asked_by_address_or_name() {
    let site = Site::with(nothing_allowed).await;
    let server = Scripted::start(|_, _| Answer::body("abc")).await;
    let port = server.url.rsplit(':').next().unwrap().to_owned();
    for host in ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0.0.0.0"] {
        let address = if host == "0.0.0.0" { host } else { "127.0.0.1" };
        for item in [url, cached] {
            let error = site.fetch(item(format!("http://{host}:{port}/a"))).await;
            assert_refused(&error.unwrap_err(), address);
        }
    }
    let mapped = site.fetch(url(format!("http://[::ffff:127.0.0.1]:{port}/a")));
    assert_refused(&mapped.await.unwrap_err(), "127.0.0.1");
    assert_eq!(server.asked(), 0);
    assert!(list(&site.sandbox()).is_empty());
}

#[tokio::test]
async fn metadata_of_clouds_is_not_asked() {
    let site = Site::new().await;
    for (host, address) in [
        ("169.254.169.254", "169.254.169.254"),
        ("[fe80::1]", "fe80::1"),
        ("[fd00:ec2::254]", "fd00:ec2::254"),
    ] {
        let item = url(format!("http://{host}/latest/meta-data"));
        assert_refused(&site.fetch(item).await.unwrap_err(), address);
    }
}

#[tokio::test]
async fn redirects_lead_to_no_address_that_is_not_asked() {
    // The first server may be asked, and the second only has another name of the same machine.
    let site = Site::with(only("127.0.0.1")).await;
    let second = Scripted::start(|_, _| Answer::body("abc")).await;
    let port = second.url.rsplit(':').next().unwrap().to_owned();
    for (to, address) in [
        (format!("http://127.0.0.2:{port}/a"), "127.0.0.2"),
        (format!("http://[::1]:{port}/a"), "::1"),
        ("http://169.254.169.254/a".to_owned(), "169.254.169.254"),
    ] {
        let location = format!("location: {to}");
        let first = Scripted::start(move |_, _| Answer::status(302).head(&location)).await;
        let error = site.fetch(url(first.url("a"))).await.unwrap_err();
        assert_refused(&error, address);
        assert_eq!(first.asked(), 1);
    }
    assert_eq!(second.asked(), 0);
}

#[tokio::test]
async fn what_is_allowed_is_asked_by_name_too() {
    let site = Site::with(only("127.0.0.1")).await;
    let server = Scripted::start(|_, _| Answer::body("abc")).await;
    let named = server.url("a").replace("127.0.0.1", "localhost");
    site.fetch(url(named)).await.unwrap();
    assert_eq!(site.read("a"), "abc");
}
