//! A command beside a container, as the OCI runtime specification describes a process.
//!
//! Left to itself, libcontainer gives it what a specification has by default: other limits than the
//! container's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{Process, ProcessBuilder, Spec};
use rustix::fs::MemfdFlags;
use tepui_types::wire::executor::RunBeside;

use crate::runtime::{BUNDLE, SPEC};

/// Its description, which can be read until this is dropped.
pub struct Tenant(OwnedFd);

impl Tenant {
    /// That of a command beside the container in `dir`.
    ///
    /// # Errors
    /// When the container's specification cannot be read.
    pub fn of(dir: &Path, run: &RunBeside) -> Result<Self, OciSpecError> {
        let spec = Spec::load(dir.join(BUNDLE).join(SPEC))?;
        let process = process(&spec, run)?;
        let text = serde_json::to_vec(&process)?;
        Ok(Self(in_memory(&text)?))
    }

    /// Where this process finds it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

fn in_memory(text: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("process", MemfdFlags::CLOEXEC)?);
    file.write_all(text)?;
    Ok(file.into())
}

/// The container's environment, capabilities and limits; as its root, in the root folder.
fn process(spec: &Spec, run: &RunBeside) -> Result<Process, OciSpecError> {
    let own = spec.process().clone().unwrap_or_default();
    let variables = own.env().iter().flatten();
    let mut env: BTreeMap<_, _> = variables
        .filter_map(|variable| variable.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    env.extend(run.env.iter().cloned());
    let env = env.iter().map(|(name, value)| format!("{name}={value}"));
    let env: Vec<_> = env.collect();
    let mut process = ProcessBuilder::default()
        .args(run.argv.clone())
        .env(env)
        .no_new_privileges(own.no_new_privileges().unwrap_or(true))
        .rlimits(own.rlimits().clone().unwrap_or_default());
    if let Some(capabilities) = own.capabilities() {
        process = process.capabilities(capabilities.clone());
    }
    process.build()
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{PosixRlimitBuilder, PosixRlimitType, SpecBuilder};
    use tepui_types::wire::executor::RunIo;

    use super::*;

    #[test]
    fn a_command_beside_a_container_has_its_limits_and_environment() {
        let limit = PosixRlimitBuilder::default()
            .typ(PosixRlimitType::RlimitNofile)
            .soft(5_u64)
            .hard(6_u64)
            .build()
            .unwrap();
        let own = ProcessBuilder::default()
            .env(["A=1", "B=2"].map(str::to_owned))
            .rlimits([limit])
            .build()
            .unwrap();
        let spec = SpecBuilder::default().process(own).build().unwrap();
        let run = RunBeside {
            id: 1,
            task: "f1.t.0".parse().unwrap(),
            member: None,
            argv: vec!["true".into()],
            env: vec![("B".into(), "3=4".into())],
            timeout_ms: None,
            io: RunIo::Nothing,
        };
        let process = process(&spec, &run).unwrap();
        let env = process.env().clone().unwrap();
        assert_eq!(env, ["A=1", "B=3=4"]);
        assert_eq!(process.rlimits().clone().unwrap(), [limit]);
        assert_eq!(process.args().clone().unwrap(), ["true"]);
    }
}
