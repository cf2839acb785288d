//! Linearizable reads: raft is asked for a point to read at, once for all who wait.
//!
//! A follower's raft passes the question on to the leader. An answer says how far the log was
//! committed when the question came; the reader then waits until its own state is as far.

use raft::{ReadState, StateRole};

use super::Leadership;
use super::inbox::Reader;
use super::member::Member;
use super::world::World;
use crate::proposals::ProposeError;

/// Ticks for which a reader waits for a leader's word, a second in a group: above a heartbeat's way
/// and back, and an election.
const PATIENCE_TICKS: u64 = 50;

/// Readers who wait for one answer of raft's.
pub(super) struct Asked {
    number: u64,
    until: u64,
    readers: Vec<Reader>,
}

impl<W: World> Member<W> {
    /// One question to raft for all readers. A leader drops, saying nothing, what comes before its
    /// term's first entry is committed: until then its own readers wait here, and those of
    /// followers give up and ask again.
    pub(super) fn on_read_index(&mut self, readers: Vec<Reader>) {
        match *self.leadership.borrow() {
            Leadership::Leader { .. } | Leadership::Follower { leader: Some(_) } => {}
            Leadership::Follower { leader: None } if self.raw.raft.state == StateRole::Leader => {
                self.awaiting_leader.extend(readers);
                return;
            }
            Leadership::Follower { leader: None } => return refuse(readers),
        }
        let number = self.next_read;
        self.next_read += 1;
        self.readers.push_back(Asked {
            number,
            until: self.ticks + PATIENCE_TICKS,
            readers,
        });
        self.raw.read_index(context(self.raw.raft.id, number));
    }

    /// Hands readers the index at which they may read; they wait for the view themselves.
    pub(super) fn answer_readers(&mut self, read_states: Vec<ReadState>) {
        let id = self.raw.raft.id;
        for state in read_states {
            let is_answered = |asked: &Asked| state.request_ctx == context(id, asked.number);
            let Some(last) = self.readers.iter().position(is_answered) else {
                continue;
            };
            // An answer stands for the questions before it: they may have been lost on the way.
            for asked in self.readers.drain(..=last) {
                for reader in asked.readers {
                    reader.send(Ok(state.index)).ok();
                }
            }
        }
    }

    /// Gives up on questions that nobody answers.
    pub(super) fn expire_readers(&mut self) {
        let ticks = self.ticks;
        while let Some(asked) = self.readers.pop_front_if(|asked| asked.until <= ticks) {
            refuse(asked.readers);
        }
    }

    /// No leader will answer these.
    pub(super) fn refuse_readers(&mut self) {
        let asked = self.readers.drain(..).flat_map(|asked| asked.readers);
        refuse(asked.chain(self.awaiting_leader.drain(..)));
    }
}

fn refuse(readers: impl IntoIterator<Item = Reader>) {
    for reader in readers {
        reader
            .send(Err(ProposeError::NoLeader { is_read: true }))
            .ok();
    }
}

/// Tells answers apart: the leader knows readers of all members by it.
fn context(node: u64, number: u64) -> Vec<u8> {
    [node.to_be_bytes(), number.to_be_bytes()].concat()
}
