//! Answers and views from directories, without a socket.

mod properties;
mod table;

use std::net::IpAddr;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tepui_types::container::Protocol;
use tepui_types::{AgentId, FrameworkId, TaskId, TaskName};

use crate::answer::{Answer, answer};
use crate::{Agent, Directory, Entry, Master, Port, Zone};

/// A task that runs and is ready, with one address and a port `http`.
fn entry(framework: (u64, &str), name: &str, attempt: u64, address: &str) -> Entry {
    Entry {
        id: TaskId {
            framework: FrameworkId(framework.0),
            name: TaskName::new("t").unwrap(),
            attempt,
        },
        name: name.to_string(),
        framework: framework.1.to_string(),
        service: None,
        agent: AgentId(1),
        hostname: "node-1".to_string(),
        addresses: vec![address.parse().unwrap()],
        ports: vec![port(8080, Some("http"), Protocol::Tcp)],
        running: true,
        ready: true,
    }
}

fn of_service(mut entry: Entry, service: &str) -> Entry {
    entry.service = Some(service.to_string());
    entry
}

fn port(number: u16, name: Option<&str>, protocol: Protocol) -> Port {
    Port {
        number,
        name: name.map(str::to_string),
        protocol,
    }
}

fn ask(directory: &Directory, name: &str, kind: RecordType) -> Option<Answer> {
    let name = Name::from_ascii(name).unwrap();
    answer(directory, &Zone::default(), &Query::query(name, kind), 7)
}

/// An answer in a line: its records' data, sorted, or what it says instead.
fn said(directory: &Directory, name: &str, kind: RecordType) -> String {
    let Some(answer) = ask(directory, name, kind) else {
        return "outside".to_string();
    };
    let mut records: Vec<String> = answer
        .answers
        .iter()
        .map(|record| match &record.data {
            RData::SRV(srv) => format!("{} {}", srv.port, srv.target),
            RData::HINFO(_) => "minimal".to_string(),
            data => data.to_string(),
        })
        .collect();
    records.sort();
    let soa = answer
        .authorities
        .iter()
        .any(|r| r.record_type() == RecordType::SOA);
    match (answer.code, records.is_empty(), soa) {
        (ResponseCode::NXDomain, true, true) => "no name".to_string(),
        (ResponseCode::NoError, true, true) => "no data".to_string(),
        (ResponseCode::NoError, false, false) => records.join(", "),
        other => panic!("{name} {kind}: {other:?} {records:?}"),
    }
}

/// A small cluster: a task of its own, a service of three instances of which two are in service,
/// a task of several labels, an agent and two masters.
fn cluster() -> Directory {
    let batch = (1, "batch");
    let mut directory = Directory::new();
    let mut job = entry(batch, "job", 1, "10.0.0.1");
    job.addresses.push("fd00::1".parse().unwrap());
    directory.put(job);
    directory.put(of_service(entry(batch, "web-0", 2, "10.0.0.2"), "web"));
    directory.put(of_service(entry(batch, "web-1", 3, "10.0.0.3"), "web"));
    let mut starting = of_service(entry(batch, "web-2", 4, "10.0.0.4"), "web");
    starting.ready = false;
    starting.ports.push(port(9, Some("admin"), Protocol::Udp));
    directory.put(starting);
    directory.put(entry(batch, "db.eu", 5, "10.0.0.5"));
    directory.put_agent(Agent {
        id: AgentId(1),
        hostname: "Node-1.rack".to_string(),
        addresses: vec!["192.168.0.1".parse().unwrap()],
    });
    directory.set_masters(vec![
        master("172.16.0.1", true),
        master("172.16.0.2", false),
    ]);
    directory
}

fn master(address: &str, leads: bool) -> Master {
    Master {
        addresses: vec![address.parse::<IpAddr>().unwrap()],
        port: 5050,
        leads,
    }
}
