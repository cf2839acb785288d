//! Loop devices: a file as a disk.
//!
//! Each is set to go with its last user (autoclear): whoever is killed after one was had and before
//! it was mounted leaves none, and an unmount is all that is needed to give one back.

use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::error::BoundsError;
use crate::image::BLOCK;

const CONTROL: &str = "/dev/loop-control";
/// The major number of loop devices.
const MAJOR: u64 = 7;
/// How often a free device may be another's before we have it: more than a machine starts at once.
const ATTEMPTS: usize = 64;

// include/uapi/linux/loop.h
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4c05;
const LOOP_SET_CAPACITY: libc::Ioctl = 0x4c07;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const NO_INFO: Info = Info {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// A device that stays for as long as this, or a mount, holds it.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    device: File,
    pub path: PathBuf,
}

/// Sees that there are any.
pub(crate) fn are_there() -> Result<(), BoundsError> {
    control().map(drop)
}

impl LoopDevice {
    /// Has a free device for the image.
    pub fn attach(image: &File) -> Result<Self, BoundsError> {
        let control = control()?;
        for _ in 0..ATTEMPTS {
            // SAFETY: the call takes no argument.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            if number < 0 {
                return Err(no_loop(Path::new(CONTROL), io::Error::last_os_error()));
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = match open(&path) {
                // Somebody else had it meanwhile, and is giving it back.
                Err(error) if is_given_back(&error) => continue,
                device => device.map_err(|source| no_loop(&path, source))?,
            };
            match configure(&device, image) {
                Ok(()) => return Ok(Self { device, path }),
                // Somebody else was faster.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(source) => return Err(no_loop(&path, source)),
            }
        }
        let busy = io::Error::from_raw_os_error(libc::EBUSY);
        Err(no_loop(Path::new(CONTROL), busy))
    }

    /// The device that a file system is on, by its number, if it is a loop device of that image.
    pub fn find(number: u64, image: &Metadata) -> Result<Option<Self>, BoundsError> {
        if u64::from(libc::major(number)) != MAJOR {
            return Ok(None);
        }
        let minor = libc::minor(number);
        let link = PathBuf::from(format!("/sys/dev/block/{MAJOR}:{minor}"));
        let target = std::fs::read_link(&link);
        let target = target.map_err(|source| BoundsError::io("read", &link, source))?;
        let path = Path::new("/dev").join(target.file_name().unwrap_or_default());
        Self::if_of(path, image)
    }

    /// The device that an image has, wherever that is mounted: in other processes' mounts, or nowhere
    /// any more and still open. An image must never have two.
    pub fn of_image(path: &Path, image: &Metadata) -> Result<Option<Self>, BoundsError> {
        let list = Path::new("/sys/block");
        let entries = std::fs::read_dir(list);
        let entries = entries.map_err(|source| BoundsError::io("list", list, source))?;
        for entry in entries.flatten() {
            // Only those that have a file say so.
            let Ok(backing) = std::fs::read(entry.path().join("loop/backing_file")) else {
                continue;
            };
            // Who opens one holds it, so others' are left alone.
            let backing = Path::new(OsStr::from_bytes(backing.trim_ascii_end()));
            if !same_end(backing, path) {
                continue;
            }
            let device = Path::new("/dev").join(entry.file_name());
            if let Some(device) = Self::if_of(device, image)? {
                return Ok(Some(device));
            }
        }
        Ok(None)
    }

    fn if_of(path: PathBuf, image: &Metadata) -> Result<Option<Self>, BoundsError> {
        // To read: what was open to be written is looked at again by udev.
        let device = match File::open(&path) {
            Err(error) if is_given_back(&error) => return Ok(None),
            device => device.map_err(|source| no_loop(&path, source))?,
        };
        let mut info = NO_INFO;
        // SAFETY: the kernel fills a structure of its own layout, which outlives the call.
        let asked = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &mut info) };
        if asked != 0 {
            let error = io::Error::last_os_error();
            return match is_given_back(&error) {
                true => Ok(None),
                false => Err(no_loop(&path, error)),
            };
        }
        let ours = (info.device, info.inode) == (image.dev(), image.ino());
        Ok(ours.then_some(Self { device, path }))
    }

    /// Sees that the image has grown.
    pub fn grow(&self) -> Result<(), BoundsError> {
        // SAFETY: the call takes no argument.
        match unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_SET_CAPACITY) } {
            0 => Ok(()),
            _ => Err(BoundsError::io(
                "grow",
                &self.path,
                io::Error::last_os_error(),
            )),
        }
    }
}

/// Whether the last two names of two paths are the same. What comes before depends on where the store
/// was mounted for whoever opened the image.
fn same_end(one: &Path, two: &Path) -> bool {
    one.iter().rev().take(2).eq(two.iter().rev().take(2))
}

fn configure(device: &File, image: &File) -> io::Result<()> {
    // Past the page cache, so that nothing is in it twice; where the file system below has no such
    // way, through it.
    match configure_with(device, image, LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            configure_with(device, image, LO_FLAGS_AUTOCLEAR)
        }
        done => done,
    }
}

fn configure_with(device: &File, image: &File, flags: u32) -> io::Result<()> {
    let config = Config {
        // invariant: a descriptor that is open is not negative, and a block is 4096 bytes.
        fd: u32::try_from(image.as_raw_fd()).expect("an open descriptor"),
        block_size: BLOCK as u32,
        info: Info { flags, ..NO_INFO },
        reserved: [0; 8],
    };
    // SAFETY: the kernel reads a structure of its own layout, which outlives the call.
    match unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &config) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn control() -> Result<File, BoundsError> {
    let path = Path::new(CONTROL);
    open(path).map_err(|source| no_loop(path, source))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Whether a device has no file any more; one that is about to have none cannot be opened either.
fn is_given_back(error: &io::Error) -> bool {
    let gone = [libc::ENXIO, libc::ENODEV, libc::ENOENT];
    error
        .raw_os_error()
        .is_some_and(|code| gone.contains(&code))
}

fn no_loop(path: &Path, source: io::Error) -> BoundsError {
    let path = path.to_owned();
    BoundsError::NoLoop { path, source }
}

const _: () = assert!(size_of::<Info>() == 232 && size_of::<Config>() == 304);
