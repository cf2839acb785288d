//! What is true of every state; tests check it after every command.

use std::collections::BTreeMap;

use tepui_types::resources::ResourceRequest;
use tepui_types::{Resources, TaskState};

use super::agents::Agent;
use super::drains::Mode;
use super::reservations::Converted;
use super::{State, limits};
use crate::charge::Charge;

impl State {
    /// The first thing that is not as it must be.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.check_agents()?;
        self.check_frameworks()?;
        self.check_tasks()?;
        let deadlines = super::deadlines::derive(
            &self.agents,
            &self.windows,
            self.frameworks.values(),
            self.tasks.values(),
        );
        require(deadlines == self.deadlines, || {
            format!("deadlines are {deadlines:?}, not {:?}", self.deadlines)
        })?;
        let claimed = super::claims::derive(self.agents.values());
        require(claimed == self.claimed_agents, || {
            format!("claims are on {claimed:?}, not {:?}", self.claimed_agents)
        })?;
        self.check_gang_claims()?;
        let lent = super::sums::derive(&self.agents);
        require(lent == self.lent, || {
            format!("{lent:?} is lent, not {:?}", self.lent)
        })?;
        let charged = super::roles::derive(self.agents.values(), self.tasks.values());
        let ending = super::roles::derive_ending(self.tasks.values());
        require(ending == self.ending_use, || {
            format!("{:?} is ending, not {ending:?}", self.ending_use)
        })?;
        require(charged == self.role_use, || {
            format!("roles are charged {:?}, not {charged:?}", self.role_use)
        })?;
        let decoded = State::decode(&self.encode()).map_err(|error| error.to_string())?;
        require(decoded.encode() == self.encode(), || {
            "a snapshot does not give the state back".into()
        })
    }

    /// What is claimed for a gang is claimed for one that is wanted.
    fn check_gang_claims(&self) -> Result<(), String> {
        for gang in self.claims().filter_map(|claim| claim.gang.as_ref()) {
            let framework = self.frameworks.get(&gang.framework);
            let key = gang.share.key.as_str();
            let is_wanted = framework.is_some_and(|framework| framework.gangs.contains_key(key));
            require(is_wanted, || {
                format!(
                    "something is claimed for gang `{key}` of {}",
                    gang.framework
                )
            })?;
        }
        Ok(())
    }

    /// An agent's use is the sum over its living tasks that have their place, no more and no less.
    fn check_agents(&self) -> Result<(), String> {
        for agent in self.agents.values() {
            let mut used = Resources::default();
            for operation in &agent.tasks {
                let task = self
                    .tasks
                    .get(operation)
                    .ok_or("an agent has an unknown task")?;
                require(task.is_living(), || {
                    format!("{} has ended and is charged", task.id)
                })?;
                require(task.agent == agent.id, || {
                    format!("{} is charged elsewhere", task.id)
                })?;
                if task.has_place() {
                    used = used
                        .checked_add(&task.resources.exclusive())
                        .map_err(|error| error.to_string())?;
                }
            }
            self.check_converted(agent)?;
            let is_drained = matches!(agent.mode, Mode::Drained(_));
            require(!is_drained || agent.tasks.is_empty(), || {
                format!("{} is drained and has tasks", agent.id)
            })?;
            require(used == agent.used, || {
                format!("{} uses {used}, not {}", agent.id, agent.used)
            })?;
            require(self.nonces.get(&agent.nonce) == Some(&agent.id), || {
                "a nonce is lost".into()
            })?;
        }
        Ok(())
    }

    /// What operations made of an agent's resources is laid over what it declares, and has the same
    /// sum unless the agent has become too small for it.
    fn check_converted(&self, agent: &Agent) -> Result<(), String> {
        let Some(converted) = &agent.converted else {
            return Ok(());
        };
        let laid = Converted::lay(&agent.info.resources, &converted.pools, &converted.made_by);
        require(laid.as_ref() == Some(converted), || {
            format!(
                "{} has {:?}, and it should be {laid:?}",
                agent.id, converted
            )
        })?;
        let sum = |resources: &Resources| {
            let pools = resources.pools.iter();
            pools.fold(ResourceRequest::plain(resources), |mut sum, pool| {
                sum.include(&pool.amounts);
                sum
            })
        };
        let volumes = converted
            .pools
            .iter()
            .filter_map(|pool| pool.kind.volume.as_ref());
        let volumes: std::collections::BTreeSet<_> = volumes.map(|volume| &volume.id).collect();
        require(volumes.into_iter().eq(converted.made_by.keys()), || {
            format!("{} does not know who made its volumes", agent.id)
        })?;
        let is_whole = sum(&converted.total) == sum(&agent.info.resources);
        require(is_whole || converted.short.is_some(), || {
            format!("{} has more or less than it declares", agent.id)
        })
    }

    fn check_frameworks(&self) -> Result<(), String> {
        for framework in self.frameworks.values() {
            let id = framework.id;
            let roles = framework.info.roles.iter();
            let mut used: Vec<_> = roles.map(|_| Charge::default()).collect();
            for operation in &framework.tasks {
                let task = self
                    .tasks
                    .get(operation)
                    .ok_or("a framework has an unknown task")?;
                require(task.is_living() && task.id.framework == id, || {
                    "a stranger's task".into()
                })?;
                if !task.has_place() {
                    continue;
                }
                let place = framework.info.roles.place(Some(&task.role));
                let place = place.ok_or("a task is charged to a foreign role")?;
                used[place].add(&Charge::of(&task.resources));
            }
            require(used == framework.used, || {
                format!("{id} is charged {:?}", framework.used)
            })?;
            let bytes: usize = framework
                .store
                .iter()
                .map(|(key, value)| key.len() + value.len())
                .sum();
            require(bytes as u64 == framework.store_bytes, || {
                format!("{id}'s bytes are miscounted")
            })?;
            for operation in &framework.pending {
                let task = self
                    .tasks
                    .get(operation)
                    .ok_or("an update of an unknown task")?;
                require(task.is_pending(), || {
                    format!("{} waits for nothing", task.id)
                })?;
            }
            let ended = framework.pending.iter().filter(|operation| {
                let task = self.tasks.get(*operation);
                task.is_some_and(|task| !task.is_living())
            });
            require(ended.count() == framework.unseen_ends, || {
                format!("{id}'s unseen ends are miscounted")
            })?;
            let is_bounded = framework.held_tasks() <= limits::FRAMEWORK_TASKS
                && framework.notices.len() + framework.gangs.len() <= limits::NOTICES;
            require(is_bounded, || {
                format!("more waits for {id} than may ever wait")
            })?;
            require(self.names.get(&framework.info.name) == Some(&id), || {
                "a name is lost".into()
            })?;
        }
        Ok(())
    }

    /// Every task is counted, findable, and remembered for a reason: it lives,
    /// its end is still to be delivered, or it is among the remembered ones.
    fn check_tasks(&self) -> Result<(), String> {
        let mut counts: BTreeMap<TaskState, u64> = BTreeMap::new();
        let (mut waiting, mut living) = (0, 0);
        for task in self.tasks.values() {
            *counts.entry(task.status.state).or_default() += 1;
            require(self.task_ids.get(&task.id) == Some(&task.operation), || {
                "a task is lost".into()
            })?;
            require(self.specs.get(&task.spec).is_some(), || {
                format!("{} has no spec", task.id)
            })?;
            let owner = self.frameworks.get(&task.id.framework);
            let owed = owner.is_some_and(|owner| owner.pending.contains(&task.operation));
            require(owed == (task.is_pending() && owner.is_some()), || {
                format!("{}: an update is lost", task.id)
            })?;
            if task.is_living() {
                let agent = self.agents.get(&task.agent);
                let is_there = agent.is_some_and(|agent| agent.tasks.contains(&task.operation));
                require(is_there == task.is_told(), || {
                    format!(
                        "{} is its agent's and not among its tasks, or waits and is",
                        task.id
                    )
                })?;
                self.check_line(task)?;
                let is_known = self.has_living_task(task.id.framework, &task.id.name);
                require(is_known, || format!("the name of {} is free", task.id))?;
                living += 1;
            } else if !task.is_pending() {
                waiting += 1;
            }
        }
        require(counts == self.counts, || {
            format!("counted {:?}, found {counts:?}", self.counts)
        })?;
        require(self.task_ids.len() == self.tasks.len(), || {
            "an identity is left over".into()
        })?;
        require(living == self.living_names.len(), || {
            "a name has two living tasks, or is kept after its last".into()
        })?;
        require(waiting == self.ended.len(), || {
            format!("{waiting} tasks ended, {} remembered", self.ended.len())
        })
    }
}

fn require(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(otherwise()) }
}
