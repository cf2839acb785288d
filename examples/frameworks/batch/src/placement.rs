//! Which waiting tasks go to which offers.
//!
//! Jobs are looked at in the order of the queue, and each puts as many tasks
//! as fit onto an offer before the next offer is looked at. A job that does not
//! fit holds up no other. Pure: the caller accepts what is planned.

use tepui_sdk::operations::with_volume;
use tepui_sdk::resources::{ResourceRequest, Resources};
use tepui_sdk::{Constraints, Offer, OfferId, Role, Timestamp};

use crate::budget::Budget;

/// The most jobs looked at in one turn, over all offers: some milliseconds'
/// worth, far below a turn's deadline.
const MAX_LOOKS: usize = 100_000;

/// A job that waits.
#[derive(Debug, Clone)]
pub struct Want<'a> {
    /// Which.
    pub job: &'a str,
    /// What each task needs.
    pub request: &'a ResourceRequest,
    /// On which agents they may run.
    pub constraints: &'a Constraints,
    /// Which role is charged.
    pub role: &'a Role,
    /// Volumes that each task uses.
    pub volumes: &'a [String],
    /// Whether they may take what can be taken back.
    pub revocable: bool,
    /// How long each runs at most.
    pub time_limit_ms: Option<u64>,
    /// How many tasks could be launched.
    pub count: u32,
    /// Bytes of its specification, which every launch carries.
    pub spec_bytes: usize,
}

/// Tasks of one job on one offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Where.
    pub offer: OfferId,
    /// Whose tasks.
    pub job: String,
    /// What each of them gets.
    pub resources: Vec<Resources>,
}

/// Bytes that one launch costs a turn beside its specification: its name, its
/// resources and its cell.
pub const LAUNCH_BYTES: usize = 192;
/// Counters and demand of a job that a turn launches tasks of.
const JOB_BYTES: usize = 512;

