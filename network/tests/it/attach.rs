//! Attachments by Debian's plugins: reached, told, taken away.

use std::net::Ipv4Addr;
use std::sync::Barrier;

use tepui_network::{Dns, NetworkError, PortMapping, Protocol};

use crate::host::{address, ask, attach, id, on_a_host, run, serve, within};

const PORTMAP: &str = r#"{"type": "portmap", "capabilities": {"portMappings": true}}"#;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

fn mapping(host_port: u16, container_port: u16) -> PortMapping {
    PortMapping {
        host_port,
        container_port,
        protocol: Protocol::Tcp,
        host_ip: None,
    }
}

#[test]
fn attachments_reach_each_other_their_host_and_themselves() {
    on_a_host(|host| {
        host.bridge("web", "1.0.0", &[]);
        let networks = host.networks();
        let one = networks.attach(attach("one", "web")).unwrap();
        let two = networks.attach(attach("two", "web")).unwrap();
        assert_ne!(address(&one), address(&two));
        serve(&one.netns, 80, "one");
        serve(&two.netns, 80, "two");
        assert_eq!(
            within(&two.netns, || ask(address(&one), 80)).unwrap(),
            "one"
        );
        assert_eq!(
            within(&one.netns, || ask(address(&two), 80)).unwrap(),
            "two"
        );
        assert_eq!(ask(address(&two), 80).unwrap(), "two");
        assert_eq!(
            within(&one.netns, || ask(Ipv4Addr::LOCALHOST, 80)).unwrap(),
            "one"
        );
        serve("/proc/thread-self/ns/net".as_ref(), 81, "host");
        assert_eq!(within(&one.netns, || ask(GATEWAY, 81)).unwrap(), "host");
    });
}

#[test]
fn every_user_of_an_attachment_may_have_any_of_its_ports() {
    on_a_host(|host| {
        host.bridge("web", "1.0.0", &[]);
        let networks = host.networks();
        let one = networks.attach(attach("one", "web")).unwrap();
        let bound = within(&one.netns, || {
            // Of this thread alone.
            let nobody = rustix::thread::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            std::net::TcpListener::bind(("0.0.0.0", 80)).map(drop)
        });
        bound.unwrap();
        let least = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
        let of_host = std::fs::read_to_string(least).unwrap();
        assert_ne!(of_host.trim(), "0");
    });
}

#[test]
fn what_an_attachment_has_is_told() {
    on_a_host(|host| {
        for (name, version) in [("old", "0.3.1"), ("middle", "0.4.0"), ("new", "1.0.0")] {
            host.bridge(name, version, &[]);
            let networks = host.networks();
            let attachment = networks.attach(attach(name, name)).unwrap();
            let [eth0] = &attachment.interfaces[..] else {
                panic!("{attachment:?}");
            };
            assert_eq!(
                (eth0.name.as_str(), eth0.gateway),
                ("eth0", Some(GATEWAY.into()))
            );
            assert_eq!(eth0.addresses[0].prefix(), 24);
            let shown = within(&attachment.netns, || run("ip", &["addr", "show", "eth0"]));
            assert!(shown.contains(eth0.mac.as_ref().unwrap()), "{shown}");
            assert!(shown.contains(&eth0.addresses[0].to_string()), "{shown}");
            let resolv_conf = attachment.resolv_conf().unwrap();
            let wanted = format!("nameserver 10.9.0.1\nsearch {name}.example\n");
            assert_eq!(resolv_conf, wanted);
            networks.check(&id(name)).unwrap();
            networks.detach(&id(name)).unwrap();
        }
        let names = host.networks().names().unwrap();
        assert_eq!(
            names.into_iter().collect::<Vec<_>>(),
            ["middle", "new", "old"]
        );
    });
}

#[test]
fn what_is_asked_of_dns_comes_before_the_networks() {
    on_a_host(|host| {
        host.bridge("web", "1.0.0", &[]);
        let mut asks = attach("one", "web");
        asks.dns = Dns::parse("search mine.example\noptions ndots:1\n");
        let attachment = host.networks().attach(asks).unwrap();
        assert_eq!(
            attachment.resolv_conf().unwrap(),
            "nameserver 10.9.0.1\nsearch mine.example\noptions ndots:1\n"
        );
    });
}

#[test]
fn a_port_of_the_host_leads_to_its_attachment_until_that_is_detached() {
    on_a_host(|host| {
        host.bridge("web", "1.0.0", &[PORTMAP]);
        let networks = host.networks();
        let two = networks.attach(attach("two", "web")).unwrap();
        let (rules, leases) = (host.rules(), host.leases("web"));
        let mut mapped = attach("one", "web");
        mapped.port_mappings = vec![mapping(8080, 80)];
        let one = networks.attach(mapped).unwrap();
        serve(&one.netns, 80, "one");
        assert_eq!(ask(Ipv4Addr::LOCALHOST, 8080).unwrap(), "one");
        assert_eq!(ask(GATEWAY, 8080).unwrap(), "one");
        assert_eq!(within(&two.netns, || ask(GATEWAY, 8080)).unwrap(), "one");
        assert!(host.rules().len() > rules.len());
        assert_eq!(host.leases("web").len(), 2);

        networks.detach(&id("one")).unwrap();
        ask(Ipv4Addr::LOCALHOST, 8080).unwrap_err();
        assert!(!one.netns.exists());
        assert_eq!(host.leases("web"), leases);
        assert_eq!(host.records(), ["two"]);
        let left: Vec<_> = host.rules();
        // The chains that portmap enters once stay; they lead nowhere.
        let of_one = |rule: &&String| rule.contains("one") || rule.contains("8080");
        assert_eq!(left.iter().find(of_one), None);
        assert!(
            rules.iter().all(|rule| left.contains(rule)),
            "{rules:?} {left:?}"
        );
        networks.detach(&id("one")).unwrap();
    });
}

