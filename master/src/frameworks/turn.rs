//! One turn: what a framework reads and does during one call.
//!
//! Reads see the state as it was when the turn began, under the turn's own
//! writes. What is done is collected into one [`Turn`] and checked here as far
//! as that is possible before the commit, so that an author gets an error where
//! the mistake is. Nothing here does I/O; a turn that is dropped never was.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use tepui_cluster::state::frameworks::Framework;
use tepui_cluster::state::limits as quota;
use tepui_cluster::{State, Turn, TurnKind};
use tepui_types::operation::{Kill, Launch, Operation};
use tepui_types::resources::ResourceRequest;
use tepui_types::{
    Demand, Filters, Gang, Offer, OfferId, Resources, Role, TaskId, TaskName, TaskSpec, Timestamp,
};

use super::limits;
use super::offers::{Answered, HeldOffers};

mod launches;
mod operations;
mod wishes;

use launches::Draft;
pub use operations::Special;

/// Why a call about the cluster changed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The offer is not held any more.
    OfferUnknown,
    /// More was asked for than the offer still has.
    OfferExceeded(String),
    /// The argument cannot be.
    Invalid(String),
    /// The turn is at its limit.
    TurnFull,
}

/// Why a store or timer call changed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuotaError {
    /// A limit of the store or the timers; says which.
    TooLarge(String),
    /// The turn is at its limit.
    TurnFull,
}

/// One task of an accept.
#[derive(Debug, Clone)]
pub struct TaskLaunch {
    /// Its name.
    pub name: String,
    /// Taken out of the offer.
    pub resources: Resources,
    /// Place in its array.
    pub array_index: Option<u32>,
    /// What it takes beside that and has to name.
    pub special: Special,
}

/// Tasks of a gang on one offer.
#[derive(Debug, Clone)]
pub struct GangLaunch {
    /// Which.
    pub offer: OfferId,
    /// A place in the list of specifications.
    pub spec: u32,
    /// They.
    pub tasks: Vec<TaskLaunch>,
}

/// What a turn was shown of what is delivered until it is seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Updates: task and sequence.
    pub acknowledged: Vec<(TaskId, u64)>,
    /// Dropped operations, by number.
    pub notices: Vec<u64>,
    /// Timers: name and when they were due.
    pub timers: Vec<(String, Timestamp)>,
}

/// A turn that is going on.
pub struct OpenTurn {
    state: Arc<State>,
    framework: Arc<Framework>,
    now: Timestamp,
    seen: Seen,
    offers: HeldOffers,
    /// How many of them it was shown.
    at_hand: u32,
    writes: BTreeMap<String, Option<Vec<u8>>>,
    store_keys: usize,
    store_bytes: u64,
    timers: BTreeMap<String, Option<Timestamp>>,
    timer_count: usize,
    demands: BTreeMap<String, Demand>,
    gangs: BTreeMap<String, Option<Gang>>,
    suppressed: BTreeMap<Role, bool>,
    minimums: BTreeMap<Role, Option<Vec<ResourceRequest>>>,
    /// What the launches run, one for each call.
    specs: Vec<Arc<TaskSpec>>,
    operations: Vec<Operation>,
    launches: u64,
    /// What the turn takes in the log, a little more than exactly.
    bytes: usize,
    is_full: bool,
}

/// A turn that was called to its end without a trap.
pub struct ClosedTurn {
    /// What is to be committed.
    pub turn: Turn,
    /// The offers that it left alone.
    pub offers: HeldOffers,
    /// The offers that it answered, to be told to the allocator.
    pub answered: Answered,
    /// Whether it came to its limit and wants to go on.
    pub is_full: bool,
}

/// Bytes of a record beside its strings: tags, lengths, numbers.
const RECORD: usize = 64;
/// Bytes of one call: half a turn, for the rest may go to what the turn was
/// shown. Otherwise a call might be too large for every continuation.
const CALL_BYTES: usize = quota::TURN_BYTES / 2;

