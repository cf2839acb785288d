//! What is asked of the cluster: an operator deploys, clients write, read and kill, under keys of
//! their own, and ask again until they are answered.

use tepui_cluster::{Accepted, Command};
use tepui_master::proposals::{Committed, ProposeError, Request};
use tepui_types::operation::Kill;
use tepui_types::{Digest, FrameworkPhase, Principal};

use super::checks::Violation;
use super::leader::Purpose;
use super::scheduler::{self, Script};
use super::world::{Happening, MILLI, SECOND, World};

/// Clients that write and read; the operator is one more.
const CLIENTS: usize = 3;

/// One who asks.
#[derive(Debug, Default)]
pub struct Client {
    /// What is asked now, until it is answered.
    asks: Option<Ask>,
    /// Counts what was asked.
    number: u64,
    /// Commands that must still be given, the last first.
    to_do: Vec<Command>,
    is_waiting: bool,
    life: u64,
}

/// One question, the same until it is answered.
#[derive(Debug, Clone)]
struct Ask {
    key: Option<String>,
    body: Command,
    tries: u32,
}

impl World {
    pub(super) fn set_up_clients(&mut self) {
        let mut operator = Client::default();
        let frameworks = self.dice.within(1..4);
        for number in (0..frameworks).rev() {
            let tasks = self.dice.within(1..100) as usize;
            let info = scheduler::deployment(&format!("f{number}"), tasks);
            operator.to_do.push(Command::DeployFramework(info));
        }
        operator.to_do.push(Command::RecordArtifact {
            digest: scheduler::component(),
            size: 9,
        });
        self.clients.push(operator);
        self.clients.extend((0..CLIENTS).map(|_| Client::default()));
        for client in 0..self.clients.len() {
            self.after(SECOND, Happening::Client(client));
        }
    }

    /// A client asks, or asks again.
    pub(super) fn on_client(&mut self, number: usize) -> Result<(), Violation> {
        let next = self.dice.within(10 * MILLI..SECOND / 4);
        self.after(next, Happening::Client(number));
        let running: Vec<usize> = self.running_masters().into_iter().collect();
        if running.is_empty() {
            return Ok(());
        }
        let master = running[self.dice.place(running.len())];
        self.set_clock(master);
        if number > 0 && self.dice.chance(3_000) {
            let acknowledged = self.checks.acknowledged();
            if let Some(running) = &mut self.masters[master].running {
                let client = number;
                running.read(Purpose::Read {
                    client,
                    acknowledged,
                });
                self.wake(master);
            }
            return Ok(());
        }
        if self.clients[number].is_waiting {
            // Its master may have gone with the answer.
            let client = &mut self.clients[number];
            client.life += 1;
            if client.life < 10 {
                return Ok(());
            }
        }
        if self.clients[number].asks.is_none() {
            let ask = self.next_ask(number, master);
            self.clients[number].asks = ask;
        }
        let client = &mut self.clients[number];
        let Some(ask) = &mut client.asks else {
            return Ok(());
        };
        ask.tries += 1;
        (client.is_waiting, client.life) = (true, 0);
        let asked = client.number;
        let request = Request {
            idempotency_key: ask.key.clone(),
            ..Request::new(Principal::User(format!("c{number}")), ask.body.clone())
        };
        if let Some(running) = &mut self.masters[master].running {
            let (client, ask) = (number, asked);
            running.propose(Purpose::Client { client, ask }, request);
            self.wake(master);
        }
        Ok(())
    }

    fn next_ask(&mut self, number: usize, master: usize) -> Option<Ask> {
        let state = self.masters[master].running.as_ref()?.state();
        let client = &mut self.clients[number];
        client.number += 1;
        let key = Some(format!("c{number}-{}", client.number));
        let ask = |body| Ask {
            key,
            body,
            tries: 0,
        };
        if number == 0 {
            if let Some(body) = client.to_do.pop() {
                return Some(ask(body));
            }
            if self.is_peace
                && let Some(body) = self.to_set_right(&state)
            {
                return Some(ask(body));
            }
            let failed = state.frameworks.values();
            let mut failed = failed.filter(|framework| framework.phase == FrameworkPhase::Failed);
            let framework = failed.next()?.id;
            return Some(ask(Command::RestartFramework { framework }));
        }
        if self.is_peace {
            return None;
        }
        let living: Vec<_> = state
            .tasks
            .values()
            .filter(|task| task.is_living())
            .collect();
        if !living.is_empty() && self.dice.chance(1_000) {
            let task = living[self.dice.place(living.len())].id.clone();
            let grace_ms = Some(0);
            return Some(ask(Command::KillTask(Kill { task, grace_ms })));
        }
        let text = format!("artifact {number} {}", self.clients[number].number);
        Some(ask(Command::RecordArtifact {
            digest: Digest::of(text.as_bytes()),
            size: 1,
        }))
    }

