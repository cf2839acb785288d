//! What a framework wants: demand, and the roles in which it wants no offers.
//!
//! Part of the turn that is going on; what is said here takes the place of what
//! the state says, once the turn has committed.

use tepui_cluster::state::limits as quota;
use tepui_types::ids::is_label;
use tepui_types::resources::ResourceRequest;
use tepui_types::setting::Settings;
use tepui_types::{Demand, Gang, Role};

use super::{CallError, OpenTurn, RECORD};

impl OpenTurn {
    /// Replaces what is wanted under a key.
    pub fn demand(&mut self, key: String, demand: Demand) -> Result<(), CallError> {
        if key.is_empty() || key.len() > quota::DEMAND_KEY_BYTES {
            let most = quota::DEMAND_KEY_BYTES;
            return Err(CallError::Invalid(format!(
                "a demand's key has 1 to {most} bytes"
            )));
        }
        let known = self.wanted(&key);
        let unchanged = match known {
            None => demand.count == 0,
            Some(known) if demand.count == 0 => known.count == 0,
            Some(known) => *known == demand,
        };
        if unchanged {
            return Ok(());
        }
        if demand.count > 0 {
            demand.constraints.validate().map_err(CallError::Invalid)?;
            self.check_role(demand.role.as_ref())?;
            demand.request.validate().map_err(CallError::Invalid)?;
            if demand.volumes.len() > Demand::MAX_VOLUMES
                || !demand.volumes.iter().all(|volume| is_label(volume))
            {
                return Err(CallError::Invalid(format!(
                    "a demand names at most {} volumes, each by its name of a-z, 0-9 and `-`",
                    Demand::MAX_VOLUMES
                )));
            }
            if self.framework.demands.len() + self.demands.len() >= quota::DEMANDS {
                let most = quota::DEMANDS;
                return Err(CallError::Invalid(format!(
                    "a framework has at most {most} demands"
                )));
            }
        }
        let custom = demand
            .request
            .custom
            .keys()
            .map(|name| name.len() + RECORD)
            .sum::<usize>();
        let role = demand.role.as_ref().map_or(0, |role| role.as_str().len());
        let constraints = demand.constraints.size();
        let volumes: usize = demand.volumes.iter().map(|volume| volume.len() + 2).sum();
        self.reserve(
            0,
            key.len() + custom + constraints + role + volumes + RECORD,
        )?;
        self.demands.insert(key, demand);
        Ok(())
    }

    /// Replaces the gang under a key, or takes it back.
    pub fn demand_gang(&mut self, key: String, gang: Option<Gang>) -> Result<(), CallError> {
        if key.is_empty() || key.len() > quota::DEMAND_KEY_BYTES {
            let most = quota::DEMAND_KEY_BYTES;
            return Err(CallError::Invalid(format!(
                "a gang's key has 1 to {most} bytes"
            )));
        }
        if self.wanted_gang(&key) == gang.as_ref() {
            return Ok(());
        }
        let mut bytes = key.len() + RECORD;
        if let Some(gang) = &gang {
            gang.validate().map_err(CallError::Invalid)?;
            self.check_role(gang.role.as_ref())?;
            if self.framework.gangs.len() + self.gangs.len() >= quota::GANGS {
                let most = quota::GANGS;
                return Err(CallError::Invalid(format!(
                    "a framework has at most {most} gangs"
                )));
            }
            self.reserve_notice()?;
            bytes += gang.size();
        }
        self.reserve(0, bytes)?;
        self.gangs.insert(key, gang);
        Ok(())
    }

    /// The gang under a key, this turn's word included.
    pub fn wanted_gang(&self, key: &str) -> Option<&Gang> {
        let known = || self.framework.gangs.get(key).map(|entry| &*entry.gang);
        match self.gangs.get(key) {
            Some(said) => said.as_ref(),
            None => known(),
        }
    }

    /// What is wanted under a key, this turn's word included.
    pub fn wanted(&self, key: &str) -> Option<&Demand> {
        let known = || self.framework.demands.get(key).map(|entry| &entry.demand);
        self.demands
            .get(key)
            .or_else(known)
            .filter(|demand| demand.count > 0)
    }

    /// Stops offers in one role, or in all.
    pub fn suppress(&mut self, role: Option<Role>) -> Result<(), CallError> {
        self.set_suppressed(role, true)
    }

    /// Asks for offers again, without filters, in one role or in all.
    pub fn revive(&mut self, role: Option<Role>) -> Result<(), CallError> {
        self.set_suppressed(role, false)
    }

    fn set_suppressed(&mut self, role: Option<Role>, suppressed: bool) -> Result<(), CallError> {
        self.check_role(role.as_ref())?;
        let framework = self.framework.clone();
        let roles = framework.info.roles.iter();
        for role in roles.filter(|known| role.as_ref().is_none_or(|role| role == *known)) {
            if !self.suppressed.contains_key(role) {
                self.reserve(0, role.as_str().len() + RECORD / 2)?;
            }
            self.suppressed.insert(role.clone(), suppressed);
        }
        Ok(())
    }

    /// Sets the least offers of a role, or leaves them to the cluster again.
    pub fn minimum_offer(
        &mut self,
        role: Option<Role>,
        least: Option<Vec<ResourceRequest>>,
    ) -> Result<(), CallError> {
        self.check_role(role.as_ref())?;
        let named = least.as_deref().unwrap_or_default();
        Settings::validate_minimum(named).map_err(CallError::Invalid)?;
        let custom = named.iter().flat_map(|amounts| amounts.custom.keys());
        let custom: usize = custom.map(|name| name.len() + RECORD).sum();
        let role = role.unwrap_or_else(|| self.framework.info.roles.first().clone());
        self.reserve(0, role.as_str().len() + (named.len() + 1) * RECORD + custom)?;
        self.minimums.insert(role, least);
        Ok(())
    }

    fn check_role(&self, role: Option<&Role>) -> Result<(), CallError> {
        let roles = &self.framework.info.roles;
        match role.filter(|role| roles.place(Some(role)).is_none()) {
            Some(role) => {
                let known: Vec<_> = roles.iter().map(Role::as_str).collect();
                let known = known.join("`, `");
                let why = format!("this framework has no role `{role}`; it has `{known}`");
                Err(CallError::Invalid(why))
            }
            None => Ok(()),
        }
    }

    /// Whether anything is wanted after this turn.
    pub(super) fn wants_more(&self) -> bool {
        let roles = &self.framework.info.roles;
        let is_open = |role: Option<&Role>| {
            let role = roles.get(role);
            role.is_some_and(|role| {
                let now = self.suppressed.get(role).copied();
                !now.unwrap_or_else(|| self.framework.suppressed.contains(role))
            })
        };
        let mut said = self.demands.values().filter(|demand| demand.count > 0);
        let known = self.framework.demands.iter();
        let mut known = known.filter(|(key, _)| !self.demands.contains_key(&***key));
        let mut gangs = self.gangs.values().flatten();
        let known_gangs = self.framework.gangs.iter();
        let mut known_gangs = known_gangs.filter(|(key, _)| !self.gangs.contains_key(&***key));
        said.any(|demand| is_open(demand.role.as_ref()))
            || known.any(|(_, entry)| is_open(entry.demand.role.as_ref()))
            || gangs.any(|gang| is_open(gang.role.as_ref()))
            || known_gangs.any(|(_, entry)| is_open(entry.gang.role.as_ref()))
    }
}
