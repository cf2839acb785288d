//! What is special of what this machine lends: reserved from the start, revocable, or on disks of
//! its own.
//!
//! Reservations are cut out of what is lent otherwise; revocable amounts come on top of it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use tepui_types::resources::{Disk, MILLI, Pool, PoolKind, Pools, Reservation, ResourceRequest};
use tepui_types::{Bytes, MilliCpus, Resources, Role};

use crate::error::AgentError;
use crate::resources::{disk_room, parse_bytes, thousandths};

/// Amounts as an operator names them: `cpus=2,mem=4GiB,ports=10,gpus=1,NAME=1.5`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amounts(ResourceRequest);

/// Whether a disk is had in parts or as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskShape {
    /// A folder; volumes have parts of it.
    Path,
    /// A whole disk; one volume has it.
    Mount,
}

/// A disk beside the one with the data folder.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSettings {
    /// How it is had.
    pub kind: DiskShape,
    /// Where it is mounted.
    pub path: PathBuf,
    /// How much of it is lent, such as `100GiB`; what is free when absent.
    pub size: Option<String>,
}

/// All of it, checked.
#[derive(Debug, Clone, Default)]
pub struct Special {
    reserve: BTreeMap<Role, Amounts>,
    revocable: Amounts,
    slack: tepui_pressure::Amounts,
    disks: BTreeMap<String, DiskSettings>,
}

impl Special {
    /// Checks what was set.
    pub fn new(
        reserve: BTreeMap<String, String>,
        revocable: Option<String>,
        slack: Option<String>,
        disks: BTreeMap<String, DiskSettings>,
    ) -> Result<Self, AgentError> {
        let mut special = Self::default();
        for (role, amounts) in reserve {
            let at = |why: String| AgentError::Config(format!("--reserve {role}: {why}"));
            let parsed: Role = role.parse().map_err(|error| at(format!("{error}")))?;
            if parsed == Role::default_role() {
                return Err(at("`*` is everybody: name a role".into()));
            }
            let amounts = amounts.parse().map_err(at)?;
            special.reserve.insert(parsed, amounts);
        }
        if let Some(revocable) = revocable {
            let at = |why: String| AgentError::Config(format!("--revocable: {why}"));
            let amounts: Amounts = revocable.parse().map_err(at)?;
            if amounts.0.ports > 0 || amounts.0.gpus_milli > 0 {
                return Err(at("ports and gpus are not revocable".into()));
            }
            special.revocable = amounts;
        }
        if let Some(slack) = slack {
            let at = |why: String| AgentError::Config(format!("--slack: {why}"));
            let amounts: Amounts = slack.parse().map_err(at)?;
            special.slack = amounts.cpus_and_mem().map_err(at)?;
        }
        let mut paths: BTreeMap<&Path, &str> = BTreeMap::new();
        for (id, disk) in &disks {
            let at = |why: String| AgentError::Config(format!("--disk {id}: {why}"));
            if !tepui_types::ids::is_label(id) {
                return Err(at("a disk's name has 1 to 63 of a-z, 0-9 and `-`".into()));
            }
            if !disk.path.is_absolute() || disk.path.to_str().is_none() {
                return Err(at(format!(
                    "{} is not an absolute path in UTF-8",
                    disk.path.display()
                )));
            }
            if let Some(other) = paths.insert(&disk.path, id) {
                return Err(at(format!(
                    "it is the same folder as `{other}`: name it once"
                )));
            }
        }
        special.disks = disks;
        Ok(special)
    }

    /// How much of what firm tasks leave unused is lent at most.
    pub fn slack(&self) -> tepui_pressure::Amounts {
        self.slack
    }

    /// Where each disk is mounted, by its id.
    pub fn paths(&self) -> BTreeMap<String, PathBuf> {
        let disks = self.disks.iter();
        disks
            .map(|(id, disk)| (id.clone(), disk.path.clone()))
            .collect()
    }

    /// All that the agent lends: `plain`, of which some is reserved, and what comes on top.
    pub fn lay(&self, plain: Resources) -> Result<Resources, AgentError> {
        let (mut rest, mut pools) = (plain, Vec::new());
        for (role, amounts) in &self.reserve {
            let taken = rest.pick(&amounts.0).map_err(|short| {
                AgentError::Config(format!(
                    "--reserve {role}: there is not so much {} left of {rest}: lower it, or raise \
                     --resources",
                    short.join(" and ")
                ))
            })?;
            rest = rest.saturating_sub(&taken);
            let reservation = Reservation {
                is_static: true,
                ..Reservation::dynamic(role.clone())
            };
            let kind = PoolKind {
                reservations: vec![reservation],
                ..PoolKind::default()
            };
            pools.push(Pool {
                kind,
                amounts: taken,
            });
        }
        pools.push(Pool {
            kind: PoolKind {
                revocable: true,
                ..PoolKind::default()
            },
            amounts: self.revocable.concrete(),
        });
        for (id, disk) in &self.disks {
            pools.push(disk.pool(id)?);
        }
        rest.pools = Pools::try_from(pools).map_err(AgentError::Config)?;
        Ok(rest)
    }
}

