//! The laws of resource arithmetic.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

fn resources() -> impl Strategy<Value = Resources> {
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
    (
        0u64..100_000,
        0u64..1 << 40,
        0u64..1 << 40,
        ports,
        gpus,
        custom,
    )
        .prop_map(|(cpus, mem, disk, ports, gpus, custom)| Resources {
            cpus: MilliCpus(cpus),
            mem: Bytes(mem),
            disk: Bytes(disk),
            ports,
            gpus,
            custom,
        })
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
        a in resources(),
        cpus in 0u64..50_000,
        ports in 0u32..8,
        gpus in prop_oneof![0u64..1000, Just(1000), Just(2000)],
    ) {
        let request = ResourceRequest {
            cpus: MilliCpus(cpus), ports, gpus_milli: gpus, ..Default::default()
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
        a in resources(),
        cpus in 1u64..50_000,
        ports in 0u32..3,
        b in 0u64..3_000,
        limit in 0u32..40,
    ) {
        let custom = BTreeMap::from([("b".to_owned(), b)]);
        let request =
            ResourceRequest { cpus: MilliCpus(cpus), ports, custom, ..Default::default() };
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
