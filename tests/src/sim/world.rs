//! The simulated world: machines, links, a clock, and what happens next.
//!
//! One queue holds all that will happen, by its time; the world takes the first, does it, and looks
//! at what came of it. Everything that is done is noted in a trace, whose hash says whether two runs
//! were the same.

use std::collections::{BTreeMap, BTreeSet};

use raft::eraftpb::Message;
use sha2::{Digest as _, Sha256};
use tepui_master::raft::Lent;
use tepui_master::raft::world::Image;
use tepui_types::AgentId;
use tepui_types::wire::agent::{AgentFrame, MasterFrame};
use tepui_types::wire::peer::Standing;
use tokio::time::Instant;

use super::agents::AgentMachine;
use super::checks::{Checks, Violation};
use super::dice::Dice;
use super::executors::FromProcess;
use super::faults::Faults;
use super::masters::MasterMachine;
use super::network::{Network, Place};
use super::workload::Client;
use super::{Options, Sabotage};

/// A second, in the simulation's unit.
pub const SECOND: u64 = 1_000_000;
/// A millisecond.
pub const MILLI: u64 = 1_000;

/// Something that will happen.
#[derive(Debug)]
pub enum Happening {
    /// A master looks at what came in, and whether a tick is due.
    Wake(usize),
    /// A leader looks at deadlines, silences and starts.
    Lead(usize),
    /// A message of one master's raft reaches another.
    Message {
        from: usize,
        to: usize,
        message: Box<Message>,
    },
    /// A master hears how another one stands.
    Standing {
        from: usize,
        to: usize,
        standing: Standing,
    },
    /// A message did not get through, and its sender notices.
    Unreachable { from: usize, to: usize },
    /// A master has the time to write an image.
    WriteImage {
        master: usize,
        life: u64,
        image: Box<Image>,
    },
    /// A master has had the time to fetch an image.
    FetchImage {
        master: usize,
        life: u64,
        message: Box<Message>,
        /// The leader's.
        lent: Option<Lent>,
    },
    /// A master starts.
    StartMaster(usize),
    /// A new master tries for its place.
    Join(usize),
    /// An agent looks at the time.
    AgentTick { agent: usize, life: u64 },
    /// An agent starts.
    StartAgent(usize),
    /// An agent's connection reaches a master.
    Dialled {
        connection: u64,
        hello: Box<AgentFrame>,
    },
    /// A frame of an agent's reaches a master.
    ToMaster {
        connection: u64,
        frame: Box<AgentFrame>,
    },
    /// A frame reaches an agent.
    ToAgent {
        connection: u64,
        frame: Box<MasterFrame>,
    },
    /// One end hears that a connection is gone.
    HungUp { connection: u64, place: Place },
    /// Something of an executor process reaches its agent.
    Process {
        agent: usize,
        life: u64,
        what: Box<FromProcess>,
    },
    /// A task of an executor process ends by itself.
    Exit {
        agent: usize,
        boot: u64,
        process: u64,
        task: String,
    },
    /// A client does its next thing.
    Client(usize),
    /// Something breaks, or is mended.
    Fault,
    /// Nothing breaks any more, and everything that is broken is mended.
    Peace,
}

/// An agent's connection to a master. Frames keep their order, each way.
#[derive(Debug)]
pub struct Connection {
    pub agent: usize,
    pub master: usize,
    /// When the last frame arrives at either end.
    pub to_master_at: u64,
    pub to_agent_at: u64,
    /// Whether frames still get through.
    pub carries: bool,
}

/// All there is.
pub struct World {
    /// Microseconds since it began.
    pub now: u64,
    /// When it began, for those who want an instant: only differences are ever looked at.
    pub begun: Instant,
    pub dice: Dice,
    pub options: Options,
    pub network: Network,
    pub masters: Vec<MasterMachine>,
    pub agents: Vec<AgentMachine>,
    pub clients: Vec<Client>,
    pub connections: BTreeMap<u64, Connection>,
    pub next_connection: u64,
    pub faults: Faults,
    pub checks: Checks,
    /// Whether nothing breaks any more.
    pub is_peace: bool,
    pub steps: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    queued: u64,
    trace: Sha256,
    /// Agents whose machines were thrown away.
    pub lost_agents: Vec<AgentId>,
    /// Masters that will not run any more.
    pub retired: BTreeSet<usize>,
}