/// What of it may be taken back: processors and memory.
pub fn revocable_of(lent: &Resources) -> tepui_pressure::Amounts {
    let pools = lent.pools.iter().filter(|pool| pool.kind.revocable);
    sum(pools.map(|pool| &pool.amounts))
}

/// All else, whoever it is reserved for: processors and memory.
pub fn firm_of(lent: &Resources) -> tepui_pressure::Amounts {
    let pools = lent.pools.iter().filter(|pool| !pool.kind.revocable);
    sum([lent].into_iter().chain(pools.map(|pool| &pool.amounts)))
}

fn sum<'a>(all: impl Iterator<Item = &'a Resources>) -> tepui_pressure::Amounts {
    all.fold(tepui_pressure::Amounts::default(), |sum, one| {
        tepui_pressure::Amounts {
            cpus: MilliCpus(sum.cpus.0.saturating_add(one.cpus.0)),
            mem: Bytes(sum.mem.0.saturating_add(one.mem.0)),
        }
    })
}

/// The same, with so much that may be taken back.
///
/// # Errors
/// When pools cannot be so.
pub fn with_revocable(
    lent: &Resources,
    amounts: tepui_pressure::Amounts,
) -> Result<Resources, String> {
    let kind = PoolKind {
        revocable: true,
        ..PoolKind::default()
    };
    let mut pools: Vec<Pool> = lent.pools.iter().cloned().collect();
    let place = pools.iter().position(|pool| pool.kind == kind);
    let place = place.unwrap_or_else(|| {
        let amounts = Resources::default();
        pools.push(Pool { kind, amounts });
        pools.len() - 1
    });
    (pools[place].amounts.cpus, pools[place].amounts.mem) = (amounts.cpus, amounts.mem);
    Ok(Resources {
        pools: Pools::try_from(pools)?,
        ..lent.clone()
    })
}

impl Amounts {
    /// What of processors and memory is named; nothing else may be.
    fn cpus_and_mem(&self) -> Result<tepui_pressure::Amounts, String> {
        let ResourceRequest { cpus, mem, .. } = self.0;
        let only = ResourceRequest {
            cpus,
            mem,
            ..ResourceRequest::default()
        };
        match self.0 == only {
            true => Ok(tepui_pressure::Amounts { cpus, mem }),
            false => Err("only cpus and mem are measured: name at most so much of these".into()),
        }
    }

    fn concrete(&self) -> Resources {
        Resources {
            cpus: self.0.cpus,
            mem: self.0.mem,
            disk: self.0.disk,
            custom: self.0.custom.clone(),
            ..Resources::default()
        }
    }
}

impl FromStr for Amounts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut amounts = ResourceRequest::default();
        let mut seen = Vec::new();
        let pairs = text
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty());
        for pair in pairs {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(format!("`{pair}` is not a resource: write NAME=AMOUNT"));
            };
            if seen.contains(&name) {
                return Err(format!("{name} is given twice"));
            }
            seen.push(name);
            let count = || {
                let count: Result<u32, _> = value.parse();
                count.map_err(|_| format!("{name}={value} is not a number: write one such as 2"))
            };
            match name {
                "cpus" => amounts.cpus = MilliCpus(thousandths(name, value)?),
                "mem" => amounts.mem = parse_bytes(name, value)?,
                "disk" => amounts.disk = parse_bytes(name, value)?,
                "ports" => amounts.ports = count()?.into(),
                "gpus" => amounts.gpus_milli = u64::from(count()?) * MILLI,
                _ => {
                    _ = amounts
                        .custom
                        .insert(name.into(), thousandths(name, value)?)
                }
            }
        }
        Ok(Self(amounts))
    }
}