impl OpenTurn {
    /// Begins a turn of `framework`, which is part of `state`.
    pub fn new(
        state: Arc<State>,
        framework: Arc<Framework>,
        now: Timestamp,
        seen: Seen,
        offers: HeldOffers,
    ) -> Self {
        let names = seen
            .acknowledged
            .iter()
            .map(|(task, _)| task.name.as_str().len());
        let timers = seen.timers.iter().map(|(name, _)| name.len());
        let records = seen.acknowledged.len() + seen.notices.len() + seen.timers.len();
        let bytes = names.chain(timers).sum::<usize>() + records * (RECORD / 2) + 2 * RECORD;
        Self {
            now,
            seen,
            at_hand: offers.shown(),
            offers,
            writes: BTreeMap::new(),
            store_keys: framework.store.len(),
            store_bytes: framework.store_bytes,
            timers: BTreeMap::new(),
            timer_count: framework.timers.len(),
            demands: BTreeMap::new(),
            gangs: BTreeMap::new(),
            suppressed: BTreeMap::new(),
            minimums: BTreeMap::new(),
            specs: Vec::new(),
            operations: Vec::new(),
            launches: 0,
            bytes,
            is_full: false,
            state,
            framework,
        }
    }

    /// The state that the turn reads.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Whose turn it is.
    pub fn framework(&self) -> &Arc<Framework> {
        &self.framework
    }

    /// The turn's time.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Launches tasks on an offer; answers their attempts, in order.
    pub fn accept(
        &mut self,
        offer: OfferId,
        spec: TaskSpec,
        tasks: Vec<TaskLaunch>,
    ) -> Result<Vec<TaskId>, CallError> {
        let mut draft = Draft::new(vec![spec])?;
        draft.add(self, offer, 0, tasks)?;
        self.launch(draft)
    }

    /// Launches tasks to run one after another in the place of a task; none where it is not handed on.
    pub fn launch_after(
        &mut self,
        (name, attempt): (String, u64),
        spec: TaskSpec,
        tasks: Vec<(String, Option<u32>)>,
    ) -> Result<Vec<TaskId>, CallError> {
        let name = TaskName::new(name).map_err(|e| CallError::Invalid(e.to_string()))?;
        let framework = self.framework.id;
        let after = TaskId {
            framework,
            name,
            attempt,
        };
        if tasks.len() > quota::LINE {
            let most = quota::LINE;
            return Err(CallError::Invalid(format!(
                "{} tasks after {after}, and a line has at most {most}",
                tasks.len()
            )));
        }
        let mut draft = Draft::new(vec![spec])?;
        let before = self.launch_of(&after);
        let Some(before) = before.filter(|before| {
            let roles = &self.framework.info.roles;
            let role = before.role.as_ref().unwrap_or_else(|| roles.first());
            self.state.hands_on(framework, role, before.agent)
        }) else {
            return Ok(Vec::new());
        };
        draft.add_after(&after, &before, self.next_attempt(), tasks)?;
        self.launch(draft)
    }

    fn launch(&mut self, draft: Draft) -> Result<Vec<TaskId>, CallError> {
        let launches = self.commit(draft)?;
        let ids = launches.iter().map(|launch| self.mint(launch)).collect();
        let launches = launches.into_iter().map(Operation::Launch);
        self.operations.extend(launches);
        Ok(ids)
    }

    /// Launches tasks on offers, all of them or none when the turn is committed.
    pub fn launch_gang(
        &mut self,
        specs: Vec<TaskSpec>,
        gang: Vec<GangLaunch>,
    ) -> Result<Vec<TaskId>, CallError> {
        let mut draft = Draft::new(specs)?;
        for GangLaunch { offer, spec, tasks } in gang {
            draft.add(self, offer, spec, tasks)?;
        }
        let launches = self.commit(draft)?;
        let ids = launches.iter().map(|launch| self.mint(launch)).collect();
        self.operations.push(Operation::LaunchGang(launches));
        Ok(ids)
    }

