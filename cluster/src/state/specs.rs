//! Task specifications, stored once however many tasks have them.

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tepui_types::TaskSpec;

/// The first half of the SHA-256 of a specification's encoding: enough that
/// two never meet, also when someone tries (2⁶⁴ attempts).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SpecKey([u8; 16]);

/// The table: specification and number of tasks that have it.
#[derive(Debug, Clone, Default)]
pub struct Specs(OrdMap<SpecKey, (Arc<TaskSpec>, u64)>);

impl Specs {
    /// Counts one more task with this specification.
    pub fn intern(&mut self, spec: &Arc<TaskSpec>) -> SpecKey {
        let digest = Sha256::digest(tepui_types::envelope::encode(1, spec));
        let mut key = SpecKey([0; 16]);
        key.0.copy_from_slice(&digest[..16]);
        match self.0.get_mut(&key) {
            Some((_, tasks)) => *tasks += 1,
            None => {
                self.0.insert(key, (spec.clone(), 1));
            }
        }
        key
    }

    /// Counts one task less.
    pub fn release(&mut self, key: &SpecKey) {
        match self.0.get_mut(key) {
            Some((_, tasks)) if *tasks > 1 => *tasks -= 1,
            _ => {
                self.0.remove(key);
            }
        }
    }

    /// The specification.
    pub fn get(&self, key: &SpecKey) -> Option<&Arc<TaskSpec>> {
        self.0.get(key).map(|(spec, _)| spec)
    }

    /// All of them, with their numbers of tasks.
    pub fn iter(&self) -> impl Iterator<Item = (&SpecKey, &Arc<TaskSpec>, u64)> {
        self.0
            .iter()
            .map(|(key, (spec, tasks))| (key, spec, *tasks))
    }
}

impl FromIterator<(Arc<TaskSpec>, u64)> for Specs {
    fn from_iter<I: IntoIterator<Item = (Arc<TaskSpec>, u64)>>(specs: I) -> Self {
        let mut table = Self::default();
        for (spec, tasks) in specs {
            let key = table.intern(&spec);
            if let Some((_, count)) = table.0.get_mut(&key) {
                *count = tasks;
            }
        }
        table
    }
}
