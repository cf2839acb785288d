//! Input of tasks: all of it comes, however slowly it is read and whoever is killed meanwhile, and what
//! is not read holds up nobody else.

use std::sync::Arc;

use tepui_types::command::{CommandOptions, CommandStdin};
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::stream::{
    AttachRequest, ClientFrame, ExecRequest, INPUT_LOST, INPUT_WINDOW, StreamRequest,
};
use tepui_types::{TaskId, TaskState, Workload};

use crate::master::{FakeMaster, Session, Stream, eventually, shell};
use crate::process::AgentProcess;

/// A script that reads.
fn reading(name: &str, script: &str) -> TaskLaunch {
    let mut task = shell(name, script);
    let Workload::Command(command) = &mut Arc::make_mut(&mut task.spec).workload else {
        panic!("a shell is a command");
    };
    command.options = Some(Box::new(CommandOptions {
        stdin: CommandStdin::Open,
        ..CommandOptions::default()
    }));
    task
}

async fn attach(master: &mut FakeMaster, session: &mut Session, id: u128, task: &TaskId) -> Stream {
    let request = AttachRequest {
        task: task.clone(),
        terminal: None,
    };
    session.open(id, StreamRequest::Attach(request)).await;
    session.meanwhile(master.stream(id)).await
}

/// An input on its way, as `tepui attach` sends it.
struct Input {
    bytes: Vec<u8>,
    /// How much was said to be taken.
    taken: usize,
}

impl Input {
    const SOURCE: u128 = 7;
    /// No divisor of anything else.
    const FRAME: usize = 10_007;
    /// Within the window.
    const MOST_SENT: usize = INPUT_WINDOW / Self::FRAME;

    fn new(length: usize) -> Self {
        let next = |last: &mut u32| {
            *last = last.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some((*last >> 24) as u8)
        };
        Self {
            bytes: std::iter::repeat_with(|| ())
                .scan(1, |last, ()| next(last))
                .take(length)
                .collect(),
            taken: 0,
        }
    }

    /// Sends on from what was taken, over one connection, until `until` was. The last that was sent may
    /// be on its way then.
    async fn pour(&mut self, stream: &mut Stream, until: usize) -> Result<(), String> {
        let frames: Vec<_> = self.bytes[self.taken..].chunks(Self::FRAME).collect();
        let source = ClientFrame::Source {
            id: Self::SOURCE,
            at: self.taken as u64,
        };
        // Who is hung up on reads why.
        let _ = stream.try_say(source).await;
        let (mut sent, mut heard) = (0, 0);
        while self.taken < until {
            while sent < frames.len() && sent - heard < Self::MOST_SENT {
                let frame = ClientFrame::Data(frames[sent].to_vec());
                let _ = stream.try_say(frame).await;
                sent += 1;
            }
            let before = stream.taken;
            stream
                .until(|stream| stream.taken > before || stream.end.is_some())
                .await;
            if let Some(end) = &stream.end {
                return Err(format!("{end:?}"));
            }
            let now = stream.taken as usize;
            self.taken += frames[heard..now]
                .iter()
                .map(|frame| frame.len())
                .sum::<usize>();
            heard = now;
        }
        Ok(())
    }
}

#[tokio::test]
async fn all_input_comes_once_to_who_reads_slowly_also_where_the_agent_is_killed() {
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let script = "while dd bs=64k count=1 of=part 2>/dev/null && test -s part; do cat part; sleep \
                  0.001; done > whole; echo read";
    let task = reading("a", script);
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    let mut input = Input::new(8 * 1024 * 1024);
    let half = input.bytes.len() / 2;
    let mut stream = attach(&mut master, &mut session, 1, &task.task).await;
    session
        .meanwhile(input.pour(&mut stream, half))
        .await
        .unwrap();
    let whole = agent.layout().sandbox(&task.task).join("whole");
    // Of what is on its way, some was read, and nobody has heard that it was taken.
    let read = || std::fs::metadata(&whole).map_or(0, |file| file.len());
    let goes_on = eventually("it reads on", || read() > input.taken as u64);
    session.meanwhile(goes_on).await;
    agent.kill();
    drop(stream);
    agent.start_again(&master);
    let mut session = master.session().await;
    let all = input.bytes.len();
    // Until the executor is found, callers are told to come again.
    for number in 2.. {
        let mut stream = attach(&mut master, &mut session, number, &task.task).await;
        match session.meanwhile(input.pour(&mut stream, all)).await {
            Ok(()) => {
                stream.say(ClientFrame::End).await;
                break;
            }
            Err(why) => assert!(why.contains(INPUT_LOST), "{why}"),
        }
    }
    session.until(&task.task, TaskState::Finished).await;
    let read = std::fs::read(&whole).unwrap();
    assert!(read == input.bytes, "{} of {all} bytes", read.len());
}

#[tokio::test]
async fn a_command_that_never_reads_holds_up_no_output_no_command_and_no_kill() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let script = "echo ready; while ! test -e go; do sleep 0.01; done; echo more; sleep 1000";
    let task = reading("a", script);
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    let mut stream = attach(&mut master, &mut session, 1, &task.task).await;
    // What a caller may have on its way, twice: more than the task's pipe and its executor hold, and no
    // more than is taken in.
    let sent = 36;
    for _ in 0..sent {
        stream.say(ClientFrame::Data(vec![b'x'; 16 * 1024])).await;
    }
    let request = ExecRequest {
        task: task.task.clone(),
        member: None,
        argv: ["touch", "go"].map(str::to_owned).to_vec(),
        env: Vec::new(),
        terminal: None,
    };
    session.open(2, StreamRequest::Exec(request)).await;
    let mut beside = session.meanwhile(master.stream(2)).await;
    session
        .meanwhile(beside.until(|stream| stream.end.is_some()))
        .await;
    assert_eq!(beside.exited, Some(0));
    assert!(agent.layout().sandbox(&task.task).join("go").exists());
    session
        .meanwhile(stream.until(|stream| stream.text == "ready\nmore\n"))
        .await;
    session.open_stream(3, &task.task, 0, false).await;
    let logs = session.meanwhile(master.stream(3)).await;
    assert_eq!(session.meanwhile(logs.all()).await.0, "ready\nmore\n");
    assert!(stream.taken < sent, "{} of {sent}", stream.taken);
    session.kill(&task.task, 0).await;
    session.until(&task.task, TaskState::Killed).await;
    session
        .meanwhile(stream.until(|stream| stream.end == Some(Ok(()))))
        .await;
}
