//! Gangs of the scripted cluster: all of their tasks start, or none does.

use std::collections::{BTreeMap, BTreeSet};

use tepui_types::{Gang, envelope};

use super::call::Call;
use super::host::{RECORD, ScriptedHost};
use crate::error::Error;
use crate::task::{GangLaunch, TaskId, TaskSpec};

impl ScriptedHost {
    /// Takes a gang, or takes it back.
    pub fn want_gang(&mut self, key: &str, gang: Option<&Gang>) -> Result<(), Error> {
        if self.state.gangs.get(key) == gang {
            return Ok(());
        }
        match gang {
            Some(gang) => {
                gang.validate().map_err(Error::Invalid)?;
                self.check_role(gang.role.as_ref())?;
                self.charge(0, key.len() + gang.size())?;
                self.state.gangs.insert(key.into(), gang.clone());
            }
            None => {
                self.charge(0, key.len() + RECORD)?;
                self.state.gangs.remove(key);
            }
        }
        self.calls.push(Call::DemandGang {
            key: key.into(),
            gang: gang.cloned(),
        });
        Ok(())
    }

    /// Starts all tasks of a gang, or none.
    pub fn start_gang(
        &mut self,
        specs: &[TaskSpec],
        launches: &[GangLaunch],
    ) -> Result<Vec<TaskId>, Error> {
        let mut left = BTreeMap::new();
        let mut names = BTreeSet::new();
        let (mut bytes, mut count) = (0, 0);
        for spec in specs {
            bytes += envelope::encode(1, &tepui_types::TaskSpec::from(spec.clone())).len();
        }
        for launch in launches {
            let spec = specs.get(launch.spec);
            let spec = spec.ok_or_else(|| Error::Invalid("there is no such spec".into()))?;
            self.check_launches(spec, &launch.tasks)?;
            let open = self.state.offers.get(&launch.offer);
            let open = open.ok_or(Error::OfferUnknown)?;
            let rest = left
                .entry(launch.offer)
                .or_insert_with(|| (open.offer.agent, open.left.clone()));
            for task in &launch.tasks {
                if !names.insert(&task.name) {
                    let why = format!("two tasks are named `{}`", task.name);
                    return Err(Error::Invalid(why));
                }
                let less = rest.1.checked_sub(&task.resources);
                rest.1 = less.map_err(|error| Error::OfferExceeded(error.to_string()))?;
                bytes += task.name.len() + RECORD;
                count += 1;
            }
        }
        self.charge(count, bytes)?;
        for (offer, (_, left)) in &left {
            self.state.offers.update(offer, |open| {
                open.left = left.clone();
                open.answered = true;
            });
        }
        let mut ids = Vec::new();
        for launch in launches {
            let agent = left[&launch.offer].0;
            ids.extend(self.start(agent, &specs[launch.spec], &launch.tasks));
        }
        self.calls.push(Call::LaunchGang {
            specs: specs.to_vec(),
            launches: launches.to_vec(),
        });
        Ok(ids)
    }
}
