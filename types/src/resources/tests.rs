//! The laws of resource arithmetic.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

fn plain() -> impl Strategy<Value = Resources> {
    let ports = vec((31000u16..31050, 0u16..6), 0..4).prop_map(|ranges| {
        PortRanges::from_ranges(
            ranges
                .into_iter()
                .map(|(first, len)| (first, first + len))
                .collect(),
        )
    });
    let gpus = btree_map("gpu[0-3]", 1u64..=MILLI, 0..3);
    let custom = btree_map("[ab]", 1u64..10_000, 0..2);
    let words = proptest::collection::btree_set("[a-d]", 1..3);
    let words = words.prop_map(|words| Items::Set(Words(words)));
    let numbers = (0u64..20, 0u64..4)
        .prop_map(|(first, len)| Items::Ranges(NumberRanges::from_range(first, first + len)));
    let items = (proptest::option::of(words), proptest::option::of(numbers)).prop_map(
        |(words, numbers)| {
            let words = words.map(|words| ("words".to_owned(), words));
            words
                .into_iter()
                .chain(numbers.map(|numbers| ("numbers".to_owned(), numbers)))
                .collect()
        },
    );
    (
        0u64..100_000,
        0u64..1 << 40,
        0u64..1 << 40,
        ports,
        gpus,
        custom,
        items,
    )
        .prop_map(|(cpus, mem, disk, ports, gpus, custom, items)| Resources {
            cpus: MilliCpus(cpus),
            mem: Bytes(mem),
            disk: Bytes(disk),
            ports,
            gpus,
            custom,
            items,
            pools: Pools::default(),
        })
}

fn kinds() -> impl Strategy<Value = PoolKind> {
    let stacks = prop_oneof![
        Just(vec![]),
        Just(vec!["eng"]),
        Just(vec!["eng", "eng/web"])
    ];
    (stacks, any::<bool>(), 0u8..3, any::<bool>()).prop_map(
        |(roles, is_static, disk, revocable)| {
            let mut kind = PoolKind {
                disk: match disk {
                    0 => None,
                    1 => Some(Disk::Path("p".into())),
                    _ => Some(Disk::Mount("m".into())),
                },
                revocable: revocable && roles.is_empty(),
                ..PoolKind::default()
            };
            for (place, role) in roles.into_iter().enumerate() {
                let mut one = Reservation::dynamic(role.parse().unwrap());
                one.is_static = is_static && place == 0;
                kind.reservations.push(one);
            }
            kind
        },
    )
}

/// An agent's resources: in parts that have nothing in common.
fn resources() -> impl Strategy<Value = Resources> {
    let pools = vec((kinds(), plain(), any::<bool>()), 0..4);
    (plain(), pools).prop_map(|(mut all, pools)| {
        let mut made: Vec<Pool> = Vec::new();
        for (number, (mut kind, amounts, is_volume)) in pools.into_iter().enumerate() {
            let disk = Resources {
                disk: Bytes(amounts.disk.0 + 1),
                ..Resources::default()
            };
            if is_volume && !kind.reservations.is_empty() {
                let path = "data".into();
                kind.volume = Some(Volume {
                    id: format!("v{number}"),
                    path,
                    shared: false,
                });
            }
            if let Some(Disk::Mount(id)) = &mut kind.disk {
                *id = format!("m{number}");
            }
            let is_disk = kind.disk.is_some() || kind.volume.is_some();
            let amounts = if is_disk { disk } else { amounts };
            let pool = Pool { kind, amounts };
            let is_new = made.iter().all(|other| other.kind != pool.kind);
            if is_new && !pool.kind.is_plain() && !pool.amounts.is_empty() {
                made.push(pool);
            }
        }
        all.pools = Pools::try_from(made).unwrap();
        all
    })
}

fn adds_up(all: &Resources) -> bool {
    let mut pools = all.pools.iter();
    let sum = pools.try_fold(all.plain(), |sum, pool| sum.checked_add(&pool.amounts));
    sum.is_ok()
}

