//! Scenarios of a machine that comes under pressure, as text: what happens above `----`, what is
//! decided below. `UPDATE_EXPECT=1` writes the decisions anew.
//!
//! - `task NAME firm|lent [mem=MIB] [pids=N] [disk=MIB]`: one starts
//! - `ended NAME`: one has ended
//! - `now KEY=PERCENT…`: from now on `cpu` (someone waits), `busy`, `wait/all` (someone, everybody waits
//!   for memory), `mem` (left), `io` (everybody waits), `pids` (used), `disk`, `files` (left)
//! - `run SECS`: time passes, with a look every two seconds; what changes is shown

use std::fmt::Write as _;
use std::path::Path;

use tepui_pressure::{
    BasisPoints, CpuUse, Decision, Disk, Mem, Pids, Pressure, Readings, Relief, RunningTask, Stall,
    Strains,
};
use tepui_types::{Bytes, MilliCpus};

use crate::tasks::{amounts, firm, id, revocable, secs};

/// 16 GiB of memory, 100 GiB of disk.
pub const MEM_MIB: u64 = 16 * 1024;
pub const DISK_MIB: u64 = 100 * 1024;

/// Checks every scenario of a file in `testdata`.
pub fn check(name: &str) {
    // Tests run in their package's folder.
    let path = Path::new("testdata").join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut machine = Machine::default();
    let blocks: Vec<_> = text.trim_end().split("\n\n").collect();
    let blocks = blocks.iter().map(|block| {
        let commands = block.split("----").next().unwrap();
        let answers = match machine.play(commands) {
            answers if answers.is_empty() => "no change".into(),
            answers => answers,
        };
        format!("{}\n----\n{}", commands.trim_end(), answers.trim_end())
    });
    let played = blocks.collect::<Vec<_>>().join("\n\n") + "\n";
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(path, played).unwrap();
    } else {
        assert_eq!(
            played, text,
            "{name}: if it is meant so, set UPDATE_EXPECT=1"
        );
    }
}

struct Machine {
    now_secs: u64,
    readings: Readings,
    tasks: Vec<RunningTask>,
    relief: Relief,
    shown: String,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            now_secs: 0,
            readings: calm(),
            tasks: Vec::new(),
            relief: Relief::default(),
            shown: String::new(),
        }
    }
}

/// A machine that has plenty of everything.
pub fn calm() -> Readings {
    Readings {
        cpu_pressure: Some(Pressure::default()),
        memory_pressure: Some(Pressure::default()),
        io_pressure: Some(Pressure::default()),
        cpu: Some(CpuUse {
            all: MilliCpus(4_000),
            busy: MilliCpus(400),
        }),
        mem: Some(Mem {
            total: Bytes::mib(MEM_MIB),
            available: Bytes::mib(MEM_MIB),
        }),
        pids: Some(Pids {
            used: 0,
            max: 10_000,
        }),
        disk: Some(Disk {
            size: Bytes::mib(DISK_MIB),
            available: Bytes::mib(DISK_MIB),
            inodes: 1_000,
            available_inodes: 1_000,
        }),
    }
}

fn stall(percent: u64) -> Stall {
    Stall {
        avg10: BasisPoints::percent(u32::try_from(percent).unwrap()),
        ..Stall::default()
    }
}

pub fn pressure(some_percent: u64, full_percent: u64) -> Option<Pressure> {
    Some(Pressure {
        some: stall(some_percent),
        full: Some(stall(full_percent)),
    })
}

/// Sets one of the readings, in percent.
pub fn set(readings: &mut Readings, key: &str, percent: u64) {
    let part = |all: u64| all * percent / 100;
    match key {
        "cpu" => readings.cpu_pressure = pressure(percent, 0),
        "busy" => readings.cpu.as_mut().unwrap().busy = MilliCpus(part(4_000)),
        "wait" => readings.memory_pressure = pressure(percent, 0),
        "all" => readings.memory_pressure = pressure(percent, percent),
        "mem" => readings.mem.as_mut().unwrap().available = Bytes(part(Bytes::mib(MEM_MIB).0)),
        "io" => readings.io_pressure = pressure(percent, percent),
        "pids" => readings.pids.as_mut().unwrap().used = part(10_000),
        "disk" => readings.disk.as_mut().unwrap().available = Bytes(part(Bytes::mib(DISK_MIB).0)),
        "files" => readings.disk.as_mut().unwrap().available_inodes = part(1_000),
        _ => panic!("`{key}` is not read"),
    }
}

impl Machine {
    fn play(&mut self, commands: &str) -> String {
        let mut answers = String::new();
        for line in commands.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<_> = line.split(' ').collect();
            let pairs = words.iter().filter_map(|word| word.split_once('='));
            let pairs = pairs.map(|(key, value)| (key, value.parse::<u64>().unwrap()));
            match words[0] {
                "task" => {
                    let value = |key| pairs.clone().find(|(name, _)| *name == key);
                    let value = |key| value(key).map_or(0, |(_, value)| value);
                    let uses = amounts(100, value("mem"));
                    let mut task = match words[2] {
                        "firm" => firm(words[1], uses, uses),
                        "lent" => revocable(words[1], uses, uses),
                        other => panic!("{other} is neither firm nor lent"),
                    };
                    task.started = secs(self.now_secs);
                    let used = task.used.as_mut().unwrap();
                    (used.pids, used.disk) = (value("pids"), Bytes::mib(value("disk")));
                    self.tasks.push(task);
                }
                "ended" => self.tasks.retain(|task| task.id != id(words[1])),
                "now" => pairs.for_each(|(key, value)| set(&mut self.readings, key, value)),
                "run" => self.run(words[1].parse().unwrap(), &mut answers),
                _ => panic!("`{line}` is not understood"),
            }
        }
        answers
    }

    fn run(&mut self, for_secs: u64, answers: &mut String) {
        let end = self.now_secs + for_secs;
        while self.now_secs < end {
            self.now_secs += 2;
            let now = secs(self.now_secs);
            let decision = self.relief.decide(now, &self.readings, &self.tasks);
            let shown = show(&decision);
            if shown != self.shown || decision.end.is_some() {
                write!(answers, "{}s: {shown}", self.now_secs).unwrap();
                if let Some(end) = &decision.end {
                    write!(answers, ", end {} ({:?})", end.task.name, end.cause).unwrap();
                }
                answers.push('\n');
                self.shown = shown;
            }
        }
    }
}

fn show(decision: &Decision) -> String {
    let Strains {
        cpu,
        memory,
        io,
        pids,
        disk,
    } = decision.strains;
    let strains = [
        ("cpu", cpu),
        ("memory", memory),
        ("io", io),
        ("pids", pids),
        ("disk", disk),
    ];
    let strained = strains
        .iter()
        .filter(|(_, strain)| *strain > Default::default());
    let strained: Vec<_> = strained
        .map(|(name, strain)| format!("{name} {strain:?}"))
        .collect();
    let strained = match strained.is_empty() {
        true => "calm".into(),
        false => strained.join(" "),
    };
    let collect = if decision.strains.disk > tepui_pressure::Strain::Calm {
        ", collect"
    } else {
        ""
    };
    format!(
        "{strained}, share {}%, launch {:?}{collect}",
        decision.share_percent, decision.launches
    )
}