/// Plans the launches of a turn, within its budget.
pub fn plan(
    offers: &[Offer],
    wants: &[Want<'_>],
    now: Timestamp,
    budget: &mut Budget,
) -> Vec<Grant> {
    let mut counts: Vec<u32> = wants.iter().map(|want| want.count).collect();
    let shapes = shapes(wants);
    let mut looks = MAX_LOOKS;
    let mut grants = Vec::new();
    for offer in offers {
        let mut free = offer.resources.clone();
        let mut misfits = vec![false; wants.len()];
        for (at, want) in wants.iter().enumerate() {
            if counts[at] == 0 || misfits[shapes[at]] {
                continue;
            }
            if looks == 0 {
                return grants;
            }
            looks -= 1;
            if !offer.admits(want.time_limit_ms, now) {
                continue;
            }
            if offer.role != *want.role || !offer.meets(want.constraints) {
                continue;
            }
            let mut resources = Vec::new();
            while counts[at] > 0 {
                let picked = match want.revocable {
                    true => free.pick_revocable(want.request),
                    false => free.pick(want.request),
                };
                let Ok(picked) = picked else {
                    misfits[shapes[at]] = true;
                    break;
                };
                let volumes = want.volumes.iter();
                let picked = volumes
                    .map(String::as_str)
                    .try_fold(picked, |picked, volume| with_volume(&free, picked, volume));
                // Another agent has them, or another task.
                let Some(picked) = picked else {
                    break;
                };
                let job_bytes = match resources.is_empty() {
                    true => JOB_BYTES + want.constraints.size(),
                    false => 0,
                };
                // What several may have at a time is left for the next.
                let Ok(rest) = free.checked_sub(&picked.exclusive()) else {
                    break;
                };
                if !budget.take(1, LAUNCH_BYTES + want.spec_bytes + job_bytes) {
                    break;
                }
                free = rest;
                counts[at] -= 1;
                resources.push(picked);
            }
            if !resources.is_empty() {
                grants.push(Grant {
                    offer: offer.id,
                    job: want.job.to_owned(),
                    resources,
                });
            }
            if budget.refused() {
                return grants;
            }
        }
    }
    grants
}

/// For each want the first with the same request of the same kind: what does not fit once is not
/// tried again.
fn shapes(wants: &[Want<'_>]) -> Vec<usize> {
    let mut first = std::collections::BTreeMap::new();
    let shape = |(at, want): (usize, &Want<'_>)| {
        let key = (want.request.clone(), want.revocable);
        *first.entry(key).or_insert(at)
    };
    wants.iter().enumerate().map(shape).collect()
}

#[cfg(test)]
mod tests {
    use tepui_sdk::AgentId;
    use tepui_sdk::constraint::{Constraint, Test};
    use tepui_sdk::resources::MilliCpus;

    use super::*;

    fn offer(id: u64, cpus: u64) -> Offer {
        Offer {
            id: OfferId(id),
            agent: AgentId(id),
            hostname: String::new(),
            resources: Resources {
                cpus: MilliCpus(cpus),
                ..Resources::default()
            },
            attributes: Default::default(),
            role: tepui_sdk::Role::default(),
            gang: None,
            until: None,
        }
    }

    fn request(cpus: u64) -> ResourceRequest {
        ResourceRequest {
            cpus: MilliCpus(cpus),
            ..ResourceRequest::default()
        }
    }

    fn planned(
        offers: &[Offer],
        wants: &[(&str, &ResourceRequest, u32)],
    ) -> Vec<(u64, String, usize)> {
        let (anywhere, role) = (Constraints::default(), Role::default());
        let wants: Vec<Want<'_>> = wants
            .iter()
            .map(|(job, request, count)| Want {
                job,
                request,
                constraints: &anywhere,
                role: &role,
                volumes: &[],
                revocable: false,
                time_limit_ms: None,
                count: *count,
                spec_bytes: 100,
            })
            .collect();
        let grants = plan(offers, &wants, Timestamp(0), &mut Budget::new(0));
        grants
            .into_iter()
            .map(|g| (g.offer.0, g.job, g.resources.len()))
            .collect()
    }

    #[test]
    fn as_many_as_fit_go_onto_each_offer() {
        let small = request(100);
        let plan = planned(&[offer(1, 250), offer(2, 1000)], &[("a", &small, 5)]);
        assert_eq!(plan, [(1, "a".into(), 2), (2, "a".into(), 3)]);
    }

    #[test]
    fn what_does_not_fit_holds_up_nothing() {
        let (large, small) = (request(4000), request(100));
        let plan = planned(
            &[offer(1, 200)],
            &[("large", &large, 1), ("small", &small, 1)],
        );
        assert_eq!(plan, [(1, "small".into(), 1)]);
    }

    #[test]
    fn tasks_go_only_where_they_may() {
        let small = request(100);
        let second = Constraints(vec![vec![Constraint {
            attribute: "hostname".into(),
            test: Test::Equals("second".into()),
        }]]);
        let mut offers = [offer(1, 100), offer(2, 100)];
        offers[1].hostname = "second".into();
        let want = |job, constraints, role| Want {
            job,
            request: &small,
            constraints,
            role,
            volumes: &[],
            revocable: false,
            time_limit_ms: None,
            count: 1,
            spec_bytes: 100,
        };
        let (anywhere, role) = (Constraints::default(), Role::default());
        let other: Role = "other".parse().unwrap();
        let wants = [
            want("foreign", &anywhere, &other),
            want("picky", &second, &role),
            want("other", &anywhere, &role),
        ];
        let grants = plan(&offers, &wants, Timestamp(0), &mut Budget::new(0));
        let grants: Vec<_> = grants
            .iter()
            .map(|grant| (grant.offer.0, &*grant.job))
            .collect();
        assert_eq!(grants, [(1, "other"), (2, "picky")]);
    }

    #[test]
    fn before_a_gang_only_what_ends_in_time_is_placed() {
        let small = request(100);
        let (anywhere, role) = (Constraints::default(), Role::default());
        let mut offers = [offer(1, 1000)];
        offers[0].until = Some(Timestamp(5_000));
        let want = |job, time_limit_ms| Want {
            job,
            request: &small,
            constraints: &anywhere,
            role: &role,
            volumes: &[],
            revocable: false,
            time_limit_ms,
            count: 1,
            spec_bytes: 100,
        };
        let wants = [
            want("endless", None),
            want("long", Some(5_001)),
            want("short", Some(5_000)),
        ];
        let grants = plan(&offers, &wants, Timestamp(0), &mut Budget::new(0));
        let jobs: Vec<_> = grants.iter().map(|grant| &*grant.job).collect();
        assert_eq!(jobs, ["short"]);
    }

    #[test]
    fn a_plan_stays_within_the_turn() {
        let small = request(1);
        let plan = planned(&[offer(1, 1_000_000)], &[("a", &small, 100_000)]);
        assert_eq!(plan, [(1, "a".into(), 1_500)]);
    }

    #[test]
    fn a_task_that_names_a_volume_runs_where_it_is_and_alone() {
        use tepui_sdk::operations::{Pool, PoolKind, Volume};
        let mut with = offer(2, 2_000);
        let volume = Volume {
            id: "data".into(),
            path: "data".into(),
            shared: false,
        };
        let kind = PoolKind {
            volume: Some(volume),
            ..PoolKind::reserved("eng".parse().unwrap())
        };
        with.resources.pools = Pool::disk(kind, tepui_sdk::resources::Bytes::gib(1)).into();
        let (anywhere, role, volumes) = (Constraints::default(), Role::default(), ["data".into()]);
        let request = ResourceRequest {
            cpus: MilliCpus(500),
            ..ResourceRequest::default()
        };
        let want = |volumes, job| Want {
            job,
            request: &request,
            constraints: &anywhere,
            role: &role,
            volumes,
            revocable: false,
            time_limit_ms: None,
            count: 5,
            spec_bytes: 0,
        };
        let wants = [want(&volumes[..], "keeper"), want(&[], "other")];
        let grants = plan(
            &[offer(1, 1_000), with],
            &wants,
            Timestamp(0),
            &mut Budget::new(0),
        );
        let granted = grants.iter().map(|grant| {
            let volumes = grant.resources.iter().filter(|it| !it.pools.is_empty());
            (
                grant.offer.0,
                grant.job.as_str(),
                grant.resources.len(),
                volumes.count(),
            )
        });
        let granted: Vec<_> = granted.collect();
        assert_eq!(
            granted,
            [(1, "other", 2, 0), (2, "keeper", 1, 1), (2, "other", 3, 0)]
        );
    }

    #[test]
    fn what_can_be_taken_back_is_for_who_may_take_it() {
        use tepui_sdk::operations::{Pool, PoolKind};
        let (anywhere, role) = (Constraints::default(), Role::default());
        let kind = PoolKind {
            revocable: true,
            ..PoolKind::default()
        };
        let mut offer = offer(1, 1_000);
        let lent = Resources {
            cpus: MilliCpus(2_000),
            ..Resources::default()
        };
        offer.resources.pools = Pool {
            kind,
            amounts: lent,
        }
        .into();
        let request = request(1_000);
        let want = |job, revocable| Want {
            job,
            request: &request,
            constraints: &anywhere,
            role: &role,
            volumes: &[],
            revocable,
            time_limit_ms: None,
            count: 9,
            spec_bytes: 0,
        };
        let wants = [want("firm", false), want("loose", true)];
        let grants = plan(&[offer], &wants, Timestamp(0), &mut Budget::new(0));
        let counts: Vec<_> = grants
            .iter()
            .map(|it| (it.job.as_str(), it.resources.len()))
            .collect();
        assert_eq!(counts, [("firm", 1), ("loose", 2)]);
        assert!(grants[0].resources[0].pools.is_empty());
        assert!(!grants[1].resources[0].pools.is_empty());
    }
}
