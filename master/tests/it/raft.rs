//! The replicated log of a group of one: outcomes, restarts, snapshots, bounds.

use futures::future::join_all;
use tepui_cluster::{Accepted, Effect};
use tepui_master::proposals::{ProposeError, Request};
use tepui_master::raft::{Leadership, Options};
use tepui_master::storage::log::LogStore;
use tepui_master::storage::{Storage, snapshot};
use tepui_types::api::event::Sequence;
use tepui_types::{Digest, FrameworkId, Principal};

use crate::env::{OpenLog, eager, folder, record};

#[tokio::test]
async fn an_outcome_is_in_the_view_and_in_the_feed() {
    let (_folder, path) = folder();
    let open = OpenLog::open(&path, Options::default()).await.unwrap();
    let mut events = open.log.feed.subscribe(Some(Sequence::default())).unwrap();
    let committed = open.record("a").await;
    assert!(open.knows("a"));
    assert!(open.log.view.applied() >= committed.index);
    let state = open.log.view.load();
    assert_eq!(
        (state.index, state.cluster),
        (committed.index, open.log.identity.cluster)
    );
    assert!(
        state.now > Default::default(),
        "the log's thread gives commands their time"
    );
    let events = events.next().await.unwrap();
    assert_eq!(
        events[0].sequence,
        Sequence {
            index: committed.index,
            ordinal: 0
        }
    );
    assert!(open.log.proposals.read_index().await.unwrap() >= committed.index);
}

#[tokio::test]
async fn a_restart_brings_back_the_state_and_the_events() {
    let (_folder, path) = folder();
    let open = OpenLog::open(&path, Options::default()).await.unwrap();
    open.record_all((0..300).map(|n| n.to_string()), 32).await;
    let before = open.events(300).await;
    let (hash, identity) = (open.hash(), open.log.identity);
    let Leadership::Leader { term } = *open.log.leadership.borrow() else {
        panic!("leads")
    };
    drop(open);

    let open = OpenLog::open(&path, Options::default()).await.unwrap();
    assert_eq!((open.hash(), open.log.identity), (hash, identity));
    assert_eq!(open.events(300).await, before);
    let leadership = *open.log.leadership.borrow();
    assert!(matches!(leadership, Leadership::Leader { term: now } if now > term));
    open.record("more").await;
}

/// A step back of the machine's clock looks to a restarted master as if the state were ahead.
#[tokio::test]
async fn time_goes_on_when_the_machine_s_clock_is_behind_the_state() {
    let (_folder, path) = folder();
    let open = OpenLog::open(&path, Options::default()).await.unwrap();
    let hour_ahead = open.log.clock.now().after_millis(60 * 60 * 1000);
    open.log.clock.not_before(hour_ahead);
    open.record("a").await;
    assert!(open.log.view.load().now >= hour_ahead);
    drop(open);

    let open = OpenLog::open(&path, Options::default()).await.unwrap();
    let found = open.log.view.load().now;
    assert!(found >= hour_ahead && open.log.clock.now() >= found);
    let goes_on = async {
        for number in 0.. {
            open.record(&number.to_string()).await;
            if open.log.view.load().now > found {
                return;
            }
        }
    };
    let patience = std::time::Duration::from_secs(60);
    tokio::time::timeout(patience, goes_on).await.unwrap();
}

#[tokio::test]
async fn snapshots_and_compaction_change_nothing() {
    let (_folder, path) = folder();
    let mut hashes = Vec::new();
    for round in 0..3 {
        let open = OpenLog::open(&path, eager()).await.unwrap();
        if let Some(last) = hashes.last() {
            assert_eq!(open.hash(), *last);
        }
        open.record_all((0..400).map(|n| format!("{round}.{n}")), 16)
            .await;
        hashes.push(open.hash());
    }
    let storage = Storage::open(&path.join("db")).unwrap();
    let record = snapshot::latest(&storage).unwrap().unwrap();
    assert!(record.index > 800, "one was taken in every round");
    let log = LogStore::open(storage, record).unwrap();
    let first = ::raft::Storage::first_index(&log).unwrap();
    assert!(first > 400, "the log begins at {first}");
    drop(log);

    let open = OpenLog::open(&path, eager()).await.unwrap();
    assert_eq!(open.hash(), hashes[2]);
    // What the snapshot swallowed cannot be watched any more.
    assert!(open.log.feed.subscribe(Some(Sequence::default())).is_err());
}

