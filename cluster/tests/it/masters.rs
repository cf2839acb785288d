//! The table of masters: who shall be a member, and where each is reached.

use tepui_cluster::{Accepted, Command, Rejection, State};
use tepui_types::api::event::EventBody;
use tepui_types::{ClusterId, NodeId};

use crate::support::*;

fn add(id: u64, url: &str) -> Command {
    Command::AddMaster {
        master: NodeId(id),
        url: url.into(),
    }
}

fn remove(id: u64) -> Command {
    Command::RemoveMaster { master: NodeId(id) }
}

fn urls(log: &Log) -> Vec<(u64, &str)> {
    log.state
        .staying_masters()
        .map(|master| (master.id.0, master.url.as_str()))
        .collect()
}

#[test]
fn founders_are_the_same_whoever_lists_them() {
    let (a, b) = (
        (NodeId(7), "http://a:1".to_owned()),
        (NodeId(3), "http://b:1".to_owned()),
    );
    let one = State::founded(ClusterId(1), [a.clone(), b.clone()]);
    let other = State::founded(ClusterId(1), [b, a]);
    assert_eq!(one.encode(), other.encode());
    assert_eq!(one.check_invariants(), Ok(()));
}

#[test]
fn masters_come_move_and_leave() {
    let mut log = Log::new();
    for (command, wanted) in [
        (add(1, "http://a:1"), vec![(1, "http://a:1")]),
        (
            add(2, "http://b:1"),
            vec![(1, "http://a:1"), (2, "http://b:1")],
        ),
        (
            add(2, "http://c:1"),
            vec![(1, "http://a:1"), (2, "http://c:1")],
        ),
        (remove(1), vec![(2, "http://c:1")]),
    ] {
        let applied = log.apply(command);
        assert!(applied.outcome.is_ok());
        assert!(applied.changes.masters);
        assert_eq!(urls(&log), wanted);
    }
    // Said again, it changes nothing.
    let applied = log.apply(add(2, "http://c:1"));
    assert!(matches!(applied.outcome, Ok(Accepted::Master { .. })));
    assert!(!applied.changes.masters && applied.events.is_empty());
}

#[test]
fn one_that_leaves_is_within_reach_until_it_is_no_member() {
    let mut log = Log::new();
    log.accept(add(1, "http://a:1"));
    log.accept(add(2, "http://b:1"));
    let forget = |id| Command::ForgetMaster { master: NodeId(id) };
    log.accept(forget(1));
    assert_eq!(urls(&log).len(), 2, "only what leaves is forgotten");
    log.accept(remove(1));
    assert!(
        log.state
            .master(NodeId(1))
            .is_some_and(|master| master.is_leaving)
    );
    let again = log.apply(add(1, "http://a:1")).outcome;
    assert!(matches!(again, Err(Rejection::Conflict(why)) if why.contains("empty folder")));
    log.accept(forget(1));
    assert!(log.state.master(NodeId(1)).is_none());
}

#[test]
fn whoever_comes_with_anothers_address_takes_its_place() {
    let mut log = Log::new();
    log.apply(add(1, "http://a:1"));
    log.apply(add(2, "http://b:1"));
    let applied = log.apply(add(9, "http://a:1"));
    assert_eq!(urls(&log), [(2, "http://b:1"), (9, "http://a:1")]);
    let told: Vec<_> = applied.events.into_iter().map(|event| event.body).collect();
    let event = |id, present| EventBody::Master {
        master: NodeId(id),
        present,
    };
    assert_eq!(told, [event(1, false), event(9, true)]);
}

#[test]
fn the_last_master_stays_and_there_are_nine_at_most() {
    let mut log = Log::new();
    log.apply(add(1, "http://m1:1"));
    let refused = log.apply(remove(1)).outcome;
    assert!(matches!(refused, Err(Rejection::Conflict(why)) if why.contains("only one")));
    let refused = log.apply(remove(5)).outcome;
    assert!(matches!(refused, Err(Rejection::NotFound(_))));
    for id in 2..=9 {
        log.apply(add(id, &format!("http://m{id}:1")))
            .outcome
            .unwrap();
    }
    let refused = log.apply(add(10, "http://m10:1")).outcome;
    assert!(matches!(refused, Err(Rejection::Limit(why)) if why.contains("remove one")));
    // One that takes another's place is not one more.
    log.apply(add(10, "http://m9:1")).outcome.unwrap();
}
