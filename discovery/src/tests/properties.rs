//! What holds after any changes, in any order.

use std::collections::BTreeMap;

use hickory_proto::op::{Edns, Message};
use proptest::prelude::*;

use super::*;
use crate::label;
use crate::message::{Handled, Transport, handle};

/// A change of a small cluster, so that names and addresses meet.
#[derive(Debug, Clone)]
enum Change {
    Put(Entry),
    Remove(u64, u64),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let names = prop::sample::select(vec!["a", "A", "b", "x.a", "web", "w_b", "é"]);
    let services = prop::sample::select(vec![None, Some("web"), Some("a"), Some("W_B")]);
    let frameworks = prop::sample::select(vec![(1, "fw"), (2, "FW"), (3, "agent")]);
    let put = (
        frameworks,
        names,
        services,
        0..6_u64,
        any::<[bool; 3]>(),
        0..9_u8,
    )
        .prop_map(
            |(framework, name, service, attempt, [running, ready, reached], last)| {
                let address = format!("10.0.0.{last}");
                let mut entry = entry(framework, name, attempt, &address);
                entry.service = service.map(str::to_string);
                entry.running = running;
                entry.ready = ready;
                if !reached {
                    entry.addresses.clear();
                }
                Change::Put(entry)
            },
        );
    let remove = (1..4_u64, 0..6_u64).prop_map(|(f, a)| Change::Remove(f, a));
    prop::collection::vec(prop_oneof![3 => put, 1 => remove], 0..60)
}

fn directory_and_model(changes: Vec<Change>) -> (Directory, BTreeMap<(u64, u64), Entry>) {
    let (mut directory, mut model) = (Directory::new(), BTreeMap::new());
    for change in changes {
        match change {
            Change::Put(entry) => {
                model.insert((entry.id.framework.0, entry.id.attempt), entry.clone());
                directory.put(entry);
            }
            Change::Remove(framework, attempt) => {
                if let Some(old) = model.remove(&(framework, attempt)) {
                    assert!(directory.remove(&old.id));
                }
            }
        }
    }
    (directory, model)
}

const NAMES: [&str; 6] = ["a", "b", "x.a", "web", "w-b", "nothing"];
const FRAMEWORKS: [&str; 3] = ["fw", "agent", "nothing"];

fn questions() -> Vec<String> {
    let mut questions = Vec::new();
    for framework in FRAMEWORKS {
        for name in NAMES.map(str::to_string).into_iter().chain([label("é")]) {
            questions.push(format!("{name}.{framework}.tepui."));
            questions.push(format!("_http._tcp.{name}.{framework}.tepui."));
        }
    }
    questions
}

proptest! {
    #[test]
    fn every_target_of_a_port_has_an_address_that_an_entry_has(changes in changes()) {
        let (directory, model) = directory_and_model(changes);
        for question in questions() {
            let Some(answer) = ask(&directory, &question, RecordType::SRV) else { continue };
            for record in answer.answers {
                let RData::SRV(srv) = record.data else { continue };
                let target = ask(&directory, &srv.target.to_ascii(), RecordType::A).unwrap();
                prop_assert!(!target.answers.is_empty(), "{} of {question}", srv.target);
                for address in target.answers {
                    let address: IpAddr = address.data.to_string().parse().unwrap();
                    prop_assert!(model.values().any(|entry| entry.addresses.contains(&address)));
                }
            }
        }
    }

    #[test]
    fn services_give_out_only_what_runs_and_is_ready(changes in changes()) {
        let (directory, model) = directory_and_model(changes);
        for service in NAMES {
            if crate::service(&directory, &Zone::default(), "fw", service).is_none() {
                continue;
            }
            let question = format!("_http._tcp.{service}.fw.tepui.");
            for glue in ask(&directory, &question, RecordType::SRV).unwrap().additionals {
                let address: IpAddr = glue.data.to_string().parse().unwrap();
                let found = model.values().any(|entry| {
                    let ours = entry.service.as_deref().map(label).as_deref() == Some(service);
                    ours && entry.in_service() && entry.addresses.contains(&address)
                });
                prop_assert!(found, "{question} {address}");
            }
        }
    }

    #[test]
    fn whatever_was_put_and_removed_nothing_of_it_is_left(changes in changes()) {
        let (mut directory, model) = directory_and_model(changes);
        prop_assert_eq!(directory.len(), model.len());
        for entry in model.values() {
            prop_assert!(directory.remove(&entry.id));
        }
        prop_assert!(directory.is_empty());
        for question in questions() {
            prop_assert_eq!(said(&directory, &question, RecordType::A), "no name");
        }
        let rest = crate::services(&directory, &Zone::default(), None, 10);
        prop_assert!(rest.services.is_empty());
        for last in 0..9 {
            let name = format!("{last}.0.0.10.in-addr.arpa.");
            prop_assert_eq!(said(&directory, &name, RecordType::PTR), "outside");
        }
    }

    #[test]
    fn the_way_to_a_state_does_not_matter(changes in changes()) {
        let (directory, model) = directory_and_model(changes);
        let mut straight = Directory::new();
        for entry in model.into_values().rev() {
            straight.put(entry);
        }
        for question in questions() {
            for kind in [RecordType::A, RecordType::SRV] {
                prop_assert_eq!(said(&directory, &question, kind), said(&straight, &question, kind));
            }
        }
    }

    #[test]
    fn no_packet_gets_more_than_its_asker_takes(
        noise in prop::collection::vec(any::<u8>(), 0..80),
        at in 0..40_usize,
        takes in any::<u16>(),
        service in any::<bool>(),
        kind in prop::sample::select(vec![1_u16, 6, 28, 33, 255]),
    ) {
        let mut directory = cluster();
        for n in 0..70 {
            let task = entry((1, "batch"), &format!("w-{n}"), 100 + n, &format!("10.1.0.{n}"));
            directory.put(of_service(task, "web"));
        }
        let name = if service { "web.batch.tepui." } else { "nothing.batch.tepui." };
        let query = Query::query(Name::from_ascii(name).unwrap(), RecordType::from(kind));
        let mut question = Message::query();
        question.add_query(query);
        let mut edns = Edns::new();
        edns.set_max_payload(takes);
        question.set_edns(edns);
        let asked = question.to_vec().unwrap();
        // The question itself, with bytes of chance over a part of it, and those alone.
        let mut changed = asked.clone();
        let covered = at..(at + noise.len() / 8).min(asked.len()).max(at);
        changed.splice(covered, noise.iter().copied().take(noise.len() / 8));
        let room = usize::from(takes.clamp(512, 1232));
        for (packet, room) in [(&asked, room), (&changed, 1232), (&noise, 1232)] {
            let zone = Zone::default();
            if let Handled::Reply(reply, _) = handle(&directory, &zone, packet, Transport::Udp, 1) {
                prop_assert!(reply.len() <= room, "{} of {room}", reply.len());
                let reply = Message::from_vec(&reply).unwrap();
                prop_assert_eq!(reply.metadata.id.to_be_bytes(), [packet[0], packet[1]]);
            } else {
                prop_assert!(*packet != asked, "a good question is answered");
            }
        }
    }
}
