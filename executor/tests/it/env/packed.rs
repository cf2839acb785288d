//! What an executor has packed of small outputs.

use std::path::PathBuf;
use std::{fs, io};

use tepui_executor::packs;

use super::{Executor, task};

impl Executor {
    /// What a task wrote, byte by byte, from its file or out of a pack.
    pub fn written(&self, name: &str, stream: &str) -> io::Result<Vec<u8>> {
        let file = fs::read(self.task_dir(name).join(stream));
        file.or_else(|_| self.packed(name, stream))
    }

    /// An output as it is in a pack.
    pub fn packed(&self, name: &str, stream: &str) -> io::Result<Vec<u8>> {
        let packed = packs::find(&self.packs(), &task(name))?.ok_or(io::ErrorKind::NotFound)?;
        Ok(if stream == "stdout" {
            packed.stdout
        } else {
            packed.stderr
        })
    }

    /// Where it packs small outputs.
    pub fn packs(&self) -> PathBuf {
        self.root.path().join("packs")
    }
}
