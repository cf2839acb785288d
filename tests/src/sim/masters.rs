//! Masters: the real member of the group, its real store and queue, on a simulated machine.
//!
//! A step gives the member one event from its inbox, as the log's thread does, and takes as long as
//! its disk: what it sends goes out when it is said, and the next step waits for this one's end.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use raft::eraftpb::Message;
use tepui_cluster::{Accepted, State};
use tepui_master::clock::Clock;
use tepui_master::error::RaftError;
use tepui_master::feed::Subscription;
use tepui_master::folder::Identity;
use tepui_master::masters::image::FetchError;
use tepui_master::proposals::{Committed, ProposeError, Request};
use tepui_master::raft::inbox::Inbox;
use tepui_master::raft::member::Member;
use tepui_master::raft::world::Image;
use tepui_master::raft::{self as group, Fetched, Leadership, Log, Parts, TICK};
use tepui_master::storage::{Batch, Storage, snapshot};
use tepui_types::wire::peer::StateHash;
use tepui_types::{ClusterId, NodeId};

use super::Sabotage;
use super::checks::Violation;
use super::dice::Dice;
use super::leader::{Leader, Purpose};
use super::machine::{Around, Asked, MachineClock, Out, copy_image};
use super::network::Place;
use super::storage::MemoryDisk;
use super::world::{Happening, MILLI, SECOND, World};

/// Microseconds that a step takes without its disk.
const STEP_US: u64 = 30;
/// The cluster of every simulation.
pub const CLUSTER: ClusterId = ClusterId(7);

/// A machine for a master.
pub struct MasterMachine {
    pub disk: MemoryDisk,
    pub clock: MachineClock,
    pub running: Option<Running>,
    /// Counts its processes.
    pub life: u64,
    /// Where others reach it.
    pub url: String,
    /// Whether its disk has what a master starts from.
    pub is_set_up: bool,
    options: group::Options,
}

/// A master's process.
pub struct Running {
    pub log: Log,
    pub inbox: Arc<Inbox>,
    pub leader: Option<Leader>,
    pub waiting: Vec<Waiting>,
    member: Member<Around>,
    out: Out,
    events: Subscription,
    busy_until: u64,
    next_tick: u64,
    /// When it wakes next.
    wakes_at: u64,
    /// The state that was looked at last.
    seen_index: u64,
    leads: Leadership,
}

/// Someone who waits for what becomes of a command.
pub struct Waiting {
    pub purpose: Purpose,
    answer: Pin<Box<dyn Future<Output = Result<Committed, ProposeError>> + Send>>,
}

/// A master's id by its number.
pub fn node(master: usize) -> NodeId {
    NodeId(master as u64 + 1)
}

/// The number of a master by its id.
pub fn number(node: NodeId) -> usize {
    node.0 as usize - 1
}

fn url(master: usize) -> String {
    format!("http://m{master}")
}

impl MasterMachine {
    /// The disk as a master opens it.
    pub fn storage(&self) -> Storage {
        Storage::on(self.disk.clone())
    }
}

impl Running {
    /// The applied state.
    pub fn state(&self) -> Arc<State> {
        self.log.view.load()
    }

    /// Term and members, for people.
    pub fn members(&self) -> String {
        let members = self.member.members();
        let numbers =
            |nodes: &[NodeId]| -> Vec<usize> { nodes.iter().map(|node| number(*node)).collect() };
        let (voters, learners) = (numbers(&members.voters), numbers(&members.learners));
        let term = self.member.term();
        format!("term {term}, voters {voters:?}, learners {learners:?}")
    }

    /// Proposes something; what becomes of it is looked at after each step.
    pub fn propose(&mut self, purpose: Purpose, request: Request) {
        let proposals = self.log.proposals.clone();
        self.wait(
            purpose,
            Box::pin(async move { proposals.submit(request).await }),
        );
    }

    /// Asks for a point to read at.
    pub fn read(&mut self, purpose: Purpose) {
        let proposals = self.log.proposals.clone();
        let answer = async move {
            let index = proposals.read_index().await?;
            let outcome = Ok(Accepted::Done);
            Ok(Committed { index, outcome })
        };
        self.wait(purpose, Box::pin(answer));
    }

