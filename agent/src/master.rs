//! The agent's side of its connection to the master.
//!
//! One session after another: dial, upgrade, `Hello`, `Welcome`, then frames
//! both ways, with heartbeats, until either side hangs up or falls silent. A
//! lost connection changes nothing for tasks; the next try comes after a pause
//! that grows and is never quite the same twice. What frames mean is the event
//! loop's affair.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{StatusCode, Upgraded, header};
use tepui_types::Reason;
use tepui_types::api::problem::Problem;
use tepui_types::wire::agent::{
    AgentFrame, CONNECT_PATH, Hello, LEADER_HEADER, MasterFrame, UPGRADE, VERSION, Welcome,
};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use crate::event_loop::Event;
use crate::frames::{FrameError, FrameReader, write_frames};
use crate::masters::Masters;
use crate::uptime;

/// How long a master may take to answer while a connection is made.
const ANSWER: Duration = Duration::from_secs(10);
/// Heartbeats after which a silent master is left for another. Less than a master waits for an
/// agent: to register again costs little, and whoever hangs must not keep its agents.
const MISSED_HEARTBEATS: u32 = 4;
/// A session that was shorter was of no use.
const AT_ONCE: Duration = Duration::from_millis(500);
/// The shortest and the longest pause between two tries.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));
/// Frames that wait to be written. When they are full the event loop keeps the
/// statuses, where newer ones take the place of older ones.
const OUTBOX: usize = 8;
/// What a master may ask for as heartbeat and silence, in milliseconds.
const PACE_MS: (u64, u64) = (10, 600_000);
/// How much of an unexpected answer is read, in bytes.
const MAX_ANSWER: usize = 16 * 1024;

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody answers.
    #[error("failed to reach {url}")]
    Unreachable {
        /// What was dialled.
        url: String,
        /// What the system says.
        #[source]
        source: reqwest::Error,
    },
    /// The answer did not come.
    #[error("{0} did not answer in {ANSWER:?}")]
    Timeout(String),
    /// Somebody answered, but would not change protocols.
    #[error("{url} answered {status}: {detail}")]
    NoUpgrade {
        /// What was dialled.
        url: String,
        /// The answer.
        status: StatusCode,
        /// What it said.
        detail: String,
        /// Who leads, if it said so.
        leader: Option<String>,
    },
}

/// Makes connections to the current master.
#[derive(Debug)]
pub struct Dialer {
    client: reqwest::Client,
    masters: Arc<Masters>,
}

impl Dialer {
    /// To one of these.
    pub fn new(client: reqwest::Client, masters: Arc<Masters>) -> Self {
        Self { client, masters }
    }

    /// The current master's URL.
    pub fn master(&self) -> String {
        self.masters.current()
    }

    /// These are all masters now.
    pub fn learn(&self, masters: &[String]) {
        self.masters.learn(masters);
    }

    /// A connection that speaks `protocol`.
    pub async fn dial(&self, path: &str, protocol: &str) -> Result<Upgraded, DialError> {
        let url = format!("{}{path}", self.master());
        let request = self
            .client
            .get(&url)
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, protocol);
        let response = tokio::time::timeout(ANSWER, request.send()).await;
        let response = match response {
            Ok(Ok(response)) => response,
            Ok(Err(source)) => return Err(DialError::Unreachable { url, source }),
            Err(_) => return Err(DialError::Timeout(url)),
        };
        let status = response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let leader = response.headers().get(LEADER_HEADER);
            let leader = leader.and_then(|url| Some(url.to_str().ok()?.to_owned()));
            let detail = detail_of(response).await;
            return Err(DialError::NoUpgrade {
                url,
                status,
                detail,
                leader,
            });
        }
        match tokio::time::timeout(ANSWER, response.upgrade()).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(source)) => Err(DialError::Unreachable { url, source }),
            Err(_) => Err(DialError::Timeout(url)),
        }
    }
}

