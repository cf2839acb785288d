//! The root file system of a container, in this process's own mounts: an image's layers with a
//! folder of the task's above them (overlayfs), or the machine's tree.
//!
//! Paths inside are resolved as the container would: nothing leads out of its root.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid};

use crate::idmapped;
use crate::userns::UserNamespace;

/// Where layers, and what is written above them, are mounted together: beside the sandbox.
const ROOT: &str = "root";
/// What the container has written.
const UPPER: &str = "upper";
/// What overlayfs needs beside that, on the same file system.
const WORK: &str = "work";
/// Short names of all those, for the kernel takes one page of options.
const LINKS: &str = "links";

/// What a container has mounted anew, and the machine's are not to be below: where a namespace is the
/// machine's, so is the file system of it, and the kernel does not mount that upon itself.
const OWN: [&str; 2] = ["proc", "sys"];

/// Has its own mounts from now on: those of the machine still come in, none go out.
pub fn leave_mounts() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    Ok(mount(NONE, "/", NONE, flags, NONE)?)
}

const NONE: Option<&str> = None;

/// Keeps the root that is made next beside that sandbox out of those that are made of the machine's
/// tree later: each of them would have all before it, and there would soon be too many.
pub fn set_root_apart(beside: &Path) -> io::Result<()> {
    let root = beside.join("container").join(ROOT);
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755).create(&root)?;
    set_apart(&root)
}

/// Keeps what is mounted at that place next out of roots that are made of the machine's tree later:
/// what one container was given is not for the next.
pub fn set_apart(place: &Path) -> io::Result<()> {
    mount(Some(place), place, NONE, MsFlags::MS_BIND, NONE)?;
    Ok(mount(NONE, place, NONE, MsFlags::MS_UNBINDABLE, NONE)?)
}

/// The layers, the lowest first, under a folder beside the sandbox that takes what is written. All of it
/// is mounted below `place`.
pub fn of_image(
    beside: &Path,
    place: &Path,
    layers: &[String],
    users: Option<&UserNamespace>,
) -> io::Result<PathBuf> {
    let container = beside.join("container");
    let (root, links) = (place.join(ROOT), place.join(LINKS));
    make_folder_at(&root)?;
    show_layers(&links, layers, users)?;
    for name in [UPPER, WORK] {
        let folder = container.join(name);
        make_folder_at(&folder)?;
        let link = links.join(name);
        let _ = fs::remove_file(&link);
        symlink(folder, link)?;
    }
    if let Some(users) = users {
        // What they write is theirs on disk as well, and goes with them.
        let (uid, gid) = users.root();
        chown(container.join(UPPER), Some(uid), Some(gid))?;
    }
    let mut lower: Vec<String> = (0..layers.len()).rev().map(|n| n.to_string()).collect();
    if lower.is_empty() {
        make_folder_at(&links.join("0"))?;
        lower.push("0".into());
    }
    let options = format!(
        "lowerdir={},upperdir={UPPER},workdir={WORK}",
        lower.join(":")
    );
    let mounted = mount_layers(&links, &root, &options);
    match users {
        Some(_) => mounted.map_err(idmapped::in_words)?,
        None => mounted?,
    }
    Ok(root)
}

/// The layers, the lowest first, mounted at `place`, where nothing can be written to them.
pub fn layers_alone(
    links: &Path,
    place: &Path,
    layers: &[String],
    users: Option<&UserNamespace>,
) -> io::Result<()> {
    show_layers(links, layers, users)?;
    // One layer is too few for overlayfs, and none below hides nothing.
    let empty = layers.len().to_string();
    make_folder_at(&links.join(&empty))?;
    let above = (0..layers.len()).rev().map(|number| format!("{number}:"));
    let lower: String = above.chain([empty]).collect();
    mount_layers(links, place, &format!("lowerdir={lower}"))
}

/// Has each layer at its number in `links`: by a link, or mounted for these users.
fn show_layers(links: &Path, layers: &[String], users: Option<&UserNamespace>) -> io::Result<()> {
    let numbered = layers.iter().enumerate();
    let mut numbered = numbered.map(|(number, layer)| (links.join(number.to_string()), layer));
    if let Some(users) = users {
        // Those of an earlier start are unmounted; what they show must not be removed.
        return numbered.try_for_each(|(link, layer)| {
            idmapped::mount_path(users, Path::new(layer), &link, true)
        });
    }
    // One that was started before and could not be has left them.
    if let Err(error) = fs::remove_dir_all(links)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    make_folder_at(links)?;
    numbered.try_for_each(|(link, layer)| symlink(layer, link))
}