impl DiskSettings {
    /// Reads `mount:/mnt/ssd` or `path:/mnt/hdd:100GiB`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "`{text}` is not a disk: write one such as mount:/mnt/ssd or path:/mnt/hdd:100GiB"
            )
        };
        let (kind, rest) = text.split_once(':').ok_or_else(bad)?;
        let kind = match kind {
            "path" => DiskShape::Path,
            "mount" => DiskShape::Mount,
            _ => return Err(bad()),
        };
        let (path, size) = match rest.rsplit_once(':') {
            Some((path, size)) => (path, Some(size.to_owned())),
            None => (rest, None),
        };
        if path.is_empty() {
            return Err(bad());
        }
        let path = path.into();
        Ok(Self { kind, path, size })
    }

    fn pool(&self, id: &str) -> Result<Pool, AgentError> {
        let at = |why: String| AgentError::Config(format!("--disk {id}: {why}"));
        if !self.path.is_dir() {
            let path = self.path.display();
            return Err(at(format!("{path} is no folder: mount the disk first")));
        }
        let room = || {
            let room = disk_room(
                &self.path,
                &[crate::sandbox::sizes_folder(&self.path)],
                Bytes(0),
            );
            room.map_err(|error: io::Error| at(format!("its room is not known: {error}")))
        };
        let bytes = match &self.size {
            Some(size) => parse_bytes("size", size).map_err(at)?,
            None => room()?,
        };
        if bytes == Bytes(0) {
            return Err(at("it has no room: name its --disk size".into()));
        }
        let kind = PoolKind {
            disk: Some(match self.kind {
                DiskShape::Path => Disk::Path(id.into()),
                DiskShape::Mount => Disk::Mount(id.into()),
            }),
            ..PoolKind::default()
        };
        Ok(Pool::disk(kind, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn special(reserve: &[(&str, &str)], revocable: &str) -> Result<Special, AgentError> {
        let pairs = reserve.iter();
        let pairs = pairs.map(|(role, amounts)| ((*role).to_owned(), (*amounts).to_owned()));
        let revocable = Some(revocable.to_owned());
        Special::new(pairs.collect(), revocable, None, BTreeMap::new())
    }

    fn four_cpus() -> Resources {
        Resources {
            cpus: MilliCpus(4_000),
            mem: Bytes::gib(4),
            ..Resources::default()
        }
    }

    #[test]
    fn reservations_are_cut_out_and_revocable_amounts_come_on_top() {
        let special = special(
            &[("eng/web", "cpus=1,mem=1GiB"), ("ops", "cpus=0.5")],
            "cpus=2",
        );
        let all = special.unwrap().lay(four_cpus()).unwrap();
        assert_eq!(
            all.to_string(),
            "2.5 cpus, 3 GiB mem, 2 cpus (revocable), 1 cpus, 1 GiB mem (reserved for eng/web), \
             0.5 cpus (reserved for ops)"
        );
        assert_eq!(all.validate(), Ok(()));
    }

    #[test]
    fn disks_are_folders_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &Path| format!("path:{}:3GiB", path.display());
        let disk =
            |text: &str| BTreeMap::from([("hdd".to_owned(), DiskSettings::parse(text).unwrap())]);
        let new = |disks| Special::new(BTreeMap::new(), None, None, disks);
        let special = new(disk(&at(dir.path()))).unwrap();
        let all = special.lay(four_cpus()).unwrap();
        assert!(all.to_string().ends_with("3 GiB disk (disk hdd)"), "{all}");
        assert_eq!(special.paths()["hdd"], dir.path());
        let missing = new(disk(&at(&dir.path().join("missing")))).unwrap();
        let error = missing.lay(four_cpus()).unwrap_err().to_string();
        assert!(error.contains("mount the disk first"), "{error}");
        let whole = DiskSettings::parse(&format!("mount:{}", dir.path().display())).unwrap();
        assert!(
            whole.pool("ssd").unwrap().amounts.disk > Bytes(0),
            "its room is found"
        );
        let twice = BTreeMap::from([("a".to_owned(), whole.clone()), ("b".to_owned(), whole)]);
        assert!(new(twice).unwrap_err().to_string().contains("same folder"));
        for text in ["ssd", "raid:/mnt", "path:", "mount::3GiB"] {
            assert!(
                DiskSettings::parse(text)
                    .unwrap_err()
                    .contains("mount:/mnt/ssd"),
                "{text}"
            );
        }
    }

    #[test]
    fn what_cannot_be_is_named_with_its_fix() {
        let refused = |reserve: &[(&str, &str)], revocable: &str| {
            let special = special(reserve, revocable);
            let laid = special.and_then(|special| special.lay(four_cpus()));
            laid.unwrap_err().to_string()
        };
        for (reserve, revocable, part) in [
            (&[("eng//web", "cpus=1")][..], "", "is not a role"),
            (&[("*", "cpus=1")], "", "everybody"),
            (&[("eng", "cpus=9")], "", "raise --resources"),
            (&[("eng", "cpus=-1")], "", "such as 2"),
            (&[("eng", "cpus=NaN")], "", "such as 2"),
            (&[("eng", "mem=99999999999TiB")], "", "4GiB"),
            (&[("eng", "cpus=1,cpus=1")], "", "twice"),
            (&[("eng", "cpus")], "", "NAME=AMOUNT"),
            (&[], "ports=3", "not revocable"),
        ] {
            let said = refused(reserve, revocable);
            assert!(said.contains(part), "{reserve:?} {revocable}: {said}");
        }
    }
}
