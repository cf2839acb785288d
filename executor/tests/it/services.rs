//! WebAssembly services on ports of their tasks, asked by HTTP.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use tepui_types::{Bytes, TaskState};

use crate::env::{Builder, DEADLINE, Executor, check, eventually};
use crate::programs;

/// A port that nobody has.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// A service that runs, and where.
struct Running {
    executor: Executor,
    address: SocketAddr,
}

impl Running {
    fn start(options: &str) -> Self {
        Self::start_with(options, |builder| builder)
    }

    fn start_with(options: &str, with: impl FnOnce(Builder) -> Builder) -> Self {
        let port = free_port();
        let mut executor = Executor::wasm();
        let builder = Builder::wasm("web", programs::service());
        executor.launch(with(builder.port(port).options(options)));
        let update = executor.update();
        assert_eq!(update.state, TaskState::Running, "{:?}", update.reason);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self { executor, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Sends the head of a request, after which it sends no other on this connection.
    fn ask(&self, path: &str, more: &str) -> TcpStream {
        let mut stream = self.connect();
        let head = format!("GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n{more}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream
    }

    /// Status and body.
    fn get(&self, path: &str) -> (u16, String) {
        answer(self.ask(path, ""))
    }
}

/// Status and body of an answer that ends with its connection.
fn answer(mut stream: TcpStream) -> (u16, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return (status, body.to_owned());
    }
    (status, unchunked(body))
}

fn unchunked(mut text: &str) -> String {
    let mut body = String::new();
    loop {
        let (len, rest) = text.split_once("\r\n").expect("the length of a chunk");
        let len = usize::from_str_radix(len, 16).unwrap();
        if len == 0 {
            return body;
        }
        body.push_str(&rest[..len]);
        text = &rest[len + 2..];
    }
}

#[test]
fn a_service_answers_on_its_port_until_it_is_killed() {
    let mut web = Running::start("{}");
    assert_eq!(web.get("/hello"), (200, "hello".into()));
    assert_eq!(web.get("/hello"), (200, "hello".into()));
    eventually("its output is there", || {
        web.executor.output("web", "stdout") == "hellohello"
    });
    web.executor.kill("web", 60_000);
    let end = web.executor.end("web");
    check(
        &end,
        "killed",
        "kill-requested",
        None,
        "taken 2 requests, 0 of",
    );
    let usage = end.usage.unwrap();
    assert!(
        usage.cpu_micros > 0 && usage.mem_peak_bytes >= 65_536,
        "{usage:?}"
    );
    assert_eq!(usage.instances, Some(2));
    assert!(TcpStream::connect(web.address).is_err());
}

#[test]
fn a_connection_serves_one_request_after_another() {
    let web = Running::start("{}");
    let mut stream = web.connect();
    for _ in 0..2 {
        let request = b"GET /hello HTTP/1.1\r\nhost: web\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut text = String::new();
        while !text.ends_with("0\r\n\r\n") {
            let mut bytes = [0; 1_024];
            let count = stream.read(&mut bytes).unwrap();
            assert!(count > 0, "hung up after {text}");
            text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    }
}

#[test]
fn a_trap_is_answered_and_counted_and_ends_nothing_else() {
    let mut web = Running::start("{}");
    let (status, words) = web.get("/trap");
    assert_eq!(status, 500);
    assert!(words.contains("its standard error says how"), "{words}");
    let (status, words) = web.get("/nothing");
    assert_eq!(status, 500);
    assert!(words.contains("without an answer"), "{words}");
    assert_eq!(web.get("/hello").0, 200);
    eventually("the trap is told", || {
        let said = web.executor.output("web", "stderr");
        said.contains("[tepui: a request failed:") && said.contains("unreachable")
    });
    web.executor.kill("web", 0);
    let end = web.executor.end("web");
    check(
        &end,
        "killed",
        "kill-requested",
        None,
        "taken 3 requests, 1 of which trapped",
    );
}

#[test]
fn a_body_is_passed_on_as_it_comes() {
    let web = Running::start("{}");
    let mut stream = web.ask("/echo", "content-length: 10\r\n");
    stream.write_all(b"first").unwrap();
    let mut seen = String::new();
    while !seen.contains("first") {
        let mut bytes = [0; 1_024];
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "{seen}");
        seen.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
    }
    stream.write_all(b"other").unwrap();
    stream.read_to_string(&mut seen).unwrap();
    assert!(
        seen.contains("other") && seen.ends_with("0\r\n\r\n"),
        "{seen}"
    );
}

#[test]
fn what_runs_when_it_is_killed_is_finished_and_nothing_new_begins() {
    let mut web = Running::start("{}");
    let mut stream = web.ask("/echo", "content-length: 4\r\n");
    stream.write_all(b"th").unwrap();
    let mut seen = String::new();
    while !seen.contains("th") {
        let mut bytes = [0; 1_024];
        let count = stream.read(&mut bytes).unwrap();
        seen.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
    }
    web.executor.kill("web", 3_600_000);
    eventually("nobody is let in any more", || {
        TcpStream::connect(web.address).is_err()
    });
    stream.write_all(b"en").unwrap();
    stream.read_to_string(&mut seen).unwrap();
    assert!(seen.contains("en") && seen.ends_with("0\r\n\r\n"), "{seen}");
    check(
        &web.executor.end("web"),
        "killed",
        "kill-requested",
        None,
        "",
    );
}

#[test]
fn the_grace_ends_what_does_not_end_by_itself() {
    let mut web = Running::start("{}");
    let mut spinning = web.ask("/spin", "");
    web.executor.kill("web", 3_600_000);
    eventually("nobody is let in any more", || {
        TcpStream::connect(web.address).is_err()
    });
    // Another word with less time is heard.
    web.executor.kill("web", 1);
    check(
        &web.executor.end("web"),
        "killed",
        "kill-requested",
        None,
        "",
    );
    let mut rest = Vec::new();
    let _ = spinning.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
}

#[test]
fn a_request_that_takes_too_long_is_cut() {
    let web = Running::start(r#"{"request_timeout_ms": 100}"#);
    let (status, words) = web.get("/spin");
    assert_eq!(
        (status, words.as_str()),
        (504, "the service did not answer in time\n")
    );
    assert_eq!(web.get("/hello").0, 200);
}

#[test]
fn requests_beyond_the_bound_wait_and_are_told_when_it_takes_too_long() {
    let web = Running::start(r#"{"concurrency": 1, "request_timeout_ms": 2000}"#);
    let mut first = web.ask("/echo", "content-length: 1\r\n");
    // It has an instance once its answer's head is here.
    let mut head = [0; 12];
    first.read_exact(&mut head).unwrap();
    let second = web.ask("/hello", "");
    first.write_all(b"x").unwrap();
    let mut rest = String::new();
    first.read_to_string(&mut rest).unwrap();
    assert_eq!(answer(second), (200, "hello".into()));
    let spinning = web.ask("/spin", "");
    let third = web.ask("/spin", "");
    let mut answers = [answer(spinning).0, answer(third).0];
    answers.sort_unstable();
    // Which of the two came first is not known.
    assert!(
        answers == [503, 504] || answers == [504, 504],
        "{answers:?}"
    );
}

#[test]
fn all_requests_of_a_task_share_its_memory() {
    // Two instances' worth, of a page and a small table each.
    let web = Running::start_with("{}", |builder| builder.mem(Bytes(2 * 65_536 + 1_024)));
    let (status, _) = web.get("/memory");
    assert_eq!(status, 500);
    eventually("the limit is named", || {
        let said = web.executor.output("web", "stderr");
        said.contains("of memory for all its requests, and its limit is")
    });
    let held: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = web.ask("/echo", "content-length: 1\r\n");
            stream.read_exact(&mut [0; 12]).unwrap();
            stream
        })
        .collect();
    // A third has to wait for one of them.
    let third = web.ask("/hello", "");
    for mut stream in held {
        stream.write_all(b"x").unwrap();
    }
    assert_eq!(answer(third), (200, "hello".into()));
}

#[test]
fn a_service_that_cannot_listen_says_why() {
    let mut executor = Executor::wasm();
    executor.launch(Builder::wasm("none", programs::service()));
    let end = executor.end("none");
    check(&end, "error", "port-missing", None, "`--ports 1`");
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    executor.launch(Builder::wasm("taken", programs::service()).port(port));
    let end = executor.end("taken");
    check(
        &end,
        "failed",
        "port-taken",
        None,
        &format!("port {port} is taken"),
    );
    let far = Builder::wasm("far", programs::service()).port(port);
    executor.launch(far.options(r#"{"address": "203.0.113.7"}"#));
    let end = executor.end("far");
    check(
        &end,
        "error",
        "executor-failed",
        None,
        "cannot listen on 203.0.113.7",
    );
}

#[test]
fn a_request_without_a_host_is_refused() {
    let web = Running::start(r#"{"address": "127.0.0.1"}"#);
    let mut stream = web.connect();
    stream.write_all(b"GET /hello HTTP/1.0\r\n\r\n").unwrap();
    let (status, words) = answer(stream);
    assert_eq!(
        (status, words.as_str()),
        (400, "the request names no host\n")
    );
}

/// Which of the errors of wasi:http the service met, as `/fetch` tells it.
fn error(number: u8) -> (u16, String) {
    (502, char::from(b'A' + number).to_string())
}

const DENIED: u8 = 15;

#[test]
fn a_service_asks_others_where_its_options_say_and_nowhere_else() {
    let other = Running::start("{}");
    let port = other.address.port();
    let options = format!(r#"{{"connect": ["127.0.0.1:{port}", "localhost:{port}"]}}"#);
    let web = Running::start(&options);
    for authority in [format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
        let (status, words) = web.get(&format!("/fetch//{authority}"));
        // The other answers the path `/` with its failure, and its words are passed on.
        assert_eq!(status, 200, "{authority}: {words}");
        assert!(
            words.contains("the service failed in this request"),
            "{authority}: {words}"
        );
    }
    for authority in ["127.0.0.1:1", "127.0.0.2:80", "localhost:1", "[::1]:1"] {
        assert_eq!(
            web.get(&format!("/fetch//{authority}")),
            error(DENIED),
            "{authority}"
        );
        assert_eq!(
            other.get(&format!("/fetch//{authority}")),
            error(DENIED),
            "{authority}"
        );
    }
}
