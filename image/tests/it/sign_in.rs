//! Registries that want to know who asks, and such as lead to where nobody is asked.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tepui_image::{ImagesConfig, RegistryConfig, Secret};

use crate::fixture::{World, code, plain, pull};
use crate::odd_server::{Answer, OddServer, Request, good, image, is_layer, layout};

/// `me` and `secret`, in the lower case that the server keeps.
const PASSWORD: &str = "authorization: basic bwu6c2vjcmv0";

fn wants_token(realm: &str) -> Answer {
    let challenge = format!("www-authenticate: Bearer realm=\"{realm}\",service=\"x\"\r\n");
    Answer::Status(401, challenge)
}

/// Has tokens, named `mine`.
async fn tokens() -> OddServer {
    OddServer::start(|_: &Request, _| Answer::Body(br#"{"token":"mine"}"#.to_vec())).await
}

/// A registry that has an image for who comes with the token `mine`, of this realm.
async fn registry(folder: PathBuf, realm: String) -> OddServer {
    OddServer::start(
        move |request: &Request, _| match request.has("authorization: bearer mine") {
            true => good(&folder, request),
            false => wants_token(&realm),
        },
    )
    .await
}

/// With a password for this server.
fn known(mut config: ImagesConfig, server: &OddServer, password: &str) -> ImagesConfig {
    let entry = RegistryConfig {
        username: Some("me".into()),
        password: Some(Secret::new(password)),
        ..RegistryConfig::default()
    };
    config.registries.insert(server.address.clone(), entry);
    config
}

/// Somebody on the agent's own machine.
struct Neighbour(TcpListener);

impl Neighbour {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Whether anybody has connected since the last time.
    fn was_asked(&self) -> bool {
        self.0.accept().is_ok()
    }
}

#[tokio::test]
async fn tokens_are_had_with_the_password_and_again_when_they_expire() {
    let world = World::new();
    let folder = layout(&world);
    let tokens = AtomicUsize::new(0);
    let uses = AtomicUsize::new(0);
    let server = OddServer::start(move |request: &Request, _| {
        if request.path.starts_with("/token") {
            if !request.has(PASSWORD) {
                return Answer::Status(401, String::new());
            }
            assert!(
                request.path.contains("scope=repository"),
                "{}",
                request.path
            );
            uses.store(0, Ordering::Relaxed);
            let number = tokens.fetch_add(1, Ordering::Relaxed) + 1;
            return Answer::Body(format!(r#"{{"token":"t{number}"}}"#).into_bytes());
        }
        let number = tokens.load(Ordering::Relaxed);
        let realm = format!("http://{}/token", request.host());
        let known = number > 0 && request.has(&format!("authorization: bearer t{number}"));
        // Each token is good for two requests.
        if !known || uses.fetch_add(1, Ordering::Relaxed) >= 2 {
            return wants_token(&realm);
        }
        good(&folder, request)
    })
    .await;
    let with = |password: &str| known(plain([&*server.address]), &server, password);
    for config in [plain([&*server.address]), with("wrong")] {
        let images = world.open(config).await;
        assert_eq!(
            code(pull(&images, &image(&server)).await),
            "image-unauthorized"
        );
    }
    let images = world.open(with("secret")).await;
    pull(&images, &image(&server)).await.unwrap();
    assert!(server.requests("/token").len() >= 2, "one of them expired");
}

#[tokio::test]
async fn credentials_do_not_follow_to_another_host() {
    let world = World::new();
    let folder = layout(&world);
    let layers = folder.clone();
    let store = OddServer::start(move |request: &Request, _| good(&layers, request)).await;
    let there = store.address.clone();
    let server = OddServer::start(move |request: &Request, _| {
        if !request.has("authorization: bearer mine") {
            return Answer::Status(401, String::new());
        }
        match is_layer(&folder, request) {
            true => {
                let location = format!("location: http://{there}{}\r\n", request.path);
                Answer::Status(307, location)
            }
            false => good(&folder, request),
        }
    })
    .await;
    let mut config = plain([&*server.address]);
    config.allow = vec!["127.0.0.1".parse().unwrap()];
    let entry = RegistryConfig {
        token: Some(Secret::new("mine")),
        ..RegistryConfig::default()
    };
    config.registries.insert(server.address.clone(), entry);
    let images = world.open(config).await;
    pull(&images, &image(&server)).await.unwrap();
    let asked = store.requests("/blobs/");
    assert_eq!(asked.len(), 1);
    assert!(!asked[0].has("authorization"), "{}", asked[0].head);
}

#[tokio::test]
async fn a_realm_on_the_machine_itself_or_among_metadata_is_not_asked() {
    let world = World::new();
    let folder = layout(&world);
    let neighbour = Neighbour::new();
    let port = neighbour.port();
    for (host, address) in [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("[::ffff:127.0.0.1]", "127.0.0.1"),
        ("169.254.169.254", "169.254.169.254"),
        ("[fd00:ec2::254]", "fd00:ec2::254"),
    ] {
        let server = registry(folder.clone(), format!("https://{host}:{port}/token")).await;
        let config = known(plain([&*server.address]), &server, "secret");
        let error = pull(&world.open(config).await, &image(&server)).await;
        let error = error.unwrap_err();
        assert_eq!(error.code(), "image-address-refused", "{host}: {error}");
        assert!(!error.retryable());
        assert!(error.to_string().contains(address), "{error}");
    }
    assert!(!neighbour.was_asked());
}

#[tokio::test]
async fn a_realm_leads_nobody_to_the_machine_itself() {
    let world = World::new();
    let folder = layout(&world);
    let neighbour = Neighbour::new();
    let location = format!("location: http://127.0.0.1:{}/\r\n", neighbour.port());
    let realm = OddServer::start(move |_: &Request, _| Answer::Status(302, location.clone())).await;
    let server = registry(folder, format!("http://{}/token", realm.address)).await;
    let config = plain([&*server.address, &realm.address]);
    let config = known(config, &server, "secret");
    let error = pull(&world.open(config).await, &image(&server)).await;
    assert_eq!(code(error), "image-address-refused");
    assert!(realm.requests("/token")[0].has(PASSWORD));
    assert!(!neighbour.was_asked());
}

#[tokio::test]
async fn a_registry_on_the_machine_itself_is_asked_where_its_operator_names_it() {
    let world = World::new();
    let neighbour = Neighbour::new();
    for host in ["127.0.0.1", "localhost"] {
        let place = format!("{host}:{}", neighbour.port());
        let image = format!("{place}/x:1").parse().unwrap();
        let other = plain(["127.0.0.1:1", "localhost:1"]);
        let images = world.open(other).await;
        assert_eq!(code(pull(&images, &image).await), "image-address-refused");
        assert!(!neighbour.was_asked());
        // It is named, and then fails by speaking no TLS.
        let mut named = plain([]);
        named.stall = Duration::from_millis(50);
        let entry = RegistryConfig::default();
        named.registries.insert(place, entry);
        let images = world.open(named).await;
        assert_eq!(code(pull(&images, &image).await), "image-unavailable");
        assert!(neighbour.was_asked());
        while neighbour.was_asked() {}
    }
}

#[tokio::test]
async fn a_registry_sends_nobody_for_blobs_to_the_machine_itself() {
    let world = World::new();
    let folder = layout(&world);
    let layers = folder.clone();
    let store = OddServer::start(move |request: &Request, _| good(&layers, request)).await;
    let there = store.address.clone();
    let server = OddServer::start(
        move |request: &Request, _| match is_layer(&folder, request) {
            true => Answer::Status(307, format!("location: http://{there}{}\r\n", request.path)),
            false => good(&folder, request),
        },
    )
    .await;
    let images = world.open(plain([&*server.address])).await;
    let refused = pull(&images, &image(&server)).await;
    assert_eq!(code(refused), "image-address-refused");
    assert!(store.requests("").is_empty());
    let named = world.open(plain([&*server.address, &store.address])).await;
    pull(&named, &image(&server)).await.unwrap();
}

#[tokio::test]
async fn a_password_goes_to_the_realm_that_its_registry_names_but_not_in_plain_http() {
    let world = World::new();
    let folder = layout(&world);
    let realm = tokens().await;
    let server = registry(folder, format!("http://{}/token", realm.address)).await;
    let config = known(plain([&*server.address]), &server, "secret");
    let error = pull(&world.open(config).await, &image(&server)).await;
    let error = error.unwrap_err();
    assert_eq!(error.code(), "image-sign-in", "{error}");
    let fix = format!("lists {} as insecure", realm.address);
    assert!(error.to_string().contains(&fix), "{error}");
    assert!(realm.requests("").is_empty());

    let listed = plain([&*server.address, &realm.address]);
    let config = known(listed, &server, "secret");
    pull(&world.open(config).await, &image(&server))
        .await
        .unwrap();
    let asked = realm.requests("/token");
    assert!(asked.iter().all(|request| request.has(PASSWORD)));
    assert!(!asked.is_empty());
}

#[tokio::test]
async fn who_a_registry_redirects_to_learns_no_password() {
    let world = World::new();
    let thief = tokens().await;
    let realm = format!("http://{}/token", thief.address);
    let other = OddServer::start(move |_: &Request, _| wants_token(&realm)).await;
    let there = other.address.clone();
    let server = OddServer::start(move |request: &Request, _| {
        Answer::Status(307, format!("location: http://{there}{}\r\n", request.path))
    })
    .await;
    let config = plain([&*server.address, &other.address, &thief.address]);
    let config = known(config, &server, "secret");
    let refused = pull(&world.open(config).await, &image(&server)).await;
    assert_eq!(code(refused), "image-unauthorized");
    let asked = other.requests("/manifests/");
    assert!(!asked.is_empty() && !asked[0].has("authorization"));
    assert!(thief.requests("").is_empty());
}

#[tokio::test]
async fn a_mirror_is_not_given_the_password_of_its_registry() {
    let world = World::new();
    let folder = layout(&world);
    let realm = tokens().await;
    let mirror = registry(folder.clone(), format!("http://{}/token", realm.address)).await;
    let server = OddServer::start(move |request: &Request, _| good(&folder, request)).await;
    let config = plain([&*server.address, &mirror.address, &realm.address]);
    let mut config = known(config, &server, "secret");
    let entry = config.registries.get_mut(&server.address).unwrap();
    entry.mirrors = vec![mirror.address.clone()];
    pull(&world.open(config).await, &image(&server))
        .await
        .unwrap();
    let asked = [realm.requests("/token"), mirror.requests("")].concat();
    assert!(asked.iter().all(|request| !request.has("basic")));
    assert!(mirror.requests("/blobs/").len() >= 2, "it let us in");
}

#[tokio::test]
async fn a_realm_that_sends_no_token_is_given_up() {
    let world = World::new();
    let folder = layout(&world);
    for (answer, expected, said) in [
        ("endless", "image-sign-in", "sends more than"),
        ("<html>", "image-sign-in", "no token comes"),
        (
            "silence",
            "image-unavailable",
            "where it has tokens, fails: it sent nothing",
        ),
        ("cut", "image-unavailable", "where it has tokens, fails"),
        (
            "503",
            "image-unavailable",
            "where it has tokens, answers 503",
        ),
        ("404", "image-unauthorized", "username, password or token"),
    ] {
        let realm = OddServer::start(move |_: &Request, _| match answer {
            "endless" => Answer::Endless,
            "silence" => Answer::Silence,
            "cut" => Answer::Cut(br#"{"token":"mine"}"#.to_vec(), 5),
            status if status.len() == 3 => Answer::Status(status.parse().unwrap(), String::new()),
            body => Answer::Body(body.into()),
        })
        .await;
        let server = registry(folder.clone(), format!("http://{}/token", realm.address)).await;
        let mut config = plain([&*server.address, &realm.address]);
        if answer == "silence" {
            config.stall = Duration::from_millis(100);
        }
        let error = pull(&world.open(config).await, &image(&server)).await;
        let error = error.unwrap_err();
        assert_eq!(error.code(), expected, "{answer}: {error}");
        assert!(error.to_string().contains(said), "{answer}: {error}");
    }
}

#[tokio::test]
async fn a_realm_that_is_down_is_named_and_not_its_registry() {
    let world = World::new();
    let folder = layout(&world);
    let down = format!("127.0.0.1:{}", Neighbour::new().port());
    let server = registry(folder, format!("http://{down}/token")).await;
    let config = plain([&*server.address, &down]);
    let error = pull(&world.open(config).await, &image(&server)).await;
    let error = error.unwrap_err();
    assert_eq!(error.code(), "image-unavailable", "{error}");
    let named = format!("http://{down}, where it has tokens, fails");
    assert!(error.to_string().contains(&named), "{error}");
}

#[tokio::test]
async fn a_password_is_shown_where_the_challenge_says_nothing_that_is_understood() {
    let world = World::new();
    let folder = layout(&world);
    for challenge in [
        "",
        "www-authenticate: Negotiate\r\n",
        "www-authenticate: Basic realm=My Registry\r\n",
        "www-authenticate: Basic realm=\"Gerätehaus\"\r\n",
        "www-authenticate: Bearer service=x\r\nwww-authenticate: Basic realm=x\r\n",
        "www-authenticate: Bearer realm=x, Basic realm=x\r\n",
    ] {
        let layers = folder.clone();
        let server = OddServer::start(move |request: &Request, _| match request.has(PASSWORD) {
            true => good(&layers, request),
            false => Answer::Status(401, challenge.into()),
        })
        .await;
        let stranger = world.open(plain([&*server.address])).await;
        let refused = pull(&stranger, &image(&server)).await;
        assert_eq!(code(refused), "image-unauthorized", "{challenge}");
        let with = |password| known(plain([&*server.address]), &server, password);
        let wrong = world.open(with("wrong")).await;
        let refused = pull(&wrong, &image(&server)).await;
        assert_eq!(code(refused), "image-unauthorized", "{challenge}");
        assert_eq!(server.requests("/manifests/").len(), 1 + 2, "shown once");
        let images = world.open(with("secret")).await;
        let pulled = pull(&images, &image(&server)).await;
        pulled.unwrap_or_else(|error| panic!("{challenge}: {error}"));
    }
}

#[tokio::test]
async fn a_password_is_shown_to_a_registry_that_hides_what_it_has_from_strangers() {
    let world = World::new();
    let folder = layout(&world);
    for hidden in [403, 404, 429] {
        for root in ["bearer", "basic", "open"] {
            let layers = folder.clone();
            let server = OddServer::start(move |request: &Request, _| {
                let is_known = match root {
                    "bearer" => request.has("authorization: bearer mine"),
                    _ => request.has(PASSWORD),
                };
                match (&*request.path, root) {
                    (path, _) if path.starts_with("/token") => match request.has(PASSWORD) {
                        true => Answer::Body(br#"{"token":"mine"}"#.to_vec()),
                        false => Answer::Status(401, String::new()),
                    },
                    ("/v2/", "bearer") => wants_token(&format!("http://{}/token", request.host())),
                    ("/v2/", "basic") => {
                        Answer::Status(401, "www-authenticate: Basic realm=x\r\n".into())
                    }
                    _ if is_known => good(&layers, request),
                    ("/v2/", _) => Answer::Body(Vec::new()),
                    _ => Answer::Status(hidden, String::new()),
                }
            })
            .await;
            let asked = || server.requests("").into_iter();
            let roots = || asked().filter(|request| request.path == "/v2/").count();
            let stranger = world.open(plain([&*server.address])).await;
            pull(&stranger, &image(&server)).await.unwrap_err();
            assert_eq!(roots(), 0, "there is no password");
            let config = known(plain([&*server.address]), &server, "secret");
            let images = world.open(config).await;
            let pulled = pull(&images, &image(&server)).await;
            pulled.unwrap_or_else(|error| panic!("{hidden} {root}: {error}"));
            assert_eq!(roots(), 1, "{hidden} {root}");
            let missing = format!("{}/x@sha256:{:064}", server.address, 0);
            let missing = pull(&images, &missing.parse().unwrap()).await;
            assert_eq!(code(missing), "image-unknown", "{hidden} {root}");
            assert_eq!(roots(), 2, "{hidden} {root}");
        }
    }
}

#[tokio::test]
async fn what_a_registry_has_not_is_unknown_where_its_root_says_nothing() {
    let world = World::new();
    let thief = tokens().await;
    let realm = format!("http://{}/token", thief.address);
    let other = OddServer::start(move |_: &Request, _| wants_token(&realm)).await;
    let there = other.address.clone();
    for status in [302, 404, 500] {
        let location = format!("location: http://{there}/\r\n");
        let server = OddServer::start(move |request: &Request, _| match &*request.path {
            "/v2/" => Answer::Status(status, location.clone()),
            _ => Answer::Status(404, String::new()),
        })
        .await;
        let config = plain([&*server.address, &other.address, &thief.address]);
        let config = known(config, &server, "secret");
        let unknown = pull(&world.open(config).await, &image(&server)).await;
        assert_eq!(code(unknown), "image-unknown", "{status}");
        let asked = [server.requests(""), other.requests("")].concat();
        assert!(asked.iter().all(|request| !request.has("authorization")));
    }
    assert!(thief.requests("").is_empty());
}
