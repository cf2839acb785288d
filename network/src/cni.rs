//! What plugins are told and what they answer, as JSON. Pure.
//!
//! Sections 3 and 5 of the CNI specification: how a plugin's configuration is made of the list's,
//! and what a result means. Results of 0.3.0 and later are alike enough for one reader.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::attachment::{Attach, Interface, PortMapping};
use crate::cidr::Cidr;
use crate::dns::Dns;
use crate::list::{NetworkList, has_capability};

/// CNI's name of what maps ports.
pub(crate) const PORT_MAPPINGS: &str = "portMappings";
/// CNI's name of what takes DNS settings.
const DNS: &str = "dns";
/// What the interface in the namespace is called.
pub(crate) const INTERFACE: &str = "eth0";
/// The most interfaces and addresses of a result: a list of 16 plugins makes a few.
const MAX_ENTRIES: usize = 64;

/// The configuration that a plugin reads from its input.
pub(crate) fn plugin_config(
    list: &NetworkList,
    plugin: &Map<String, Value>,
    attach: &Attach,
    previous: Option<&Value>,
) -> Vec<u8> {
    let mut config = plugin.clone();
    // What a runtime makes of it is `runtimeConfig`; the plugin is not told both.
    config.remove("capabilities");
    config.remove("cniVersions");
    config.insert("name".into(), list.name.clone().into());
    config.insert("cniVersion".into(), list.cni_version.clone().into());
    let mut runtime = Map::new();
    if has_capability(plugin, PORT_MAPPINGS) && !attach.port_mappings.is_empty() {
        let mappings = attach.port_mappings.iter().map(port_mapping);
        runtime.insert(PORT_MAPPINGS.into(), mappings.collect());
    }
    if has_capability(plugin, DNS) && !attach.dns.is_empty() {
        runtime.insert(DNS.into(), dns(&attach.dns));
    }
    if !runtime.is_empty() {
        config.insert("runtimeConfig".into(), runtime.into());
    }
    if let Some(previous) = previous {
        config.insert("prevResult".into(), previous.clone());
    }
    Value::Object(config).to_string().into_bytes()
}

fn port_mapping(mapping: &PortMapping) -> Value {
    let mut value = json!({
        "hostPort": mapping.host_port,
        "containerPort": mapping.container_port,
        "protocol": mapping.protocol.as_str(),
    });
    if let Some(address) = mapping.host_ip {
        value["hostIP"] = address.to_string().into();
    }
    value
}

fn dns(dns: &Dns) -> Value {
    json!({"servers": dns.nameservers, "searches": dns.search, "options": dns.options})
}

/// What a result says of the namespace.
#[derive(Debug, PartialEq)]
pub(crate) struct Result {
    pub interfaces: Vec<Interface>,
    pub dns: Dns,
}

#[derive(Deserialize)]
struct RawResult {
    #[serde(default, deserialize_with = "null_is_default")]
    interfaces: Vec<RawInterface>,
    #[serde(default, deserialize_with = "null_is_default")]
    ips: Vec<RawIp>,
    #[serde(default, deserialize_with = "null_is_default")]
    dns: RawDns,
}

