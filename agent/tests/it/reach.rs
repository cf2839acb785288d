//! Reaching into tasks over data connections: commands beside them, their input, ports and files.

use std::os::unix::fs::symlink;
use std::sync::Arc;

use tepui_types::api::file::{FileKind, FileList};
use tepui_types::command::{CommandOptions, CommandStdin};
use tepui_types::resources::PortRanges;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::stream::{
    AttachRequest, ClientFrame, ExecRequest, FileForm, FileRequest, ForwardRequest, StreamRequest,
    TerminalSize,
};
use tepui_types::{TaskId, TaskState, Workload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use crate::master::{FakeMaster, Session, shell, within};
use crate::process::AgentProcess;

const WAITING: &str = "while true; do sleep 0.05; done";

async fn running(session: &mut Session, task: &TaskLaunch) {
    session.launch(task).await;
    session.until(&task.task, TaskState::Running).await;
}

fn exec(task: &TaskId, script: &str, terminal: Option<TerminalSize>) -> StreamRequest {
    StreamRequest::Exec(ExecRequest {
        task: task.clone(),
        member: None,
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec![("ADDED".into(), "yes".into())],
        terminal,
    })
}

#[tokio::test]
async fn a_command_beside_a_task_has_its_input_output_and_end() {
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let task = shell("a", &format!("echo here > mark; {WAITING}"));
    running(&mut session, &task).await;

    let script = "while ! test -s mark; do sleep 0.01; done; cat mark -; echo $ADDED >&2; exit 3";
    session.open(1, exec(&task.task, script, None)).await;
    let mut stream = master.stream(1).await;
    stream.say(ClientFrame::Data(b"typed".to_vec())).await;
    stream.until(|stream| stream.text == "here\ntyped").await;
    stream.say(ClientFrame::End).await;
    stream.until(|stream| stream.end.is_some()).await;
    assert_eq!((stream.exited, stream.error.as_str()), (Some(3), "yes\n"));

    // What it leaves running holds nobody up.
    session
        .open(2, exec(&task.task, "sleep 1000 & echo left", None))
        .await;
    let mut stream = master.stream(2).await;
    stream.until(|stream| stream.end.is_some()).await;
    assert_eq!((stream.exited, stream.text.as_str()), (Some(0), "left\n"));

    let size = TerminalSize {
        columns: 91,
        rows: 17,
    };
    session
        .open(
            3,
            exec(
                &task.task,
                "stty size; read a; stty size; read b",
                Some(size),
            ),
        )
        .await;
    let mut stream = master.stream(3).await;
    stream.until(|stream| stream.text == "17 91\r\n").await;
    let size = TerminalSize {
        columns: 90,
        rows: 16,
    };
    stream.say(ClientFrame::Resize(size)).await;
    stream.say(ClientFrame::Data(b"\n".to_vec())).await;
    stream
        .until(|stream| stream.text.ends_with("16 90\r\n"))
        .await;
    // Ctrl-C.
    stream.say(ClientFrame::Data(b"\x03".to_vec())).await;
    stream.until(|stream| stream.end.is_some()).await;
    assert_eq!(stream.exited, Some(130));

    session
        .open(4, exec(&"f1.b.0".parse().unwrap(), "true", None))
        .await;
    let (_, end) = master.stream(4).await.all().await;
    assert_eq!(end.unwrap_err().code, "task-gone");
    session.kill(&task.task, 0).await;
    session.until(&task.task, TaskState::Killed).await;
    session.open(5, exec(&task.task, "true", None)).await;
    let (_, end) = master.stream(5).await.all().await;
    assert_eq!(end.unwrap_err().code, "task-ended");
}

#[tokio::test]
async fn a_command_whose_caller_has_gone_is_ended() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let task = shell("a", WAITING);
    running(&mut session, &task).await;
    let script = "echo $$ > pid; echo begun; sleep 1000";
    session.open(1, exec(&task.task, script, None)).await;
    let mut stream = master.stream(1).await;
    stream.until(|stream| stream.text == "begun\n").await;
    let pid = agent.layout().sandbox(&task.task).join("pid");
    let pid = std::fs::read_to_string(pid).unwrap();
    drop(stream);
    let process = std::path::Path::new("/proc").join(pid.trim());
    crate::master::eventually("the command ends", || !process.exists()).await;
}

