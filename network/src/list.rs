//! Network lists: what operators have configured, and how they are found.
//!
//! A folder such as `/etc/cni/net.d` holds files in CNI's form, specification 0.3.0 to 1.1.0:
//! `*.conflist`, a list of plugins, or `*.conf` and `*.json`, a single one. Files are taken in the
//! order of their names; the first of a network's name counts. A file that cannot be used does not
//! hide the others, and is named when a network is not found.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::NetworkError;
use crate::id::is_name;

/// The specification's versions that this crate speaks, oldest first.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The first version with CHECK, and with earlier results in DEL.
const FIRST_WITH_CHECK: &str = "0.4.0";
/// The most files that are looked at in a folder: more than anyone has networks.
const MAX_FILES: usize = 256;
/// The largest file: lists take a few KiB.
const MAX_BYTES: u64 = 1024 * 1024;
/// The most plugins of a list: usual ones have two to five.
const MAX_PLUGINS: usize = 16;

/// A network as it was configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NetworkList {
    /// Names the network for tasks.
    pub name: String,
    /// The specification's version that its plugins are called with.
    pub cni_version: String,
    /// Whether plugins may be asked to check an attachment.
    pub check: bool,
    /// Called in this order; each has a `type`.
    pub plugins: Vec<Map<String, Value>>,
    /// Where it was read, for people.
    pub file: PathBuf,
}

/// All that is in the folders.
#[derive(Debug, Default)]
pub(crate) struct Configured {
    pub lists: BTreeMap<String, NetworkList>,
    /// What is wrong with files that cannot be used.
    pub broken: Vec<String>,
}

impl Configured {
    /// Reads the folders; those that do not exist hold nothing.
    pub fn read(folders: &[PathBuf]) -> Result<Self, NetworkError> {
        let mut all = Self::default();
        for folder in folders {
            for path in files(folder)? {
                match read(&path) {
                    Ok(list) => {
                        all.lists.entry(list.name.clone()).or_insert(list);
                    }
                    Err(what) => all.broken.push(format!("{}: {what}", path.display())),
                }
            }
        }
        Ok(all)
    }
}

impl NetworkList {
    /// Parses a file of CNI's form; `single` says that it is one plugin and not a list.
    pub fn parse(bytes: &[u8], single: bool, file: &Path) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let Value::Object(mut top) = value else {
            return Err("it is not a JSON object".into());
        };
        let name = text(&top, "name").ok_or("it has no \"name\"")?.to_owned();
        if !is_name(&name) {
            return Err(format!(
                "\"name\" is {name:?}: begin with a letter or a digit, then A-Z a-z 0-9 . _ -"
            ));
        }
        let cni_version = version(&top)?;
        let check = !says_true(top.get("disableCheck"));
        let plugins = if single {
            vec![top]
        } else {
            plugins(top.remove("plugins"))?
        };
        for plugin in &plugins {
            // It becomes the name of a program in one of the plugins' folders.
            let kind = text(plugin, "type").ok_or("a plugin has no \"type\"")?;
            if !is_name(kind) {
                return Err(format!("\"type\" is {kind:?}: it is a plugin's bare name"));
            }
        }
        Ok(Self {
            name,
            cni_version,
            check,
            plugins,
            file: file.to_owned(),
        })
    }

    /// Whether CHECK may be called, and DEL is told earlier results.
    pub fn knows_check(&self) -> bool {
        place(&self.cni_version) >= place(FIRST_WITH_CHECK)
    }

    /// All programs that it needs: its plugins, and those that they get addresses from.
    pub fn programs(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().flat_map(|plugin| {
            let ipam = plugin.get("ipam").and_then(Value::as_object);
            let ipam = ipam.and_then(|ipam| text(ipam, "type"));
            // Some plugins bring their addresses themselves.
            let ipam = ipam.filter(|kind| !kind.is_empty());
            text(plugin, "type").into_iter().chain(ipam)
        })
    }

    /// Whether one of its plugins says that it has this capability.
    pub fn is_capable(&self, capability: &str) -> bool {
        let mut plugins = self.plugins.iter();
        plugins.any(|plugin| has_capability(plugin, capability))
    }
}

/// Whether the plugin's configuration says that it takes this from the runtime.
pub(crate) fn has_capability(plugin: &Map<String, Value>, capability: &str) -> bool {
    let capabilities = plugin.get("capabilities").and_then(Value::as_object);
    capabilities.is_some_and(|all| all.get(capability) == Some(&Value::Bool(true)))
}

/// The text under a key of an object.
pub(crate) fn text<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    object.get(key).and_then(Value::as_str)
}

fn place(version: &str) -> Option<usize> {
    VERSIONS.iter().position(|known| *known == version)
}

/// The newest version that it offers and we speak.
fn version(top: &Map<String, Value>) -> Result<String, String> {
    let several = top.get("cniVersions").and_then(Value::as_array);
    let several = several.into_iter().flatten().filter_map(Value::as_str);
    let offered: Vec<&str> = several.chain(text(top, "cniVersion")).collect();
    let best = offered.iter().filter_map(|version| place(version)).max();
    match best {
        Some(place) => Ok(VERSIONS[place].to_owned()),
        None if offered.is_empty() => Err("it has no \"cniVersion\": write \"1.0.0\"".into()),
        None => Err(format!(
            "\"cniVersion\" {} is not known: write one of {}",
            offered.join(", "),
            VERSIONS.join(", ")
        )),
    }
}

