//! Reservations and volumes in the scripted cluster.

use tepui_types::resources::ResourceRequest;
use tepui_types::{Bytes, MilliCpus, Offer, Resources, Role};

use crate::operations::{ReserveRequest, VolumeRequest, Wish, with_volume};
use crate::testing::Cluster;
use crate::{Context, Error, Launch, Scheduler, StartReason, TaskSpec};

/// Keeps a volume on the first agent that it is offered, and a task on it.
struct Keeper;

impl Scheduler for Keeper {
    fn start(cx: &mut Context<'_>, _: StartReason, _: &str) -> Result<Self, String> {
        cx.demand("task", 1, &one_cpu())
            .map_err(|error| error.to_string())?;
        Ok(Self)
    }

    fn on_offers(&mut self, cx: &mut Context<'_>, offers: Vec<Offer>) {
        let offer = &offers[0];
        let disk = ResourceRequest {
            disk: Bytes::gib(10),
            ..ResourceRequest::default()
        };
        if offer.resources.pools.volume("data").is_none() {
            let role: Role = "eng".parse().unwrap();
            let create = VolumeRequest::new("data", role.clone(), Bytes::gib(4));
            let early = cx.operate(offer.id, "create", &Wish::Create(create.clone()));
            assert!(
                matches!(early, Err(Error::OfferExceeded(_))),
                "nothing is reserved"
            );
            let reserve = ReserveRequest::new(role, disk);
            cx.operate(offer.id, "reserve", &Wish::Reserve(reserve))
                .unwrap();
            cx.operate(offer.id, "create", &Wish::Create(create))
                .unwrap();
        }
        let left = cx.left(offer.id).unwrap();
        let taken = left.pick(&one_cpu()).unwrap();
        let taken = with_volume(&left, taken, "data").unwrap();
        let launch = Launch::new("keeper", taken.clone());
        cx.accept(offer.id, &TaskSpec::command(["true"]), &[launch])
            .unwrap();
        let twice = Launch::new("other", taken);
        let refused = cx.accept(offer.id, &TaskSpec::command(["true"]), &[twice]);
        assert!(
            matches!(refused, Err(Error::OfferExceeded(_))),
            "one task has a volume"
        );
    }
}

fn one_cpu() -> ResourceRequest {
    ResourceRequest {
        cpus: MilliCpus(1_000),
        ..ResourceRequest::default()
    }
}

fn machine() -> Resources {
    Resources {
        cpus: MilliCpus(4_000),
        disk: Bytes::gib(20),
        ..Resources::default()
    }
}

#[test]
fn a_volume_is_made_and_used_in_one_turn_and_is_there_when_the_task_has_ended() {
    let mut cluster = Cluster::<Keeper>::deploy("");
    let agent = cluster.agent(machine());
    cluster.offer(agent);
    cluster.turn();
    let task = &cluster.tasks()["keeper"];
    assert!(task.resources.pools.volume("data").is_some());
    assert_eq!(
        cluster.free(agent).to_string(),
        "3 cpus, 10 GiB disk, 6 GiB disk (reserved for eng)"
    );
    cluster.fail("keeper", 1);
    cluster.turn();
    assert!(cluster.free(agent).pools.volume("data").is_some());
    cluster.offer(agent);
    cluster.turn();
    assert!(
        cluster.tasks().contains_key("keeper"),
        "it runs on it again"
    );
}

#[test]
fn operations_of_a_turn_that_fails_never_were() {
    let mut cluster = Cluster::<Keeper>::deploy("");
    let agent = cluster.agent(machine());
    cluster.offer(agent);
    cluster.fail_next_commit();
    cluster.turn();
    assert!(cluster.tasks().is_empty());
    assert_eq!(cluster.free(agent), machine());
}