/// Something to do with resources, by what is there: mostly possible.
fn conversions(all: &Resources, what: u8, which: usize, amount: u64) -> Conversion {
    let pools = all.pools.as_slice();
    let pool = pools.get(which % pools.len().max(1)).cloned();
    let volume = all
        .pools
        .iter()
        .filter_map(|pool| pool.kind.volume.clone())
        .next();
    let volume = volume.map_or_else(|| "none".to_owned(), |volume| volume.id);
    let some = Resources {
        cpus: MilliCpus(amount.min(all.cpus.0)),
        ports: all.ports.lowest(amount.min(3)).unwrap_or_default(),
        ..Resources::default()
    };
    let of_pool = |pool: Option<Pool>| Resources {
        pools: pool.map_or_else(Pools::default, Pools::from),
        ..Resources::default()
    };
    let for_role = |role: &str| Reservation::dynamic(role.parse().unwrap());
    match what {
        0 => Conversion::Reserve {
            resources: some,
            reservation: for_role("eng"),
        },
        1 => {
            let reservation = for_role("eng/web/front");
            Conversion::Reserve {
                resources: of_pool(pool),
                reservation,
            }
        }
        2 => Conversion::Unreserve {
            resources: of_pool(pool),
        },
        3 => {
            let kind = PoolKind::reserved("eng".parse().unwrap());
            let disk = pool.unwrap_or_else(|| Pool::disk(kind, Bytes(1)));
            let volume = Volume {
                id: "new".into(),
                path: "x/y".into(),
                shared: true,
            };
            Conversion::Create { disk, volume }
        }
        4 => Conversion::Destroy { volume },
        5 => Conversion::Grow {
            volume,
            by: Bytes(amount),
        },
        _ => Conversion::Shrink {
            volume,
            by: Bytes(amount),
        },
    }
}

proptest! {
    #[test]
    fn an_operation_neither_loses_nor_doubles_anything(
        all in resources(),
        used in 0u64..50_000,
        steps in vec((0u8..7, 0usize..4, 1u64..5_000), 1..20),
    ) {
        let mut all = all;
        let used = Resources { cpus: MilliCpus(used.min(all.cpus.0)), ..Resources::default() };
        let sum = |resources: &Resources| {
            let pools = resources.pools.iter();
            pools.fold(resources.plain(), |sum, pool| sum.checked_add(&pool.amounts).unwrap_or(sum))
        };
        // Pools of random resources may have a port in common, and then have no sum.
        prop_assume!(adds_up(&all));
        let before = sum(&all);
        for (what, which, amount) in steps {
            let conversion = conversions(&all, what, which, amount);
            let free = all.checked_sub(&used).unwrap();
            let Ok(exchange) = conversion.exchange(&free) else { continue };
            prop_assert_eq!(sum(&exchange.taken), sum(&exchange.given));
            all = exchange.apply(&all).unwrap();
            prop_assert_eq!(sum(&all), before.clone());
            prop_assert!(all.contains(&used), "what is in use stays");
            let read = postcard::from_bytes::<Resources>(&postcard::to_stdvec(&all).unwrap());
            prop_assert_eq!(read.unwrap(), all.clone(), "it is of one form");
        }
    }

    #[test]
    fn what_is_carved_is_the_sum_that_was_wanted(all in resources(), cpus in 0u64..90_000) {
        prop_assume!(adds_up(&all));
        let flat = all.flat(false);
        let wanted = Resources { cpus: MilliCpus(cpus), ..Resources::default() };
        match all.carve(&wanted, false) {
            Some(carved) => {
                prop_assert!(all.contains(&carved));
                prop_assert_eq!(carved.flat(false).into_owned(), wanted);
            }
            None => prop_assert!(!flat.contains(&wanted)),
        }
    }

}

