//! What an executor has packed of small outputs.

use std::io;
use std::path::PathBuf;

use tepui_executor::packs;

use super::{Executor, task};

impl Executor {
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
