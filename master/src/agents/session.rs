//! One agent's connection: frames become commands, effects become frames.

use std::convert::Infallible;
use std::future;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, Stream, StreamExt};
use tepui_cluster::{Accepted, Command, Rejection};
use tepui_types::wire::agent::{
    AgentEffect, AgentFrame, Hello, MAX_BATCH, MasterFrame, StatusReport, VERSION, Welcome,
    effect_batches,
};
use tepui_types::wire::{self, MAX_FRAME};
use tepui_types::{AgentId, AgentStatus, Principal, Reason, TaskId, task::reason};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::Master;
use crate::proposals::{ProposeError, Request};

/// How long an agent may take to introduce itself.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// How long news that hurries nobody waits for other frames to go with: when a task's end is recorded,
/// what runs next in its place usually comes within a turn of its framework, and agent and executor are
/// woken once for both.
const PATIENCE: Duration = Duration::from_millis(5);

/// Heartbeats after which an agent's process counts as gone, when another one asks to take its place.
const MISSED_HEARTBEATS: u32 = 3;

/// So many times that long another one may ask for its place while it is heard of.
const RIVAL_WINDOWS: u32 = 4;

/// Why a session ends.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("the agent hung up")]
    Closed,
    #[error("the agent was silent for too long")]
    Silent,
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    #[error("the agent sent what is not a frame")]
    Decode(#[from] tepui_types::envelope::DecodeError),
    #[error("the agent's hello is refused: {0}")]
    Refused(Reason),
    #[error("the agent's frame does not belong here")]
    Unexpected,
    #[error("a newer session of the agent took over, or this master does not lead")]
    Replaced,
    #[error("the frame is too large")]
    TooLarge(#[from] wire::FrameTooLarge),
    #[error("the command was not taken")]
    Propose(#[from] ProposeError),
}

type Connection<C> = Framed<C, LengthDelimitedCodec>;

/// Serves a connection to its end.
pub async fn serve<C: AsyncRead + AsyncWrite + Unpin>(master: &Master, connection: C) {
    let codec = LengthDelimitedCodec::builder()
        .little_endian()
        .max_frame_length(MAX_FRAME)
        .new_codec();
    let mut connection = Framed::new(connection, codec);
    let Greeted {
        agent,
        process,
        tasks,
    } = match greet(master, &mut connection).await {
        Ok(greeted) => greeted,
        Err(error) => return tracing::info!(%error, "an agent was turned away"),
    };
    let (number, frames) = master.sessions.open(agent, process);
    master.offers.note_presence(agent, &master.sessions);
    tracing::info!(%agent, session = number, "agent connected");
    let error = match run(master, agent, tasks, connection, frames).await {
        Ok(never) => match never {},
        Err(error) => error,
    };
    master.sessions.close(agent, number);
    master.offers.note_presence(agent, &master.sessions);
    tracing::info!(%agent, session = number, %error, "agent disconnected");
}

/// Who has registered.
struct Greeted {
    agent: AgentId,
    /// Which process of it.
    process: u128,
    /// What runs there, as it says.
    tasks: Vec<TaskId>,
}

/// From the first frame to the welcome.
async fn greet<C: AsyncRead + AsyncWrite + Unpin>(
    master: &Master,
    connection: &mut Connection<C>,
) -> Result<Greeted, SessionError> {
    let first = timeout(HELLO_DEADLINE, next_frame(connection));
    let AgentFrame::Hello(hello) = first.await.map_err(|_| SessionError::Silent)?? else {
        return Err(SessionError::Unexpected);
    };
    let process = hello.process;
    let living = hello.tasks.iter().filter(|task| !task.state.is_terminal());
    let tasks = living.map(|task| task.task.clone()).collect();
    match register(master, hello).await {
        Ok(agent) => {
            let state = master.view.load();
            let welcome = Welcome {
                cluster: state.cluster,
                masters: super::urls_of_masters(&state).collect(),
                agent,
                term: master.sessions.term(),
                heartbeat_ms: master.config.heartbeat_ms,
                timeout_ms: master.config.agent_timeout_ms,
            };
            send(connection, &MasterFrame::Welcome(welcome)).await?;
            Ok(Greeted {
                agent,
                process,
                tasks,
            })
        }
        Err((reason, retry)) => {
            let refusal = MasterFrame::Refused {
                reason: reason.clone(),
                retry,
            };
            send(connection, &refusal).await?;
            Err(SessionError::Refused(reason))
        }
    }
}

async fn register(master: &Master, hello: Hello) -> Result<AgentId, (Reason, bool)> {
    let refuse = |code: &str, why: String| (Reason::new(code, why), false);
    let ours = master.view.load().cluster;
    if let Some(theirs) = hello.cluster.filter(|theirs| *theirs != ours) {
        return Err(refuse(
            "foreign-cluster",
            format!(
                "the agent's data folder belongs to cluster {theirs}, and this is {ours}: start \
                 the agent with that cluster's masters, or with an empty folder"
            ),
        ));
    }
    hello
        .info
        .validate()
        .map_err(|why| refuse("invalid", why))?;
    if !hello.tasks.iter().all(StatusReport::is_bounded) {
        let why = "a task's reason is too long: run an agent of this release";
        return Err(refuse("invalid", why.into()));
    }
    refuse_second(master, &hello)?;
    let principal = match hello.agent {
        Some(agent) => Principal::Agent(agent),
        None => Principal::Leader,
    };
    let command = Command::from(hello);
    match master
        .proposals
        .submit(Request::new(principal, command))
        .await
    {
        Ok(committed) => match committed.outcome {
            Ok(Accepted::Agent { agent }) => Ok(agent),
            Ok(other) => Err(refuse("internal", format!("unexpected outcome {other:?}"))),
            Err(rejection @ Rejection::Foreign(_)) => Err(refuse("foreign", rejection.to_string())),
            // It knows the agent's id, so the agent ends what it runs.
            Err(rejection @ Rejection::Gone(_)) => {
                Err(refuse(reason::AGENT_GONE, rejection.to_string()))
            }
            Err(rejection) => Err((Reason::new("rejected", rejection.to_string()), true)),
        },
        Err(error) => Err((Reason::new("unavailable", error.to_string()), true)),
    }
}

/// Refuses an agent that is connected already, from another process: it runs on a copy of the
/// other's folder, and would end the other's tasks. Where that is what is left of a machine that
/// died, it is soon silent, and the agent is let in when it asks again; where it goes on to be heard,
/// the refusal is final, or the copy would take over when the other is slow one day.
fn refuse_second(master: &Master, hello: &Hello) -> Result<(), (Reason, bool)> {
    let state = master.view.load();
    let agent = hello.agent.or_else(|| state.agent_of_folder(hello.nonce));
    let window = Duration::from_millis(master.config.heartbeat_ms) * MISSED_HEARTBEATS;
    let asked = agent.and_then(|agent| {
        let asked = master
            .sessions
            .has_asked_for(agent, hello.process, window)?;
        Some((agent, asked))
    });
    let Some((agent, asked)) = asked else {
        return Ok(());
    };
    let hostname = state
        .agent(agent)
        .map(|record| record.info.hostname.clone());
    let why = format!(
        "agent {agent} ({}) is connected from another process. If this one's data folder is a copy \
         of the other's, start it with an empty folder",
        hostname.unwrap_or_default()
    );
    let may_ask_again = asked < window * RIVAL_WINDOWS;
    Err((Reason::new("agent-twice", why), may_ask_again))
}

/// Both directions at once, so that a status that waits for its commit holds no
/// effect up; ends with the first of the two.
async fn run<C: AsyncRead + AsyncWrite + Unpin>(
    master: &Master,
    agent: AgentId,
    tasks: Vec<TaskId>,
    connection: Connection<C>,
    frames: mpsc::Receiver<MasterFrame>,
) -> Result<Infallible, SessionError> {
    let (sink, stream) = connection.split();
    tokio::select! {
        ended = write(master, agent, tasks, sink, frames) => ended,
        ended = read(master, agent, stream) => ended,
    }
}

async fn write<C: AsyncRead + AsyncWrite + Unpin>(
    master: &Master,
    agent: AgentId,
    tasks: Vec<TaskId>,
    mut sink: SplitSink<Connection<C>, Bytes>,
    mut frames: mpsc::Receiver<MasterFrame>,
) -> Result<Infallible, SessionError> {
    let state = master.view.load();
    // It was marked unreachable between its registration and now: once more.
    if state
        .agent(agent)
        .is_none_or(|record| record.status != AgentStatus::Active)
    {
        return Err(SessionError::Replaced);
    }
    // Whatever was committed for this agent while it had no session.
    let mut owed = state.owed_to(agent);
    let beyond = state.ends_beyond(agent, &tasks);
    if let Some(AgentEffect::Kill { task, .. }) = beyond.first() {
        let tasks = beyond.len();
        tracing::warn!(%agent, tasks, first = %task, "the agent runs what is not the log's: that is ended");
    }
    owed.extend(beyond);
    // The session may last for long, and they be many.
    drop(tasks);
    for effects in effect_batches(owed) {
        let term = master.sessions.term();
        sink.feed(encode(&MasterFrame::Effects { term, effects })?)
            .await?;
    }
    sink.flush().await?;
    let mut heartbeat = interval(Duration::from_millis(master.config.heartbeat_ms));
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut flush_at = None;
    loop {
        tokio::select! {
            frame = frames.recv() => {
                let mut next = Some(frame.ok_or(SessionError::Replaced)?);
                let mut hurries = false;
                // More that is ready goes out with it.
                while let Some(mut frame) = next {
                    if let MasterFrame::Effects { effects, .. } = &mut frame {
                        let state = master.view.load();
                        effects.retain(|effect| state.is_wanted(effect));
                    }
                    hurries |= !matches!(frame, MasterFrame::Recorded(_));
                    sink.feed(encode(&frame)?).await?;
                    next = frames.try_recv().ok();
                }
                if !hurries {
                    flush_at.get_or_insert_with(|| Instant::now() + PATIENCE);
                    continue;
                }
            }
            () = until(flush_at) => {}
            _ = heartbeat.tick() => match master.log.is_stuck() {
                // The agent looks for who leads now.
                true => continue,
                false => sink.feed(encode(&MasterFrame::Heartbeat)?).await?,
            },
        }
        sink.flush().await?;
        flush_at = None;
    }
}

/// Never, if there is no such time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => future::pending().await,
    }
}