proptest! {
    #[test]
    fn adding_commutes(a in resources(), b in resources()) {
        // Which resource is named may differ; whether it works may not.
        prop_assert_eq!(a.checked_add(&b).ok(), b.checked_add(&a).ok());
    }

    #[test]
    fn adding_associates(a in resources(), b in resources(), c in resources()) {
        let left = a.checked_add(&b).and_then(|ab| ab.checked_add(&c)).ok();
        let right = b.checked_add(&c).and_then(|bc| a.checked_add(&bc)).ok();
        prop_assert_eq!(left, right);
    }

    #[test]
    fn nothing_is_neutral(a in resources()) {
        prop_assert_eq!(a.checked_add(&Resources::default()), Ok(a.clone()));
        prop_assert_eq!(a.checked_sub(&Resources::default()), Ok(a.clone()));
        prop_assert_eq!(a.checked_sub(&a), Ok(Resources::default()));
    }

    #[test]
    fn subtracting_undoes_adding(a in resources(), b in resources()) {
        if let Ok(sum) = a.checked_add(&b) {
            prop_assert!(sum.contains(&a) && sum.contains(&b));
            prop_assert_eq!(sum.checked_sub(&b), Ok(a));
        }
    }

    #[test]
    fn saturating_subtraction_agrees_where_it_fits(a in resources(), b in resources()) {
        if let Ok(rest) = a.checked_sub(&b) {
            prop_assert_eq!(a.saturating_sub(&b), rest);
        }
        prop_assert!(a.contains(&a.saturating_sub(&b)));
    }

    #[test]
    fn what_is_picked_was_there_and_is_what_was_asked(
        a in plain(),
        cpus in 0u64..50_000,
        ports in 0u32..8,
        gpus in prop_oneof![0u64..1000, Just(1000), Just(2000)],
    ) {
        let request = ResourceRequest {
            cpus: MilliCpus(cpus), ports: ports.into(), gpus_milli: gpus, ..Default::default()
        };
        match a.pick(&request) {
            Ok(picked) => {
                prop_assert!(a.contains(&picked));
                prop_assert_eq!(ResourceRequest::from(&picked), request);
            }
            Err(short) => prop_assert!(!short.is_empty()),
        }
    }

    #[test]
    fn taking_many_at_once_is_taking_one_after_another(
        a in plain(),
        cpus in 1u64..50_000,
        ports in 0u32..3,
        b in 0u64..3_000,
        limit in 0u32..40,
    ) {
        let custom = BTreeMap::from([("b".to_owned(), b)]);
        let request =
            ResourceRequest { cpus: MilliCpus(cpus), ports: ports.into(), custom, ..Default::default() };
        let (mut times, mut left) = (0, a.clone());
        while times < limit && let Ok(picked) = left.pick(&request) {
            left = left.checked_sub(&picked).unwrap();
            times += 1;
        }
        prop_assert_eq!(a.pick_many(&request, limit), (times, left));
    }

    #[test]
    fn both_encodings_round_trip(a in resources()) {
        let bytes = postcard::to_stdvec(&a).unwrap();
        prop_assert_eq!(postcard::from_bytes::<Resources>(&bytes).unwrap(), a.clone());
        let json = serde_json::to_string(&a).unwrap();
        prop_assert_eq!(serde_json::from_str::<Resources>(&json).unwrap(), a);
    }
}

#[test]
fn bad_amounts_are_refused() {
    for json in [
        r#"{"cpus_milli": -1}"#,
        r#"{"cpus_milli": 0.5}"#,
        r#"{"cpus": 1}"#,
        r#"{"ports": [[2, 1]]}"#,
        r#"{"ports": [[1, 5], [5, 6]]}"#,
        r#"{"mem_bytes": 99999999999999999999}"#,
    ] {
        assert!(serde_json::from_str::<Resources>(json).is_err(), "{json}");
    }
    let most = Resources {
        mem: Bytes(u64::MAX),
        ..Default::default()
    };
    assert_eq!(
        most.checked_add(&Resources {
            mem: Bytes(1),
            ..Default::default()
        }),
        Err(ResourceError::Overflow("mem".into()))
    );
}

#[test]
fn half_of_two_devices_is_not_one() {
    let halves = Resources {
        gpus: BTreeMap::from([("gpu0".into(), 500), ("gpu1".into(), 500)]),
        ..Default::default()
    };
    let one = ResourceRequest {
        gpus_milli: 1000,
        ..Default::default()
    };
    assert_eq!(halves.pick(&one), Err(vec!["gpus".into()]));
}

#[test]
fn faces_read_well() {
    let some = Resources {
        cpus: MilliCpus(1500),
        mem: Bytes::mib(1536),
        ports: PortRanges::from_range(31000, 31002),
        ..Default::default()
    };
    assert_eq!(some.to_string(), "1.5 cpus, 1.5 GiB mem, ports 31000-31002");
    assert_eq!(Bytes(512).to_string(), "512 B");
}