impl World {
    /// A world in which nothing has happened yet.
    pub fn new(options: Options) -> Result<Self, Violation> {
        let mut dice = Dice::new(options.seed);
        let mut world = Self {
            now: 0,
            begun: Instant::now(),
            network: Network::default(),
            masters: Vec::new(),
            agents: Vec::new(),
            clients: Vec::new(),
            connections: BTreeMap::new(),
            next_connection: 1,
            faults: Faults::draw(&mut dice),
            checks: Checks::default(),
            is_peace: false,
            steps: 0,
            queue: BTreeMap::new(),
            queued: 0,
            trace: Sha256::new(),
            lost_agents: Vec::new(),
            retired: BTreeSet::new(),
            dice,
            options,
        };
        world.found_masters()?;
        world.set_up_agents();
        world.set_up_clients();
        world.after(SECOND, Happening::Fault);
        let war = world.dice.within(10..world.options.war_s.max(11)) * SECOND;
        world.after(war, Happening::Peace);
        Ok(world)
    }

    /// Goes on until all work is done after peace, or something is wrong.
    pub fn run(&mut self) -> Result<(), Violation> {
        while let Some(((time, _), happening)) = self.queue.pop_first() {
            self.now = time;
            self.steps += 1;
            self.note(&happening);
            self.on(happening)?;
            if self.is_peace && self.is_done() {
                return self.check_end();
            }
            if self.now > self.faults.peace_at + self.options.patience_s * SECOND {
                return Err(format!(
                    "{} s after the last fault: {}",
                    self.options.patience_s,
                    self.what_is_left()
                ));
            }
        }
        Err("nothing happens any more".into())
    }

    /// Plans something.
    pub fn at(&mut self, time: u64, happening: Happening) {
        self.queued += 1;
        self.queue.insert((time, self.queued), happening);
    }

    /// Plans something, in so many microseconds.
    pub fn after(&mut self, delay_us: u64, happening: Happening) {
        self.at(self.now + delay_us, happening);
    }

    /// What tells two runs apart.
    pub fn trace(self) -> [u8; 32] {
        self.trace.finalize().into()
    }

    /// Adds to the trace, and prints if that is wanted.
    pub fn trace_with(&mut self, what: impl FnOnce() -> String) {
        let line = what();
        self.trace.update(line.as_bytes());
        if self.options.is_loud {
            println!("{:>12} {line}", self.now);
        }
    }

    fn note(&mut self, happening: &Happening) {
        self.trace.update(self.now.to_be_bytes());
        let kind = match happening {
            Happening::Wake(master) => {
                self.trace.update([*master as u8]);
                return;
            }
            Happening::Message { from, to, message } => {
                let Message {
                    term,
                    index,
                    msg_type,
                    ..
                } = &**message;
                self.trace.update([*from as u8, *to as u8, *msg_type as u8]);
                self.trace.update(term.to_be_bytes());
                self.trace.update(index.to_be_bytes());
                return;
            }
            Happening::Lead(_) => return,
            Happening::Unreachable { .. } => "unreachable",
            other => {
                let line = format!("{other:?}");
                self.trace.update(line.as_bytes());
                if self.options.is_loud {
                    println!(
                        "{:>12} {}",
                        self.now,
                        line.chars().take(300).collect::<String>()
                    );
                }
                return;
            }
        };
        self.trace.update(kind.as_bytes());
    }

    fn on(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Wake(master) => self.on_wake(master),
            Happening::Lead(master) => self.on_lead(master),
            Happening::Message { from, to, message } => self.on_message(from, to, *message),
            Happening::Standing { from, to, standing } => self.on_standing(from, to, standing),
            Happening::Unreachable { from, to } => self.on_unreachable(from, to),
            Happening::WriteImage {
                master,
                life,
                image,
            } => self.on_write_image(master, life, *image),
            Happening::FetchImage {
                master,
                life,
                message,
                lent: _lent,
            } => self.on_fetch_image(master, life, *message),
            Happening::StartMaster(master) => self.start_master(master),
            Happening::Join(master) => self.on_join(master),
            Happening::AgentTick { agent, life } => self.on_agent_tick(agent, life),
            Happening::StartAgent(agent) => self.start_agent(agent),
            Happening::Dialled { connection, hello } => self.on_dialled(connection, *hello),
            Happening::ToMaster { connection, frame } => self.on_agent_frame(connection, *frame),
            Happening::ToAgent { connection, frame } => self.on_master_frame(connection, *frame),
            Happening::HungUp { connection, place } => self.on_hung_up(connection, place),
            Happening::Process { agent, life, what } => self.on_process(agent, life, *what),
            Happening::Exit {
                agent,
                boot,
                process,
                task,
            } => self.on_exit(agent, boot, process, &task),
            Happening::Client(client) => self.on_client(client),
            Happening::Fault => self.on_fault(),
            Happening::Peace => self.on_peace(),
        }
    }

    /// Whether something is broken on purpose.
    pub fn is_sabotaged(&self, how: Sabotage) -> bool {
        self.options.sabotage == Some(how)
    }
}
