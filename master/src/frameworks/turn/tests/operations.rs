//! Reservations in turns.

use tepui_types::operation::ConversionState;
use tepui_types::wish::ReserveRequest;
use tepui_types::{AgentId, MilliCpus, Wish, resources::ResourceRequest as Request};

use super::*;

const O7: OfferId = OfferId(7);

/// A turn with one offer, in the framework's second role.
fn open(cluster: &Cluster) -> OpenTurn {
    let framework = cluster.state.framework(FRAMEWORK).unwrap().clone();
    let mut offers = HeldOffers::default();
    offers.insert(Offer {
        role: other(),
        ..offer(7)
    });
    offers.show(10);
    let (state, seen) = (Arc::new(cluster.state.clone()), Seen::default());
    OpenTurn::new(state, framework, Timestamp(2000), seen, offers)
}

fn other() -> Role {
    "other".parse().unwrap()
}

fn reserve(cpus: u64) -> Wish {
    let amounts = Request {
        cpus: MilliCpus(cpus),
        ..Request::default()
    };
    Wish::Reserve(ReserveRequest::new(other(), amounts))
}

#[test]
fn what_an_operation_makes_is_used_in_the_same_turn() {
    let mut cluster = Cluster::new();
    let mut turn = open(&cluster);
    turn.operate(O7, "mine".into(), &reserve(1000)).unwrap();
    assert_eq!(turn.left(O7).unwrap().pools.iter().count(), 1);
    turn.accept(O7, spec(""), vec![task("a", 2000)]).unwrap();
    let left = turn.left(O7).unwrap();
    assert_eq!((left.cpus, left.pools.is_empty()), (MilliCpus(2000), true));
    cluster.commit(turn);
    let record = cluster.state.conversions.values().next().unwrap();
    assert_eq!(record.state, ConversionState::Finished, "{record:?}");
    let (_, task) = cluster.state.tasks.get_min().unwrap();
    assert_eq!(
        task.resources.pools.iter().count(),
        1,
        "what is reserved goes first"
    );
    // The reservation, and what the task has beyond.
    assert_eq!(cluster.state.role_use(&other()).cpus, MilliCpus(2000));
}

#[test]
fn an_operation_takes_no_more_than_its_offer_has_left() {
    let cluster = Cluster::new();
    let mut turn = open(&cluster);
    let exceeded = turn.operate(O7, "mine".into(), &reserve(4001));
    assert!(matches!(exceeded, Err(CallError::OfferExceeded(why)) if why.contains("cpus")));
    let unnamed = turn.operate(O7, String::new(), &reserve(1));
    assert!(matches!(unnamed, Err(CallError::Invalid(_))));
    let unknown = turn.operate(OfferId(9), "mine".into(), &reserve(1));
    assert_eq!(unknown, Err(CallError::OfferUnknown));
    turn.accept(O7, spec(""), vec![task("a", 4000)]).unwrap();
    let exceeded = turn.operate(O7, "mine".into(), &reserve(1));
    assert!(matches!(exceeded, Err(CallError::OfferExceeded(_))));
}

#[test]
fn one_that_does_not_fit_any_more_is_dropped_and_its_framework_told() {
    let mut cluster = Cluster::new();
    let mut turn = open(&cluster);
    turn.operate(O7, "mine".into(), &reserve(3000)).unwrap();
    cluster.apply(Command::Operate {
        agent: AgentId(1),
        wish: reserve(2000),
    });
    cluster.commit(turn);
    let framework = cluster.state.framework(FRAMEWORK).unwrap();
    let notice = framework.notices.values().next().unwrap();
    assert_eq!((&*notice.operation, &*notice.subject), ("reserve", "mine"));
}
