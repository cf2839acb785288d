//! The answer to a question: records from the directory. Pure.
//!
//! What always holds: every target of a port's record has an address under the very name that the
//! record gives; a name without records of the wanted type answers with the zone's record alone,
//! and so does one that does not exist, which says so; an answer is bounded, whatever a service's
//! size.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::HINFO;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tepui_types::FrameworkId;

use crate::dice::Dice;
use crate::directory::{Directory, Instance, Owner};
use crate::entry::{Entry, Master, Port};
use crate::question::{Found, PortName, find};
use crate::zone::{MASTER, Zone};

/// The most instances of one service in an answer: a random choice of more. Callers try a few.
const MAX_INSTANCES: usize = 64;
/// The most records of one answer, for instances have several ports and addresses.
const MAX_ANSWERS: usize = 128;
/// The most addresses beside an answer: two for each of its instances.
const MAX_GLUE: usize = 2 * MAX_INSTANCES;
/// How many instances of a service are looked at for a port, or passed over because another attempt
/// answers for their name: what a question may cost.
const MAX_LOOKED_AT: usize = 4 * MAX_INSTANCES;

/// What is answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
}

/// Answers a question of class IN; none where it is not of this zone.
pub(crate) fn answer(
    directory: &Directory,
    zone: &Zone,
    query: &Query,
    seed: u64,
) -> Option<Answer> {
    let (asked, kind) = (query.name(), query.query_type());
    let Some(found) = find(directory, zone, asked) else {
        return reverse(directory, zone, asked, kind);
    };
    let mut answering = Answering {
        directory,
        zone,
        asked,
        kind,
        dice: Dice::new(seed),
        answers: Vec::new(),
        additionals: Vec::new(),
        told: Vec::new(),
    };
    let exists = match kind {
        RecordType::ANY => answering.any(&found),
        _ => answering.records(&found),
    };
    Some(answering.finish(exists))
}

/// The answer for an address's name: whose it is. The zones of addresses are not ours, so that
/// what is unknown is not denied.
fn reverse(directory: &Directory, zone: &Zone, asked: &Name, kind: RecordType) -> Option<Answer> {
    let address = arpa_address(asked)?;
    let target = match directory.at(address)? {
        Owner::Agent(agent) => zone.agent(agent),
        Owner::Task(instance) => zone.task(instance),
    };
    let pointer = matches!(kind, RecordType::PTR | RecordType::ANY);
    Some(Answer {
        code: ResponseCode::NoError,
        answers: match pointer {
            true => vec![zone.pointer(asked, target)],
            false => Vec::new(),
        },
        authorities: Vec::new(),
        additionals: Vec::new(),
    })
}

fn arpa_address(asked: &Name) -> Option<IpAddr> {
    if !asked.iter().next_back()?.eq_ignore_ascii_case(b"arpa") {
        return None;
    }
    let net = asked.to_lowercase().parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

struct Answering<'a> {
    directory: &'a Directory,
    zone: &'a Zone,
    asked: &'a Name,
    kind: RecordType,
    dice: Dice,
    answers: Vec<Record>,
    additionals: Vec<Record>,
    /// The addresses that the answers hold.
    told: Vec<IpAddr>,
}

impl<'a> Answering<'a> {
    /// Collects the records of the wanted type. Says whether the name exists.
    fn records(&mut self, found: &Found<'a>) -> bool {
        match found {
            Found::Nothing => return false,
            Found::Empty => {}
            Found::Apex => self.apex(),
            Found::Masters { leader } => self.masters(*leader),
            Found::MasterPort { leader } => self.master_ports(*leader),
            Found::Agent(agent) => self.addresses(&agent.addresses),
            Found::Task(task) => self.task(task),
            Found::TaskPort(task, port) => {
                self.task_ports(task, |found| port.is(found));
                return task.entry.ports.iter().any(|found| port.is(found));
            }
            Found::Service(framework, service) => self.service(*framework, service),
            Found::ServicePort(framework, service, port) => {
                self.service_ports(*framework, service, |found| port.is(found));
                return !self.answers.is_empty() || self.has_port(*framework, service, port);
            }
        }
        true
    }

    /// As little as there is (RFC 8482), for names that exist.
    fn any(&mut self, found: &Found<'a>) -> bool {
        self.kind = RecordType::SRV;
        let exists = self.records(found);
        self.answers.clear();
        self.additionals.clear();
        if exists {
            let minimal = HINFO::new("RFC8482".to_string(), String::new());
            let record = self.zone.record(self.asked, RData::HINFO(minimal));
            self.answers.push(record);
        }
        exists
    }

    fn finish(self, exists: bool) -> Answer {
        let authorities = match self.answers.is_empty() {
            true => vec![self.zone.authority(self.directory.version())],
            false => Vec::new(),
        };
        Answer {
            code: match exists {
                true => ResponseCode::NoError,
                false => ResponseCode::NXDomain,
            },
            answers: self.answers,
            authorities,
            additionals: self.additionals,
        }
    }