/// The specification has had it as a string and as a boolean.
fn says_true(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Bool(yes)) => *yes,
        Some(Value::String(text)) => text == "true",
        _ => false,
    }
}

fn plugins(value: Option<Value>) -> Result<Vec<Map<String, Value>>, String> {
    let Some(Value::Array(values)) = value else {
        return Err("it has no list \"plugins\"".into());
    };
    if !(1..=MAX_PLUGINS).contains(&values.len()) {
        return Err(format!("\"plugins\" has 1 to {MAX_PLUGINS} entries"));
    }
    let objects = values.into_iter().map(|value| match value {
        Value::Object(object) => Ok(object),
        _ => Err("a plugin is not a JSON object".to_owned()),
    });
    objects.collect()
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, NetworkError> {
    let io = |source| NetworkError::io("list", folder, source);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(io)?.path();
        if is_single(&path).is_some() {
            files.push(path);
        }
    }
    if files.len() > MAX_FILES {
        return Err(NetworkError::TooManyFiles {
            folder: folder.to_owned(),
            most: MAX_FILES,
        });
    }
    files.sort();
    Ok(files)
}

/// Whether it holds one plugin or a list; none if it is no configuration.
fn is_single(path: &Path) -> Option<bool> {
    match path.extension()?.to_str()? {
        "conflist" => Some(false),
        "conf" | "json" => Some(true),
        _ => None,
    }
}

fn read(path: &Path) -> Result<NetworkList, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut file = file.take(MAX_BYTES + 1);
    file.read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("it is larger than {MAX_BYTES} bytes"));
    }
    NetworkList::parse(&bytes, is_single(path) == Some(true), path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(json: &str, single: bool) -> Result<NetworkList, String> {
        NetworkList::parse(json.as_bytes(), single, Path::new("/x"))
    }

    #[test]
    fn lists_and_single_plugins_are_read() {
        let list = json!({"cniVersion": "0.3.1", "name": "n", "plugins": [{"type": "bridge"},
            {"type": "portmap", "capabilities": {"portMappings": true}}]});
        let list = parse(&list.to_string(), false).unwrap();
        assert_eq!(
            (list.plugins.len(), list.cni_version.as_str()),
            (2, "0.3.1")
        );
        assert!(list.is_capable("portMappings") && !list.is_capable("dns"));
        assert!(list.check && !list.knows_check());
        let one = json!({"cniVersion": "0.4.0", "name": "n", "type": "bridge",
            "ipam": {"type": "host-local"}, "disableCheck": "true"});
        let one = parse(&one.to_string(), true).unwrap();
        assert_eq!(one.programs().collect::<Vec<_>>(), ["bridge", "host-local"]);
        assert!(!one.check && one.knows_check());
    }

    #[test]
    fn the_newest_version_that_both_speak_is_taken() {
        let list = json!({"cniVersion": "0.4.0", "cniVersions": ["1.0.0", "1.1.0", "9.0.0"],
            "name": "n", "plugins": [{"type": "a"}]});
        let list = parse(&list.to_string(), false).unwrap();
        assert_eq!(list.cni_version, "1.1.0");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_fix() {
        let cases = [
            ("[]", "not a JSON object"),
            ("{", "EOF"),
            (r#"{"cniVersion":"1.0.0"}"#, "\"name\""),
            (
                r#"{"cniVersion":"1.0.0","name":"a/b","plugins":[]}"#,
                "begin with",
            ),
            (
                r#"{"name":"n","plugins":[{"type":"a"}]}"#,
                "write \"1.0.0\"",
            ),
            (r#"{"cniVersion":"7","name":"n"}"#, "one of 0.3.0"),
            (r#"{"cniVersion":"1.0.0","name":"n"}"#, "\"plugins\""),
            (
                r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#,
                "1 to 16",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"n","plugins":[{}]}"#,
                "\"type\"",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"../sh"}]}"#,
                "bare name",
            ),
        ];
        for (json, says) in cases {
            let error = parse(json, false).unwrap_err();
            assert!(error.contains(says), "{json}: {error}");
        }
    }

    #[test]
    fn the_first_file_of_a_name_counts_and_broken_ones_hide_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write(
            "10-a.conflist",
            r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"x"}]}"#,
        );
        write(
            "20-a.conf",
            r#"{"cniVersion":"1.0.0","name":"a","type":"y"}"#,
        );
        write(
            "30-b.json",
            r#"{"cniVersion":"1.0.0","name":"b","type":"y"}"#,
        );
        write("00-c.conflist", "no JSON");
        write("README", "no list");
        let absent = folder.path().join("absent");
        let all = Configured::read(&[absent, folder.path().to_owned()]).unwrap();
        assert_eq!(all.lists.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(all.lists["a"].plugins[0]["type"], "x");
        assert_eq!(all.broken.len(), 1);
        assert!(all.broken[0].contains("00-c.conflist"));
    }
}
