//! Programs of the machine that a vendor's description (CDI) has run around a container's start and end,
//! such as NVIDIA's that link libraries.
//!
//! They run with the rights of what makes containers, so each has to be as the machine's operator has
//! installed it; where somebody else could have written it, the container is refused. So it is where one
//! would run in the container, with the image's own libraries and before system calls are filtered. Links
//! on the way to it may be anybody's: what is run is what they led to when it was looked at.

use std::path::Path;

use tepui_gpu::{ContainerEdits, HookPoint, check_trust};
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
        let path = hook.path.display();
        if hook.point == HookPoint::StartContainer {
            return Err(format!(
                "its GPU's description (CDI) wants {path} to be run in the container (`startContainer`), \
                 where the image's own libraries would run before anything holds them: take that hook out \
                 of the description, or have it run at `createContainer`"
            ));
        }
        let real = check_trust(&hook.path).map_err(|error| {
            let error = anyhow::Error::from(error);
            format!("its GPU's description (CDI) wants {path} to be run: {error:#}")
        })?;
        let most = match hook.point {
            HookPoint::Poststop => MOST_SECONDS_AFTER,
            _ => MOST_SECONDS,
        };
        Ok(DeviceHook {
            point: hook.point,
            path: text(&real)?,
            args: match hook.args.as_slice() {
                [] => vec![text(&hook.path)?],
                args => args.to_vec(),
            },
            env: hook.env.clone(),
            timeout_s: hook.timeout_s.unwrap_or(most).min(most),
        })
    });
    hooks.collect()
}

fn text(path: &Path) -> Result<String, String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| format!("the path {} is not in UTF-8: rename it", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tepui_gpu::Hook;

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

    fn edits(hooks: Vec<Hook>) -> ContainerEdits {
        ContainerEdits {
            hooks,
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
        let found = of(&edits(all.into())).unwrap();
        let seconds: Vec<_> = found.iter().map(|hook| hook.timeout_s).collect();
        assert_eq!(seconds, [20, 5, 20]);
        assert_eq!(found[0].args, ["hook", "links"]);
        assert_eq!(found[0].env, [("A".into(), "b".into())]);
        let after = hook(HookPoint::Poststop, &program, Some(300));
        let found = of(&edits(vec![after])).unwrap();
        assert_eq!(found[0].timeout_s, 5);

        let refused = |hooks: Vec<Hook>| of(&edits(hooks)).unwrap_err();
        fs::set_permissions(&program, Permissions::from_mode(0o777)).unwrap();
        let any = || hook(HookPoint::Poststop, &program, None);
        let why = refused(vec![any()]);
        assert!(why.contains("chmod go-w"), "{why}");
        let why = refused(vec![any(); MOST + 1]);
        assert!(why.contains("names 257 programs"), "{why}");
    }

    #[test]
    fn what_is_run_is_where_links_led_when_it_was_looked_at() {
        let place = tempfile::tempdir().unwrap();
        let program = place.path().join("nvidia-cdi-hook");
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        let link = place.path().join("hook");
        symlink(&program, &link).unwrap();
        let real = program.canonicalize().unwrap();
        let mut named = hook(HookPoint::CreateContainer, &link, None);
        let found = of(&edits(vec![named.clone()])).unwrap();
        assert_eq!(Path::new(&found[0].path), real);
        assert_eq!(found[0].args, ["hook", "links"]);
        named.args.clear();
        let found = of(&edits(vec![named])).unwrap();
        assert_eq!(found[0].args, [link.to_str().unwrap()]);
    }

    #[test]
    fn nothing_is_run_in_the_container_before_its_program() {
        let inside = hook(HookPoint::StartContainer, Path::new("/bin/true"), None);
        let why = of(&edits(vec![inside])).unwrap_err();
        assert!(why.contains("`startContainer`"), "{why}");
    }
}