/// What an answer says for people.
async fn detail_of(mut response: reqwest::Response) -> String {
    let mut body = Vec::new();
    while body.len() < MAX_ANSWER
        && let Ok(Ok(Some(chunk))) = tokio::time::timeout(ANSWER, response.chunk()).await
    {
        body.extend_from_slice(&chunk);
    }
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => problem.detail,
        Err(_) => String::from_utf8_lossy(&body).chars().take(200).collect(),
    }
}

/// A session that has begun.
#[derive(Debug)]
pub struct Session {
    /// The master's welcome.
    pub welcome: Welcome,
    /// Takes frames for it; the session ends when this is dropped.
    pub outbox: mpsc::Sender<AgentFrame>,
}

/// Why a session ended or did not begin.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the master hung up")]
    HungUp,
    #[error("the master was silent for {0:?}")]
    Silent(Duration),
    #[error("the master sent what does not belong here")]
    Unexpected,
    #[error("the master refused: {0}")]
    Refused(Reason, bool),
    #[error("the agent ended the session")]
    Ended,
}

impl SessionError {
    /// Who leads, where a master said that it does not.
    fn leader(&self) -> Option<&str> {
        match self {
            Self::Dial(DialError::NoUpgrade { leader, .. }) => leader.as_deref(),
            _ => None,
        }
    }
}