async fn read<C: AsyncRead + AsyncWrite + Unpin>(
    master: &Master,
    agent: AgentId,
    mut stream: SplitStream<Connection<C>>,
) -> Result<Infallible, SessionError> {
    let silence = Duration::from_millis(master.config.agent_timeout_ms);
    loop {
        let frame = timeout(silence, next_frame(&mut stream));
        let frame = frame.await.map_err(|_| SessionError::Silent)??;
        master.sessions.hear(agent);
        on_frame(master, agent, frame).await?;
        // A commit may have taken long, and the agent is not to blame.
        master.sessions.hear(agent);
    }
}

async fn on_frame(master: &Master, agent: AgentId, frame: AgentFrame) -> Result<(), SessionError> {
    match frame {
        AgentFrame::Hello(_) => Err(SessionError::Unexpected),
        // It may be another master's to say whether the agent was heard.
        AgentFrame::Heartbeat(_) if master.log.is_stuck() => Ok(()),
        AgentFrame::Heartbeat(sent) => {
            master.sessions.acknowledge(agent, sent);
            Ok(())
        }
        AgentFrame::Statuses(reports)
            if reports.len() > MAX_BATCH || !reports.iter().all(StatusReport::is_bounded) =>
        {
            Err(SessionError::Unexpected)
        }
        AgentFrame::Statuses(reports) => {
            let command = Command::ReportTasks { agent, reports };
            let request = Request::new(Principal::Agent(agent), command);
            // A report that is not taken is sent again by the agent's next session.
            let committed = master.proposals.submit(request).await?;
            if let Err(rejection) = committed.outcome {
                tracing::warn!(%agent, %rejection, "a status report was refused");
            }
            Ok(())
        }
        AgentFrame::Machine(info) => {
            if let Err(why) = info.validate() {
                tracing::warn!(%agent, why, "an agent says what no machine has");
                return Err(SessionError::Unexpected);
            }
            let command = Command::RefreshAgent { agent, info: *info };
            let request = Request::new(Principal::Agent(agent), command);
            let committed = master.proposals.submit(request).await?;
            if let Err(rejection) = committed.outcome {
                tracing::warn!(%agent, %rejection, "what an agent has now was refused");
            }
            Ok(())
        }
        AgentFrame::StreamRefused { stream, reason } => {
            master.sessions.streams().refuse(stream, reason);
            Ok(())
        }
    }
}

async fn next_frame<S>(stream: &mut S) -> Result<AgentFrame, SessionError>
where
    S: Stream<Item = std::io::Result<BytesMut>> + Unpin,
{
    let bytes = stream.next().await.ok_or(SessionError::Closed)??;
    Ok(wire::parse(VERSION, &bytes)?)
}

async fn send<C: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<C>,
    frame: &MasterFrame,
) -> Result<(), SessionError> {
    Ok(connection.send(encode(frame)?).await?)
}

fn encode(frame: &MasterFrame) -> Result<Bytes, SessionError> {
    let body = tepui_types::envelope::encode(VERSION, frame);
    if body.len() > MAX_FRAME {
        return Err(wire::FrameTooLarge(body.len()).into());
    }
    Ok(body.into())
}