#[tokio::test]
async fn who_attaches_speaks_to_the_task_itself() {
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let mut task = shell("a", "echo ready; while read line; do echo got $line; done");
    let Workload::Command(command) = &mut Arc::make_mut(&mut task.spec).workload else {
        panic!("a shell is a command");
    };
    command.options = Some(Box::new(CommandOptions {
        stdin: CommandStdin::Open,
        ..CommandOptions::default()
    }));
    running(&mut session, &task).await;
    let attach = |task: &TaskId| {
        StreamRequest::Attach(AttachRequest {
            task: task.clone(),
            terminal: None,
        })
    };
    session.open(1, attach(&task.task)).await;
    let mut stream = master.stream(1).await;
    stream.until(|stream| stream.text == "ready\n").await;
    stream.say(ClientFrame::Data(b"one\n".to_vec())).await;
    stream
        .until(|stream| stream.text == "ready\ngot one\n")
        .await;
    stream.until(|stream| stream.taken == 1).await;
    drop(stream);
    // Who comes later sees what was, and goes on.
    session.open(2, attach(&task.task)).await;
    let mut stream = master.stream(2).await;
    stream
        .until(|stream| stream.text == "ready\ngot one\n")
        .await;
    stream.say(ClientFrame::End).await;
    stream.until(|stream| stream.end.is_some()).await;
    session.until(&task.task, TaskState::Finished).await;

    let deaf = shell("b", WAITING);
    running(&mut session, &deaf).await;
    session.open(3, attach(&deaf.task)).await;
    let (_, end) = master.stream(3).await.all().await;
    assert!(end.unwrap_err().message.contains("tepui run -i"));
}

#[tokio::test]
async fn a_port_of_a_task_is_reached_and_no_other() {
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    // What the task would be, were it a server.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut task = shell("a", WAITING);
    task.resources.ports = PortRanges::from_range(port, port);
    running(&mut session, &task).await;
    let forward = |port| {
        StreamRequest::Forward(ForwardRequest {
            task: task.task.clone(),
            port,
        })
    };
    session.open(1, forward(port)).await;
    let mut stream = master.stream(1).await;
    let (mut server, _) = listener.accept().await.unwrap();
    stream.say(ClientFrame::Data(b"asked".to_vec())).await;
    stream.say(ClientFrame::End).await;
    let mut asked = String::new();
    server.read_to_string(&mut asked).await.unwrap();
    assert_eq!(asked, "asked");
    server.write_all(b"answered").await.unwrap();
    drop(server);
    assert_eq!(stream.all().await, ("answered".to_owned(), Ok(())));

    session.open(2, forward(port - 1)).await;
    let (_, end) = master.stream(2).await.all().await;
    assert_eq!(end.unwrap_err().code, "port-foreign");
    drop(listener);
    session.open(3, forward(port)).await;
    let (_, end) = master.stream(3).await.all().await;
    assert_eq!(end.unwrap_err().code, "port-unreachable");
}

#[tokio::test]
async fn each_direction_of_a_forwarded_connection_ends_on_its_own() {
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut task = shell("a", WAITING);
    task.resources.ports = PortRanges::from_range(port, port);
    running(&mut session, &task).await;
    let request = ForwardRequest {
        task: task.task.clone(),
        port,
    };
    session.open(1, StreamRequest::Forward(request)).await;
    let mut stream = master.stream(1).await;
    let (mut server, _) = listener.accept().await.unwrap();
    // The server has said all, and listens on.
    server.write_all(b"hello").await.unwrap();
    server.shutdown().await.unwrap();
    stream.until(|stream| stream.end == Some(Ok(()))).await;
    assert_eq!(stream.text, "hello");
    stream.say(ClientFrame::Data(b"asked late".to_vec())).await;
    stream.say(ClientFrame::End).await;
    let mut asked = String::new();
    server.read_to_string(&mut asked).await.unwrap();
    assert_eq!(asked, "asked late");
    stream.until_hung_up().await;
}

