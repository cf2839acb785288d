//! Sums of resources stay exact: what is too much to be counted is refused where it enters.

use proptest::prelude::*;
use tepui_cluster::state::sums::MOST;
use tepui_cluster::{Accepted, Command, State};
use tepui_types::resources::{Pool, PoolKind, Pools, Reservation, ResourceRequest};
use tepui_types::role::RoleSettings;
use tepui_types::*;

use crate::allocation::Leader;
use crate::support::*;

/// A machine with so much disk, half of it reserved for `eng` if that is said.
fn disks(bytes: u64, is_reserved: bool) -> AgentInfo {
    let half = Resources {
        disk: Bytes(bytes / 2),
        ..Resources::default()
    };
    let kind = PoolKind {
        reservations: vec![Reservation {
            is_static: true,
            ..Reservation::dynamic("eng".parse().unwrap())
        }],
        ..PoolKind::default()
    };
    let pools = match is_reserved && bytes > 1 {
        true => Pools::from(Pool {
            kind,
            amounts: half.clone(),
        }),
        false => Pools::default(),
    };
    let plain = if pools.is_empty() { 0 } else { bytes / 2 };
    AgentInfo {
        address: None,
        resources: Resources {
            disk: Bytes(bytes - plain),
            pools,
            ..amounts(4, 4)
        },
        ..machine(0, 0)
    }
}

fn promise(role: &str, disk: u64) -> Command {
    let guarantee = ResourceRequest {
        disk: Bytes(disk),
        ..ResourceRequest::default()
    };
    Command::SetRole {
        role: role.parse().unwrap(),
        settings: RoleSettings {
            guarantee,
            ..RoleSettings::default()
        },
        force: true,
    }
}

#[test]
fn agents_lend_no_more_together_than_can_be_counted() {
    let mut log = Log::new();
    log.accept(register(1, None, disks(MOST, true), Vec::new()));
    let too_much = register(2, None, disks(1, false), Vec::new());
    let why = refused(log.apply(too_much.clone()).outcome);
    assert!(why.contains("TiB disk together"), "{why}");
    // One that is known and grows is refused as well, and stays what it was.
    log.accept(register(
        1,
        Some(AgentId(1)),
        disks(MOST - 1, true),
        Vec::new(),
    ));
    log.accept(too_much);
    let grown = register(2, Some(AgentId(2)), disks(2, false), Vec::new());
    refused(log.apply(grown).outcome);
    assert_eq!(log.state.agent(AgentId(2)).unwrap().total().disk, Bytes(1));
}

#[test]
fn all_that_is_guaranteed_can_be_counted_even_by_force() {
    let mut leader = Leader::new();
    leader.apply(promise("a", MOST - 5));
    let why = refused(leader.log.apply(promise("b", 6)).outcome);
    assert!(why.contains("the most that is counted"), "{why}");
    leader.apply(promise("b", 5));
    let why = refused(leader.log.apply(promise("c", u64::MAX)).outcome);
    assert!(why.contains("more than can be counted"), "{why}");
}

#[test]
fn tasks_on_agents_that_shrink_under_them_stay_countable() {
    let mut log = Log::new();
    let framework = log.framework("f", "eng");
    // Each has nearly all that is counted for a moment, and keeps its task.
    let mut launched = 0;
    for nonce in 1..12 {
        let Accepted::Agent { agent } =
            log.accept(register(nonce, None, disks(MOST / 2, false), Vec::new()))
        else {
            panic!("no agent");
        };
        let resources = Resources {
            disk: Bytes(MOST / 2),
            ..amounts(1, 1)
        };
        let task = log.launch_with(framework, agent, &format!("t{nonce}"), resources);
        launched += u64::from(log.task_state(&task) == TaskState::Staging);
        log.accept(register(
            nonce,
            Some(agent),
            disks(1, false),
            vec![report(&task, TaskState::Running)],
        ));
    }
    assert_eq!(launched, 2, "the third would be more than is counted");
    let used = log.state.role_use(&"eng".parse().unwrap());
    assert_eq!(used.disk, Bytes(MOST));
}

/// What a state says of its sums, and one that has counted them anew.
fn counted_anew(state: &State) -> bool {
    let role: Role = "eng".parse().unwrap();
    let anew = State::decode(&state.encode()).unwrap();
    state.role_use(&role) == anew.role_use(&role)
}

proptest! {
    #[test]
    fn sums_of_huge_amounts_are_those_of_a_state_that_counts_anew(
        steps in proptest::collection::vec((1u64..6, 0u32..64, any::<bool>()), 1..40),
    ) {
        let mut log = Log::new();
        for (nonce, bits, is_reserved) in steps {
            let known = log.state.agent_of_folder(nonce.into());
            let info = disks(u64::MAX >> bits, is_reserved);
            // Most are too much, and are refused; `Log` checks all sums after each.
            log.apply(register(nonce.into(), known, info, Vec::new()));
            prop_assert!(counted_anew(&log.state));
        }
    }
}
