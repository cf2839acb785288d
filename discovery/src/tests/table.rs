//! Names, and what is said of them.

use super::*;
use RecordType as T;

#[test]
fn every_kind_of_name_answers_as_documented() {
    let directory = cluster();
    let table: &[(&str, RecordType, &str)] = &[
        // Tasks.
        ("job.batch.tepui.", T::A, "10.0.0.1"),
        ("JOB.Batch.tepui.", T::AAAA, "fd00::1"),
        ("job.batch.tepui.", T::SRV, "8080 job.batch.tepui."),
        ("job.batch.tepui.", T::TXT, "no data"),
        ("db.eu.batch.tepui.", T::A, "10.0.0.5"),
        ("db.eu.batch.tepui.", T::AAAA, "no data"),
        (
            "_http._tcp.job.batch.tepui.",
            T::SRV,
            "8080 job.batch.tepui.",
        ),
        ("_http._udp.job.batch.tepui.", T::SRV, "no name"),
        // A task that is not ready answers for itself.
        ("web-2.batch.tepui.", T::A, "10.0.0.4"),
        // Services.
        ("web.batch.tepui.", T::A, "10.0.0.2, 10.0.0.3"),
        ("web.batch.tepui.", T::AAAA, "no data"),
        (
            "web.batch.tepui.",
            T::SRV,
            "8080 web-0.batch.tepui., 8080 web-1.batch.tepui.",
        ),
        (
            "_http._tcp.web.batch.tepui.",
            T::SRV,
            "8080 web-0.batch.tepui., 8080 web-1.batch.tepui.",
        ),
        ("_HTTP._TCP.web.batch.tepui.", T::A, "no data"),
        ("_admin._udp.web.batch.tepui.", T::SRV, "no data"),
        ("_admin._tcp.web.batch.tepui.", T::SRV, "no name"),
        ("_nothing._tcp.web.batch.tepui.", T::SRV, "no name"),
        // Names with nothing but names below them.
        ("_tcp.web.batch.tepui.", T::SRV, "no data"),
        ("eu.batch.tepui.", T::A, "no data"),
        ("batch.tepui.", T::A, "no data"),
        ("agent.tepui.", T::A, "no data"),
        ("rack.agent.tepui.", T::A, "no data"),
        ("_tcp.leader.tepui.", T::SRV, "no data"),
        // Agents and masters.
        ("node-1.rack.agent.tepui.", T::A, "192.168.0.1"),
        ("a1.agent.tepui.", T::A, "192.168.0.1"),
        ("leader.tepui.", T::A, "172.16.0.1"),
        ("leader.tepui.", T::SRV, "5050 leader.tepui."),
        ("_http._tcp.leader.tepui.", T::SRV, "5050 leader.tepui."),
        ("master.tepui.", T::A, "172.16.0.1, 172.16.0.2"),
        ("_http._tcp.master.tepui.", T::SRV, "5050 master.tepui."),
        // The zone.
        ("tepui.", T::NS, "master.tepui."),
        ("tepui.", T::A, "no data"),
        // Nothing.
        ("nothing.batch.tepui.", T::A, "no name"),
        ("b.batch.tepui.", T::A, "no name"),
        ("job.nothing.tepui.", T::A, "no name"),
        ("nothing.tepui.", T::A, "no name"),
        ("a.job.batch.tepui.", T::A, "no name"),
        ("a2.agent.tepui.", T::A, "no name"),
        ("we\\.b.batch.tepui.", T::A, "no name"),
        // As little as there is.
        ("job.batch.tepui.", T::ANY, "minimal"),
        ("batch.tepui.", T::ANY, "minimal"),
        ("nothing.batch.tepui.", T::ANY, "no name"),
        // Addresses.
        ("1.0.0.10.in-addr.arpa.", T::PTR, "job.batch.tepui."),
        ("5.0.0.10.IN-ADDR.ARPA.", T::PTR, "db.eu.batch.tepui."),
        (
            "1.0.168.192.in-addr.arpa.",
            T::PTR,
            "node-1.rack.agent.tepui.",
        ),
        ("9.0.0.10.in-addr.arpa.", T::PTR, "outside"),
        ("0.0.10.in-addr.arpa.", T::PTR, "outside"),
        // Elsewhere.
        ("example.com.", T::A, "outside"),
        ("tepui.example.", T::A, "outside"),
        (".", T::NS, "outside"),
    ];
    for (name, kind, expected) in table {
        assert_eq!(&said(&directory, name, *kind), expected, "{name} {kind}");
    }
}

#[test]
fn ipv6_addresses_have_names() {
    let name = Name::from("fd00::1".parse::<IpAddr>().unwrap()).to_ascii();
    let name = format!(
        "{}.ip6.arpa.",
        name.trim_end_matches(".ip6.arpa.").trim_end_matches('.')
    );
    assert_eq!(said(&cluster(), &name, T::PTR), "job.batch.tepui.");
}

