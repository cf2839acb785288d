//! Which process each other master is: two under one id run on copies of one folder.
//!
//! An id has one vote, so it must be one process. Whoever was let in keeps the id for as long as it is
//! heard of, which it is once a second. Another one is turned away; where the first was what is left of
//! a machine that died, it is soon silent, and the other is let in when it dials again. Where the first
//! goes on to be heard, the refusal is final, or the copy would take over when the other is slow one day.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tepui_types::wire::peer::PeerHello;
use tepui_types::{NodeId, Reason};
use tokio::time::Instant;

/// The code of a refusal of another process, which may dial again.
const TWICE: &str = "master-twice";
/// The code of one that is final.
pub const COPIED: &str = "copied-folder";
/// How long a process that is not heard of counts as there.
const WINDOW: Duration = Duration::from_secs(5);
/// How long another one dials in vain before it is turned away for good.
const PATIENCE: Duration = Duration::from_secs(15);
/// Others of one id that are known apart; of more, those that were first are forgotten.
const RIVALS: usize = 16;

/// The masters that have dialled this one.
#[derive(Debug, Default)]
pub struct Presence {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    present: BTreeMap<NodeId, Present>,
    tenures: u64,
}

/// The time for which a process is a master.
#[derive(Debug)]
struct Present {
    /// Which time that is, of all.
    tenure: u64,
    process: u128,
    url: String,
    heard: Instant,
    connections: usize,
    /// Other processes that want to be this master, and since when each does.
    rivals: VecDeque<(u128, Instant)>,
}

/// A connection that was let in; leaves when dropped.
#[derive(Debug)]
pub struct Stay<'a> {
    presence: &'a Presence,
    node: NodeId,
    tenure: u64,
}

impl Presence {
    /// Lets a process in as the master that it says it is, unless another one is that.
    ///
    /// # Errors
    /// With what to tell it.
    pub fn enter(&self, hello: &PeerHello, now: Instant) -> Result<Stay<'_>, Reason> {
        let (node, process) = (hello.from, hello.process);
        let mut table = self.lock();
        let Table { present, tenures } = &mut *table;
        let known = present.get_mut(&node);
        if let Some(other) = known.filter(|known| known.process != process) {
            if now.duration_since(other.heard) < WINDOW {
                return Err(other.refusal(hello, now));
            }
            present.remove(&node);
        }
        let present = present.entry(node).or_insert_with(|| {
            *tenures += 1;
            Present::new(*tenures, hello, now)
        });
        present.heard = now;
        present.url.clone_from(&hello.url);
        present.connections += 1;
        Ok(Stay {
            presence: self,
            node,
            tenure: present.tenure,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // What it says is whole whatever panicked.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Present {
    fn new(tenure: u64, hello: &PeerHello, now: Instant) -> Self {
        Self {
            tenure,
            process: hello.process,
            url: hello.url.clone(),
            heard: now,
            connections: 0,
            rivals: VecDeque::new(),
        }
    }

    /// Since when a process wants to be this master.
    fn rival_since(&mut self, process: u128, now: Instant) -> Instant {
        let known = self.rivals.iter().find(|(rival, _)| *rival == process);
        if let Some((_, since)) = known {
            return *since;
        }
        if self.rivals.len() == RIVALS {
            self.rivals.pop_front();
        }
        self.rivals.push_back((process, now));
        now
    }

    fn refusal(&mut self, hello: &PeerHello, now: Instant) -> Reason {
        let since = self.rival_since(hello.process, now);
        let code = match now.duration_since(since) < PATIENCE {
            true => TWICE,
            false => COPIED,
        };
        let why = format!(
            "master {} runs at {}. If the data folder of the one at {} is a copy, start that with an \
             empty folder and --join",
            hello.from, self.url, hello.url
        );
        Reason::new(code, why)
    }
}

impl Table {
    /// The time of which this stay is a part, if that is not over.
    fn tenure_of(&mut self, stay: &Stay<'_>) -> Option<&mut Present> {
        let present = self.present.get_mut(&stay.node);
        present.filter(|present| present.tenure == stay.tenure)
    }
}

impl Stay<'_> {
    /// Notes that it was heard; false if another process is this master by now.
    pub fn hear(&self, now: Instant) -> bool {
        let mut table = self.presence.lock();
        let present = table.tenure_of(self);
        present.map(|present| present.heard = now).is_some()
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        let mut table = self.presence.lock();
        let Some(present) = table.tenure_of(self) else {
            return;
        };
        present.connections -= 1;
        if present.connections == 0 {
            table.present.remove(&self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tepui_types::ClusterId;

    fn hello(process: u128) -> PeerHello {
        PeerHello {
            cluster: ClusterId(1),
            from: NodeId(1),
            to: NodeId(2),
            process,
            url: format!("http://m{process}:5050"),
            index: 1,
        }
    }

    fn code(refused: Result<Stay<'_>, Reason>) -> String {
        refused.err().map_or_else(String::new, |why| why.code)
    }

    #[test]
    fn who_is_heard_keeps_its_id_and_who_dials_in_vain_is_turned_away_in_the_end() {
        let presence = Presence::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let first = presence.enter(&hello(1), at(0)).unwrap();
        for second in 1..16 {
            assert_eq!(code(presence.enter(&hello(2), at(second))), TWICE);
            assert!(first.hear(at(second)));
        }
        let refused = presence.enter(&hello(2), at(16)).err().unwrap();
        assert_eq!(refused.code, COPIED);
        let named = ["http://m1:5050", "http://m2:5050"];
        assert!(named.iter().all(|url| refused.message.contains(url)));
    }

    #[test]
    fn each_of_several_copies_is_turned_away_for_good() {
        let presence = Presence::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let first = presence.enter(&hello(1), at(0)).unwrap();
        for second in 1..16 {
            for copy in [2, 3] {
                assert_eq!(code(presence.enter(&hello(copy), at(second))), TWICE);
            }
            assert!(first.hear(at(second)));
        }
        for copy in [2, 3] {
            assert_eq!(code(presence.enter(&hello(copy), at(16))), COPIED);
        }
    }

    #[test]
    fn a_connection_of_an_earlier_time_ends_nothing_of_a_later_one() {
        let presence = Presence::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let early = presence.enter(&hello(1), at(0)).unwrap();
        drop(presence.enter(&hello(2), at(6)).unwrap());
        let late = presence.enter(&hello(1), at(7)).unwrap();
        assert!(!early.hear(at(7)), "another was this master since");
        drop(early);
        assert!(late.hear(at(8)));
    }

    #[test]
    fn one_that_has_hung_up_or_is_silent_is_followed_by_the_next_process() {
        let presence = Presence::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let first = presence.enter(&hello(1), at(0)).unwrap();
        let again = presence.enter(&hello(1), at(0)).unwrap();
        drop(first);
        assert_eq!(
            code(presence.enter(&hello(2), at(1))),
            TWICE,
            "it dialled again"
        );
        drop(again);
        let second = presence.enter(&hello(2), at(1)).unwrap();
        // Its machine loses its power.
        assert_eq!(code(presence.enter(&hello(3), at(5))), TWICE);
        let third = presence.enter(&hello(3), at(6)).unwrap();
        assert!(!second.hear(at(7)), "it is another now");
        drop(second);
        assert!(third.hear(at(7)));
    }
}