    /// Asks it to hand the lead over.
    pub fn transfer(&mut self, to: NodeId) {
        let handle = self.log.handle.clone();
        let answer = async move {
            handle.transfer(to).await?;
            let outcome = Ok(Accepted::Done);
            Ok(Committed { index: 0, outcome })
        };
        self.wait(Purpose::Nothing, Box::pin(answer));
    }

    fn wait(
        &mut self,
        purpose: Purpose,
        mut answer: Pin<Box<dyn Future<Output = Result<Committed, ProposeError>> + Send>>,
    ) {
        // The first look puts it into the inbox; none is answered before a step.
        let mut context = Context::from_waker(Waker::noop());
        match answer.as_mut().poll(&mut context) {
            Poll::Ready(result) => self.waiting.push(Waiting {
                purpose,
                answer: Box::pin(std::future::ready(result)),
            }),
            Poll::Pending => self.waiting.push(Waiting { purpose, answer }),
        }
    }

    /// Those whose answers are here.
    fn take_answers(&mut self) -> Vec<(Purpose, Result<Committed, ProposeError>)> {
        let mut context = Context::from_waker(Waker::noop());
        let mut answers = Vec::new();
        let mut waiting = Vec::with_capacity(self.waiting.len());
        for mut one in self.waiting.drain(..) {
            match one.answer.as_mut().poll(&mut context) {
                Poll::Ready(result) => answers.push((one.purpose, result)),
                Poll::Pending => waiting.push(one),
            }
        }
        self.waiting = waiting;
        answers
    }
}

impl World {
    pub(super) fn found_masters(&mut self) -> Result<(), Violation> {
        let count = if self.dice.chance(2_500) { 5 } else { 3 };
        let founders = (0..count).map(|master| (node(master), url(master)));
        let state = State::founded(CLUSTER, founders);
        for master in 0..count {
            let mut machine = self.new_machine(master);
            machine.is_set_up = true;
            let mut batch = Batch::default();
            let record = snapshot::put_founding(&mut batch, &state);
            let identity = Identity {
                cluster: CLUSTER,
                node: node(master),
            };
            machine
                .storage()
                .initialize(identity, &record, batch)
                .map_err(|error| format!("a disk is not initialized: {error}"))?;
            self.masters.push(machine);
            let delay = self.dice.below(200 * MILLI);
            self.after(delay, Happening::StartMaster(master));
        }
        Ok(())
    }

    pub(super) fn new_machine(&mut self, url_of: usize) -> MasterMachine {
        let snapshot_entries = self.dice.within(10..150);
        let machine = MasterMachine {
            disk: MemoryDisk::new(self.is_sabotaged(Sabotage::SyncNothing)),
            clock: MachineClock::new(),
            running: None,
            life: 0,
            url: url(url_of),
            is_set_up: false,
            options: group::Options {
                snapshot_entries,
                snapshot_slack: self.dice.below(snapshot_entries / 2),
                ..group::Options::default()
            },
        };
        machine.disk.set_sync_us(self.dice.within(100..2_000));
        machine.clock.jump(self.dice.below(2_000) as i64 - 1_000);
        machine
    }

    pub(super) fn start_master(&mut self, master: usize) -> Result<(), Violation> {
        let machine = &self.masters[master];
        if machine.running.is_some() || !machine.is_set_up || self.retired.contains(&master) {
            return Ok(());
        }
        let dice = self.dice.fork();
        self.set_clock(master);
        let machine = &mut self.masters[master];
        machine.life += 1;
        let (inbox, out) = (Arc::new(Inbox::default()), Out::default());
        let parts = Parts {
            storage: machine.storage(),
            identity: Identity {
                cluster: CLUSTER,
                node: node(master),
            },
            options: machine.options,
            clock: Clock::on(machine.clock.clone()),
            inbox: inbox.clone(),
        };
        let around = Around::new(out.clone(), machine.disk.clone(), dice);
        let opened = group::open(parts, |_| around);
        let (mut member, log) = match opened {
            Ok(opened) => opened,
            Err(_) if machine.disk.is_dead() => return self.died(master),
            Err(error) => return Err(format!("master {master} does not start: {}", chain(&error))),
        };
        let events = log
            .feed
            .subscribe(None)
            .map_err(|error| error.to_string())?;
        // One that is alone leads as soon as it begins.
        let leads = *log.leadership.borrow();
        let begun = member.begin();
        let running = Running {
            leads,
            log,
            inbox,
            leader: None,
            waiting: Vec::new(),
            member,
            out,
            events,
            busy_until: self.now,
            next_tick: self.now + TICK.as_micros() as u64,
            wakes_at: 0,
            seen_index: 0,
        };
        machine.running = Some(running);
        self.after(TICK.as_micros() as u64, Happening::Wake(master));
        self.after_step(master, begun)
    }