    /// Makes room for what is to be launched, and takes it out of its offers.
    fn commit(&mut self, draft: Draft) -> Result<Vec<Launch>, CallError> {
        self.reserve_tasks(draft.launches.len())?;
        self.reserve(draft.launches.len(), draft.bytes)?;
        for (offer, left) in draft.left {
            self.offers.take(offer, left);
        }
        let first = self.specs.len() as u32;
        self.specs.extend(draft.specs.into_iter().map(Arc::new));
        let launches = draft.launches.into_iter();
        Ok(launches
            .map(|launch| Launch {
                spec: first + launch.spec,
                ..launch
            })
            .collect())
    }

    /// The identity that a launch will have.
    fn mint(&mut self, launch: &Launch) -> TaskId {
        let id = TaskId {
            framework: self.framework.id,
            name: launch.name.clone(),
            attempt: self.next_attempt(),
        };
        self.launches += 1;
        id
    }

    /// The attempt of the next launch.
    fn next_attempt(&self) -> u64 {
        self.framework.next_attempt + self.launches
    }

    /// Gives offers back, or what is left of them.
    pub fn decline(&mut self, offers: &[OfferId], refuse_ms: Option<u64>) -> Result<(), CallError> {
        if offers
            .iter()
            .any(|offer| self.offers.left(*offer).is_none())
        {
            return Err(CallError::OfferUnknown);
        }
        let refuse_ms = refuse_ms.unwrap_or(Filters::DEFAULT.refuse_ms);
        for offer in offers {
            self.offers
                .decline(*offer, refuse_ms.min(Filters::MAX_REFUSE_MS));
        }
        Ok(())
    }

    /// Asks for a task's end.
    pub fn kill(
        &mut self,
        name: String,
        attempt: u64,
        grace_ms: Option<u64>,
    ) -> Result<(), CallError> {
        let name = TaskName::new(name).map_err(|e| CallError::Invalid(e.to_string()))?;
        if grace_ms.is_some_and(|grace| grace > TaskSpec::MAX_KILL_GRACE_MS) {
            let most = TaskSpec::MAX_KILL_GRACE_MS;
            return Err(CallError::Invalid(format!("a grace is at most {most} ms")));
        }
        self.reserve_notice()?;
        self.reserve(1, name.as_str().len() + RECORD)?;
        let task = TaskId {
            framework: self.framework.id,
            name,
            attempt,
        };
        self.operations
            .push(Operation::Kill(Kill { task, grace_ms }));
        Ok(())
    }

    /// An offer that the framework can still answer.
    pub fn offer(&self, offer: OfferId) -> Option<&Offer> {
        self.offers.left(offer).map(|(offer, _)| offer)
    }

