//! What a turn takes and refuses, and what it leaves in the state.

use tepui_cluster::Command;

use super::*;
use crate::frameworks::tests::*;

mod operations;

#[test]
fn an_offer_is_taken_from_until_it_is_used_up() {
    let mut cluster = Cluster::new();
    let mut turn = cluster.open();
    let o7 = OfferId(7);
    let ids = turn
        .accept(o7, spec(""), vec![task("a", 1000), task("b", 1000)])
        .unwrap();
    assert_eq!(ids.iter().map(|id| id.attempt).collect::<Vec<_>>(), [0, 1]);
    let ids = turn.accept(o7, spec(""), vec![task("c", 1500)]).unwrap();
    assert_eq!(ids[0].attempt, 2);
    let exceeded = turn.accept(o7, spec(""), vec![task("d", 501)]).unwrap_err();
    assert!(matches!(&exceeded, CallError::OfferExceeded(why) if why.contains("cpus")));
    turn.accept(o7, spec(""), vec![task("d", 500)]).unwrap();
    cluster.commit(turn);
    let framework = cluster.state.framework(FRAMEWORK).unwrap();
    assert_eq!((framework.tasks.len(), framework.next_attempt), (4, 4));
    let mut turn = cluster.open();
    assert_eq!(
        turn.accept(o7, spec(""), vec![task("e", 1)]).unwrap()[0].attempt,
        4
    );
}

#[test]
fn what_is_launched_is_charged_to_the_role_of_its_offer() {
    let mut cluster = Cluster::new();
    let mut turn = cluster.open();
    let other: Role = "other".parse().unwrap();
    let wish = |role: &Role| Demand {
        role: Some(role.clone()),
        ..wish(1, 1)
    };
    turn.demand("x".into(), wish(&other)).unwrap();
    turn.suppress(Some(other.clone())).unwrap();
    turn.accept(OfferId(7), spec(""), vec![task("a", 1)])
        .unwrap();
    let mut second = offer(8);
    second.role = other.clone();
    turn.offers.insert(second);
    turn.offers.show(9);
    assert_eq!(turn.offer(OfferId(8)).unwrap().role, other);
    turn.accept(OfferId(8), spec(""), vec![task("b", 1)])
        .unwrap();
    let unknown = turn.demand("y".into(), wish(&"third".parse().unwrap()));
    let Err(CallError::Invalid(why)) = unknown else {
        panic!("{unknown:?}");
    };
    assert!(why.contains("has no role `third`; it has `*`, `other`"));
    cluster.commit(turn);
    let framework = cluster.state.framework(FRAMEWORK).unwrap();
    let cpus: Vec<_> = framework.used.iter().map(|used| used.open.cpus.0).collect();
    assert_eq!(cpus, [1, 1]);
    assert!(!framework.wants_offers(&other) && framework.wants_offers(&Role::default()));
}

