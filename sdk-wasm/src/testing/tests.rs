//! What the scripted cluster promises, against a small framework.

use tepui_types::resources::ResourceRequest;
use tepui_types::{Bytes, MilliCpus};

use super::*;
use crate::{Constraint, Constraints, Error, GangLaunch, Launch, TaskSpec, constraint};

mod operations;

/// Counts its events in the store, and does odd things on request.
struct Odd;

impl Scheduler for Odd {
    fn start(cx: &mut Context<'_>, reason: StartReason, config: &str) -> Result<Self, String> {
        if config == "bad" {
            return Err("the configuration is bad".into());
        }
        cx.info(&format!("{reason:?}"));
        Ok(Self)
    }

    fn on_offers(&mut self, cx: &mut Context<'_>, offers: Vec<tepui_types::Offer>) {
        for offer in offers {
            let request = shape();
            let Ok(picked) = offer.resources.pick(&request) else {
                continue;
            };
            let spec = TaskSpec::command(["true"]);
            cx.accept(offer.id, &spec, &[Launch::new("one", picked.clone())])
                .unwrap();
            let again = cx.accept(offer.id, &spec, &[Launch::new("one", picked)]);
            assert!(matches!(again, Err(Error::Invalid(_))), "the name is taken");
            let all = Launch::new("two", offer.resources);
            assert!(matches!(
                cx.accept(offer.id, &spec, &[all]),
                Err(Error::OfferExceeded(_))
            ));
        }
    }

