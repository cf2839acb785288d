//! Bounds of the state, the same on every master.

/// Masters: every command goes to each of them; nine outlive four.
pub const MASTERS: usize = 9;
/// Artifacts: their records are small, but a list of them is served.
pub const ARTIFACTS: usize = 100_000;
/// Frameworks: each costs the leader an instance.
pub const FRAMEWORKS: usize = 10_000;
/// Roles that are set: people and their teams, at most one for each framework.
pub const ROLES: usize = 10_000;
/// Claims: each waits for a role that takes back what is guaranteed to it.
pub const CLAIMS: usize = 1_000;
/// Milliseconds for which a claim waits after its victims' grace: as long as an
/// offer is held unless it is set otherwise.
pub const CLAIM_MS: u64 = 30_000;
/// Keys in one framework's store.
pub const STORE_KEYS: usize = 1_000_000;
/// Bytes of keys and values in one framework's store.
pub const STORE_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of one key.
pub const STORE_KEY_BYTES: usize = 1024;
/// Bytes of one value.
pub const STORE_VALUE_BYTES: usize = 256 * 1024;
/// Timers of one framework.
pub const TIMERS: usize = 100_000;
/// Bytes of a timer's name.
pub const TIMER_NAME_BYTES: usize = 256;
/// Keys of demand of one framework.
pub const DEMANDS: usize = 100_000;
/// Gangs of one framework that wait.
pub const GANGS: usize = 1_000;
/// Tasks that wait in one line of successors: they are dropped by one command.
pub const LINE: usize = 100;
/// Bytes of a demand's key.
pub const DEMAND_KEY_BYTES: usize = 256;
/// Bytes of one turn's writes, operations and answer together.
pub const TURN_BYTES: usize = 1024 * 1024;
/// Operations of one turn.
pub const TURN_OPERATIONS: usize = 2_000;
/// Tasks of one framework that live, or whose end it has yet to see: all the
/// 2,000,000 that a cluster is built for, and a quarter more that have ended.
pub const FRAMEWORK_TASKS: usize = 2_500_000;
/// Dropped operations that one framework has yet to see. They are kills that
/// found nothing, and each turn is shown as many as it can cause, so only a
/// framework that does not come to its events ever has more than a few turns'.
pub const NOTICES: usize = 100_000;
/// Offers shown to one turn.
pub const TURN_OFFERS: usize = 1_000;
/// Updates shown to one turn; keeps its acknowledgements below its bytes.
pub const TURN_UPDATES: usize = 2_000;
/// Pools of one agent: as many as Mesos's own benchmark has, and half more. Each operation copies
/// the list.
pub const AGENT_POOLS: usize = 10_000;
/// Operations on resources that the state remembers.
pub const CONVERSIONS: usize = 10_000;
/// Ended and acknowledged tasks that the state remembers.
pub const ENDED_TASKS: usize = 10_000;
/// Milliseconds for which an idempotency key's answer is kept: 24 hours.
pub const ANSWER_MS: u64 = 24 * 60 * 60 * 1000;
/// Answers that are kept; past it the oldest go first.
pub const ANSWERS: usize = 100_000;
/// Bytes of kept answers together.
pub const ANSWERS_BYTES: usize = 64 * 1024 * 1024;
/// The first wait after a framework's stop; doubles with each in a row.
pub const RESTART_BACKOFF_MS: u64 = 500;
/// Stops in a row after which a framework is failed.
pub const RESTARTS: u32 = 6;
/// An incarnation that lives so long makes its framework's record clean.
pub const GOOD_WHILE_MS: u64 = 60_000;
/// Agents that are gone and still listed; past it the longest gone are forgotten.
pub const GONE_AGENTS: usize = 1_000;
/// Maintenance windows: people plan them one by one.
pub const WINDOWS: usize = 1_000;
/// Agents of one window: their drains are begun by one command.
pub const WINDOW_AGENTS: usize = 1_000;
/// Bytes of a window's note.
pub const WINDOW_NOTE_BYTES: usize = 1024;