#[tokio::test]
async fn an_image_that_is_lent_is_kept_but_not_at_any_price() {
    let (_folder, path) = folder();
    let open = OpenLog::open(&path, eager()).await.unwrap();
    let storage = open.storage.clone();
    let newest = || snapshot::latest(&storage).unwrap().unwrap().index;
    let first = newest();
    let _lent = open.log.handle.lend_image();
    // Sixteen times as many entries are kept for it as lie between two images.
    open.record_all((0..700).map(|n| n.to_string()), 16).await;
    assert_eq!(newest(), first, "it is kept");
    open.record_all((700..1_000).map(|n| n.to_string()), 16)
        .await;
    // What is being written is finished first.
    drop(open);
    assert!(newest() > first);
}

#[tokio::test]
async fn an_idempotency_key_gets_its_first_answer_again_even_after_a_restart() {
    let (_folder, path) = folder();
    let keyed = || Request {
        idempotency_key: Some("k".into()),
        ..record("a")
    };
    let first = Ok(Accepted::Artifact {
        digest: Digest::of(b"a"),
        known: false,
    });
    for _ in 0..2 {
        let open = OpenLog::open(&path, Options::default()).await.unwrap();
        for _ in 0..2 {
            let committed = open.log.proposals.submit(keyed()).await.unwrap();
            assert_eq!(committed.outcome, first);
        }
        assert_eq!(open.log.view.load().artifacts.len(), 1);
    }
}

#[tokio::test]
async fn a_full_lane_is_refused_and_disturbs_no_other() {
    let (_folder, path) = folder();
    let open = OpenLog::open(&path, Options::default()).await.unwrap();
    let greedy = Principal::Framework(FrameworkId(1));
    let storm = (0..5_000).map(|n| {
        let request = Request {
            principal: greedy.clone(),
            ..record(&n.to_string())
        };
        open.log.proposals.submit(request)
    });
    let (storm, operator) = tokio::join!(join_all(storm), open.record("operator"));
    assert!(operator.outcome.is_ok());
    let full = storm
        .iter()
        .filter(|answer| **answer == Err(ProposeError::QueueFull))
        .count();
    let committed = storm.iter().filter(|answer| answer.is_ok()).count();
    assert!(full > 0 && committed > 0);
    assert_eq!(full + committed, 5_000);
    assert_eq!(open.log.view.load().artifacts.len(), committed + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_end_nobody_waits() {
    let (_folder, path) = folder();
    let mut open = OpenLog::open(&path, Options::default()).await.unwrap();
    let proposals = open.log.proposals.clone();
    let busy = tokio::spawn(async move {
        loop {
            match proposals.submit(record("x")).await {
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    });
    open.record("a").await;
    tokio::task::block_in_place(|| open.thread.stop());
    assert!(matches!(
        busy.await.unwrap(),
        ProposeError::Stopped | ProposeError::Unknown
    ));
    assert_eq!(
        open.log.proposals.submit(record("b")).await,
        Err(ProposeError::Stopped)
    );
    assert_eq!(
        open.log.proposals.read_index().await,
        Err(ProposeError::Stopped)
    );
    assert_eq!(
        *open.log.leadership.borrow(),
        Leadership::Follower { leader: None }
    );
    open.thread.ended().await.unwrap();
}

#[tokio::test]
async fn the_mailbox_holds_what_this_term_changed() {
    use tepui_cluster::Command;
    use tepui_types::{AgentInfo, Resources};

    let (_folder, path) = folder();
    let register = |nonce| {
        let info = AgentInfo {
            address: None,
            hostname: "host".into(),
            resources: Resources::default(),
            attributes: Default::default(),
            version: "0".into(),
            full: None,
        };
        let body = Command::RegisterAgent {
            nonce,
            boot: 1,
            agent: None,
            info,
            tasks: Vec::new(),
        };
        Request::new(Principal::Leader, body)
    };
    let open = OpenLog::open(&path, Options::default()).await.unwrap();
    open.log
        .proposals
        .submit(register(1))
        .await
        .unwrap()
        .outcome
        .unwrap();
    drop(open);
    let open = OpenLog::open(&path, Options::default()).await.unwrap();
    open.log
        .proposals
        .submit(register(2))
        .await
        .unwrap()
        .outcome
        .unwrap();
    let delivery = open.log.mailbox.take().await;
    assert_eq!(
        delivery.changes.agents.len(),
        1,
        "what came before is in the state"
    );
    assert!(
        delivery
            .effects
            .iter()
            .all(|effect| !matches!(effect, Effect::Archive(_)))
    );
    assert_eq!(open.log.view.load().agents.len(), 2);
}
