//! Bounded folders that are projects: their ids chosen, limited, let go of.
//!
//! Other stores on the same file system choose from the same ids, and the kernel is the only one who
//! knows of all: an id is chosen and a folder given to it in one turn, from when on it counts as used.
//! What a killed process had chosen may be somebody else's by now, so only the limits of what is ours
//! beyond doubt are taken away.

use std::path::Path;

use tepui_types::Bytes;

use super::{Bounds, make_folder, step};
use crate::error::BoundsError;
use crate::project::{self, Projects};
use crate::record::{self, Entry, How, Record};
use crate::turn::Turn;

impl Bounds {
    /// Chooses an id, records it and gives the folder to it.
    pub(super) fn claim_project(
        &self,
        name: &str,
        entry: &Entry,
        projects: &Projects,
        record: impl FnOnce(u32) -> Record,
    ) -> Result<Record, BoundsError> {
        let _turn = Turn::of(&self.settings.store)?;
        let taken = self.projects()?;
        let id = projects.free(|id| taken.contains(&id))?;
        let record = record(id);
        self.check_room(record.bytes)?;
        step(name, "record it");
        entry.write(&record)?;
        if let Err(error) = give_folder(name, &record.at, id) {
            let _ = std::fs::remove_dir(&record.at);
            return Err(error);
        }
        Ok(record)
    }

    /// The ids of all projects that are recorded.
    fn projects(&self) -> Result<Vec<u32>, BoundsError> {
        let store = &self.settings.store;
        let mut ids = Vec::new();
        for name in record::names(store)? {
            if let Some(Record {
                how: How::Project(id),
                ..
            }) = Entry::of(store, &name).read()?
            {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// Sees that a project's folder is there and limited.
    pub(super) fn keep_project(
        &self,
        name: &str,
        record: &Record,
        id: u32,
    ) -> Result<(), BoundsError> {
        give_folder(name, &record.at, id)?;
        step(name, "set its project's limits");
        self.limit(&record.at, id, record.bytes)
    }

    /// Takes the limits of a folder's project away, once the folder is gone; `had` says whether it was
    /// there and the project's until now.
    pub(super) fn release_project(
        &self,
        name: &str,
        record: &Record,
        id: u32,
        had: bool,
    ) -> Result<(), BoundsError> {
        let _turn = Turn::of(&self.settings.store)?;
        let Some(projects) = projects_beside(&record.at)? else {
            // Without quotas there is no limit to take away.
            return Ok(());
        };
        if !had && !projects.is_empty(id)? {
            tracing::warn!(
                folder = name,
                id,
                "the limits of a project are left to who has it now"
            );
            return Ok(());
        }
        step(name, "take its project's limits away");
        projects.limit(id, None)
    }

    pub(super) fn limit(&self, at: &Path, id: u32, bytes: Bytes) -> Result<(), BoundsError> {
        match projects_beside(at)? {
            Some(projects) => projects.limit(id, Some(bytes)),
            None => Err(BoundsError::QuotasOff(at.to_owned())),
        }
    }
}

fn projects_beside(at: &Path) -> Result<Option<Projects>, BoundsError> {
    Projects::of(at.parent().unwrap_or(Path::new("/")))
}

fn give_folder(name: &str, at: &Path, id: u32) -> Result<(), BoundsError> {
    step(name, "make its folder");
    make_folder(at)?;
    step(name, "give it to its project");
    project::assign(at, id)
}
