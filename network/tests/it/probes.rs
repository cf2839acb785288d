//! Probes: what succeeds, what fails and how that is said; in a task's namespace, within bounds.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tepui_network::{Place, Prober};
use tepui_types::check::{CommandProbe, HttpProbe, Probe, TcpProbe};
use tokio::sync::Semaphore;

use crate::host::{DEADLINE, attach, on_a_host, serve, within};

const HERE: &str = "/proc/thread-self/ns/net";
/// For probes that are to run out of it.
const SHORT: Duration = Duration::from_millis(200);

fn http(port: u16, path: &str) -> Probe {
    let path = path.to_owned();
    Probe::Http(HttpProbe { port, path })
}

fn tcp(port: u16) -> Probe {
    Probe::Tcp(TcpProbe { port })
}

async fn exits(code: i32) -> Result<i32, String> {
    Ok(code)
}

/// Makes a probe on the calling thread's machine.
fn probe(probe: &Probe, place: &Place, timeout: Duration) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let prober = Prober::default();
    runtime
        .unwrap()
        .block_on(prober.probe(probe, place, timeout, |_| exits(0)))
}

/// Answers one request after another with these words; returns its port.
fn answers(netns: &str, words: &'static str) -> u16 {
    let bind = || TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let listener = within(netns.as_ref(), bind);
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            // A request is short, and comes at once.
            let length = stream.read(&mut request).unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            assert!(
                request.starts_with("GET /health?a=b HTTP/1.1\r\n"),
                "{request}"
            );
            stream.write_all(words.as_bytes()).ok();
        }
    });
    port
}

#[test]
fn a_status_from_200_to_399_is_well() {
    for (line, is_well) in [
        ("200 OK", true),
        ("204 No Content", true),
        ("302 Found", true),
        ("399 Odd", true),
        ("400 Bad Request", false),
        ("503 Service Unavailable", false),
    ] {
        let words = format!("HTTP/1.1 {line}\r\ncontent-length: 5\r\n\r\nhello");
        let port = answers(HERE, words.leak());
        let outcome = probe(&http(port, "/health?a=b"), &Place::default(), DEADLINE);
        match is_well {
            true => assert_eq!(outcome, Ok(())),
            false => {
                let error = outcome.unwrap_err();
                let says =
                    format!("GET /health?a=b at 127.0.0.1:{port}: it was answered with {line}");
                assert_eq!(error, says);
            }
        }
    }
}

#[test]
fn a_server_that_answers_nonsense_or_nothing_is_not_well() {
    for words in ["", "SSH-2.0-x\r\n", "HTTP/1.1 200 OK\r\nhalf-a-head"] {
        let port = answers(HERE, words);
        let error = probe(&http(port, "/health?a=b"), &Place::default(), DEADLINE).unwrap_err();
        assert!(
            error.starts_with("GET /health?a=b at 127.0.0.1:"),
            "{words}: {error}"
        );
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    // It is connected to by the kernel, and never answers.
    let error = probe(&http(port, "/"), &Place::default(), SHORT).unwrap_err();
    assert_eq!(error, "it took more than 200 ms");
    assert_eq!(probe(&tcp(port), &Place::default(), DEADLINE), Ok(()));
    drop(listener);
    let error = probe(&tcp(port), &Place::default(), DEADLINE).unwrap_err();
    assert!(
        error.contains("no connection to 127.0.0.1") && error.contains("refused"),
        "{error}"
    );
}

#[test]
fn a_task_is_probed_in_its_own_namespace() {
    on_a_host(|host| {
        host.bridge("web", "1.0.0", &[]);
        let networks = host.networks();
        let one = networks.attach(attach("one", "web")).unwrap();
        let netns = one.netns.to_str().unwrap();
        let words = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        let port = answers(netns, words);
        let place = Place {
            netns: Some(one.netns.clone()),
            ..Place::default()
        };
        assert_eq!(probe(&http(port, "/health?a=b"), &place, DEADLINE), Ok(()));
        probe(&tcp(port), &Place::default(), DEADLINE).unwrap_err();
        serve(&one.netns, 80, "");
        let by_its_address = Place {
            netns: None,
            address: one.addresses().next().unwrap(),
        };
        assert_eq!(probe(&tcp(80), &by_its_address, DEADLINE), Ok(()));
        // The test's own thread has stayed where it was.
        serve(Path::new(HERE), 81, "");
        assert_eq!(probe(&tcp(81), &Place::default(), DEADLINE), Ok(()));
        networks.detach(&"one".parse().unwrap()).unwrap();
        let error = probe(&tcp(port), &place, DEADLINE).unwrap_err();
        assert!(
            error.contains("failed to enter the network namespace"),
            "{error}"
        );
    });
}

#[tokio::test]
async fn a_command_is_judged_by_its_code_and_dropped_when_its_time_is_over() {
    let argv = vec!["check".to_owned()];
    let command = Probe::Command(CommandProbe {
        argv: argv.clone(),
        member: None,
    });
    let prober = Prober::default();
    let place = Place::default();
    let run = |timeout, code| prober.probe(&command, &place, timeout, move |_| exits(code));
    assert_eq!(run(DEADLINE, 0).await, Ok(()));
    assert_eq!(
        run(DEADLINE, 7).await.unwrap_err(),
        "the command exited with 7"
    );
    let failing = prober.probe(&command, &place, DEADLINE, async |_| Err("gone".to_owned()));
    assert_eq!(failing.await.unwrap_err(), "gone");
    let (sender, dropped) = tokio::sync::oneshot::channel::<()>();
    let hanging = prober.probe(&command, &place, SHORT, async |got| {
        assert_eq!(got, argv);
        let _held = sender;
        std::future::pending().await
    });
    assert_eq!(hanging.await.unwrap_err(), "it took more than 200 ms");
    dropped.await.unwrap_err();
}

#[tokio::test]
async fn only_so_many_probes_are_under_way_and_the_others_come_after() {
    const MOST: usize = 256;
    let prober = Arc::new(Prober::default());
    let (begun, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let mut probes = tokio::task::JoinSet::new();
    for _ in 0..MOST + 10 {
        let (prober, begun, gate) = (prober.clone(), begun.clone(), gate.clone());
        probes.spawn(async move {
            let argv = Vec::new();
            let command = Probe::Command(CommandProbe { argv, member: None });
            let run = async |_| {
                begun.fetch_add(1, Ordering::SeqCst);
                let _open = gate.acquire().await;
                Ok(0)
            };
            prober
                .probe(&command, &Place::default(), DEADLINE, run)
                .await
        });
    }
    while begun.load(Ordering::SeqCst) < MOST {
        tokio::task::yield_now().await;
    }
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(begun.load(Ordering::SeqCst), MOST);
    gate.add_permits(MOST + 10);
    let outcomes = probes.join_all().await;
    assert!(outcomes.len() == MOST + 10 && outcomes.iter().all(Result::is_ok));
}