#[test]
fn a_gang_is_one_operation_over_several_offers() {
    let cluster = Cluster::new();
    let mut turn = cluster.open();
    let launch = |offer, spec, names: &[&str]| GangLaunch {
        offer: OfferId(offer),
        spec,
        tasks: names.iter().map(|name| task(name, 1000)).collect(),
    };
    let specs = || vec![spec("a"), spec("b")];
    for (bad, why) in [
        (vec![launch(7, 2, &["x"])], "no specification 2"),
        (
            vec![launch(7, 0, &["x"]), launch(8, 1, &["x"])],
            "named `x`",
        ),
        (vec![launch(7, 0, &["1", "2", "3", "4", "5"])], "not enough"),
    ] {
        let refused = turn.launch_gang(specs(), bad).unwrap_err();
        assert!(format!("{refused:?}").contains(why), "{refused:?}");
    }
    let gang = vec![launch(7, 0, &["a", "b"]), launch(8, 1, &["c"])];
    let ids = turn.launch_gang(specs(), gang).unwrap();
    assert_eq!(
        ids.iter().map(|id| id.attempt).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    // What was refused has taken nothing of the offers.
    turn.accept(OfferId(7), spec(""), vec![task("d", 2000)])
        .unwrap();
    let closed = turn.close(1, 1, TurnKind::Handle);
    let [Operation::LaunchGang(launches), Operation::Launch(_)] = &closed.turn.operations[..]
    else {
        panic!("{:?}", closed.turn.operations);
    };
    let specs: Vec<_> = launches.iter().map(|launch| launch.spec).collect();
    assert_eq!((specs, closed.turn.specs.len()), (vec![0, 0, 1], 3));
}

#[test]
fn before_a_gang_only_what_ends_in_time_is_launched() {
    let mut turn = Cluster::new().open();
    let mut kept = offer(9);
    kept.until = Some(turn.now().after_millis(1_000));
    turn.offers.insert(kept);
    turn.offers.show(9);
    let within = |time_limit_ms| TaskSpec {
        time_limit_ms,
        ..spec("")
    };
    for (limit, may) in [(None, false), (Some(1_001), false), (Some(1_000), true)] {
        let launched = turn.accept(OfferId(9), within(limit), vec![task("a", 1)]);
        assert_eq!(launched.is_ok(), may, "{limit:?}: {launched:?}");
    }
}

#[test]
fn a_gang_is_wanted_until_it_is_taken_back() {
    let mut cluster = Cluster::new();
    let mut turn = cluster.open();
    let gang = Gang::of(3, request(1));
    turn.demand_gang("g".into(), Some(gang.clone())).unwrap();
    assert_eq!(turn.wanted_gang("g"), Some(&gang));
    let large = Gang::of(Gang::MAX_TASKS + 1, request(1));
    assert!(turn.demand_gang("h".into(), Some(large)).is_err());
    cluster.commit(turn);
    let framework = cluster.state.framework(FRAMEWORK).unwrap();
    assert_eq!(framework.waiting(), 3);
    let mut turn = cluster.open();
    turn.demand_gang("g".into(), None).unwrap();
    assert_eq!(turn.wanted_gang("g"), None);
    cluster.commit(turn);
    assert!(cluster.state.framework(FRAMEWORK).unwrap().gangs.is_empty());
}

#[test]
fn a_name_that_lives_is_launched_once_however_often_it_is_tried() {
    let mut cluster = Cluster::new();
    for _ in 0..3 {
        let mut turn = cluster.open();
        turn.accept(OfferId(7), spec(""), vec![task("a", 1)])
            .unwrap();
        cluster.commit(turn);
    }
    let framework = cluster.state.framework(FRAMEWORK).unwrap();
    assert_eq!((framework.tasks.len(), framework.pending.len()), (1, 2));
}

#[test]
fn tasks_are_lined_up_only_where_places_are_handed_on() {
    let mut cluster = Cluster::new();
    let mut turn = cluster.open();
    let first = turn.accept(OfferId(7), spec("a"), vec![task("first", 1000)]);
    let first = first.unwrap()[0].clone();
    let after = |name: &str| (name.to_owned(), first.attempt);
    let tasks = |count: usize| {
        let names = (0..count).map(|number| (format!("t{number}"), None));
        names.collect::<Vec<_>>()
    };
    // Of the turn itself, too.
    let line = turn.launch_after(after("first"), spec("a"), tasks(2));
    assert_eq!(line.unwrap().len(), 2);
    let refused = turn.launch_after(after("first"), spec("a"), tasks(quota::LINE + 1));
    assert!(matches!(refused, Err(CallError::Invalid(why)) if why.contains("at most 100")));
    let refused = turn.launch_after(after("No Name"), spec("a"), tasks(1));
    assert!(matches!(refused, Err(CallError::Invalid(_))));
    let none = turn.launch_after(after("unknown"), spec("a"), tasks(1));
    assert_eq!(none, Ok(Vec::new()));
    cluster.commit(turn);
    cluster.apply(Command::DeactivateAgent {
        agent: tepui_types::AgentId(1),
    });
    let mut turn = cluster.open();
    let none = turn.launch_after(after("first"), spec("a"), tasks(1));
    assert_eq!(none, Ok(Vec::new()), "the agent takes no more tasks");
}

#[test]
fn what_was_answered_cannot_be_accepted() {
    let mut turn = Cluster::new().open();
    let unknown = Err(CallError::OfferUnknown);
    assert_eq!(
        turn.accept(OfferId(9), spec(""), vec![task("a", 1)]),
        unknown
    );
    assert_eq!(
        turn.decline(&[OfferId(7), OfferId(9)], None),
        Err(CallError::OfferUnknown)
    );
    turn.decline(&[OfferId(7)], None).unwrap();
    assert_eq!(
        turn.accept(OfferId(7), spec(""), vec![task("a", 1)]),
        unknown
    );
    turn.demand("x".into(), wish(1, 1)).unwrap();
    let closed = turn.close(1, 1, TurnKind::Handle);
    assert_eq!(closed.answered.declined[&5000], [OfferId(7)]);
    assert!(
        closed.offers.left(OfferId(8)).is_some(),
        "what is left alone stays"
    );
}

#[test]
fn who_wants_nothing_keeps_no_offers() {
    let mut turn = Cluster::new().open();
    turn.accept(OfferId(7), spec(""), vec![task("a", 1)])
        .unwrap();
    let closed = turn.close(1, 1, TurnKind::Handle);
    assert_eq!(closed.answered.used, [OfferId(7), OfferId(8)]);
    assert_eq!(closed.answered.unseen, [OfferId(8)]);
    assert!(closed.answered.declined.is_empty());
}

#[test]
fn a_dropped_turn_leaves_the_offers_whole() {
    let mut turn = Cluster::new().open();
    turn.accept(OfferId(7), spec(""), vec![task("a", 4000)])
        .unwrap();
    turn.decline(&[OfferId(8)], None).unwrap();
    let offers = turn.abandon();
    assert_eq!(offers.left(OfferId(7)), Some((&offer(7), &resources(4000))));
    assert!(offers.left(OfferId(8)).is_some());
}

#[test]
fn malformed_calls_are_refused_where_they_are_made() {
    let mut turn = Cluster::new().open();
    let mut refusal = |spec, tasks| match turn.accept(OfferId(7), spec, tasks) {
        Err(CallError::Invalid(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(refusal(spec(""), vec![task("Not A Name", 1)]).contains("Not A Name"));
    assert!(refusal(spec(""), vec![task("a", 1), task("a", 1)]).contains("two tasks"));
    assert!(refusal(spec(""), vec![task("a", 0)]).contains("cpus or memory"));
    assert!(refusal(spec("\0"), vec![task("a", 1)]).contains("NUL"));
    let many = (0..2001)
        .map(|number| task(&format!("t{number}"), 1))
        .collect();
    assert!(refusal(spec(""), many).contains("split it"));
    assert!(refusal(spec(&"x".repeat(66_000)), vec![task("a", 1)]).contains("artifact"));
    assert!(matches!(
        turn.kill("X".into(), 0, None),
        Err(CallError::Invalid(_))
    ));
    assert!(matches!(
        turn.demand(String::new(), wish(1, 1)),
        Err(CallError::Invalid(_))
    ));
    assert!(matches!(
        turn.demand("x".into(), wish(1, 0)),
        Err(CallError::Invalid(_))
    ));
    assert!(!turn.close(1, 1, TurnKind::Handle).turn.is_durable());
}

#[test]
fn a_full_turn_says_so_and_keeps_what_it_has() {
    let mut turn = Cluster::new().open();
    for number in 0..2000 {
        turn.kill("x".into(), number, None).unwrap();
    }
    assert_eq!(turn.kill("x".into(), 0, None), Err(CallError::TurnFull));
    let closed = turn.close(1, 1, TurnKind::Handle);
    assert!(closed.is_full);
    assert_eq!(closed.turn.operations.len(), 2000);

    let mut turn = Cluster::new().open();
    let value = vec![1; 200_000];
    let full = (0..).find(|n| turn.set(n.to_string(), value.clone()).is_err());
    assert_eq!(full, Some(5));
    assert_eq!(
        turn.set("x".into(), value.clone()),
        Err(QuotaError::TurnFull)
    );
    // What is written anew takes no more room.
    turn.set("0".into(), value).unwrap();
    let closed = turn.close(1, 1, TurnKind::Handle);
    assert!(closed.is_full);
    let bytes = tepui_types::envelope::encode(1, &closed.turn).len();
    assert!(bytes <= quota::TURN_BYTES, "{bytes}");
}

#[test]
fn what_waits_unseen_is_bounded_at_the_call() {
    let cluster = Cluster::new();
    let open = |held: fn(&mut Framework)| {
        let mut turn = cluster.open();
        held(Arc::make_mut(&mut turn.framework));
        turn
    };
    let accept = |turn: &mut OpenTurn| {
        let two = vec![task("a", 1), task("b", 1)];
        turn.accept(OfferId(7), spec(""), two).map(|ids| ids.len())
    };
    // Ends that it has not seen make room once it has.
    let mut turn = open(|framework| framework.unseen_ends = quota::FRAMEWORK_TASKS - 2);
    assert_eq!(accept(&mut turn), Ok(2));
    assert_eq!(accept(&mut turn), Err(CallError::TurnFull));
    let closed = turn.close(1, 1, TurnKind::Handle);
    assert_eq!((closed.turn.operations.len(), closed.is_full), (2, true));

    // While all of them live, there is nothing to see.
    let mut turn = open(|framework| {
        let operation = |index| tepui_types::OperationId { index, ordinal: 0 };
        let most = quota::FRAMEWORK_TASKS as u64;
        framework.tasks = (1..most).map(operation).collect();
    });
    assert!(matches!(accept(&mut turn), Err(CallError::Invalid(why)) if why.contains("ended")));
    assert!(!turn.close(1, 1, TurnKind::Handle).is_full);

    let mut turn = open(|framework| {
        let notice = tepui_cluster::state::frameworks::Notice {
            operation: "kill".into(),
            subject: "f1.x.0".parse().unwrap(),
            reason: tepui_types::Reason::new("task-unknown", "x"),
        };
        let most = quota::NOTICES as u64;
        framework.notices = (1..most).map(|number| (number, notice.clone())).collect();
    });
    assert_eq!(turn.kill("x".into(), 0, None), Ok(()));
    assert_eq!(turn.kill("x".into(), 0, None), Err(CallError::TurnFull));
    assert_eq!(accept(&mut turn), Ok(2), "launches cause no notices");
    let closed = turn.close(1, 1, TurnKind::Handle);
    assert_eq!((closed.turn.operations.len(), closed.is_full), (3, true));
}

#[test]
fn the_largest_batch_of_launches_fits_its_bound() {
    let mut turn = Cluster::new().open();
    let tasks = |from: u32| {
        (from..from + 100)
            .map(|n| task(&format!("{n:063}"), 1))
            .collect()
    };
    let mut from = 0;
    while turn
        .accept(OfferId(7), spec(&"x".repeat(300)), tasks(from))
        .is_ok()
    {
        from += 100;
    }
    let closed = turn.close(1, 1, TurnKind::Handle);
    let bytes = tepui_types::envelope::encode(1, &closed.turn).len();
    assert!(
        closed.is_full && bytes <= quota::TURN_BYTES,
        "{bytes} bytes, {from} tasks"
    );
}

#[test]
fn the_store_reads_its_own_writes() {
    let mut cluster = Cluster::new();
    let mut turn = cluster.open();
    for key in ["a/1", "a/2", "a/4", "b/1"] {
        turn.set(key.into(), key.as_bytes().to_vec()).unwrap();
    }
    cluster.commit(turn);

    let mut turn = cluster.open();
    turn.set("a/3".into(), b"new".to_vec()).unwrap();
    turn.set("a/4".into(), b"changed".to_vec()).unwrap();
    turn.delete("a/1".into()).unwrap();
    turn.delete("a/9".into()).unwrap();
    let scan = |turn: &OpenTurn, after, limit| {
        let pairs = turn.scan("a/", after, limit);
        let text = |(key, value)| format!("{key}={}", String::from_utf8(value).unwrap());
        pairs.into_iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(scan(&turn, None, 10), ["a/2=a/2", "a/3=new", "a/4=changed"]);
    assert_eq!(scan(&turn, Some("a/2"), 1), ["a/3=new"]);
    assert_eq!(scan(&turn, Some("a"), 1), ["a/2=a/2"]);
    assert_eq!(turn.get("a/1"), None);
    assert_eq!(turn.get("b/1"), Some(&b"b/1"[..]));
    cluster.commit(turn);
    let framework = cluster.state.framework(FRAMEWORK).unwrap();
    assert_eq!(framework.store.len(), 4);
    assert_eq!(cluster.open().scan("", None, 10).len(), 4);
}

#[test]
fn what_changes_nothing_is_not_proposed() {
    let mut cluster = Cluster::new();
    let mut turn = cluster.open();
    turn.set("key".into(), b"value".to_vec()).unwrap();
    turn.demand("job".into(), wish(3, 100)).unwrap();
    cluster.commit(turn);
    let mut turn = cluster.open();
    turn.set("key".into(), b"value".to_vec()).unwrap();
    turn.delete("other".into()).unwrap();
    turn.demand("job".into(), wish(3, 100)).unwrap();
    turn.demand("nothing".into(), wish(0, 0)).unwrap();
    turn.cancel_timer("none".into()).unwrap();
    turn.decline(&[OfferId(7)], None).unwrap();
    assert!(!turn.close(1, 2, TurnKind::Handle).turn.is_durable());
}

#[test]
fn store_and_timers_have_limits_that_say_themselves() {
    let mut turn = Cluster::new().open();
    let too_large = |result: Result<(), QuotaError>| match result {
        Err(QuotaError::TooLarge(which)) => which,
        other => panic!("{other:?}"),
    };
    assert!(too_large(turn.set(String::new(), Vec::new())).contains("1 to 1024"));
    assert!(too_large(turn.set("x".repeat(1025), Vec::new())).contains("1025"));
    assert!(too_large(turn.set("x".into(), vec![0; 256 * 1024 + 1])).contains("262145"));
    assert!(too_large(turn.set_timer(String::new(), 1)).contains("1 to 256"));
    turn.store_bytes = quota::STORE_BYTES - 10;
    assert!(too_large(turn.set("key".into(), vec![0; 8])).contains("at most 67108864"));
    turn.set("key".into(), vec![0; 7]).unwrap();
    turn.set("key".into(), vec![1; 7]).unwrap();
    turn.store_keys = quota::STORE_KEYS;
    assert!(too_large(turn.set("k".into(), Vec::new())).contains("its most"));
    turn.timer_count = quota::TIMERS;
    assert!(too_large(turn.set_timer("t".into(), 1)).contains("100000 timers"));
}

#[test]
fn timers_are_due_by_the_turns_clock() {
    let mut cluster = Cluster::new();
    let mut turn = cluster.open();
    turn.set_timer("soon".into(), 5).unwrap();
    turn.set_timer("never".into(), u64::MAX).unwrap();
    turn.set_timer("gone".into(), 1).unwrap();
    turn.cancel_timer("gone".into()).unwrap();
    cluster.commit(turn);
    let timers = &cluster.state.framework(FRAMEWORK).unwrap().timers;
    assert_eq!(timers.get("soon"), Some(&Timestamp(2005)));
    assert_eq!(
        timers.get("never"),
        Some(&Timestamp(2000 + limits::TIMER_MS))
    );
    assert_eq!(timers.len(), 2);
}
