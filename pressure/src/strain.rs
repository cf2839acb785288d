//! How short a machine is of each thing that it can be short of.
//!
//! A level is reached at one edge and left at another, easier one, so that a reading that goes up and
//! down around an edge changes nothing. Worse readings are never a lower level. What is not read is no
//! strain.
//!
//! Stalls alone do not tell who is to blame: a task at its own limit of processors or memory stalls
//! too, on a machine that has plenty. They count only where the machine itself has little left.

use serde::{Deserialize, Serialize};
use tepui_types::Bytes;

use crate::psi::BasisPoints;
use crate::readings::{CpuUse, Mem, Readings};

/// Where a level begins: less than this part of all, and less than this amount. Parts alone would keep
/// terabytes of a large disk free.
type Edges = [(u64, Bytes); 3];

/// Of memory. The kernel keeps one or two percent for itself, and takes back files' cache long before:
/// below a twentieth, programs' own code is read from disk again and again.
const MEM: Edges = [(10, Bytes::gib(8)), (6, Bytes::gib(4)), (4, Bytes::gib(2))];
/// Of a disk's bytes. The last half GiB holds what the agent itself writes: journals, exits, logs.
const DISK: Edges = [
    (10, Bytes::gib(10)),
    (5, Bytes::gib(2)),
    (2, Bytes::mib(512)),
];
/// Of a disk's files, in percent: an agent's own are few.
const INODES_PERCENT: [u64; 3] = [10, 5, 2];
/// Of processes, in percent used: one in ten must be left for the agent and people who log in.
const PIDS_PERCENT: [u64; 3] = [70, 80, 90];
/// How much further processes must go back for a level to be left.
const PIDS_EASING_PERCENT: u64 = 10;

/// Someone waits for a processor this part of the time: Heracles stops growing what is lent from there
/// on, and services answer noticeably later.
const CPU_SOME: BasisPoints = BasisPoints::percent(20);
/// Processors that are less busy than this are not short, in percent: who waits has a limit of its own.
const CPU_BUSY_PERCENT: u64 = 85;
/// The same, for strain to go on.
const CPU_BUSY_EASED_PERCENT: u64 = 70;
/// Without PSI only this is known: so busy that there must be a queue.
const CPU_FULL_PERCENT: u64 = 95;

/// Someone waits for memory this part of the time.
const MEM_SOME: BasisPoints = BasisPoints::percent(10);
/// Everybody waits for memory this part of the time. systemd-oomd ends somebody at 60 %; what is lent
/// goes before it comes to that.
const MEM_FULL: BasisPoints = BasisPoints::percent(40);
/// A machine that has this part of its memory left is not short of it, in percent, whoever waits.
const MEM_ROOM_PERCENT: u64 = 25;
/// Everybody waits for disks this part of the time.
const IO_FULL: BasisPoints = BasisPoints::percent(40);

/// How short.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Strain {
    /// There is enough.
    #[default]
    Calm,
    /// Firm tasks may feel it: what is lent makes way.
    Tight,
    /// Nothing more must start.
    Short,
    /// Something must end, or the machine fails.
    Critical,
}

/// Of what a machine can be short.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strains {
    /// Processors.
    pub cpu: Strain,
    /// Memory.
    pub memory: Strain,
    /// Time of disks.
    pub io: Strain,
    /// Processes.
    pub pids: Strain,
    /// Room on the agent's disk.
    pub disk: Strain,
}

/// Which edges count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    /// Those at which a level is reached.
    Reached,
    /// Those beyond which it is left.
    Left,
}

impl Strains {
    /// What these readings reach, whatever was before.
    pub fn reached(readings: &Readings) -> Self {
        Self::at(readings, Edge::Reached)
    }

    /// What these readings are, after what was before.
    pub fn after(self, readings: &Readings) -> Self {
        let reached = Self::reached(readings);
        let left = Self::at(readings, Edge::Left);
        let level = |of: fn(&Self) -> Strain| of(&reached).max(of(&self).min(of(&left)));
        Self {
            cpu: level(|strains| strains.cpu),
            memory: level(|strains| strains.memory),
            io: level(|strains| strains.io),
            pids: level(|strains| strains.pids),
            disk: level(|strains| strains.disk),
        }
    }

    /// The worst of all.
    pub fn worst(&self) -> Strain {
        let Self {
            cpu,
            memory,
            io,
            pids,
            disk,
        } = *self;
        cpu.max(memory).max(io).max(pids).max(disk)
    }

