//! A command beside a container, as the OCI runtime specification describes a process.
//!
//! Left to itself, libcontainer gives it what a specification has by default: another user and other
//! limits than the container's. And it has none join a user namespace.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use libcontainer::container::Container;
use oci_spec::OciSpecError;
use oci_spec::runtime::{Process, ProcessBuilder, Spec, User};
use rustix::fs::MemfdFlags;
use tepui_types::wire::executor::RunBeside;

use crate::root;
use crate::runtime::{ID, STATE};
use crate::userns::UserNamespace;

/// The command.
pub struct Tenant {
    /// Its description, which can be read until this is dropped.
    file: OwnedFd,
    joins: Option<Joins>,
    workdir: PathBuf,
}

/// The users that it is still to be among when libcontainer has done its part.
#[derive(Clone)]
pub struct Joins {
    /// Their namespace.
    pub users: RawFd,
    /// Which of them it is.
    pub user: User,
}

impl Tenant {
    /// That beside a container of this specification, which may have users of its own.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn of(
        spec: &Spec,
        run: &RunBeside,
        users: Option<&UserNamespace>,
    ) -> Result<Self, OciSpecError> {
        let (user, joins) = match users {
            None => (user(spec), None),
            Some(users) => {
                let users = users.file().as_raw_fd();
                let user = user(spec);
                // Root of the machine, until it is among them.
                (User::default(), Some(Joins { users, user }))
            }
        };
        let process = process(spec, run, user)?;
        Ok(Self {
            file: in_memory(&serde_json::to_vec(&process)?)?,
            joins,
            workdir: process.cwd().clone(),
        })
    }

    /// Whom it joins.
    pub fn joins(&self) -> Option<Joins> {
        self.joins.clone()
    }

    /// Why it cannot be in its working folder, where the container of that folder has it no more: all
    /// that libcontainer says is that a system call failed.
    pub fn lacks_workdir(&self, dir: &Path) -> Option<String> {
        let container = Container::load(dir.join(STATE).join(ID)).ok()?;
        let root = format!("/proc/{}/root", container.pid()?);
        let error = root::open(Path::new(&root), &self.workdir).err()?;
        let workdir = self.workdir.display();
        Some(format!("the container's working folder {workdir}: {error}"))
    }

    /// Where this process finds it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

fn in_memory(text: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("process", MemfdFlags::CLOEXEC)?);
    file.write_all(text)?;
    Ok(file.into())
}

/// As whom a container of this specification runs.
pub fn user(spec: &Spec) -> User {
    let process = spec.process().as_ref();
    process.map_or_else(User::default, |process| process.user().clone())
}

/// The container's working folder, environment, capabilities and limits.
fn process(spec: &Spec, run: &RunBeside, user: User) -> Result<Process, OciSpecError> {
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
        .user(user)
        .args(run.argv.clone())
        .env(env)
        .cwd(own.cwd())
        .no_new_privileges(own.no_new_privileges().unwrap_or(true))
        .rlimits(own.rlimits().clone().unwrap_or_default());
    if let Some(capabilities) = own.capabilities() {
        process = process.capabilities(capabilities.clone());
    }
    process.build()
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{PosixRlimitBuilder, PosixRlimitType, SpecBuilder, UserBuilder};
    use tepui_types::wire::executor::RunIo;

    use super::*;

    #[test]
    fn a_command_beside_a_container_has_what_that_has() {
        let limit = PosixRlimitBuilder::default()
            .typ(PosixRlimitType::RlimitNofile)
            .soft(5_u64)
            .hard(6_u64)
            .build()
            .unwrap();
        let own = ProcessBuilder::default()
            .env(["A=1", "B=2"].map(str::to_owned))
            .rlimits([limit])
            .user(UserBuilder::default().uid(33_u32).build().unwrap())
            .cwd("/srv")
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
        let process = process(&spec, &run, user(&spec)).unwrap();
        let env = process.env().clone().unwrap();
        assert_eq!(env, ["A=1", "B=3=4"]);
        assert_eq!(process.rlimits().clone().unwrap(), [limit]);
        assert_eq!(process.user().uid(), 33);
        assert_eq!(process.cwd(), Path::new("/srv"));
        assert_eq!(process.args().clone().unwrap(), ["true"]);
    }
}