    /// A value of the store.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        match self.writes.get(key) {
            Some(written) => written.as_deref(),
            None => self.framework.store.get(key).map(|value| &value[..]),
        }
    }

    /// Writes a value.
    pub fn set(&mut self, key: String, value: Vec<u8>) -> Result<(), QuotaError> {
        let too_large = |text: String| Err(QuotaError::TooLarge(text));
        if key.is_empty() || key.len() > quota::STORE_KEY_BYTES {
            return too_large(format!(
                "a key has 1 to {} bytes, and this one has {}",
                quota::STORE_KEY_BYTES,
                key.len()
            ));
        }
        if value.len() > quota::STORE_VALUE_BYTES {
            return too_large(format!(
                "a value has at most {} bytes, and this one has {}: split it over several keys",
                quota::STORE_VALUE_BYTES,
                value.len()
            ));
        }
        let before = self.get(&key).map(<[u8]>::len);
        let is_written = self.writes.contains_key(&key);
        if !is_written && self.get(&key) == Some(&value[..]) {
            return Ok(());
        }
        let keys = self.store_keys + usize::from(before.is_none());
        let old = before.map_or(0, |before| key.len() + before) as u64;
        let bytes = self.store_bytes + (key.len() + value.len()) as u64 - old;
        if keys > quota::STORE_KEYS {
            return too_large(format!(
                "the store has {} keys, its most",
                quota::STORE_KEYS
            ));
        }
        if bytes > quota::STORE_BYTES {
            let most = quota::STORE_BYTES;
            return too_large(format!(
                "the store would have {bytes} of at most {most} bytes"
            ));
        }
        self.reserve_write(&key, value.len())?;
        (self.store_keys, self.store_bytes) = (keys, bytes);
        self.writes.insert(key, Some(value));
        Ok(())
    }

    /// Takes a key away.
    pub fn delete(&mut self, key: String) -> Result<(), QuotaError> {
        let Some(before) = self.get(&key).map(<[u8]>::len) else {
            return Ok(());
        };
        self.reserve_write(&key, 0)?;
        self.store_keys -= 1;
        self.store_bytes -= (key.len() + before) as u64;
        self.writes.insert(key, None);
        Ok(())
    }

    /// Makes room for a write; what the key was written before makes room itself.
    fn reserve_write(&mut self, key: &str, value: usize) -> Result<(), QuotaError> {
        let size = |value: usize| key.len() + value + RECORD / 4;
        let written = self.writes.get(key);
        let before = written.map_or(0, |value| size(value.as_ref().map_or(0, Vec::len)));
        self.bytes -= before;
        let reserved = self.reserve(0, size(value));
        if reserved.is_err() {
            self.bytes += before;
        }
        reserved.map_err(|_| QuotaError::TurnFull)
    }

    /// Pairs by prefix, above `after`, ascending.
    pub fn scan(&self, prefix: &str, after: Option<&str>, limit: u32) -> Vec<(String, Vec<u8>)> {
        let after = after.filter(|after| *after >= prefix);
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let range = (from, Bound::<&str>::Unbounded);
        let stored = self.framework.store.range::<_, str>(range);
        let mut stored = stored.map(|(key, value)| (&**key, &**value)).peekable();
        let mut written = self.writes.range::<str, _>(range).peekable();
        let (mut pairs, mut bytes) = (Vec::new(), 0);
        while pairs.len() < limit.min(limits::PAGE) as usize && bytes < limits::SCAN_BYTES {
            let next_written = written.peek().map(|(key, _)| key.as_str());
            let next_stored = stored.peek().map(|(key, _)| *key);
            let is_written = match (next_written, next_stored) {
                (None, None) => break,
                (Some(written), Some(stored)) => written <= stored,
                (written, _) => written.is_some(),
            };
            if is_written && next_written == next_stored {
                stored.next();
            }
            let (key, value) = if is_written {
                let Some((key, value)) = written.next() else {
                    break;
                };
                (key.as_str(), value.as_deref())
            } else {
                let Some((key, value)) = stored.next() else {
                    break;
                };
                (key, Some(value))
            };
            if !key.starts_with(prefix) {
                break;
            }
            if let Some(value) = value {
                bytes += key.len() + value.len();
                pairs.push((key.to_owned(), value.to_owned()));
            }
        }
        pairs
    }

    /// Sets a timer, in place of one of this name.
    pub fn set_timer(&mut self, name: String, delay_ms: u64) -> Result<(), QuotaError> {
        if name.is_empty() || name.len() > quota::TIMER_NAME_BYTES {
            let most = quota::TIMER_NAME_BYTES;
            return Err(QuotaError::TooLarge(format!(
                "a timer's name has 1 to {most} bytes"
            )));
        }
        let is_new = !self.has_timer(&name);
        if is_new && self.timer_count >= quota::TIMERS {
            let most = quota::TIMERS;
            return Err(QuotaError::TooLarge(format!(
                "a framework has at most {most} timers"
            )));
        }
        let due = self.now.after_millis(delay_ms.min(limits::TIMER_MS));
        self.reserve(0, name.len() + RECORD / 2)
            .map_err(|_| QuotaError::TurnFull)?;
        self.timer_count += usize::from(is_new);
        self.timers.insert(name, Some(due));
        Ok(())
    }

    /// Takes a timer back.
    pub fn cancel_timer(&mut self, name: String) -> Result<(), QuotaError> {
        if !self.has_timer(&name) {
            return Ok(());
        }
        self.reserve(0, name.len() + RECORD / 2)
            .map_err(|_| QuotaError::TurnFull)?;
        self.timer_count -= 1;
        self.timers.insert(name, None);
        Ok(())
    }

    fn has_timer(&self, name: &str) -> bool {
        match self.timers.get(name) {
            Some(timer) => timer.is_some(),
            None => self.framework.timers.contains_key(name),
        }
    }

    /// Makes room for the tasks of an accept among those that the state holds.
    fn reserve_tasks(&mut self, launches: usize) -> Result<(), CallError> {
        let held = self.framework.held_tasks() + self.launches as usize;
        if held + launches <= quota::FRAMEWORK_TASKS {
            return Ok(());
        }
        if self.framework.unseen_ends == 0 {
            return Err(CallError::Invalid(format!(
                "{held} tasks of this framework live, and at most {} may: launch more when some \
                 have ended",
                quota::FRAMEWORK_TASKS
            )));
        }
        // Some of them have ended: the turns that follow see it, and make room.
        self.is_full = true;
        Err(CallError::TurnFull)
    }

    /// Makes room for the notice of a kill that finds nothing. Where there is
    /// none, older ones wait: the turns that follow see them, and make room.
    fn reserve_notice(&mut self) -> Result<(), CallError> {
        let kills = self.operations.iter();
        let kills = kills.filter(|operation| operation.launches().is_empty());
        let waiting = self.framework.notices.len() + self.framework.gangs.len();
        if waiting + self.gangs.len() + kills.count() < quota::NOTICES {
            return Ok(());
        }
        self.is_full = true;
        Err(CallError::TurnFull)
    }

    fn reserve(&mut self, operations: usize, bytes: usize) -> Result<(), CallError> {
        if bytes > CALL_BYTES {
            let why = format!("one call of {bytes} bytes, and the most is {CALL_BYTES}: split it");
            return Err(CallError::Invalid(why));
        }
        let before = self.operations.iter();
        let before = before.map(|operation| operation.launches().len().max(1));
        if before.sum::<usize>() + operations > quota::TURN_OPERATIONS
            || self.bytes + bytes > quota::TURN_BYTES
        {
            self.is_full = true;
            return Err(CallError::TurnFull);
        }
        self.bytes += bytes;
        Ok(())
    }

    /// The bytes that are left for an answer.
    pub fn room(&self) -> usize {
        quota::TURN_BYTES.saturating_sub(self.bytes)
    }

    /// Ends the turn.
    pub fn close(self, incarnation: u64, number: u64, kind: TurnKind) -> ClosedTurn {
        let wants_more = self.wants_more();
        let mut turn = Turn::new(self.framework.id, incarnation, number, kind);
        turn.acknowledged = self.seen.acknowledged;
        turn.notices_seen = self.seen.notices;
        turn.timers_fired = self.seen.timers;
        turn.writes = self.writes.into_iter().collect();
        turn.timers = self.timers.into_iter().collect();
        turn.demands = self.demands.into_iter().collect();
        turn.gangs = self.gangs.into_iter().collect();
        turn.suppressed = self.suppressed.into_iter().collect();
        turn.minimums = self.minimums.into_iter().collect();
        turn.first_attempt = self.framework.next_attempt;
        turn.specs = self.specs;
        turn.operations = self.operations;
        let (offers, answered) = self.offers.settle(wants_more);
        ClosedTurn {
            turn,
            offers,
            answered,
            is_full: self.is_full,
        }
    }

    /// Ends the turn as if it had never been; the offers are as they were.
    pub fn abandon(self) -> HeldOffers {
        self.offers.untouched()
    }
}

#[cfg(test)]
mod tests;
