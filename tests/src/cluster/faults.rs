//! What can be made to go wrong around a cluster's parts: clocks, disks, the ways between them.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Cluster, Plan};
use crate::disk::SmallDisk;
use crate::proxy::Proxy;

impl Plan {
    /// Gives every master a clock that can be set, [`Cluster::set_clock`].
    pub fn own_clocks(mut self) -> Self {
        self.own_clocks = true;
        self
    }

    /// Lets everyone, other masters too, reach each master through a proxy,
    /// [`Cluster::proxy`].
    pub fn behind_proxies(mut self) -> Self {
        self.behind_proxies = true;
        self
    }

    /// Puts a data folder, such as `master`, `master-1` or `agent-0`, on a disk of its own, of so
    /// many MiB.
    pub fn small_disk(mut self, folder: &str, mib: u64) -> Self {
        self.small_disks.push((folder.to_owned(), mib));
        self
    }
}

impl Cluster {
    /// What stands before a master.
    pub fn proxy(&self, index: usize) -> Result<&Proxy> {
        self.proxies
            .get(index)
            .context("masters are behind proxies")
    }

    /// The small disk that a data folder lies on.
    pub fn disk(&self, folder: &Path) -> Result<&SmallDisk> {
        let name = folder.file_name().and_then(|name| name.to_str());
        let disk = name.and_then(|name| self.disks.get(name));
        disk.context("it has no disk of its own")
    }

    /// Sets a master's clock to so many seconds after the others'.
    pub fn set_clock(&self, index: usize, ahead_s: i64) -> Result<()> {
        let clocks = self.clocks.as_ref().context("masters have own clocks")?;
        clocks.set(index, ahead_s)
    }
}
