//! What is around a member: its machine's clocks, what it asks of its world, images on their way.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use raft::eraftpb::{Message, MessageType};
use tepui_cluster::State;
use tepui_master::clock::Machine;
use tepui_master::error::RaftError;
use tepui_master::masters::image::FetchError;
use tepui_master::raft::world::{Image, Saying, World};
use tepui_master::storage::{Family, Storage, snapshot};
use tepui_types::{NodeId, Timestamp};

use super::dice::Dice;
use super::storage::MemoryDisk;
use super::world::MILLI;

/// The time of day at the beginning, in milliseconds.
const DAWN_MS: u64 = 1_700_000_000_000;

/// The clocks of one machine.
#[derive(Clone)]
pub struct MachineClock {
    origin: Instant,
    now_us: Arc<AtomicU64>,
    offset_ms: Arc<AtomicI64>,
}

impl MachineClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "an instant can be had in no other way; only its distance to others counts"
    )]
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
            now_us: Arc::default(),
            offset_ms: Arc::default(),
        }
    }

    /// So many microseconds have gone by since the beginning.
    pub fn set(&self, now_us: u64) {
        self.now_us.store(now_us, Ordering::Relaxed);
    }

    /// Someone sets the machine's clock.
    pub fn jump(&self, by_ms: i64) {
        self.offset_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

impl fmt::Debug for MachineClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MachineClock")
    }
}

impl Machine for MachineClock {
    fn time_of_day(&self) -> Timestamp {
        let millis = DAWN_MS + self.now_us.load(Ordering::Relaxed) / MILLI;
        Timestamp(millis.saturating_add_signed(self.offset_ms.load(Ordering::Relaxed)))
    }

    fn instant(&self) -> Instant {
        self.origin + Duration::from_micros(self.now_us.load(Ordering::Relaxed))
    }
}

/// What a member asked of its world in a step.
#[derive(Debug)]
pub enum Asked {
    /// Say this, so many microseconds after the step began.
    Send(NodeId, Saying, u64),
    Fetch(Box<Message>),
    Write(Box<Image>),
    Hash(u64, Box<State>),
}

/// Where a member's wishes are noted.
pub type Out = Arc<Mutex<Vec<Asked>>>;

/// What is around a member: it notes what is asked of it.
pub struct Around {
    out: Out,
    disk: MemoryDisk,
    dice: Dice,
    /// Who is reached: those of the state's table, and those who introduced themselves.
    peers: BTreeSet<NodeId>,
    introduced: BTreeSet<NodeId>,
}

impl Around {
    pub fn new(out: Out, disk: MemoryDisk, dice: Dice) -> Self {
        Self {
            out,
            disk,
            dice,
            peers: BTreeSet::new(),
            introduced: BTreeSet::new(),
        }
    }

    fn ask(&self, asked: Asked) {
        // A dead process asks for nothing.
        if !self.disk.is_dead() {
            self.out
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(asked);
        }
    }
}

impl World for Around {
    fn send(&mut self, to: NodeId, saying: Saying) {
        if self.peers.contains(&to) || self.introduced.contains(&to) {
            self.ask(Asked::Send(to, saying, self.disk.spent_us()));
        }
    }

    fn set_peers(&mut self, masters: Vec<(NodeId, String)>) {
        self.peers = masters.into_iter().map(|(id, _)| id).collect();
        self.introduced.retain(|id| !self.peers.contains(id));
    }

    fn introduce(&mut self, peer: NodeId, _: String) {
        self.introduced.insert(peer);
    }

    fn fetch_image(&mut self, message: Message) -> bool {
        self.ask(Asked::Fetch(Box::new(message)));
        true
    }

    fn write_image(&mut self, image: Image) -> Result<(), RaftError> {
        self.ask(Asked::Write(Box::new(image)));
        Ok(())
    }

    fn hash_state(&mut self, index: u64, state: State) {
        self.ask(Asked::Hash(index, Box::new(state)));
    }

    fn draw(&mut self) -> Option<u128> {
        Some(self.dice.throw_wide())
    }
}

/// What a fetch does to both disks.
pub fn copy_image(
    from: &Storage,
    to: &Storage,
    index: u64,
) -> Result<(snapshot::SnapshotRecord, State), FetchError> {
    let record = snapshot::latest(from)?.filter(|record| record.index == index);
    let record = record.ok_or(FetchError::Cut)?;
    for number in 0..record.chunks {
        let chunk = snapshot::read_chunk(from, index, number)?.ok_or(FetchError::Cut)?;
        snapshot::write_chunk(to, index, number, &chunk)?;
    }
    to.flush(Family::Snapshot)?;
    let state = snapshot::load(to, &record)?;
    Ok((record, state))
}

/// Lets a command have another time on one master than on others.
pub fn change_entries(message: &mut Message) {
    if message.msg_type != MessageType::MsgAppend as i32 {
        return;
    }
    for entry in &mut message.entries {
        if let Ok(mut envelope) = tepui_cluster::Envelope::decode(&entry.data) {
            envelope.time = envelope.time.after_millis(1);
            entry.data = envelope.encode();
        }
    }
}