/// Keeps a session up for as long as the event loop lives. Returns when the
/// master refuses this agent for good.
pub async fn run(dialer: &Dialer, events: &mpsc::Sender<Event>) {
    let mut pause = RETRY.0;
    let mut was_up = true;
    let mut last_leader = None;
    let mut last_refusal = None;
    loop {
        let mut welcomed = false;
        let begun = Instant::now();
        let error = match session(dialer, events, &mut welcomed).await {
            Ok(()) => SessionError::HungUp,
            Err(error) => error,
        };
        if events.is_closed() {
            return;
        }
        if let SessionError::Refused(reason, false) = error {
            let _ = events.send(Event::Refused(reason)).await;
            return;
        }
        let leader = error.leader().map(str::to_owned);
        let is_silent = matches!(error, SessionError::Silent(_));
        let refusal = match &error {
            SessionError::Refused(reason, _) => Some(reason.code.clone()),
            _ => None,
        };
        let is_refused_anew = refusal.is_some() && refusal != last_refusal;
        last_refusal = refusal.or(last_refusal).filter(|_| !welcomed);
        // The first failure tells why, and the first refusal; that it goes on is no news.
        let message = format!("{:#}", anyhow::Error::from(error));
        if welcomed {
            // A master that welcomes and hangs up at once is not called more often.
            if begun.elapsed() > AT_ONCE {
                pause = RETRY.0;
            }
            let _ = events.send(Event::MasterLost).await;
        }
        if welcomed || was_up || is_refused_anew {
            tracing::warn!(
                master = dialer.master(),
                "no session with the master; trying again: {message}"
            );
        } else {
            tracing::debug!(
                master = dialer.master(),
                "no session with the master: {message}"
            );
        }
        was_up = welcomed;
        match leader {
            Some(leader) => {
                dialer.masters.turn_to(&leader);
                if last_leader.as_ref() != Some(&leader) {
                    // Who waited for an election comes back soon after it.
                    pause = RETRY.0;
                }
                last_leader = Some(leader);
            }
            // It is the likeliest to lead, unless it hangs.
            None if welcomed && !is_silent => {}
            None => dialer.masters.pass_over(),
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// Between half of it and all of it, so that agents that lost one master do not
/// all come back in the same moment.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0; 1];
    // Without randomness the pause is merely the same for all.
    let _ = getrandom::fill(&mut byte);
    pause.mul_f64(0.5 + f64::from(byte[0]) / 512.0)
}

async fn session(
    dialer: &Dialer,
    events: &mpsc::Sender<Event>,
    welcomed: &mut bool,
) -> Result<(), SessionError> {
    let connection = dialer.dial(CONNECT_PATH, UPGRADE).await?;
    let (read, mut write) = tokio::io::split(connection);
    let mut reader = FrameReader::new(read, VERSION);
    let (sender, hello) = oneshot::channel();
    events
        .send(Event::HelloWanted(sender))
        .await
        .map_err(|_| SessionError::Ended)?;
    greet(&mut write, hello.await.map_err(|_| SessionError::Ended)?).await?;
    let first = tokio::time::timeout(ANSWER, reader.next_batch()).await;
    let frames = first.map_err(|_| SessionError::Silent(ANSWER))??;
    let mut frames = frames.ok_or(SessionError::HungUp)?.into_iter();
    let welcome = match frames.next() {
        Some(MasterFrame::Welcome(welcome)) => welcome,
        Some(MasterFrame::Refused { reason, retry }) => {
            return Err(SessionError::Refused(reason, retry));
        }
        _ => return Err(SessionError::Unexpected),
    };
    *welcomed = true;
    dialer.learn(&welcome.masters);
    let pace = |ms: u64| Duration::from_millis(ms.clamp(PACE_MS.0, PACE_MS.1));
    let heartbeat = pace(welcome.heartbeat_ms);
    let silence = pace(welcome.timeout_ms).min(heartbeat * MISSED_HEARTBEATS);
    let (outbox, frames_to_send) = mpsc::channel(OUTBOX);
    let begun = Event::Registered(Session { welcome, outbox });
    events.send(begun).await.map_err(|_| SessionError::Ended)?;
    hand_on(events, frames.collect()).await?;
    tokio::select! {
        result = receive(&mut reader, events, silence) => result,
        result = transmit(&mut write, frames_to_send, heartbeat) => result,
    }
}

/// Sends the `Hello`; without people's messages if it is too large with them.
async fn greet(write: &mut WriteHalf<Upgraded>, mut hello: Hello) -> Result<(), SessionError> {
    let is_too_large =
        tepui_types::wire::frame(VERSION, &AgentFrame::Hello(hello.clone())).is_err();
    if is_too_large {
        // The statuses that follow the welcome carry them.
        for reason in hello
            .tasks
            .iter_mut()
            .filter_map(|report| report.reason.as_mut())
        {
            reason.message.clear();
        }
    }
    Ok(write_frames(write, VERSION, &[AgentFrame::Hello(hello)]).await?)
}

async fn receive(
    reader: &mut FrameReader<ReadHalf<Upgraded>, MasterFrame>,
    events: &mpsc::Sender<Event>,
    silence: Duration,
) -> Result<(), SessionError> {
    loop {
        let frames = tokio::time::timeout(silence, reader.next_batch()).await;
        let frames = frames.map_err(|_| SessionError::Silent(silence))??;
        hand_on(events, frames.ok_or(SessionError::HungUp)?).await?;
    }
}

async fn hand_on(
    events: &mpsc::Sender<Event>,
    mut frames: Vec<MasterFrame>,
) -> Result<(), SessionError> {
    frames.retain(|frame| !matches!(frame, MasterFrame::Heartbeat));
    if frames.is_empty() {
        return Ok(());
    }
    events
        .send(Event::Master(frames))
        .await
        .map_err(|_| SessionError::Ended)
}

async fn transmit(
    write: &mut WriteHalf<Upgraded>,
    mut outbox: mpsc::Receiver<AgentFrame>,
    heartbeat: Duration,
) -> Result<(), SessionError> {
    let mut beats = tokio::time::interval_at(Instant::now() + heartbeat, heartbeat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut frames = Vec::with_capacity(OUTBOX);
    loop {
        tokio::select! {
            count = outbox.recv_many(&mut frames, OUTBOX) => {
                if count == 0 {
                    return Err(SessionError::Ended);
                }
                write_frames(write, VERSION, &frames).await?;
                frames.clear();
            }
            _ = beats.tick() => {
                let beat = AgentFrame::Heartbeat(uptime::now_ms());
                write_frames(write, VERSION, &[beat]).await?;
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_between_half_and_all() {
        for _ in 0..100 {
            let pause = jittered(RETRY.1);
            assert!(pause >= RETRY.1 / 2 && pause <= RETRY.1, "{pause:?}");
        }
    }
}
