//! Programs of the machine that a vendor's description (CDI) has run around a container's start and end,
//! such as NVIDIA's that link libraries.
//!
//! They run with the rights of what makes containers, so each has to be as the machine's operator has
//! installed it; where it comes from an image, or somebody else could have written it, the container is
//! refused.

use std::path::{Path, PathBuf};

use tepui_gpu::{ContainerEdits, Hook, HookPoint, check_trust};
use tepui_types::wire::executor::DeviceHook;

/// The most hooks of a container: NVIDIA's files have less than ten for a device.
const MOST: usize = 256;
/// How many seconds a hook may take, whatever its file says: after 30 of them a container's start is given
/// up, and it is better known which part of it has hung.
const MOST_SECONDS: u32 = 20;
/// The same after its end, which is told at most 10 seconds later.
const MOST_SECONDS_AFTER: u32 = 5;

/// The hooks of these edits.
///
/// # Errors
/// Says which is not to be run, and why.
pub(super) fn of(edits: &ContainerEdits) -> Result<Vec<DeviceHook>, String> {
    if edits.hooks.len() > MOST {
        let count = edits.hooks.len();
        return Err(format!(
            "its GPU's description (CDI) names {count} programs to be run, and the most is {MOST}"
        ));
    }
    let hooks = edits.hooks.iter().map(|hook| {
        let program = on_machine(hook, edits)?;
        check_trust(&program).map_err(|error| {
            let error = anyhow::Error::from(error);
            let path = hook.path.display();
            format!("its GPU's description (CDI) wants {path} to be run: {error:#}")
        })?;
        let most = match hook.point {
            HookPoint::Poststop => MOST_SECONDS_AFTER,
            _ => MOST_SECONDS,
        };
        Ok(DeviceHook {
            point: hook.point,
            path: text(&hook.path),
            args: hook.args.clone(),
            env: hook.env.clone(),
            timeout_s: hook.timeout_s.unwrap_or(most).min(most),
        })
    });
    hooks.collect()
}

/// Where on the machine its program is. One that runs in the container has to be mounted there: the
/// image's own would not be the vendor's.
fn on_machine(hook: &Hook, edits: &ContainerEdits) -> Result<PathBuf, String> {
    if hook.point != HookPoint::StartContainer {
        return Ok(hook.path.clone());
    }
    let mounts = edits.mounts.iter().rev();
    let mut places = mounts.filter_map(|mount| {
        let rest = hook.path.strip_prefix(&mount.container_path).ok()?;
        Some(match rest.as_os_str().is_empty() {
            true => mount.host_path.clone(),
            false => mount.host_path.join(rest),
        })
    });
    places.next().ok_or_else(|| {
        format!(
            "its GPU's description (CDI) wants {} to be run in the container, and does not mount it there: \
             what an image has is not run",
            hook.path.display()
        )
    })
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use tepui_gpu::EditMount;

    use super::*;

    fn hook(point: HookPoint, path: &Path, timeout_s: Option<u32>) -> Hook {
        Hook {
            point,
            path: path.to_owned(),
            args: vec!["hook".into(), "links".into()],
            env: vec![("A".into(), "b".into())],
            timeout_s,
        }
    }

    fn edits(hooks: Vec<Hook>, mounts: Vec<EditMount>) -> ContainerEdits {
        ContainerEdits {
            hooks,
            mounts,
            ..ContainerEdits::default()
        }
    }

    #[test]
    fn hooks_are_run_as_installed_and_not_for_ever() {
        let place = tempfile::tempdir().unwrap();
        let program = place.path().join("hook");
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        let all = [None, Some(5), Some(300)];
        let all = all.map(|seconds| hook(HookPoint::CreateContainer, &program, seconds));
        let found = of(&edits(all.into(), Vec::new())).unwrap();
        let seconds: Vec<_> = found.iter().map(|hook| hook.timeout_s).collect();
        assert_eq!(seconds, [20, 5, 20]);
        assert_eq!(found[0].args, ["hook", "links"]);
        assert_eq!(found[0].env, [("A".into(), "b".into())]);
        let after = hook(HookPoint::Poststop, &program, Some(300));
        let found = of(&edits(vec![after], Vec::new())).unwrap();
        assert_eq!(found[0].timeout_s, 5);

        let refused = |hooks: Vec<Hook>, mounts| of(&edits(hooks, mounts)).unwrap_err();
        fs::set_permissions(&program, Permissions::from_mode(0o777)).unwrap();
        let any = || hook(HookPoint::Poststop, &program, None);
        let why = refused(vec![any()], Vec::new());
        assert!(why.contains("chmod go-w"), "{why}");
        let why = refused(vec![any(); MOST + 1], Vec::new());
        assert!(why.contains("names 257 programs"), "{why}");
    }

    #[test]
    fn a_hook_in_the_container_is_one_of_the_machine() {
        let place = tempfile::tempdir().unwrap();
        let program = place.path().join("hook");
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        let inside = || {
            vec![hook(
                HookPoint::StartContainer,
                Path::new("/opt/hook"),
                None,
            )]
        };
        let why = of(&edits(inside(), Vec::new())).unwrap_err();
        assert!(why.contains("what an image has is not run"), "{why}");
        for mount in [
            EditMount::read_only(place.path(), "/opt"),
            EditMount::read_only(&program, "/opt/hook"),
        ] {
            let found = of(&edits(inside(), vec![mount])).unwrap();
            assert_eq!(found[0].path, "/opt/hook");
        }
        let gone = EditMount::read_only(place.path().join("gone"), "/opt/hook");
        assert!(of(&edits(inside(), vec![gone])).is_err());
    }
}
