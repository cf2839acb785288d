//! The framework host over a real log, with a guest that misbehaves on request
//! (`tests/frameworks/unruly`).

use futures::StreamExt as _;
use tepui_cluster::state::frameworks::Framework;
use tepui_cluster::state::limits::{NOTICES, TURN_OPERATIONS};
use tepui_cluster::{Command, Turn, TurnKind};
use tepui_master::frameworks::{RequestError, limits};
use tepui_master::proposals::{ProposeError, Request};
use tepui_types::operation::{Kill, Operation};
use tepui_types::task::reason;
use tepui_types::{FrameworkPhase, Principal, Reason};

use crate::host::{Master, PATIENCE, http};

#[tokio::test(flavor = "multi_thread")]
async fn a_trapped_turn_never_was() {
    let master = Master::start(None).await;
    let framework = master.deploy("unruly", "").await;
    assert_eq!(master.text(framework, "POST", "/add").await, "1");
    for deed in ["trap", "allocate"] {
        let path = format!("/add-then-{deed}");
        let error = master.request(framework, "POST", &path).await.unwrap_err();
        let RequestError::Trapped(reason) = error else {
            panic!("{error}")
        };
        match deed {
            "trap" => assert!(reason.message.contains("a trap on request"), "{reason}"),
            _ => assert_eq!(reason.code, reason::MEMORY_LIMIT, "{reason}"),
        }
        let before = master.framework(framework);
        assert_eq!(
            before.reason.as_ref(),
            Some(&reason),
            "operators see it, too"
        );
        master
            .until(framework, |framework| {
                framework.phase == FrameworkPhase::Running
            })
            .await;
        assert_eq!(
            master.text(framework, "GET", "/count").await,
            "1",
            "after {deed}"
        );
    }
    let lines = master.frameworks.logs(framework).read();
    assert!(
        lines.iter().any(|line| line.message == "about to trap"),
        "logs outlive the turn"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spinning_framework_is_stopped_and_delays_no_other() {
    let master = Master::start(None).await;
    let spinning = master.deploy("spinning", "").await;
    let other = master.deploy("other", "").await;
    master.text(other, "POST", "/add").await;
    master.text(spinning, "POST", "/add").await;
    let spin = master.request(spinning, "POST", "/add-then-loop");
    let work = async {
        let mut answers = 0;
        for _ in 0..20 {
            master.text(other, "POST", "/add").await;
            answers += 1;
        }
        answers
    };
    // Twenty turns of the other go by before the one is over.
    let (ended, answers) = tokio::select! {
        biased;
        ended = spin => (Some(ended), 0),
        answers = work => (None, answers),
    };
    assert_eq!(answers, 20, "{ended:?}");
    assert_eq!(master.text(other, "GET", "/count").await, "21");

    let error = master.request(spinning, "POST", "/loop").await.unwrap_err();
    match error {
        RequestError::Deadline(reason) => assert_eq!(reason.code, reason::DEADLINE),
        // The first one was over already.
        RequestError::NotRunning {
            phase: FrameworkPhase::Backoff,
            reason: Some(reason),
        } => {
            assert_eq!(reason.code, reason::DEADLINE);
        }
        other => panic!("{other}"),
    }
    master
        .until(spinning, |framework| {
            framework.phase == FrameworkPhase::Running
        })
        .await;
    assert_eq!(master.text(spinning, "GET", "/count").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_under_a_known_key_is_answered_once() {
    let master = Master::start(None).await;
    let framework = master.deploy("unruly", "").await;
    let first = master
        .request_with(framework, "POST", "/add", Some("k"))
        .await
        .unwrap();
    let again = master
        .request_with(framework, "POST", "/add", Some("k"))
        .await
        .unwrap();
    assert_eq!((first.body.as_slice(), again), (&b"1"[..], first.clone()));
    assert_eq!(master.text(framework, "POST", "/add").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_in_memory_may_be_lost_and_the_store_never() {
    let mut master = Master::start(Some(1)).await;
    let framework = master.deploy("unruly", "").await;
    for count in 1..=5 {
        assert_eq!(
            master.text(framework, "POST", "/add").await,
            count.to_string()
        );
    }
    let incarnation = master.framework(framework).incarnation;
    assert_eq!(incarnation, 5, "each turn had an instance of its own");

    // A new term finds what the one before has committed, and starts lazily.
    master.frameworks.stop_leading();
    let error = master
        .request(framework, "GET", "/count")
        .await
        .unwrap_err();
    assert!(matches!(error, RequestError::Propose(_)), "{error}");
    master.lead_again().await;
    assert_eq!(master.text(framework, "GET", "/count").await, "5");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_framework_knew_before_another_led_is_no_answer() {
    let mut master = Master::start(None).await;
    let framework = master.deploy("unruly", "").await;
    assert_eq!(master.text(framework, "POST", "/add").await, "1");

    // A master that hung while others led still takes itself for the leader of its term, and is
    // told of theirs with the point that it may read at.
    master.frameworks.stop_leading();
    master.frameworks.lead(master.log.view.load().term - 1);
    let error = master
        .request(framework, "GET", "/count")
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            RequestError::Propose(ProposeError::NotLeader { leader: None })
        ),
        "{error}"
    );
    master.lead_again().await;
    assert_eq!(master.text(framework, "GET", "/count").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_of_failures_ends_in_failed_until_an_operator_restarts_it() {
    let master = Master::start(None).await;
    let framework = master.deploy("unruly", "").await;
    master.text(framework, "POST", "/add").await;
    // What seven faults in a row leave, without the waits between them.
    while master.framework(framework).phase != FrameworkPhase::Failed {
        let incarnation = master.framework(framework).incarnation;
        let reason = Reason::new(reason::WASM_TRAP, "seven times");
        let body = Command::StopFramework {
            framework,
            incarnation,
            reason,
        };
        // The actor may have started the next incarnation in between.
        let request = Request::new(Principal::Leader, body);
        drop(master.log.proposals.submit(request).await.unwrap().outcome);
    }
    let error = master
        .request(framework, "GET", "/count")
        .await
        .unwrap_err();
    let RequestError::NotRunning {
        phase: FrameworkPhase::Failed,
        reason: Some(reason),
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(reason.message, "seven times");
    assert!(error.to_string().contains("restart it"), "{error}");
    master.submit(Command::RestartFramework { framework }).await;
    assert_eq!(master.text(framework, "GET", "/count").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_says_why_and_is_tried_again() {
    let master = Master::start(None).await;
    let framework = master.deploy("refuses", "start=error").await;
    let stopped = master
        .until(framework, |framework| framework.failures == 2)
        .await;
    let reason = stopped.reason.clone().unwrap();
    assert_eq!(reason.code, reason::START_FAILED);
    assert_eq!(reason.message, "it was told not to start");
    assert_eq!(stopped.incarnation, 0, "no start was committed");
    master.submit(Command::RemoveFramework { framework }).await;
    let error = master
        .request(framework, "GET", "/count")
        .await
        .unwrap_err();
    assert!(matches!(error, RequestError::Gone), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_come_with_demand_and_a_trapped_launch_never_was() {
    let master = Master::start(None).await;
    master.register_agent().await;
    let framework = master.deploy("unruly", "").await;
    assert_eq!(
        master.text(framework, "POST", "/launch-then-trap").await,
        "wanted"
    );
    // It launches in `handle`, counts, and traps.
    let stopped = master
        .until(framework, |framework| framework.failures == 1)
        .await;
    let reason = stopped.reason.clone().unwrap();
    assert!(reason.message.starts_with("`handle` trapped"), "{reason}");
    assert_eq!(
        (
            stopped.tasks.len(),
            stopped.store.len(),
            stopped.next_attempt
        ),
        (0, 0, 0)
    );
    // After its backoff it is offered the same again.
    master
        .until(framework, |framework| framework.failures == 2)
        .await;
    assert!(master.log.view.load().tasks.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_fire_by_themselves() {
    let master = Master::start(None).await;
    let framework = master.deploy("unruly", "").await;
    assert_eq!(master.text(framework, "POST", "/wake/nothing").await, "set");
    let fired = master
        .until(framework, |framework| framework.timers.is_empty())
        .await;
    assert_eq!(
        fired.store.len(),
        1,
        "the store write and the timer are one turn"
    );
    assert_eq!(master.text(framework, "GET", "/count").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_is_full_commits_and_goes_on() {
    let master = Master::start(None).await;
    let framework = master.deploy("unruly", "").await;
    let refusal = master.text(framework, "POST", "/fill").await;
    assert!(refusal.contains("full"), "{refusal}");
    let filled = master.framework(framework).store.len();
    assert!(
        (10..16).contains(&filled),
        "{filled} values of 64 KiB in a turn of 1 MiB"
    );
    assert_eq!(master.text(framework, "POST", "/add").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_framework_is_told_before_more_waits_unseen_than_may() {
    let mut master = Master::start(None).await;
    let framework = master.deploy("unruly", "start=kill-strangers").await;
    let has_seen_all = |incarnation| {
        move |record: &Framework| record.incarnation == incarnation && record.notices.is_empty()
    };
    // Kills that find nothing come back as events, and as many are seen in one turn.
    master.until(framework, has_seen_all(1)).await;
    assert_eq!(master.text(framework, "GET", "/count").await, "2000");

    // What one would leave that never came to its events, but for the last five.
    master.frameworks.stop_leading();
    let left = |record: &Framework| NOTICES - 5 - record.notices.len();
    let mut record = master.framework(framework);
    while left(&record) > 0 {
        let mut turn = Turn::new(
            framework,
            record.incarnation,
            record.turns,
            TurnKind::Handle,
        );
        let kill = Operation::Kill(Kill {
            task: "f1.stranger.0".parse().unwrap(),
            grace_ms: None,
        });
        turn.operations = vec![kill; left(&record).min(TURN_OPERATIONS)];
        master.submit(Command::Turn(turn)).await;
        record = master.framework(framework);
    }
    master.lead_again().await;
    let record = master.until(framework, has_seen_all(2)).await;
    assert_eq!(record.failures, 0, "no turn of it was refused as a whole");
    assert_eq!(master.text(framework, "GET", "/count").await, "5");
    assert_eq!(record.store["refusal"][..], b"the turn is full"[..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_bounded_in_size_and_number() {
    let master = Master::start(None).await;
    let framework = master.deploy("unruly", "").await;
    let too_large = http("POST", "/add", limits::REQUEST_BYTES + 1);
    let caller = Principal::loopback_operator;
    let error = master
        .frameworks
        .request(framework, too_large, caller(), None)
        .await
        .unwrap_err();
    assert!(matches!(error, RequestError::TooLarge), "{error}");

    let most = limits::REQUESTS;
    let requests = (0..2 * most).map(|_| master.request(framework, "POST", "/loop"));
    let mut answers = futures::stream::iter(requests).buffer_unordered(2 * most);
    let first = answers.next().await.unwrap().unwrap_err();
    assert!(matches!(first, RequestError::Busy), "{first}");
    assert!(first.to_string().contains("try again"), "{first}");
    let rest: Vec<_> = answers.collect().await;
    // One loops and is stopped; those that wait for it are told so, the others to come again.
    assert!(rest.iter().all(|answer| matches!(
        answer,
        Err(RequestError::Busy | RequestError::Deadline(_) | RequestError::NotRunning { .. })
    )));
    master
        .until(framework, |framework| {
            framework.phase == FrameworkPhase::Running
        })
        .await;
    assert_eq!(master.text(framework, "POST", "/add").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_frameworks_log_ends() {
    let master = Master::start(None).await;
    let framework = master.deploy("unruly", "").await;
    master.request(framework, "POST", "/chatter").await.unwrap();
    let lines = master.frameworks.logs(framework).lines(true);
    master.submit(Command::RemoveFramework { framework }).await;
    let lines: Vec<_> = tokio::time::timeout(PATIENCE, lines.collect())
        .await
        .unwrap();
    assert!(lines.len() <= limits::LOG_LINES, "{} lines", lines.len());
    assert!(lines.last().unwrap().message.contains("left out"));
}
