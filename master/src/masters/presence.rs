//! Which process each other master is: two under one id run on copies of one folder.
//!
//! An id has one vote, so it must be one process. Whoever was let in keeps the id for as long as it is
//! heard of, which it is once a second. Another one is turned away; where the first was what is left of
//! a machine that died, it is soon silent, and the other is let in when it dials again. Where the first
//! goes on to be heard, the refusal is final, or the copy would take over when the other is slow one day.

use std::collections::BTreeMap;
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

/// The masters that have dialled this one.
#[derive(Debug, Default)]
pub struct Presence {
    present: Mutex<BTreeMap<NodeId, Present>>,
}

#[derive(Debug)]
struct Present {
    process: u128,
    url: String,
    heard: Instant,
    connections: usize,
    /// Another process that wants to be this master, and since when.
    rival: Option<(u128, Instant)>,
}

/// A connection that was let in; leaves when dropped.
#[derive(Debug)]
pub struct Stay<'a> {
    presence: &'a Presence,
    node: NodeId,
    process: u128,
}

impl Presence {
    /// Lets a process in as the master that it says it is, unless another one is that.
    ///
    /// # Errors
    /// With what to tell it.
    pub fn enter(&self, hello: &PeerHello, now: Instant) -> Result<Stay<'_>, Reason> {
        let (node, process) = (hello.from, hello.process);
        let mut table = self.lock();
        if let Some(present) = table.get_mut(&node)
            && present.process != process
            && now.duration_since(present.heard) < WINDOW
        {
            return Err(present.refusal(hello, now));
        }
        let same = table.remove(&node).filter(|it| it.process == process);
        let present = Present {
            process,
            url: hello.url.clone(),
            heard: now,
            connections: same.map_or(0, |it| it.connections) + 1,
            rival: None,
        };
        table.insert(node, present);
        Ok(Stay {
            presence: self,
            node,
            process,
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Present>> {
        // What it says is whole whatever panicked.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Present {
    fn refusal(&mut self, hello: &PeerHello, now: Instant) -> Reason {
        let known = self.rival.filter(|(rival, _)| *rival == hello.process);
        let (_, since) = *self.rival.insert(known.unwrap_or((hello.process, now)));
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

impl Stay<'_> {
    /// Notes that it was heard; false if another process is this master by now.
    pub fn hear(&self, now: Instant) -> bool {
        let mut table = self.presence.lock();
        let present = table.get_mut(&self.node);
        let present = present.filter(|it| it.process == self.process);
        if let Some(present) = present {
            present.heard = now;
            return true;
        }
        false
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        let mut table = self.presence.lock();
        let Some(present) = table.get_mut(&self.node) else {
            return;
        };
        if present.process == self.process {
            present.connections -= 1;
            if present.connections == 0 {
                table.remove(&self.node);
            }
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
