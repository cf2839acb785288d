//! Where the runtime of a container finds what is its task's: where that lies or, for containers with a
//! user namespace, where it is mounted for their users.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns};
use tepui_types::container::{Container, Network};
use tepui_types::wire::executor::ExecutorLaunch;

use crate::files::EtcFile;
use crate::idmapped;
use crate::userns::UserNamespace;

/// From which port on no privilege is needed, in the network namespace of who opens it.
const FREE_PORTS: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// The places.
pub struct Places {
    /// Its sandbox.
    pub sandbox: PathBuf,
    /// Its volumes, as its launch lists them.
    pub volumes: Vec<PathBuf>,
    /// The kernel's `/sys`, where a container cannot mount it: it belongs to the network, which is the
    /// machine's.
    pub sysfs: Option<PathBuf>,
}

impl Places {
    /// Where all of that is.
    pub fn of(launch: &ExecutorLaunch) -> Self {
        let volumes = launch.volumes.iter();
        Self {
            sandbox: PathBuf::from(&launch.sandbox),
            volumes: volumes.map(|volume| (&volume.folder).into()).collect(),
            sysfs: None,
        }
    }

    /// Mounts it below `stage` for these users.
    ///
    /// # Errors
    /// Names what cannot be.
    pub fn mounted(
        launch: &ExecutorLaunch,
        container: &Container,
        users: &UserNamespace,
        stage: &Path,
    ) -> io::Result<Self> {
        let on_disk = Self::of(launch);
        let show = |path: &Path, place: PathBuf| {
            idmapped::mount_path(users, path, &place, false).map_err(named(path))?;
            Ok::<_, io::Error>(place)
        };
        let volumes = on_disk.volumes.iter().enumerate();
        let volumes = volumes.map(|(number, folder)| {
            let place = stage.join("volumes").join(number.to_string());
            show(folder, place)
        });
        let network = launch.network.as_deref();
        let network = network.map(|network| Path::new(&network.namespace));
        Ok(Self {
            volumes: volumes.collect::<Result<_, _>>()?,
            sandbox: show(&on_disk.sandbox, stage.join("sandbox"))?,
            sysfs: match (network, &container.network) {
                (None, Network::None) => None,
                (network, _) => Some(mount_sysfs(stage.join("sys"), network)?),
            },
        })
    }
}

/// Mounts files of its `/etc` below `stage` for these users.
///
/// # Errors
/// Names what cannot be.
pub fn show_files(files: &mut [EtcFile], users: &UserNamespace, stage: &Path) -> io::Result<()> {
    for (number, (file, _)) in files.iter_mut().enumerate() {
        let place = stage.join("etc").join(number.to_string());
        idmapped::mount_path(users, file, &place, false).map_err(named(file))?;
        *file = place;
    }
    Ok(())
}

/// Shows the devices of that network, or of this process's, in which its ports are for everybody: nobody
/// in the container has privileges there.
fn mount_sysfs(place: PathBuf, network: Option<&Path>) -> io::Result<PathBuf> {
    while umount2(&place, MntFlags::MNT_DETACH).is_ok() {}
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755).create(&place)?;
    let mount_here = || {
        let kind = Some("sysfs");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(kind, &place, kind, flags | MsFlags::MS_RDONLY, None::<&str>)
    };
    let Some(network) = network else {
        mount_here()?;
        return Ok(place);
    };
    let before = File::open("/proc/self/ns/net")?;
    setns(File::open(network)?, CloneFlags::CLONE_NEWNET)?;
    let mounted = mount_here().map_err(io::Error::from);
    let mounted = mounted.and_then(|()| fs::write(FREE_PORTS, "0"));
    setns(before, CloneFlags::CLONE_NEWNET)?;
    mounted.map(|()| place)
}

fn named(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("`{}`: {error}", path.display()))
}
