//! How an executor starts: the first thing in its `main`.
//!
//! It checks all that [`spawn`](crate::spawn) handed down, joins its cgroup and
//! only then forks, so that whatever is wrong ends the process that the agent
//! waits for. After the fork it is a session of its own and nobody's child.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, dup2_stdin, fork, setsid};
use tepui_types::wire::executor::ProcessIdentity;
use tepui_types::{AgentId, Bytes};

use crate::cgroup::{CgroupError, Group};
use crate::confinement::{self, ConfinementError};
use crate::identity;
use crate::privileges::Privileges;
use crate::runtime::Runtime;
use crate::spawn::TOKEN_FILE;

/// What an executor knows once it runs.
#[derive(Debug)]
pub struct Startup {
    /// Its folder, absolute.
    pub dir: PathBuf,
    /// What its agent proves itself with.
    pub token: u128,
    /// Its agent, for `TEPUI_AGENT_ID`.
    pub agent: AgentId,
    /// How much of each output of a task is kept.
    pub output_limit: Bytes,
    /// What its tasks may do.
    pub privileges: Privileges,
    /// Who makes its containers, if it is there for one.
    pub runtime: Runtime,
    /// Where machine code of WebAssembly programs is kept for all executors of the agent.
    pub code_cache: Option<PathBuf>,
    /// Where small outputs of ended WebAssembly programs go, those of all executors of the agent.
    pub packs: Option<PathBuf>,
    /// Its own cgroup.
    pub cgroup: Option<Group>,
    /// Where its agent connects.
    pub listener: UnixListener,
    /// Itself.
    pub identity: ProcessIdentity,
}