    /// The process ends, or the machine does.
    pub(super) fn stop_master(&mut self, master: usize, power: bool) -> Result<(), Violation> {
        let machine = &mut self.masters[master];
        let was_running = machine.running.take().is_some();
        if power {
            machine.disk.cut_power(&mut self.dice);
        } else {
            machine.disk.kill();
        }
        if was_running {
            self.hang_up_all(Place::Master(master));
            self.trace_with(|| format!("master {master} is gone, power cut: {power}"));
        }
        Ok(())
    }

    /// It died in a write.
    fn died(&mut self, master: usize) -> Result<(), Violation> {
        let power = self.dice.chance(5_000);
        self.stop_master(master, power)?;
        let delay = self.dice.within(10 * MILLI..3 * SECOND);
        self.after(delay, Happening::StartMaster(master));
        Ok(())
    }

    /// Something is in its inbox: it looks at it as soon as it is done with what it does.
    pub(super) fn wake(&mut self, master: usize) {
        let now = self.now;
        let Some(running) = &mut self.masters[master].running else {
            return;
        };
        let at = running.busy_until.max(now);
        if running.wakes_at > now && running.wakes_at <= at {
            return;
        }
        running.wakes_at = at;
        self.at(at, Happening::Wake(master));
    }

    pub(super) fn on_wake(&mut self, master: usize) -> Result<(), Violation> {
        self.set_clock(master);
        let now = self.now;
        let Some(running) = &mut self.masters[master].running else {
            return Ok(());
        };
        if running.busy_until > now {
            self.wake(master);
            return Ok(());
        }
        let is_due = running.next_tick <= now;
        let Some(event) = running.inbox.poll(is_due) else {
            return Ok(());
        };
        if is_due {
            running.next_tick = now + TICK.as_micros() as u64;
        }
        let (result, next_tick) = (running.member.on_event(event), running.next_tick);
        if is_due {
            self.at(next_tick, Happening::Wake(master));
        }
        self.after_step(master, result)
    }

    /// Looks at what a step did, and does what it asked for.
    fn after_step(
        &mut self,
        master: usize,
        result: Result<(), RaftError>,
    ) -> Result<(), Violation> {
        let seed = self.options.seed;
        let machine = &mut self.masters[master];
        let spent = machine.disk.take_spent_us();
        let is_dead = machine.disk.is_dead();
        let Some(running) = &mut machine.running else {
            return Ok(());
        };
        running.busy_until = self.now + STEP_US + spent;
        let term = running.member.term();
        let mut delay = Dice::new(seed ^ term << 8 ^ master as u64);
        running.member.set_election_delay(delay.below(64) as usize);
        let asked =
            std::mem::take(&mut *running.out.lock().unwrap_or_else(PoisonError::into_inner));
        self.look(master)?;
        for asked in asked {
            self.on_asked(master, asked);
        }
        match result {
            _ if is_dead => return self.died(master),
            Err(RaftError::Removed) => {
                self.retired.insert(master);
                return self.stop_master(master, false);
            }
            Err(error) => return Err(format!("master {master} stopped: {}", chain(&error))),
            Ok(()) => {}
        }
        self.wake(master);
        Ok(())
    }

    fn on_asked(&mut self, master: usize, asked: Asked) {
        let life = self.masters[master].life;
        match asked {
            Asked::Send(to, saying, spent) => self.send(master, number(to), saying, spent),
            Asked::Fetch(message) => {
                // Longer than lies between two images.
                let delay = self.dice.within(5 * MILLI..2_000 * MILLI);
                let leader = &self.masters[number(NodeId(message.from))];
                let running = leader.running.as_ref();
                self.after(
                    delay,
                    Happening::FetchImage {
                        master,
                        life,
                        message,
                        lent: running.map(|running| running.log.handle.lend_image()),
                    },
                );
            }
            Asked::Hash(index, state) => {
                if let Some(running) = &self.masters[master].running {
                    let hash = state.hash();
                    running.inbox.state_hashed(StateHash { index, hash });
                    self.wake(master);
                }
            }
            Asked::Write(image) => {
                let delay = self.dice.within(MILLI..500 * MILLI);
                self.after(
                    delay,
                    Happening::WriteImage {
                        master,
                        life,
                        image,
                    },
                );
            }
        }
    }