    pub(super) fn on_client_answer(
        &mut self,
        number: usize,
        asked: u64,
        result: Result<Committed, ProposeError>,
    ) -> Result<(), Violation> {
        let client = &mut self.clients[number];
        if client.number != asked {
            // To what was asked before, and asked again: it has come already.
            return Ok(());
        }
        client.is_waiting = false;
        let Ok(Committed { index, outcome }) = result else {
            return Ok(());
        };
        let Some(ask) = client.asks.take() else {
            return Ok(());
        };
        match (&ask.body, outcome) {
            (
                Command::RecordArtifact { digest, .. },
                Ok(Accepted::Artifact {
                    digest: given,
                    known,
                }),
            ) => {
                if given != *digest {
                    return Err(format!("{digest} was to be recorded, and {given} was"));
                }
                if known {
                    return Err(format!(
                        "{digest} was new, and the answer to its {}th request says that it was known",
                        ask.tries
                    ));
                }
                self.checks.on_recorded(*digest, index);
            }
            (Command::DeployFramework(_), Ok(Accepted::Framework { framework, .. })) => {
                self.checks.on_deployed(framework);
            }
            (Command::DeployFramework(_), Err(rejection)) => {
                return Err(format!("a deployment is refused: {rejection}"));
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn on_read(
        &mut self,
        client: usize,
        master: usize,
        acknowledged: u64,
        result: Result<Committed, ProposeError>,
    ) -> Result<(), Violation> {
        match result {
            Ok(Committed { index, .. }) if index < acknowledged => Err(format!(
                "client {client} reads at {index} on master {master}, and {acknowledged} had been \
                 acknowledged"
            )),
            _ => Ok(()),
        }
    }

    /// Whether all that was asked for is done, everywhere.
    pub(super) fn is_done(&self) -> bool {
        let clients = &self.clients;
        if clients
            .iter()
            .any(|client| client.asks.is_some() || !client.to_do.is_empty())
        {
            return false;
        }
        let Some(one) = self.furthest() else {
            return false;
        };
        let mut states = Vec::new();
        for number in self.listed(one) {
            match &self.masters[number].running {
                Some(running) => states.push((running.log.view.applied(), running.state())),
                None => return false,
            }
        }
        let Some((applied, first)) = states.first() else {
            return false;
        };
        let all_equal = states.iter().all(|(other, _)| other == applied);
        let is_idle = self.agents.iter().all(|agent| agent.is_idle());
        let all_done = |framework| Script::of(first, framework).is_done();
        all_equal
            && is_idle
            && !first.frameworks.is_empty()
            && first
                .frameworks
                .values()
                .all(|framework| all_done(framework))
    }

    /// What keeps it from being done, for people.
    pub(super) fn what_is_left(&self) -> String {
        let mut left = Vec::new();
        for (number, client) in self.clients.iter().enumerate() {
            if let Some(ask) = &client.asks {
                left.push(format!("client {number} still asks {:?}", ask.body));
            }
        }
        for (number, machine) in self.masters.iter().enumerate() {
            let Some(running) = &machine.running else {
                let retired = self.retired.contains(&number);
                left.push(format!("master {number} is down, for good: {retired}"));
                continue;
            };
            let state = running.state();
            let leads = *running.log.leadership.borrow();
            let applied = running.log.view.applied();
            let listed = self.listed(number);
            left.push(format!(
                "master {number} has applied {applied}, knows {listed:?}: {leads:?}, {}",
                running.members()
            ));
            if running.leader.is_none() {
                continue;
            }
            for framework in state.frameworks.values() {
                if !Script::of(&state, framework).is_done() {
                    left.push(format!(
                        "{} is {}, {} of its tasks live, {} updates wait",
                        framework.id,
                        framework.phase.as_str(),
                        framework.tasks.len(),
                        framework.pending.len()
                    ));
                }
            }
            for task in state.tasks.values().filter(|task| task.is_living()) {
                left.push(format!(
                    "{} is {} on {}",
                    task.id, task.status.state, task.agent
                ));
            }
        }
        for (number, agent) in self.agents.iter().enumerate() {
            if !agent.is_idle() {
                left.push(format!("agent {number} is not done"));
            }
        }
        left.join("; ")
    }

    /// Everything adds up.
    pub(super) fn check_end(&mut self) -> Result<(), Violation> {
        let listed = self
            .furthest()
            .map(|one| self.listed(one))
            .unwrap_or_default();
        let running = listed.into_iter().filter_map(|number| {
            let running = self.masters[number].running.as_ref();
            running.map(|running| running.state())
        });
        let states: Vec<_> = running.collect();
        for (number, state) in states.iter().enumerate() {
            self.checks.check_acknowledged(number, state)?;
            if state.hash() != states[0].hash() {
                return Err(format!(
                    "master {number} has another state than others in the end"
                ));
            }
        }
        match states.first() {
            Some(state) => self.checks.at_the_end(state),
            None => Err("no master runs in the end".into()),
        }
    }
}