/// Some plugins write null for an empty list.
fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[derive(Deserialize)]
struct RawInterface {
    name: String,
    #[serde(default)]
    mac: String,
    /// Empty for interfaces of the machine itself.
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct RawIp {
    address: Cidr,
    #[serde(default)]
    gateway: Option<IpAddr>,
    /// A place among the interfaces.
    #[serde(default)]
    interface: Option<usize>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawDns {
    nameservers: Vec<IpAddr>,
    domain: String,
    search: Vec<String>,
    options: Vec<String>,
}

/// Reads the result of a list's last plugin.
pub(crate) fn read_result(value: &Value) -> std::result::Result<Result, String> {
    if !value.is_object() {
        return Err("it is not a JSON object".into());
    }
    let raw = RawResult::deserialize(value).map_err(|error| error.to_string())?;
    if raw.interfaces.len() > MAX_ENTRIES || raw.ips.len() > MAX_ENTRIES {
        return Err(format!(
            "it has more than {MAX_ENTRIES} interfaces or addresses"
        ));
    }
    let dns = read_dns(raw.dns);
    dns.validate()?;
    let interfaces = read_interfaces(&raw.interfaces, &raw.ips)?;
    Ok(Result { interfaces, dns })
}

fn read_dns(raw: RawDns) -> Dns {
    let mut search = raw.search;
    if search.is_empty() && !raw.domain.is_empty() {
        search.push(raw.domain);
    }
    let mut nameservers = raw.nameservers;
    nameservers.truncate(Dns::MAX_NAMESERVERS);
    Dns {
        nameservers,
        search,
        options: raw.options,
    }
}

fn read_interfaces(
    raw: &[RawInterface],
    ips: &[RawIp],
) -> std::result::Result<Vec<Interface>, String> {
    let places = ips.iter().filter_map(|ip| ip.interface);
    if let Some(place) = places.into_iter().find(|place| *place >= raw.len()) {
        return Err(format!(
            "an address belongs to interface {place}, which it has not"
        ));
    }
    let inside = raw.iter().enumerate();
    let inside = inside.filter(|(_, interface)| !interface.sandbox.is_empty());
    let mut interfaces: Vec<Interface> = inside
        .map(|(place, interface)| {
            let own = ips.iter().filter(|ip| ip.interface == Some(place));
            let mac = (!interface.mac.is_empty()).then(|| interface.mac.clone());
            with_ips(&interface.name, mac, own)
        })
        .collect();
    let unplaced: Vec<&RawIp> = ips.iter().filter(|ip| ip.interface.is_none()).collect();
    if !unplaced.is_empty() {
        let rest = with_ips(INTERFACE, None, unplaced.into_iter());
        match interfaces.iter_mut().find(|one| one.name == INTERFACE) {
            Some(interface) => {
                interface.addresses.extend(rest.addresses);
                interface.gateway = interface.gateway.or(rest.gateway);
            }
            None => interfaces.push(rest),
        }
    }
    Ok(interfaces)
}

fn with_ips<'a>(
    name: &str,
    mac: Option<String>,
    ips: impl Iterator<Item = &'a RawIp> + Clone,
) -> Interface {
    Interface {
        name: name.to_owned(),
        mac,
        gateway: ips.clone().find_map(|ip| ip.gateway),
        addresses: ips.map(|ip| ip.address).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::attachment::Protocol;

    fn attach() -> Attach {
        Attach {
            id: "a".parse().unwrap(),
            network: "n".into(),
            port_mappings: vec![PortMapping {
                host_port: 80,
                container_port: 8080,
                protocol: Protocol::Udp,
                host_ip: Some([127, 0, 0, 1].into()),
            }],
            dns: Dns::parse("nameserver 10.0.0.1\nsearch a\noptions b\n"),
        }
    }

    fn config(plugin: &Value, previous: Option<&Value>) -> Value {
        let list = format!(r#"{{"cniVersion":"0.4.0","name":"n","plugins":[{plugin}]}}"#);
        let list = NetworkList::parse(list.as_bytes(), false, Path::new("/x")).unwrap();
        let bytes = plugin_config(&list, &list.plugins[0], &attach(), previous);
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn a_plugin_is_told_what_it_says_that_it_can() {
        let previous = json!({"x": 1});
        let plugin = json!({"type": "p", "name": "other", "cniVersion": "9", "a": {"b": 2},
            "capabilities": {"portMappings": true, "dns": true, "bandwidth": true}});
        assert_eq!(
            config(&plugin, Some(&previous)),
            json!({
                "type": "p", "name": "n", "cniVersion": "0.4.0", "a": {"b": 2},
                "runtimeConfig": {
                    "portMappings": [{"hostPort": 80, "containerPort": 8080,
                        "protocol": "udp", "hostIP": "127.0.0.1"}],
                    "dns": {"servers": ["10.0.0.1"], "searches": ["a"], "options": ["b"]},
                },
                "prevResult": {"x": 1},
            })
        );
        assert_eq!(
            config(&json!({"type": "p", "capabilities": {"dns": false}}), None),
            json!({"type": "p", "name": "n", "cniVersion": "0.4.0"})
        );
    }

    #[test]
    fn interfaces_of_the_machine_are_left_out() {
        let result = json!({
            "cniVersion": "0.4.0",
            "interfaces": [{"name": "br0", "mac": "aa"},
                {"name": "eth0", "mac": "bb", "sandbox": "/n"}],
            "ips": [{"version": "4", "interface": 1, "address": "10.1.0.5/16", "gateway": "10.1.0.1"},
                {"address": "fd00::5/64"}],
            "dns": {"domain": "d"},
        });
        let result = read_result(&result).unwrap();
        assert_eq!(
            result.interfaces,
            [Interface {
                name: "eth0".into(),
                mac: Some("bb".into()),
                addresses: vec![
                    "10.1.0.5/16".parse().unwrap(),
                    "fd00::5/64".parse().unwrap()
                ],
                gateway: Some([10, 1, 0, 1].into()),
            }]
        );
        assert_eq!(result.dns.search, ["d"]);
    }

    #[test]
    fn results_that_cannot_be_are_refused() {
        let many = vec![json!({"address": "10.0.0.1/8"}); MAX_ENTRIES + 1];
        let cases = [
            (json!([]), "object"),
            (json!({"ips": [{"address": "10.0.0.1"}]}), "prefix"),
            (
                json!({"ips": [{"address": "10.0.0.1/8", "interface": 3}]}),
                "interface 3",
            ),
            (
                json!({"ips": [{"address": "10.0.0.1/8", "gateway": "x"}]}),
                "IP",
            ),
            (json!({"ips": many}), "more than"),
            (json!({"dns": {"search": ["a\nb"]}}), "visible"),
        ];
        for (value, says) in cases {
            let error = read_result(&value).unwrap_err();
            assert!(error.contains(says), "{value}: {error}");
        }
        for empty in [
            json!({}),
            json!({"interfaces": null, "ips": null, "dns": null}),
        ] {
            assert!(read_result(&empty).unwrap().interfaces.is_empty());
        }
    }
}