#[test]
fn targets_come_with_their_addresses() {
    let answer = ask(&cluster(), "_http._tcp.web.batch.tepui.", T::SRV).unwrap();
    let mut glue: Vec<_> = answer
        .additionals
        .iter()
        .map(|record| format!("{} {}", record.name, record.data))
        .collect();
    glue.sort();
    assert_eq!(
        glue,
        ["web-0.batch.tepui. 10.0.0.2", "web-1.batch.tepui. 10.0.0.3"]
    );
}

#[test]
fn a_negative_answer_says_how_long_it_may_be_kept() {
    let answer = ask(&cluster(), "nothing.batch.tepui.", T::A).unwrap();
    let RData::SOA(soa) = &answer.authorities[0].data else {
        panic!("{answer:?}");
    };
    assert_eq!(
        (soa.minimum, answer.authorities[0].ttl),
        (Zone::TTL_S, Zone::TTL_S)
    );
    assert_eq!(answer.authorities[0].name.to_ascii(), "tepui.");
}

#[test]
fn an_instance_comes_into_service_and_leaves_it() {
    let mut directory = cluster();
    let mut third = of_service(entry((1, "batch"), "web-2", 4, "10.0.0.4"), "web");
    assert!(directory.put(third.clone()));
    let all = "10.0.0.2, 10.0.0.3, 10.0.0.4";
    assert_eq!(said(&directory, "web.batch.tepui.", T::A), all);
    assert!(!directory.put(third.clone()), "nothing has changed");
    third.running = false;
    directory.put(third.clone());
    assert_eq!(
        said(&directory, "web.batch.tepui.", T::A),
        "10.0.0.2, 10.0.0.3"
    );
    assert_eq!(said(&directory, "web-2.batch.tepui.", T::A), "10.0.0.4");
    third.addresses.clear();
    directory.put(third.clone());
    assert_eq!(said(&directory, "web-2.batch.tepui.", T::A), "no data");
    assert_eq!(said(&directory, "web-2.batch.tepui.", T::SRV), "no data");
    assert!(directory.remove(&third.id));
    assert!(!directory.remove(&third.id));
    assert_eq!(said(&directory, "web-2.batch.tepui.", T::A), "no name");
}

#[test]
fn a_clone_stays_as_it_was() {
    let mut directory = cluster();
    let before = directory.clone();
    directory.put(entry((1, "batch"), "late", 9, "10.0.0.9"));
    assert_eq!(said(&before, "late.batch.tepui.", T::A), "no name");
    assert_eq!(said(&directory, "late.batch.tepui.", T::A), "10.0.0.9");
    assert_ne!(before.version(), directory.version());
}

#[test]
fn of_two_attempts_the_one_that_is_ready_answers_then_the_newest() {
    let mut directory = Directory::new();
    let old = entry((1, "batch"), "job", 1, "10.0.0.1");
    let mut new = entry((1, "batch"), "job", 2, "10.0.0.2");
    new.ready = false;
    directory.put(old.clone());
    directory.put(new.clone());
    assert_eq!(said(&directory, "job.batch.tepui.", T::A), "10.0.0.1");
    new.ready = true;
    directory.put(new);
    assert_eq!(said(&directory, "job.batch.tepui.", T::A), "10.0.0.2");
    directory.remove(&old.id);
    assert_eq!(said(&directory, "job.batch.tepui.", T::A), "10.0.0.2");
}

#[test]
fn a_service_gives_out_no_instance_whose_name_is_another_ones() {
    let mut directory = Directory::new();
    for attempt in [1, 2] {
        let address = format!("10.0.0.{attempt}");
        let task = entry((1, "batch"), "web-0", attempt, &address);
        directory.put(of_service(task, "web"));
    }
    assert_eq!(said(&directory, "web-0.batch.tepui.", T::A), "10.0.0.2");
    assert_eq!(said(&directory, "web.batch.tepui.", T::A), "10.0.0.2");
    let ports = said(&directory, "web.batch.tepui.", T::SRV);
    assert_eq!(ports, "8080 web-0.batch.tepui.");
}

#[test]
fn nobody_adds_instances_to_another_tenants_service() {
    let mut directory = Directory::new();
    let mine = of_service(entry((1, "my-fw"), "web-0", 1, "10.0.0.1"), "web");
    directory.put(of_service(
        entry((2, "My_Fw"), "web-9", 1, "10.6.6.6"),
        "web",
    ));
    directory.put(mine.clone());
    assert_eq!(said(&directory, "web.my-fw.tepui.", T::A), "10.0.0.1");
    assert_eq!(said(&directory, "web-9.my-fw.tepui.", T::A), "no name");
    assert_eq!(
        said(&directory, "6.6.6.10.in-addr.arpa.", T::PTR),
        "outside"
    );
    directory.remove(&mine.id);
    assert_eq!(said(&directory, "web.my-fw.tepui.", T::A), "10.6.6.6");
}