    fn at(readings: &Readings, edge: Edge) -> Self {
        Self {
            cpu: cpu(readings, edge),
            memory: memory(readings, edge),
            io: io(readings, edge),
            pids: pids(readings, edge),
            disk: disk(readings, edge),
        }
    }
}

impl Edge {
    /// The edge of a share of time: half of it to be left.
    fn is_stalled(self, share: BasisPoints, limit: BasisPoints) -> bool {
        match self {
            Self::Reached => share >= limit,
            Self::Left => share.0 >= limit.0 / 2,
        }
    }

    /// The edge of an amount that must be left: a quarter more to be left.
    fn is_below(self, available: u64, least: u64) -> bool {
        match self {
            Self::Reached => available < least,
            Self::Left => available < least.saturating_add(least / 4),
        }
    }
}

fn cpu(readings: &Readings, edge: Edge) -> Strain {
    let busy = |CpuUse { all, busy }: CpuUse| {
        let percent = u128::from(busy.0) * 100;
        percent.checked_div(u128::from(all.0)).unwrap_or(0)
    };
    let busy = readings.cpu.map(busy);
    let is_busy = |percent: u64| busy.map(|busy| busy >= u128::from(percent));
    let is_tight = match (&readings.cpu_pressure, edge) {
        (Some(pressure), _) => {
            let least = match edge {
                Edge::Reached => CPU_BUSY_PERCENT,
                Edge::Left => CPU_BUSY_EASED_PERCENT,
            };
            edge.is_stalled(pressure.some.avg10, CPU_SOME) && is_busy(least).unwrap_or(true)
        }
        (None, Edge::Reached) => is_busy(CPU_FULL_PERCENT).unwrap_or(false),
        (None, Edge::Left) => is_busy(CPU_BUSY_PERCENT).unwrap_or(false),
    };
    if is_tight {
        Strain::Tight
    } else {
        Strain::Calm
    }
}

fn memory(readings: &Readings, edge: Edge) -> Strain {
    let by_room = readings.mem.map_or(Strain::Calm, |mem| {
        scarcity(mem.available.0, mem.total.0, &MEM, edge)
    });
    let has_room = |mem: Mem| !edge.is_below(mem.available.0, part(mem.total.0, MEM_ROOM_PERCENT));
    let by_stalls = match &readings.memory_pressure {
        _ if readings.mem.is_some_and(has_room) => Strain::Calm,
        Some(pressure) if edge.is_stalled(pressure.full().avg10, MEM_FULL) => Strain::Critical,
        Some(pressure) if edge.is_stalled(pressure.some.avg10, MEM_SOME) => Strain::Tight,
        _ => Strain::Calm,
    };
    by_room.max(by_stalls)
}

fn io(readings: &Readings, edge: Edge) -> Strain {
    let is_stalled = |full| edge.is_stalled(full, IO_FULL);
    match &readings.io_pressure {
        Some(pressure) if is_stalled(pressure.full().avg10) => Strain::Tight,
        _ => Strain::Calm,
    }
}

fn pids(readings: &Readings, edge: Edge) -> Strain {
    let Some(pids) = readings.pids else {
        return Strain::Calm;
    };
    let easing = match edge {
        Edge::Reached => 0,
        Edge::Left => PIDS_EASING_PERCENT,
    };
    let is_used = |percent: u64| pids.used >= part(pids.max, percent.saturating_sub(easing)).max(1);
    level(PIDS_PERCENT.map(is_used))
}

fn disk(readings: &Readings, edge: Edge) -> Strain {
    let Some(disk) = readings.disk else {
        return Strain::Calm;
    };
    let least = |percent: u64| part(disk.inodes, percent);
    let by_files =
        INODES_PERCENT.map(|percent| edge.is_below(disk.available_inodes, least(percent)));
    scarcity(disk.available.0, disk.size.0, &DISK, edge).max(level(by_files))
}

fn scarcity(available: u64, all: u64, edges: &Edges, edge: Edge) -> Strain {
    let least = |(percent, bytes): (u64, Bytes)| part(all, percent).min(bytes.0);
    level(edges.map(|edges| edge.is_below(available, least(edges))))
}

/// The highest level that is reached.
fn level(reached: [bool; 3]) -> Strain {
    match reached {
        [_, _, true] => Strain::Critical,
        [_, true, _] => Strain::Short,
        [true, _, _] => Strain::Tight,
        _ => Strain::Calm,
    }
}

fn part(all: u64, percent: u64) -> u64 {
    let part = u128::from(all) * u128::from(percent) / 100;
    u64::try_from(part).unwrap_or(u64::MAX)
}