    fn on_update(&mut self, cx: &mut Context<'_>, task: Task) {
        let seen: u32 = cx.get_as("seen").unwrap().unwrap_or(0);
        cx.set_as("seen", &(seen + 1)).unwrap();
        if task.status.exit_code == Some(13) && cx.get("calm").is_none() {
            panic!("unlucky");
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, name: &str) {
        let mut fired: Vec<String> = cx.get_as("fired").unwrap().unwrap_or_default();
        fired.push(name.into());
        cx.set_as("fired", &fired).unwrap();
    }

    fn on_continued(&mut self, cx: &mut Context<'_>) {
        cx.set("continued", b"").unwrap();
    }

    fn on_request(&mut self, cx: &mut Context<'_>, request: Request) -> Response {
        match request.path.as_str() {
            "/timers" => {
                cx.set_timer("late", Duration::from_secs(20)).unwrap();
                cx.set_timer("soon", Duration::from_secs(10)).unwrap();
                cx.set_timer("never", Duration::from_secs(10)).unwrap();
                cx.cancel_timer("never").unwrap();
            }
            "/fill" => {
                while cx
                    .kill(
                        &TaskId {
                            name: "x".into(),
                            attempt: 0,
                        },
                        None,
                    )
                    .is_ok()
                {}
            }
            "/demand" => cx.demand("some", 2, &shape()).unwrap(),
            "/demand-there" => {
                let there = Constraint {
                    attribute: "zone".into(),
                    test: constraint::Test::Equals("there".into()),
                };
                let there = Constraints(vec![vec![there]]);
                cx.demand_where("some", 2, &shape(), &there).unwrap();
            }
            "/calm" => cx.set("calm", b"").unwrap(),
            _ => return Response::not_found(&request),
        }
        Response::text(200, "done")
    }
}

fn shape() -> ResourceRequest {
    ResourceRequest {
        cpus: MilliCpus(100),
        ..ResourceRequest::default()
    }
}

fn machine() -> Resources {
    Resources {
        cpus: MilliCpus(1000),
        mem: Bytes::gib(1),
        ..Resources::default()
    }
}

#[test]
fn launches_take_from_offers_and_ends_give_back() {
    let mut cluster = Cluster::<Odd>::deploy("");
    let agent = cluster.agent(machine());
    assert_eq!(cluster.offer_all(), 0, "without demand there are no offers");
    cluster.request("POST", "/demand", "");
    assert_eq!(cluster.demand("some"), 2);
    assert_eq!(cluster.offer_all(), 1);
    let turn = cluster.turn();
    assert_eq!(turn.calls.len(), 1, "refused calls are not recorded");
    assert_eq!(cluster.free(agent).cpus, MilliCpus(900));
    cluster.update("one", TaskState::Finished);
    cluster.turn();
    assert_eq!(cluster.free(agent).cpus, MilliCpus(1000));
}

#[test]
fn a_panic_leaves_nothing_of_its_turn_and_the_update_comes_again() {
    let mut cluster = Cluster::<Odd>::deploy("");
    let agent = cluster.agent(machine());
    cluster.offer(agent);
    cluster.turn();
    cluster.fail("one", 13);
    assert_eq!(cluster.try_turn(), Err("unlucky".into()));
    assert!(cluster.store().is_empty());
    assert_eq!(cluster.queued(), 1);
    cluster.request("POST", "/calm", "");
    cluster.turn();
    assert_eq!(cluster.store()["seen"], b"1");
    let starts = cluster
        .log()
        .iter()
        .filter(|line| line.message == "Recovered")
        .count();
    assert_eq!(starts, 1);
}

#[test]
fn timers_fire_once_and_in_order() {
    let mut cluster = Cluster::<Odd>::deploy("").discard_every_turn();
    cluster.request("POST", "/timers", "");
    assert_eq!(cluster.timer("late"), Some(Duration::from_secs(20)));
    cluster.advance(Duration::from_secs(30));
    cluster.settle();
    cluster.advance(Duration::from_secs(30));
    cluster.settle();
    assert_eq!(cluster.store()["fired"], br#"["soon","late"]"#);
}

#[test]
fn a_turn_that_is_not_committed_changes_nothing() {
    let mut cluster = Cluster::<Odd>::deploy("");
    cluster.fail_next_commit();
    cluster.request("POST", "/timers", "");
    assert_eq!(cluster.timer("late"), None);
}

#[test]
fn a_full_turn_is_continued() {
    let mut cluster = Cluster::<Odd>::deploy("");
    cluster.request("POST", "/fill", "");
    assert_eq!(cluster.queued(), 1);
    cluster.settle();
    assert!(cluster.store().contains_key("continued"));
}

#[test]
fn a_refusal_to_start_is_told() {
    assert_eq!(
        Cluster::<Odd>::try_deploy("bad").err().unwrap(),
        "the configuration is bad"
    );
}

#[test]
fn scans_are_ordered_and_paged() {
    let mut host = ScriptedHost::default();
    let mut cx = Context::new(&mut host);
    for key in ["b/1", "a/2", "a/1", "a", "a/3", "aa"] {
        cx.set(key, key.as_bytes()).unwrap();
    }
    let keys =
        |pairs: Vec<(String, Vec<u8>)>| pairs.into_iter().map(|(k, _)| k).collect::<Vec<_>>();
    assert_eq!(keys(cx.scan("a/", None, 2)), ["a/1", "a/2"]);
    assert_eq!(keys(cx.scan("a/", Some("a/2"), 2)), ["a/3"]);
    assert_eq!(keys(cx.scan("a/", Some("a"), 10)), ["a/1", "a/2", "a/3"]);
    assert_eq!(
        keys(cx.scan_all("")),
        ["a", "a/1", "a/2", "a/3", "aa", "b/1"]
    );
}

#[test]
fn agents_that_constraints_rule_out_are_not_offered() {
    let mut cluster = Cluster::<Odd>::deploy("");
    let (here, there) = (cluster.agent(machine()), cluster.agent(machine()));
    cluster.attribute(here, "zone", "here");
    cluster.attribute(there, "zone", "there");
    cluster.request("POST", "/demand-there", "");
    assert_eq!(cluster.offer_all(), 1);
    cluster.turn();
    assert_eq!(cluster.free(here).cpus, MilliCpus(1000));
    assert_eq!(cluster.free(there).cpus, MilliCpus(900));
}

#[test]
fn a_framework_of_several_roles_is_offered_for_each() {
    let mut host = ScriptedHost::default();
    let (one, two): (Role, Role) = ("one".parse().unwrap(), "two".parse().unwrap());
    host.state.roles = vec![one.clone(), two.clone()];
    let agents = [AgentId(1), AgentId(2)];
    for agent in agents {
        let cpus = MilliCpus(1000 * agent.0);
        let resources = Resources {
            cpus,
            ..Resources::default()
        };
        host.state.agents.insert(agent, resources);
    }
    let mut cx = Context::new(&mut host);
    assert_eq!(cx.roles(), [one.clone(), two.clone()]);
    let wish = |role: Option<&Role>, cpus| Demand {
        role: role.cloned(),
        ..Demand::new(
            1,
            ResourceRequest {
                cpus: MilliCpus(cpus),
                ..ResourceRequest::default()
            },
        )
    };
    cx.demand_with("small", &wish(None, 1000)).unwrap();
    cx.demand_with("large", &wish(Some(&two), 2000)).unwrap();
    let foreign = wish(Some(&Role::default()), 1);
    assert!(matches!(
        cx.demand_with("foreign", &foreign),
        Err(Error::Invalid(_))
    ));
    cx.suppress_role(&one).unwrap();
    assert_eq!(host.state.agents_in_demand(), [(agents[1], two.clone())]);
    let mut cx = Context::new(&mut host);
    cx.revive().unwrap();
    assert_eq!(
        host.state.agents_in_demand(),
        [(agents[0], one.clone()), (agents[1], one)]
    );
}

#[test]
fn a_gang_is_offered_whole_and_launched_whole() {
    let mut host = ScriptedHost::default();
    let machine = |cpus| Resources {
        cpus: MilliCpus(cpus),
        ..Resources::default()
    };
    host.state.agents.insert(AgentId(1), machine(2000));
    let request = ResourceRequest::from(&machine(1000));
    let gang = tepui_types::Gang::of(3, request);
    Context::new(&mut host).demand_gang("g", &gang).unwrap();
    assert_eq!(host.state.plan_gang("g"), None, "one of it does not fit");
    host.state.agents.insert(AgentId(2), machine(1000));
    let plan = host.state.plan_gang("g").unwrap();
    assert!(gang.is_whole(plan.iter().map(|(.., share)| share)));
    for (number, (agent, resources, share)) in (1..).zip(plan) {
        let role = Role::default();
        let offer = OfferId(number);
        let state = &mut host.state;
        state.open_offer_of(offer, agent, role, resources, Some(share));
    }
    let launch = |offer, names: &[&str]| GangLaunch {
        offer: OfferId(offer),
        spec: 0,
        tasks: names
            .iter()
            .map(|name| Launch::new(*name, machine(1000)))
            .collect(),
    };
    let specs = [TaskSpec::command(["true"])];
    let mut cx = Context::new(&mut host);
    let twice = [launch(1, &["a", "b"]), launch(2, &["a"])];
    assert!(matches!(
        cx.launch_gang(&specs, &twice),
        Err(Error::Invalid(_))
    ));
    let more = [launch(1, &["a", "b"]), launch(2, &["c", "d"])];
    let refused = cx.launch_gang(&specs, &more);
    assert!(matches!(refused, Err(Error::OfferExceeded(_))));
    let ids = cx
        .launch_gang(&specs, &[launch(1, &["a", "b"]), launch(2, &["c"])])
        .unwrap();
    assert_eq!((ids.len(), host.state.tasks.values().count()), (3, 3));
}