    pub(super) fn on_write_image(
        &mut self,
        master: usize,
        life: u64,
        image: Image,
    ) -> Result<(), Violation> {
        let machine = &self.masters[master];
        let Some(running) = machine.running.as_ref().filter(|_| machine.life == life) else {
            return Ok(());
        };
        running
            .inbox
            .snapshot_ready(image.write(&machine.storage()));
        machine.disk.take_spent_us();
        if machine.disk.is_dead() {
            return self.died(master);
        }
        self.wake(master);
        Ok(())
    }

    pub(super) fn on_fetch_image(
        &mut self,
        master: usize,
        life: u64,
        message: Message,
    ) -> Result<(), Violation> {
        if self.masters[master].life != life || self.masters[master].running.is_none() {
            return Ok(());
        }
        let leader = number(NodeId(message.from));
        let (here, there) = (Place::Master(master), Place::Master(leader));
        let is_there = self.masters[leader].running.is_some()
            && self.network.carries(here, there)
            && self.network.carries(there, here);
        let index = message.get_snapshot().get_metadata().index;
        let result = match is_there {
            true => copy_image(
                &self.masters[leader].storage(),
                &self.masters[master].storage(),
                index,
            ),
            false => Err(FetchError::Cut),
        };
        let machine = &self.masters[master];
        machine.disk.take_spent_us();
        if machine.disk.is_dead() {
            return self.died(master);
        }
        if let Some(running) = &machine.running {
            running.inbox.image_fetched(Fetched::new(message, result));
        }
        self.wake(master);
        Ok(())
    }

    /// Looks at what a master has applied, and what it tells its watchers of that.
    fn look_at_state(&mut self, master: usize) -> Result<(), Violation> {
        let Some(running) = &mut self.masters[master].running else {
            return Ok(());
        };
        let state = running.log.view.load();
        if state.index == running.seen_index {
            return Ok(());
        }
        running.seen_index = state.index;
        self.checks.on_state(master, &state)?;
        let replaced = self.checks.replaced();
        loop {
            let mut context = Context::from_waker(Waker::noop());
            let next = std::pin::pin!(running.events.next()).poll(&mut context);
            match next {
                Poll::Ready(Ok(events)) => self.checks.on_events(master, &events, self.now)?,
                // It has started anew from an image.
                Poll::Ready(Err(_)) => {
                    let events = running.log.feed.subscribe(None);
                    running.events = events.map_err(|error| error.to_string())?;
                }
                Poll::Pending => break,
            }
        }
        for (agent, task) in self.checks.replaced_since(replaced) {
            self.check_stopped(agent, &task)?;
        }
        Ok(())
    }

    /// Looks at a master's state, events, answers and lead.
    fn look(&mut self, master: usize) -> Result<(), Violation> {
        self.look_at_state(master)?;
        let Some(running) = &mut self.masters[master].running else {
            return Ok(());
        };
        let leads = *running.log.leadership.borrow();
        if leads != running.leads {
            running.leads = leads;
            if let Leadership::Leader { term } = leads {
                let state = running.log.view.load();
                self.checks.on_leader(master, term, &state)?;
            }
            self.on_leadership(master, leads)?;
        }
        let Some(running) = &mut self.masters[master].running else {
            return Ok(());
        };
        for (purpose, result) in running.take_answers() {
            self.on_answer(master, purpose, result)?;
        }
        self.on_delivery(master)
    }

    pub(super) fn set_clock(&mut self, master: usize) {
        self.masters[master].clock.set(self.now);
    }

    /// The master that has applied the most.
    pub fn furthest(&self) -> Option<usize> {
        let all = self.masters.iter().enumerate();
        let running = all.filter_map(|(master, machine)| {
            let running = machine.running.as_ref()?;
            Some((running.log.view.applied(), master))
        });
        running.max().map(|(_, master)| master)
    }

    /// Numbers of the masters that run.
    pub fn running_masters(&self) -> BTreeSet<usize> {
        let all = self.masters.iter().enumerate();
        all.filter(|(_, machine)| machine.running.is_some())
            .map(|(master, _)| master)
            .collect()
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
