//! WebAssembly programs on the network: only where their options allow it.
//!
//! The programs are `connect` and `listen` of `examples/tasks`; see [`crate::guests`].

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};

use tepui_types::TaskState;

use crate::env::{Builder, DEADLINE, Executor, check, eventually};
use crate::guests::guest;
use crate::services::free_port;

/// Answers each caller with what it said and ` pong`.
fn pong() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).unwrap();
            stream.write_all(format!("{said} pong").as_bytes()).unwrap();
        }
    });
    address
}

#[test]
fn a_program_connects_where_its_options_say_and_nowhere_else() {
    let Some(program) = guest("connect") else {
        return;
    };
    let mut executor = Executor::wasm();
    let address = pong();
    let port = address.port();
    let mut run = |name: &str, to: &str, options: &str| {
        let builder = Builder::wasm(name, program.clone()).args(&[to]);
        executor.launch(builder.options(options));
        let end = executor.end(name);
        (
            end.state,
            executor.output(name, "stdout"),
            executor.output(name, "stderr"),
        )
    };
    let (direct, named) = (address.to_string(), format!("localhost:{port}"));
    for (name, to, rule) in [
        ("network", &direct, "127.0.0.0/8:*".to_owned()),
        ("any", &direct, format!("*:{port}")),
        ("name", &named, named.clone()),
        ("name-and-network", &named, format!("127.0.0.1:{port}")),
    ] {
        let (state, stdout, stderr) = run(name, to, &format!(r#"{{"connect": ["{rule}"]}}"#));
        assert_eq!(
            (state, stdout.as_str()),
            (TaskState::Finished, "ping pong"),
            "{name}: {stderr}"
        );
    }
    for (name, options) in [
        ("nothing", "{}".to_owned()),
        ("other-port", r#"{"connect": ["127.0.0.1:1"]}"#.to_owned()),
        (
            "other-network",
            format!(r#"{{"connect": ["10.0.0.0/8:{port}"]}}"#),
        ),
        ("only-listen", r#"{"listen": true}"#.to_owned()),
    ] {
        let (state, stdout, stderr) = run(name, &direct, &options);
        assert_eq!((state, stdout.as_str()), (TaskState::Failed, ""), "{name}");
        let denied = stderr.to_lowercase();
        assert!(
            denied.contains("denied") || denied.contains("not permitted"),
            "{name}: {stderr}"
        );
    }
}

#[test]
fn a_program_that_may_listen_does_so_on_its_own_ports_alone() {
    let Some(program) = guest("listen") else {
        return;
    };
    let mut executor = Executor::wasm();
    let (port, other) = (free_port(), free_port());
    let may = r#"{"listen": true}"#;
    let builder = |name: &str| Builder::wasm(name, program.clone()).port(port);
    executor.launch(builder("may-not"));
    assert_eq!(executor.end("may-not").state, TaskState::Failed);
    let other = other.to_string();
    executor.launch(builder("other").options(may).args(&[&other]));
    assert_eq!(executor.end("other").state, TaskState::Failed);
    executor.launch(builder("any").options(may).args(&["0"]));
    assert_eq!(executor.end("any").state, TaskState::Failed);
    executor.launch(builder("may").options(may));
    eventually("it listens", || {
        executor.output("may", "stdout") == format!("listening on {port}\n")
    });
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"hello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "hello");
    check(&executor.end("may"), "finished", "", Some(0), "");
}