#[tokio::test]
async fn datagrams_go_to_a_port_of_a_task_and_back() {
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let mut task = shell("a", WAITING);
    task.resources.ports = PortRanges::from_range(port, port);
    running(&mut session, &task).await;
    let ports = |port| {
        StreamRequest::Datagrams(ForwardRequest {
            task: task.task.clone(),
            port,
        })
    };
    session.open(1, ports(port)).await;
    let mut stream = master.stream(1).await;
    // Each is one, an empty one too.
    for sent in ["one", "", "three"] {
        let sent = sent.as_bytes().to_vec();
        stream.say(ClientFrame::Data(sent.clone())).await;
        let mut got = vec![0; 100];
        let (count, from) = within(server.recv_from(&mut got)).await.unwrap();
        assert_eq!(got[..count], sent);
        server.send_to(&got[..count], from).await.unwrap();
    }
    stream.until(|stream| stream.text == "onethree").await;
    session.open(2, ports(port - 1)).await;
    let (_, end) = master.stream(2).await.all().await;
    assert_eq!(end.unwrap_err().code, "port-foreign");
    // It ends with the task.
    session.kill(&task.task, 0).await;
    session.until(&task.task, TaskState::Killed).await;
    assert_eq!(stream.all().await.1, Ok(()));
}

#[tokio::test]
async fn files_are_listed_read_and_packed_and_none_outside() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let task = shell("a", WAITING);
    running(&mut session, &task).await;
    let sandbox = agent.layout().sandbox(&task.task);
    std::fs::create_dir_all(sandbox.join("folder/inner")).unwrap();
    std::fs::write(sandbox.join("folder/file"), "some bytes").unwrap();
    std::fs::write(sandbox.join("folder/inner/odd\nname"), "odd").unwrap();
    symlink("folder/file", sandbox.join("inside")).unwrap();
    symlink("/etc/passwd", sandbox.join("outside")).unwrap();
    nix::unistd::mkfifo(&sandbox.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut number = 0;
    let mut ask = async |path: &str, form| {
        number += 1;
        let request = StreamRequest::Files(FileRequest {
            task: task.task.clone(),
            path: path.into(),
            form,
        });
        session.open(number, request).await;
        master.stream(number).await.all().await
    };
    let whole = FileForm::Bytes {
        offset: 0,
        limit: None,
    };
    let (text, end) = ask("", FileForm::List).await;
    assert_eq!(end, Ok(()));
    let list: FileList = serde_json::from_str(&text).unwrap();
    let kinds: Vec<_> = list
        .entries
        .iter()
        .map(|entry| (entry.name.as_str(), entry.kind))
        .collect();
    assert_eq!(
        kinds,
        [
            ("fifo", FileKind::Other),
            ("folder", FileKind::Folder),
            ("inside", FileKind::Link),
            ("outside", FileKind::Link),
        ]
    );
    assert_eq!(ask("folder/file", whole).await.0, "some bytes");
    assert_eq!(ask("inside", whole).await.0, "some bytes");
    let part = FileForm::Bytes {
        offset: 5,
        limit: Some(3),
    };
    assert_eq!(ask("folder/file", part).await.0, "byt");
    for (path, form, code, hint) in [
        ("outside", whole, "file-unreadable", "leads out"),
        ("../stdout", whole, "file-unreadable", "leads out"),
        ("fifo", whole, "file-unreadable", "no file"),
        ("folder", whole, "file-unreadable", "list it"),
        ("missing", whole, "file-missing", "`missing`"),
        ("outside", FileForm::Tar, "file-unreadable", "leads out"),
    ] {
        let why = ask(path, form).await.1.unwrap_err();
        assert_eq!(why.code, code, "{path}: {why}");
        assert!(why.message.contains(hint), "{path}: {why}");
    }
    let (archive, end) = ask("", FileForm::Tar).await;
    assert_eq!(end, Ok(()));
    let mut names = Vec::new();
    for entry in tar::Archive::new(archive.as_bytes()).entries().unwrap() {
        let entry = entry.unwrap();
        names.push(entry.path().unwrap().to_string_lossy().into_owned());
    }
    names.sort();
    assert_eq!(
        names,
        [
            "folder",
            "folder/file",
            "folder/inner",
            "folder/inner/odd\nname",
            "inside",
            "outside"
        ]
    );
}