/// Why an executor cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It was called in another way than by an agent.
    #[error(
        "{0}\nusage: an agent starts this program as `--dir DIR --agent ID --output-limit \
         BYTES --privileges confined|all [--runtime builtin|PATH] [--code-cache DIR] [--packs DIR] \
         [--cgroup PATH]`, \
         with a listening Unix socket as standard input and DIR/token in place"
    )]
    Usage(String),
    /// Its own cgroup could not be made or joined.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// It could not give up what its tasks are not to have.
    #[error(transparent)]
    Confinement(#[from] ConfinementError),
    /// The machine refused something.
    #[error("failed to {step}")]
    System {
        /// What.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn system(step: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::System { step, source }
}

struct Arguments {
    dir: PathBuf,
    agent: AgentId,
    output_limit: Bytes,
    privileges: Privileges,
    /// None where no container is to be made.
    runtime: Option<Runtime>,
    code_cache: Option<PathBuf>,
    packs: Option<PathBuf>,
    cgroup: Option<String>,
}

/// Takes over from the agent: returns in the process that stays, and ends the
/// one that the agent waits for.
///
/// # Errors
/// Every [`StartError`]; the caller prints it and ends with another code than 0.
///
/// # Safety
/// The calling process must have one thread, as at the start of `main`.
pub unsafe fn detach() -> Result<Startup, StartError> {
    close_inherited();
    let arguments = parse(std::env::args().skip(1))?;
    let token = fs::read_to_string(arguments.dir.join(TOKEN_FILE))
        .map_err(|error| StartError::Usage(format!("the token cannot be read: {error}")))?;
    let token = u128::from_str_radix(token.trim(), 16)
        .map_err(|_| StartError::Usage("the token is not a hexadecimal number".into()))?;
    let listener = take_listener()?;
    umask(Mode::from_bits_truncate(0o022));
    // The folder that it was started in may be unmounted while it lives.
    std::env::set_current_dir("/").map_err(system("change to the root folder"))?;
    let cgroup = arguments.cgroup.as_deref().map(join_cgroup).transpose()?;
    // Who makes a container needs what the container is not to have.
    if arguments.privileges == Privileges::Confined && arguments.runtime.is_none() {
        confinement::confine()?;
    }
    // SAFETY: the caller vouches that there is one thread, so the child may do anything.
    let forked = unsafe { fork() }.map_err(|errno| system("fork")(errno.into()))?;
    if let ForkResult::Parent { .. } = forked {
        std::process::exit(0);
    }
    setsid().map_err(|errno| system("start a session")(errno.into()))?;
    let identity = identity::current().map_err(system("read its own identity"))?;
    identity::write(&arguments.dir, &identity).map_err(system("write its identity"))?;
    Ok(Startup {
        dir: arguments.dir,
        token,
        agent: arguments.agent,
        output_limit: arguments.output_limit,
        privileges: arguments.privileges,
        runtime: arguments.runtime.unwrap_or_default(),
        code_cache: arguments.code_cache,
        packs: arguments.packs,
        cgroup,
        listener,
        identity,
    })
}

/// Nothing of the agent but the three standard descriptors stays open.
fn close_inherited() {
    // SAFETY: nothing in this process has opened a descriptor above 2 yet.
    // Kernels before 5.9 refuse the call; agents open theirs close-on-exec anyway.
    let _ = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// The socket comes as standard input, where `/dev/null` takes its place.
fn take_listener() -> Result<UnixListener, StartError> {
    let taken = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(system("take the socket"))?;
    if !getsockopt(&taken, sockopt::AcceptConn).unwrap_or(false) {
        return Err(StartError::Usage(
            "standard input is not a listening socket".into(),
        ));
    }
    let null: OwnedFd = OpenOptions::new()
        .read(true)
        .open("/dev/null")
        .map_err(system("open /dev/null"))?
        .into();
    dup2_stdin(null).map_err(|errno| system("replace standard input")(errno.into()))?;
    Ok(UnixListener::from(taken))
}

fn join_cgroup(path: &str) -> Result<Group, CgroupError> {
    let group = Group::create(path)?;
    group.join()?;
    Ok(group)
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Arguments, StartError> {
    let (mut dir, mut agent, mut output_limit) = (None, None, None);
    let (mut privileges, mut runtime, mut cgroup) = (None, None, None);
    let (mut code_cache, mut packs) = (None, None);
    while let Some(name) = arguments.next() {
        let slot = match name.as_str() {
            "--dir" => &mut dir,
            "--agent" => &mut agent,
            "--output-limit" => &mut output_limit,
            "--privileges" => &mut privileges,
            "--runtime" => &mut runtime,
            "--code-cache" => &mut code_cache,
            "--packs" => &mut packs,
            "--cgroup" => &mut cgroup,
            _ => return Err(StartError::Usage(format!("`{name}` is not an option"))),
        };
        let value = arguments.next();
        *slot = Some(value.ok_or_else(|| StartError::Usage(format!("{name} wants a value")))?);
    }
    let missing = |name: &str| StartError::Usage(format!("{name} is missing"));
    let agent = agent.ok_or_else(|| missing("--agent"))?;
    let output_limit = output_limit.ok_or_else(|| missing("--output-limit"))?;
    let privileges = privileges.ok_or_else(|| missing("--privileges"))?;
    Ok(Arguments {
        dir: dir.ok_or_else(|| missing("--dir"))?.into(),
        agent: agent
            .parse()
            .map_err(|error| StartError::Usage(format!("--agent: {error}")))?,
        output_limit: output_limit
            .parse()
            .map(Bytes)
            .map_err(|error| StartError::Usage(format!("--output-limit: {error}")))?,
        privileges: privileges
            .parse()
            .map_err(|error| StartError::Usage(format!("--privileges: {error}")))?,
        runtime: runtime.map(|runtime| match runtime.parse() {
            Ok(runtime) => runtime,
            Err(never) => match never {},
        }),
        code_cache: code_cache.map(PathBuf::from),
        packs: packs.map(PathBuf::from),
        cgroup,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_no_agent_gives_are_refused_with_the_usage() {
        let parse = |text: &str| parse(text.split_whitespace().map(str::to_owned));
        let good = "--dir /d --agent a3 --output-limit 9 --privileges all --cgroup tepui/e1";
        let good = parse(good).unwrap();
        assert_eq!((good.agent, good.output_limit), (AgentId(3), Bytes(9)));
        assert_eq!(good.privileges, Privileges::All);
        assert_eq!(good.cgroup.as_deref(), Some("tepui/e1"));
        for bad in [
            "",
            "--dir",
            "--dir /d --output-limit 9",
            "--dir /d --agent 3 --output-limit 9",
            "--dir /d --agent a3",
            "--dir /d --agent a3 --output-limit 9KiB --privileges all",
            "--dir /d --agent a3 --output-limit 9",
            "--dir /d --agent a3 --output-limit 9 --privileges some",
            "--help",
        ] {
            let error = parse(bad).err().unwrap().to_string();
            assert!(error.contains("usage:"), "{error}");
        }
    }
}
