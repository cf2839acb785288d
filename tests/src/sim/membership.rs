//! Masters that come and go while everything else breaks.
//!
//! A new one does what a master with an empty folder does: it has itself listed, fetches an image,
//! writes what it starts from, and starts. Peers look at who speaks to them, as the door between
//! masters does: one that is no member is told so, one that is not known yet is introduced.

use std::collections::BTreeSet;

use tepui_cluster::Command;
use tepui_master::folder::Identity;
use tepui_master::proposals::Request;
use tepui_master::storage::{Batch, snapshot};
use tepui_types::{NodeId, Principal};

use super::checks::Violation;
use super::leader::Purpose;
use super::machine::copy_image;
use super::masters::{CLUSTER, node, number};
use super::network::Place;
use super::world::{Happening, MILLI, World};

/// Machines for masters in one run, together.
const MACHINES: usize = 9;
/// Members below which none is removed.
const FEWEST: usize = 3;
/// Between two tries of a new master.
const PAUSE_US: u64 = 300 * MILLI;

impl World {
    /// A new machine becomes a master; in the place of one that has lost its disk, or as one more.
    pub(super) fn bring_in(&mut self, replaces: Option<usize>) -> Result<(), Violation> {
        if self.masters.len() >= MACHINES {
            return Ok(());
        }
        if let Some(lost) = replaces {
            self.stop_master(lost, true)?;
            self.retired.insert(lost);
        }
        let master = self.masters.len();
        let url_of = replaces.unwrap_or(master);
        let machine = self.new_machine(url_of);
        self.masters.push(machine);
        self.after(PAUSE_US, Happening::Join(master));
        Ok(())
    }

    /// A master that has lost its disk is replaced; once in a run, and only while all others can be
    /// had, for two of three that lose theirs take with them what was acknowledged.
    pub(super) fn lose_disk(&mut self, master: usize) -> Result<(), Violation> {
        let Some(leader) = self.leading() else {
            return Ok(());
        };
        let listed = self.listed(leader);
        let is_whole = listed.len() >= FEWEST && listed.contains(&master);
        if self.retired.is_empty() && is_whole && self.masters[master].is_set_up {
            return self.bring_in(Some(master));
        }
        Ok(())
    }

    /// An operator removes a master.
    pub(super) fn remove_one(&mut self) {
        let Some(leader) = self.leading() else {
            return;
        };
        let listed: Vec<usize> = self.listed(leader).into_iter().collect();
        if listed.len() <= FEWEST {
            return;
        }
        let master = node(listed[self.dice.place(listed.len())]);
        self.order(leader, Command::RemoveMaster { master });
    }

    /// A new master takes its next step towards its place.
    pub(super) fn on_join(&mut self, master: usize) -> Result<(), Violation> {
        if self.masters[master].is_set_up {
            return self.start_master(master);
        }
        if self.retired.contains(&master) {
            return Ok(());
        }
        self.after(PAUSE_US, Happening::Join(master));
        let Some(leader) = self.leading() else {
            return Ok(());
        };
        let (here, there) = (Place::Master(master), Place::Master(leader));
        if !self.network.carries(here, there) || !self.network.carries(there, here) {
            return Ok(());
        }
        let Some(running) = &self.masters[leader].running else {
            return Ok(());
        };
        let known = running.state().master(node(master)).cloned();
        match known {
            None => {
                let url = self.masters[master].url.clone();
                let master = node(master);
                self.order(leader, Command::AddMaster { master, url });
                Ok(())
            }
            // It was removed before it was there.
            Some(known) if known.is_leaving => {
                self.retired.insert(master);
                Ok(())
            }
            Some(_) => self.set_up(master, leader),
        }
    }

    /// Writes what a new master starts from.
    fn set_up(&mut self, master: usize, leader: usize) -> Result<(), Violation> {
        let from = self.masters[leader].storage();
        let Ok(Some(latest)) = snapshot::latest(&from) else {
            return Ok(());
        };
        let machine = &mut self.masters[master];
        let Ok((record, _)) = copy_image(&from, &machine.storage(), latest.index) else {
            return Ok(());
        };
        let identity = Identity {
            cluster: CLUSTER,
            node: node(master),
        };
        let mut batch = Batch::default();
        snapshot::put_whole(&mut batch, &record);
        machine
            .storage()
            .initialize(identity, &record, batch)
            .map_err(|error| format!("a disk is not initialized: {error}"))?;
        machine.disk.take_spent_us();
        machine.is_set_up = true;
        self.trace_with(|| format!("master {master} is set up from {}", record.index));
        self.start_master(master)
    }

    /// A leader is asked for something once; whoever asks does not wait.
    pub(super) fn order(&mut self, leader: usize, body: Command) {
        self.set_clock(leader);
        if let Some(running) = &mut self.masters[leader].running {
            let request = Request::new(Principal::loopback_operator(), body);
            running.propose(Purpose::Nothing, request);
            self.wake(leader);
        }
    }

    /// One that leads, as far as it knows.
    pub(super) fn leading(&self) -> Option<usize> {
        let leads = |machine: &super::masters::MasterMachine| {
            let running = machine.running.as_ref();
            running.is_some_and(|running| running.leader.is_some())
        };
        self.masters.iter().position(leads)
    }

    /// The masters that are to be members, as one of them knows.
    pub(super) fn listed(&self, master: usize) -> BTreeSet<usize> {
        let running = self.masters[master].running.as_ref();
        let state = running.map(|running| running.state());
        let all = state.iter().flat_map(|state| state.staying_masters());
        all.map(|master| number(master.id)).collect()
    }

    /// What the door does before a message comes in; whether it does.
    pub(super) fn lets_in(&mut self, from: usize, to: usize) -> bool {
        let Some(speaker) = &self.masters[from].running else {
            return true;
        };
        let Some(listener) = &self.masters[to].running else {
            return true;
        };
        let id: NodeId = node(from);
        let is_listed = listener.state().master(id).is_some();
        let is_known = is_listed || listener.log.handle.is_member(id);
        if !is_known && speaker.log.view.applied() <= listener.log.view.applied() {
            speaker.inbox.disowned(speaker.log.view.applied());
            self.wake(from);
            return false;
        }
        if !is_listed {
            let url = self.masters[from].url.clone();
            listener.log.handle.introduce(id, url);
        }
        true
    }
}
