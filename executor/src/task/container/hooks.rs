//! Programs of the machine that are run around a container's start and end, for the devices that it was
//! given.
//!
//! Their agent has seen to it that they are its operator's, and that none is to run in the container. The runtime runs them, each within its time,
//! and gives them the container's state (JSON) to read. Those that come after the end are run from here,
//! for no runtime is told of an end: all that it would remove goes with the task.

use std::path::Path;

use libcontainer::container::{ContainerStatus, State};
use libcontainer::hooks::run_hooks;
use oci_spec::OciSpecError;
use oci_spec::runtime::{Hook, HookBuilder, Hooks, HooksBuilder};
use tepui_types::wire::executor::{DeviceHook, HookPoint, LocalDevices};

use crate::runtime;

/// What the specification says of them; nothing where there are none.
///
/// # Errors
/// None that these values could lead to.
pub fn of(given: Option<&LocalDevices>) -> Result<Option<Hooks>, OciSpecError> {
    let Some(given) = given.filter(|given| !given.hooks.is_empty()) else {
        return Ok(None);
    };
    let at = |point| -> Result<Vec<Hook>, OciSpecError> {
        let hooks = given.hooks.iter().filter(|hook| hook.point == point);
        hooks.map(hook).collect()
    };
    let hooks = HooksBuilder::default()
        .prestart(at(HookPoint::Prestart)?)
        .create_runtime(at(HookPoint::CreateRuntime)?)
        .create_container(at(HookPoint::CreateContainer)?)
        .poststart(at(HookPoint::Poststart)?)
        .poststop(at(HookPoint::Poststop)?);
    hooks.build().map(Some)
}

/// Those that are to be run when the container has gone.
pub fn after(given: Option<&LocalDevices>) -> Vec<DeviceHook> {
    let given = given.iter().flat_map(|given| &given.hooks);
    let after = given.filter(|hook| hook.point == HookPoint::Poststop);
    after.cloned().collect()
}

/// Runs those, one after another, for the container whose files are in `dir`. Blocks.
///
/// # Errors
/// Says why one has failed; the others are run all the same.
pub fn run_after(hooks: &[DeviceHook], dir: &Path) -> Result<(), String> {
    let bundle = dir.join(runtime::BUNDLE);
    let state = State::new(runtime::ID, ContainerStatus::Stopped, None, bundle);
    let mut failed = Ok(());
    for from in hooks {
        let run = |hook| {
            let ran = run_hooks(Some(&vec![hook]), Some(&state), None, None, None);
            ran.map_err(|error| runtime::chain(&error))
        };
        let ran = hook(from).map_err(|error| error.to_string()).and_then(run);
        if let Err(why) = ran {
            failed = Err(format!("{}: {why}", from.path));
        }
    }
    failed
}

fn hook(from: &DeviceHook) -> Result<Hook, OciSpecError> {
    let env = from.env.iter();
    let env = env.map(|(name, value)| format!("{name}={value}"));
    HookBuilder::default()
        .path(&from.path)
        .args(from.args.clone())
        .env(env.collect::<Vec<_>>())
        .timeout(from.timeout_s)
        .build()
}
