//! What the mounts of a container show, found or made on this machine before the container is.
//!
//! All of it is mounted where this process alone has mounts: what a path led to when it was looked up
//! is what the container gets, whatever its task does to its files meanwhile.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use tepui_types::container::{Container, Mount, MountSource};
use tepui_types::task::reason;
use tepui_types::wire::executor::ExecutorLaunch;
use tepui_types::{Bytes, ImageRef, Reason};

use crate::userns::UserNamespace;
use crate::{idmapped, root};

/// The largest secret: keys and certificates are a few KiB, and all of it is memory that no task is
/// charged for.
const MAX_SECRET: u64 = 1024 * 1024;
/// What is mounted for secrets: as much as all of a container's may be, of which only what is there
/// takes memory.
const SECRETS_SIZE: u64 = MAX_SECRET * Container::MAX_MOUNTS as u64;

/// What one mount shows.
pub enum Shown {
    /// What lies there.
    Path {
        /// On this machine, as this process sees it.
        from: PathBuf,
        /// Whether nothing can be written to it.
        read_only: bool,
    },
    /// Memory, of so many bytes.
    Memory(Bytes),
}

/// Where the mounts of a container come from.
pub struct Sources<'a> {
    /// The task, and what the agent prepared for it.
    pub launch: &'a ExecutorLaunch,
    /// As whom the container runs: user and group of the machine.
    pub owner: (u32, u32),
    /// A folder of this container's own, where they are mounted.
    pub folder: &'a Path,
    /// Whose files they are to be, if not those users' who have them on disk.
    pub users: Option<&'a UserNamespace>,
}

impl Sources<'_> {
    /// What each of the container's mounts shows, in their order.
    ///
    /// # Errors
    /// Names the first that cannot be shown.
    pub fn of(&self, container: &Container) -> Result<Vec<Shown>, Reason> {
        let is_secret = |mount: &Mount| matches!(mount.source, MountSource::Secret(_));
        if container.mounts.iter().any(is_secret) {
            self.mount_secrets()
                .map_err(|error| refused(format!("its secrets have no place: {error}")))?;
        }
        self.make_places()
            .map_err(|error| refused(format!("its volumes have no place: {error}")))?;
        let mounts = container.mounts.iter().enumerate();
        let shown = mounts.map(|(number, mount)| {
            let (from, read_only) = match &mount.source {
                MountSource::Tmpfs(size) => return Ok(Shown::Memory(*size)),
                MountSource::Host(path) => (self.of_machine(mount, number, path)?, mount.read_only),
                MountSource::Sandbox(path) => {
                    (self.in_sandbox(mount, number, path)?, mount.read_only)
                }
                MountSource::Secret(name) => (self.secret(number, name)?, true),
                MountSource::Image(image) => (self.image(number, image)?, true),
            };
            Ok(Shown::Path { from, read_only })
        });
        shown.collect()
    }

    /// Makes the folders that volumes are mounted on, in which others may lie.
    fn make_places(&self) -> io::Result<()> {
        let sandbox = Path::new(&self.launch.sandbox);
        let mut volumes = self.launch.volumes.iter();
        volumes.try_for_each(|volume| root::make_folders(sandbox, Path::new(&volume.path), (0, 0)))
    }

    /// What lies at that path of the machine, which the agent has followed to its end: a link in it
    /// now was not there when it was allowed.
    fn of_machine(&self, mount: &Mount, number: usize, path: &str) -> Result<PathBuf, Reason> {
        let cannot = |error: io::Error| {
            refused(match error.raw_os_error() {
                Some(libc::ELOOP) => {
                    format!("`{path}` of the machine is another since it was allowed")
                }
                _ => format!("`{path}` of the machine cannot be mounted: {error}"),
            })
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
        let found = found.map_err(|errno| cannot(errno.into()))?;
        let place = self.folder.join("mounts").join(number.to_string());
        self.pin(&found, &place, mount.read_only).map_err(cannot)?;
        Ok(place)
    }

    /// What lies at that path below the sandbox or, where that leads into one, in a volume.
    fn in_sandbox(&self, mount: &Mount, number: usize, path: &str) -> Result<PathBuf, Reason> {
        let volumes = self.launch.volumes.iter();
        let above = volumes.filter_map(|volume| {
            let rest = Path::new(path).strip_prefix(&volume.path).ok()?;
            Some((volume.folder.as_str(), rest))
        });
        let innermost = above.min_by_key(|(_, rest)| rest.components().count());
        let (folder, rest) = innermost.unwrap_or((&self.launch.sandbox, Path::new(path)));
        let found = beneath(Path::new(folder), rest).map_err(|error| {
            refused(match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => format!(
                    "nothing lies at `{path}` in the sandbox: mount a volume, or what is fetched"
                ),
                Some(libc::EXDEV | libc::ELOOP) => {
                    format!("`{path}` leads out of the sandbox")
                }
                _ => format!("`{path}` of the sandbox cannot be mounted: {error}"),
            })
        })?;
        let place = self.folder.join("mounts").join(number.to_string());
        self.pin(&found, &place, mount.read_only).map_err(|error| {
            refused(format!(
                "`{path}` of the sandbox cannot be mounted: {error}"
            ))
        })?;
        Ok(place)
    }

    fn pin(&self, found: &OwnedFd, place: &Path, read_only: bool) -> io::Result<()> {
        match self.users {
            Some(users) => idmapped::mount_open(users, found, place, read_only),
            None => pin(found, place, read_only),
        }
    }

    fn secrets(&self) -> PathBuf {
        self.folder.join("secrets")
    }

    /// Memory that is not written to swap either, where the kernel can promise that (6.4).
    fn mount_secrets(&self) -> io::Result<()> {
        let place = self.secrets();
        make_empty_place(&place)?;
        // Its container's root, who may be no root here, finds them by their names.
        let options = format!("mode=0711,size={SECRETS_SIZE}");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let mount_with = |options: &str| {
            let kind = Some("tmpfs");
            mount(kind, &place, kind, flags, Some(options))
        };
        match mount_with(&format!("{options},noswap")) {
            Err(Errno::EINVAL) => mount_with(&options)?,
            done => done?,
        }
        Ok(())
    }

    /// A copy of a secret that its user alone can read.
    fn secret(&self, number: usize, name: &str) -> Result<PathBuf, Reason> {
        let Some(file) = self.launch.secrets.get(name) else {
            let message =
                format!("the secret `{name}` is not there: its role has none of that name");
            return Err(refused(message));
        };
        let failed =
            |error: io::Error| refused(format!("the secret `{name}` cannot be given: {error}"));
        let mut bytes = Vec::new();
        let file = File::open(file).map_err(failed)?;
        file.take(MAX_SECRET + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        if bytes.len() as u64 > MAX_SECRET {
            let most = Bytes(MAX_SECRET);
            return Err(refused(format!("the secret `{name}` is above {most}")));
        }
        let place = self.secrets().join(number.to_string());
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o400);
        let copied = options.open(&place).and_then(|mut copy| {
            copy.write_all(&bytes)?;
            fchown(&copy, Some(self.owner.0), Some(self.owner.1))
        });
        copied.map_err(failed)?;
        Ok(place)
    }

    fn image(&self, number: usize, image: &ImageRef) -> Result<PathBuf, Reason> {
        let name = image.to_string();
        let Some(found) = self.launch.images.get(&name) else {
            return Err(refused(format!("the image `{name}` was not prepared")));
        };
        let folder = self.folder.join("images").join(number.to_string());
        let place = folder.join("root");
        let mounted = make_empty_place(&place).and_then(|()| {
            let links = folder.join("links");
            root::layers_alone(&links, &place, &found.layers, self.users)
        });
        mounted
            .map_err(|error| refused(format!("the image `{name}` cannot be mounted: {error}")))?;
        Ok(place)
    }
}