fn make_folder_at(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755).create(path)
}

/// Mounts by the short names in `links`.
fn mount_layers(links: &Path, place: &Path, options: &str) -> io::Result<()> {
    let before = std::env::current_dir()?;
    std::env::set_current_dir(links)?;
    let overlay = Some("overlay");
    // A container's devices are in its `/dev`, mounted above this.
    let mounted = mount(overlay, place, overlay, MsFlags::MS_NODEV, Some(options));
    std::env::set_current_dir(before)?;
    Ok(mounted?)
}

/// The machine's tree, with all that is mounted in it.
pub fn of_machine(beside: &Path, read_only: bool) -> io::Result<PathBuf> {
    let root = beside.join("container").join(ROOT);
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755).create(&root)?;
    mount(
        Some("/"),
        &root,
        NONE,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        NONE,
    )?;
    for own in OWN {
        // Where nothing is mounted, nothing is in the way.
        let _ = umount2(&root.join(own), MntFlags::MNT_DETACH);
    }
    if read_only {
        add_attributes(&root, libc::MOUNT_ATTR_RDONLY, 0)?;
    }
    // Its devices, too, are in a `/dev` of its own.
    match add_attributes(&root, libc::MOUNT_ATTR_NODEV, 0) {
        // Linux before 5.12, where its cgroup alone is what filters.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {}
        done => done?,
    }
    Ok(root)
}

/// Takes devices, set-user-id programs and, if it says so, writing from what is mounted there and from
/// everything below. What the machine mounts there later does not come in.
pub fn confine(place: &Path, read_only: bool) -> io::Result<()> {
    let mut attributes = libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID;
    if read_only {
        attributes |= libc::MOUNT_ATTR_RDONLY;
    }
    match add_attributes(place, attributes, libc::MS_PRIVATE) {
        // Linux before 5.12, where the runtime does so with what is on top.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        done => done,
    }
}

/// To everything that is mounted below, as well.
fn add_attributes(root: &Path, attributes: u64, propagation: u64) -> io::Result<()> {
    let root = std::ffi::CString::new(root.as_os_str().as_encoded_bytes())?;
    let attributes = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation,
        userns_fd: 0,
    };
    // SAFETY: a NUL-terminated path, and a structure whose size is given; both outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            root.as_ptr(),
            libc::AT_RECURSIVE,
            &attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens a file of the container to be read.
pub fn open(root: &Path, path: &Path) -> io::Result<File> {
    let root = File::open(root)?;
    let opened = within(&root, path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    Ok(File::from(opened))
}

/// Makes a folder of the container, and those above it, for that user and group of the machine.
pub fn make_folders(root: &Path, path: &Path, owner: (u32, u32)) -> io::Result<()> {
    let root = File::open(root)?;
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    let mut above = PathBuf::from(".");
    for name in names {
        let next = above.join(name);
        make_folder(&root, &above, &next, name, owner)?;
        above = next;
    }
    Ok(())
}

fn make_folder(
    root: &File,
    above: &Path,
    path: &Path,
    name: &OsStr,
    (uid, gid): (u32, u32),
) -> io::Result<()> {
    let folder = OFlags::PATH | OFlags::DIRECTORY;
    match within(root, path, folder) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let above = within(root, above, folder)?;
    rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755))?;
    if (uid, gid) == (0, 0) {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::chownat(
        above,
        name,
        Some(uid),
        Some(gid),
        flags,
    )?)
}

fn within(root: &File, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(
        root,
        path,
        flags,
        Mode::empty(),
        resolve,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        symlink("../secret", root.join("up")).unwrap();
        symlink("/", root.join("top")).unwrap();
        assert_eq!(
            open(&root, Path::new("up")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        make_folders(&root, Path::new("/top/a/b"), (0, 0)).unwrap();
        make_folders(&root, Path::new("/a/b"), (0, 0)).unwrap();
        assert!(root.join("a/b").is_dir());
        assert!(make_folders(&root, Path::new("/up/c"), (0, 0)).is_err());
        assert!(!dir.path().join("a").exists());
    }
}
