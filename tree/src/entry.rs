//! What a folder's entries are.

use rustix::fs::{FileType, Stat, Timespec, Timestamps};

/// Seconds, and nanoseconds of the second.
pub type Time = (i64, u32);

/// Whether it is a folder.
pub fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Last used and last changed then.
pub fn timestamps((tv_sec, nanos): Time) -> Timestamps {
    let time = Timespec {
        tv_sec,
        tv_nsec: nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