/// Makes a folder to mount on, apart from other containers; whatever an earlier start has mounted there
/// is gone.
fn make_empty_place(place: &Path) -> io::Result<()> {
    while umount2(place, MntFlags::MNT_DETACH).is_ok() {}
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755).create(place)?;
    root::set_apart(place)
}

/// Opens what lies there, without leaving the folder.
fn beneath(folder: &Path, path: &Path) -> io::Result<OwnedFd> {
    let folder = File::open(folder)?;
    let path = match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(openat2(&folder, path, flags, Mode::empty(), resolve)?)
}

/// Mounts something that is open, so that it has a path which nobody else can change, and nothing of it is
/// what no container may have.
fn pin(found: &OwnedFd, place: &Path, read_only: bool) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let above = place.parent().unwrap_or(place);
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755).create(above)?;
    while umount2(place, MntFlags::MNT_DETACH).is_ok() {}
    let is_folder = fs::metadata(&path)?.is_dir();
    match is_folder {
        true => builder.create(place)?,
        false => drop(OpenOptions::new().append(true).create(true).open(place)?),
    }
    root::set_apart(place)?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    let nothing = None::<&str>;
    mount(Some(path.as_str()), place, nothing, flags, nothing)?;
    root::confine(place, read_only)
}

fn refused(message: String) -> Reason {
    Reason::new(reason::CONTAINER_REFUSED, message)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_within_the_sandbox_and_never_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = dir.path().join("sandbox");
        fs::create_dir_all(sandbox.join("data")).unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        symlink("data", sandbox.join("inside")).unwrap();
        symlink("../secret", sandbox.join("up")).unwrap();
        symlink("/etc", sandbox.join("absolute")).unwrap();
        for good in ["", "data", "inside"] {
            beneath(&sandbox, Path::new(good)).unwrap();
        }
        for (bad, errno) in [
            ("up", libc::EXDEV),
            ("absolute/passwd", libc::EXDEV),
            ("none", libc::ENOENT),
        ] {
            let error = beneath(&sandbox, Path::new(bad)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(errno), "{bad}");
        }
    }
}