#[test]
fn attaching_twice_is_attaching_once() {
    on_a_host(|host| {
        host.bridge("web", "1.0.0", &[PORTMAP]);
        let one = host.networks().attach(attach("one", "web")).unwrap();
        // As an agent does that was restarted.
        let networks = host.networks();
        assert_eq!(
            networks.attachment(&id("one")).unwrap().as_ref(),
            Some(&one)
        );
        assert_eq!(networks.attach(attach("one", "web")).unwrap(), one);
        assert_eq!(host.leases("web").len(), 1);
        let mut otherwise = attach("one", "web");
        otherwise.port_mappings = vec![mapping(8080, 80)];
        let error = networks.attach(otherwise).unwrap_err();
        assert!(matches!(error, NetworkError::Attached { .. }), "{error}");
        assert_eq!(networks.attachment(&id("two")).unwrap(), None);
    });
}

#[test]
fn a_network_that_is_not_configured_is_answered_with_those_that_are() {
    on_a_host(|host| {
        let networks = host.networks();
        let error = networks
            .attach(attach("one", "web"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("net.d"), "{error}");
        host.bridge("api", "1.0.0", &[]);
        host.bridge("bad", "7", &[]);
        let error = networks
            .attach(attach("one", "web"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no network `web`: choose one of api"),
            "{error}"
        );
        assert!(error.contains("bad.conflist: \"cniVersion\" 7"), "{error}");
        let mut mapped = attach("one", "api");
        mapped.port_mappings = vec![mapping(8080, 80)];
        let error = networks.attach(mapped).unwrap_err().to_string();
        assert!(
            error.contains("portmap") && error.contains("api.conflist"),
            "{error}"
        );
        assert_eq!(host.records(), [""; 0]);
    });
}

#[test]
fn a_broken_attachment_is_found_by_its_check() {
    on_a_host(|host| {
        host.bridge("web", "1.0.0", &[]);
        let networks = host.networks();
        let one = networks.attach(attach("one", "web")).unwrap();
        networks.check(&id("one")).unwrap();
        within(&one.netns, || run("ip", &["addr", "flush", "dev", "eth0"]));
        let error = networks.check(&id("one")).unwrap_err().to_string();
        assert!(error.contains("`bridge` refused CHECK"), "{error}");
        assert!(error.contains("disableCheck"), "{error}");
        let error = networks.check(&id("two")).unwrap_err();
        assert!(matches!(error, NetworkError::NotAttached { .. }), "{error}");
    });
}

#[test]
fn many_attach_and_detach_at_once() {
    const MANY: usize = 8;
    on_a_host(|host| {
        host.bridge("web", "1.0.0", &[PORTMAP]);
        let networks = host.networks();
        let start = Barrier::new(2 * MANY);
        std::thread::scope(|scope| {
            // Each is asked for twice, as after an effect that was sent again.
            for place in (0..MANY).flat_map(|place| [place, place]) {
                let (networks, start) = (&networks, &start);
                scope.spawn(move || {
                    let name = format!("task-{place}");
                    let mut asks = attach(&name, "web");
                    let port = u16::try_from(8000 + place).unwrap();
                    asks.port_mappings = vec![mapping(port, 80)];
                    start.wait();
                    let attachment = networks.attach(asks).unwrap();
                    assert_eq!(attachment.addresses().count(), 1);
                });
            }
        });
        assert_eq!(host.leases("web").len(), MANY);
        std::thread::scope(|scope| {
            for place in (0..MANY).flat_map(|place| [place, place]) {
                let networks = &networks;
                scope.spawn(move || networks.detach(&id(&format!("task-{place}"))).unwrap());
            }
        });
        assert_eq!(host.leases("web"), [""; 0]);
        assert_eq!(host.records(), [""; 0]);
        assert!(!host.rules().iter().any(|rule| rule.contains("task-")));
    });
}

/// Two agents of one machine, as `tepui dev` has them, each with an attachment that is its first.
#[test]
fn a_chain_that_all_share_is_made_once() {
    on_a_host(|host| {
        // As `portmap` does it, with a second between its look and what it makes.
        // sleep: so that who does not wait for its turn looks in between.
        let script = format!(
            "[ $CNI_COMMAND = ADD ] && ! [ -e {chain} ] && {{ sleep 1; mkdir {chain} || exit 1; }}
             echo '{{\"cniVersion\": \"1.0.0\"}}'",
            chain = host.path("chain").display()
        );
        host.plugin("portmap", &script);
        host.list("web", "1.0.0", PORTMAP);
        let start = Barrier::new(2);
        std::thread::scope(|scope| {
            for name in ["one", "two"] {
                let start = &start;
                scope.spawn(move || {
                    let networks = host.networks();
                    start.wait();
                    networks.attach(attach(name, "web")).unwrap();
                });
            }
        });
    });
}