#[test]
fn a_task_has_its_name_before_a_service_and_the_service_its_ports() {
    let mut directory = Directory::new();
    let batch = (1, "batch");
    directory.put(of_service(entry(batch, "web", 1, "10.0.0.1"), "web"));
    directory.put(of_service(entry(batch, "web-1", 2, "10.0.0.2"), "web"));
    assert_eq!(said(&directory, "web.batch.tepui.", T::A), "10.0.0.1");
    assert_eq!(
        said(&directory, "_http._tcp.web.batch.tepui.", T::SRV),
        "8080 web-1.batch.tepui., 8080 web.batch.tepui."
    );
}

#[test]
fn tasks_on_one_machine_give_its_address_once_and_all_their_ports() {
    let mut directory = Directory::new();
    for n in 0..3 {
        let mut task = of_service(entry((1, "batch"), &format!("w-{n}"), n, "10.0.0.1"), "web");
        task.ports = vec![port(8000 + n as u16, Some("http"), Protocol::Tcp)];
        task.ports
            .push(port(8000 + n as u16, Some("http"), Protocol::Udp));
        directory.put(task);
    }
    assert_eq!(said(&directory, "web.batch.tepui.", T::A), "10.0.0.1");
    assert_eq!(
        said(&directory, "web.batch.tepui.", T::SRV),
        "8000 w-0.batch.tepui., 8001 w-1.batch.tepui., 8002 w-2.batch.tepui."
    );
}

#[test]
fn a_large_service_gives_a_bounded_random_choice() {
    let mut directory = Directory::new();
    for n in 0..5_000_u32 {
        let address = IpAddr::from((0x0a00_0000 + n).to_be_bytes()).to_string();
        let task = entry((1, "batch"), &format!("w-{n}"), u64::from(n), &address);
        directory.put(of_service(task, "web"));
    }
    let name = Name::from_ascii("web.batch.tepui.").unwrap();
    let query = Query::query(name, T::A);
    let mut seen = std::collections::HashSet::new();
    for seed in 0..1_000 {
        let answer = answer(&directory, &Zone::default(), &query, seed).unwrap();
        assert_eq!(answer.answers.len(), 64);
        seen.extend(
            answer
                .answers
                .into_iter()
                .map(|record| record.data.to_string()),
        );
    }
    assert_eq!(seen.len(), 5_000, "everyone has a turn");
}

#[test]
fn long_and_odd_names_still_make_records() {
    let mut directory = Directory::new();
    let long = "n".repeat(300);
    let fw = (1, long.as_str());
    directory.put(of_service(
        entry(fw, &format!("{long}.ü._x"), 1, "10.0.0.1"),
        &long,
    ));
    let zone = Zone::new(&"d".repeat(60), 5).unwrap();
    let service = crate::service(&directory, &zone, &long, &long).unwrap();
    let query = Query::query(Name::from_ascii(&service.summary.dns_name).unwrap(), T::SRV);
    let found = answer(&directory, &zone, &query, 1).unwrap();
    assert_eq!(found.answers.len(), 1);
}

#[test]
fn views_show_services_by_pages_and_instances_with_their_readiness() {
    let mut directory = cluster();
    directory.put(of_service(
        entry((1, "batch"), "api-0", 8, "10.0.0.8"),
        "api",
    ));
    directory.put(of_service(entry((2, "cron"), "z", 1, "10.0.0.9"), "zed"));
    let zone = Zone::default();
    let mut names = Vec::new();
    let mut after = None;
    loop {
        let page = crate::services(&directory, &zone, after.as_ref(), 1);
        names.extend(
            page.services
                .into_iter()
                .map(|s| (s.dns_name, s.ready, s.instances)),
        );
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(
        names,
        [
            ("api.batch.tepui.".to_string(), 1, 1),
            ("web.batch.tepui.".to_string(), 2, 3),
            ("zed.cron.tepui.".to_string(), 1, 1),
        ]
    );
    let web = crate::service(&directory, &zone, "batch", "web").unwrap();
    let ready: Vec<_> = web.list.iter().map(|i| i.ready).collect();
    assert_eq!(ready, [true, true, false]);
    assert_eq!(web.list[2].dns_name, "web-2.batch.tepui.");
    assert!(crate::service(&directory, &zone, "batch", "job").is_none());
    let json = serde_json::to_value(&web).unwrap();
    assert_eq!(json["service"], "web");
    assert_eq!(json["list"][2]["ports"][1]["protocol"], "udp");
}