    fn apex(&mut self) {
        match self.kind {
            RecordType::SOA => {
                let soa = self.zone.authority(self.directory.version());
                self.answers.push(soa);
            }
            RecordType::NS => {
                self.answers.push(self.zone.servers());
                let masters = self.zone.masters();
                let all = master_addresses(self.directory.masters(), false);
                self.glue(&masters, &all);
            }
            _ => {}
        }
    }

    fn masters(&mut self, leader: bool) {
        let mut addresses = master_addresses(self.directory.masters(), leader);
        self.dice.shuffle(&mut addresses);
        self.addresses(&addresses);
        if self.kind == RecordType::SRV {
            self.master_ports(leader);
        }
    }

    /// One record for each port that masters listen on; the target is the name of all or the leader.
    fn master_ports(&mut self, leader: bool) {
        if self.kind != RecordType::SRV {
            return;
        }
        let name = match leader {
            true => crate::zone::LEADER,
            false => MASTER,
        };
        let target = self.zone.name([name].into_iter());
        let masters = self.directory.masters();
        let told = masters.iter().filter(|master| told(master, leader));
        let ports: BTreeSet<u16> = told.map(|master| master.port).collect();
        for port in ports {
            self.push(self.zone.port(self.asked, port, target.clone()));
        }
        let addresses = master_addresses(masters, leader);
        self.glue(&target, &addresses);
    }

    fn task(&mut self, task: &Instance) {
        match self.kind {
            RecordType::SRV => self.task_ports(task, |_| true),
            _ => self.addresses(&task.entry.addresses),
        }
    }

    fn service(&mut self, framework: FrameworkId, service: &str) {
        match self.kind {
            RecordType::A | RecordType::AAAA => {
                for instance in self.choose(framework, service) {
                    self.addresses(&instance.entry.addresses);
                }
            }
            _ => self.service_ports(framework, service, |_| true),
        }
    }

    fn service_ports(
        &mut self,
        framework: FrameworkId,
        service: &str,
        wanted: impl Fn(&Port) -> bool,
    ) {
        if self.kind != RecordType::SRV {
            return;
        }
        for instance in self.choose(framework, service) {
            self.task_ports(instance, &wanted);
        }
    }

    /// A random choice of a service's instances, shuffled.
    fn choose(&mut self, framework: FrameworkId, service: &str) -> Vec<&'a Instance> {
        let directory = self.directory;
        let from = self.dice.roll();
        let ready = directory.ready(framework, service, from);
        let mut chosen: Vec<&Instance> = ready
            .take(MAX_LOOKED_AT)
            .map(|instance| &**instance)
            .filter(|instance| directory.answers_for_itself(instance))
            .take(MAX_INSTANCES)
            .collect();
        self.dice.shuffle(&mut chosen);
        chosen
    }

    /// Records of a task's ports, and the addresses of their target beside them. A task without an
    /// address has none, for nothing can be reached there.
    fn task_ports(&mut self, task: &Instance, wanted: impl Fn(&Port) -> bool) {
        if self.kind != RecordType::SRV || task.entry.addresses.is_empty() {
            return;
        }
        let target = self.zone.task(task);
        let before = self.answers.len();
        let ports = task.entry.ports.iter().filter(|port| wanted(port));
        // A number may have several names, and one protocol after the other.
        let numbers: BTreeSet<u16> = ports.map(|port| port.number).collect();
        for number in numbers {
            self.push(self.zone.port(self.asked, number, target.clone()));
        }
        if self.answers.len() > before {
            self.glue(&target, &task.entry.addresses);
        }
    }

    /// Whether any instance of a service has a port, in service or not.
    fn has_port(&self, framework: FrameworkId, service: &str, port: &PortName) -> bool {
        let mut instances = self
            .directory
            .instances(framework, service)
            .take(MAX_LOOKED_AT);
        instances.any(|instance| instance.entry.ports.iter().any(|found| port.is(found)))
    }

    fn addresses(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            // Tasks that share their machine's address answer once with it.
            if is_of(address, self.kind) && !self.told.contains(address) {
                self.told.push(*address);
                self.push(self.zone.address(self.asked, *address));
            }
        }
    }

    fn push(&mut self, record: Record) {
        if self.answers.len() < MAX_ANSWERS {
            self.answers.push(record);
        }
    }

    fn glue(&mut self, target: &Name, addresses: &[IpAddr]) {
        let room = MAX_GLUE.saturating_sub(self.additionals.len());
        let addresses = addresses.iter().take(room.min(Entry::MAX_ADDRESSES));
        let records = addresses.map(|address| self.zone.address(target, *address));
        self.additionals.extend(records);
    }
}

fn told(master: &Master, leader: bool) -> bool {
    master.leads || !leader
}

fn master_addresses(masters: &[Master], leader: bool) -> Vec<IpAddr> {
    let masters = masters.iter().filter(|master| told(master, leader));
    masters
        .flat_map(|master| master.addresses.iter().copied())
        .collect()
}

fn is_of(address: &IpAddr, kind: RecordType) -> bool {
    match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        _ => false,
    }
}
