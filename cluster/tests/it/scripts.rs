//! What the allocator must show, as scripts that a reader can follow.
//!
//! Each file in `testdata/` is a list of facts: a title, then commands above a
//! `----` and what comes of them below, up to an empty line. `UPDATE_EXPECT=1`
//! writes the answers anew; read the difference before you keep it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use tepui_cluster::{Allocator, Command, Decision};
use tepui_types::operation::Operation;
use tepui_types::role::RoleSettings;
use tepui_types::*;

use crate::support::*;

mod moves;
mod operations;
mod words;

use words::*;

/// A cluster in which things have names.
struct Stage {
    log: Log,
    allocator: Allocator,
    now: u64,
    agents: BTreeMap<String, AgentId>,
    frameworks: BTreeMap<String, FrameworkId>,
    tasks: BTreeMap<String, TaskId>,
    held: Vec<(FrameworkId, Offer)>,
}

impl Stage {
    fn new() -> Self {
        Self {
            log: Log::new(),
            allocator: Allocator::new(),
            now: 0,
            agents: BTreeMap::new(),
            frameworks: BTreeMap::new(),
            tasks: BTreeMap::new(),
            held: Vec::new(),
        }
    }

    /// Does what one line says; answers what came of it, empty if nothing did.
    fn play(&mut self, line: &str) -> String {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["agent", name, ref rest @ ..] => self.agent(name, rest),
            ["now", name, ref rest @ ..] => {
                let agent = self.agents[name];
                let info = named(name, rest);
                self.apply(Command::RefreshAgent { agent, info })
            }
            ["framework", name, "in", role] => {
                let id = self.log.framework(name, role);
                self.frameworks.insert(name.into(), id);
                self.follow(tepui_cluster::Changes {
                    frameworks: [id].into(),
                    ..Default::default()
                })
            }
            ["role", role, ref rest @ ..] => self.role(role, rest),
            ["want", name, count, "of", ref rest @ ..] => {
                let demand = demand(count.parse().unwrap(), rest);
                self.turn(name, |turn| turn.demands.push((rest.join(" "), demand)))
            }
            [verb @ ("suppress" | "revive"), name, ref rest @ ..] => {
                let mut roles =
                    all_roles(&self.log.state, self.frameworks[name], verb == "suppress");
                roles.retain(|(role, _)| rest.is_empty() || rest == ["in", role.as_str()]);
                self.turn(name, |turn| turn.suppressed = roles)
            }
            ["remove", name] => {
                let framework = self.frameworks[name];
                self.apply(Command::RemoveFramework { framework })
            }
            ["stop", name] => {
                let framework = self.frameworks[name];
                let incarnation = self.log.state.framework(framework).unwrap().incarnation;
                let reason = Reason::new("trap", "it divided by zero");
                self.apply(Command::StopFramework {
                    framework,
                    incarnation,
                    reason,
                })
            }
            ["start", name] => {
                let framework = self.frameworks[name];
                self.log.start(framework);
                let frameworks = [framework].into();
                self.follow(tepui_cluster::Changes {
                    frameworks,
                    ..Default::default()
                })
            }
            ["launch", task, "of", name, "on", agent, ref rest @ ..] => {
                self.launch(task, name, agent, rest)
            }
            ["end", task] => self.report(task, TaskState::Finished),
            ["killed", task] => self.report(task, TaskState::Killed),
            ["lose", name] => self.apply(Command::MarkAgentUnreachable {
                agent: self.agents[name],
            }),
            ["deactivate", name] => self.apply(Command::DeactivateAgent {
                agent: self.agents[name],
            }),
            ["reactivate", name] => self.apply(Command::ReactivateAgent {
                agent: self.agents[name],
            }),
            ["drain", name] => self.apply(Command::DrainAgent {
                agent: self.agents[name],
                deadline_ms: None,
                grace_ms: None,
                mark_gone: false,
            }),
            ["gone", name] => self.apply(Command::MarkAgentGone {
                agent: self.agents[name],
            }),
            ["pass", seconds] => {
                let millis = 1000 * seconds.parse::<u64>().unwrap();
                self.now += millis;
                self.log.time += millis;
                String::new()
            }
            ["deadlines"] => self.apply(Command::MeetDeadlines),
            ["task", task] => {
                let status = &self.log.state.task(&self.tasks[task]).unwrap().status;
                let why = status.reason.as_ref().map(ToString::to_string);
                format!("{task} is {}: {}\n", status.state, why.unwrap_or_default())
            }
            ["cycle"] => self.cycle(),
            ["rounds", count] => self.rounds(count.parse().unwrap()),
            ["accept", name, "on", agent] => self.answer(name, agent, None),
            ["decline", name, "on", agent, "for", seconds] => {
                self.answer(name, agent, Some(1000 * seconds.parse::<u64>().unwrap()))
            }
            ["setting", ref rest @ ..] => self.apply(Command::SetSettings(settings(rest))),
            ["minimum", name, role, ref rest @ ..] => {
                let minimum = match rest {
                    ["cluster"] => None,
                    ["none"] => Some(Vec::new()),
                    rest => Some(rest.iter().map(|word| least(word)).collect()),
                };
                let minimums = vec![(role.parse().unwrap(), minimum)];
                self.turn(name, |turn| turn.minimums = minimums)
            }
            ["gang", name, key, ref rest @ ..] => {
                let gang = gang(rest);
                self.turn(name, |turn| turn.gangs.push((key.into(), gang)))
            }
            ["launch-gang", name, key] => self.launch_gang(name, key),
            ["notices", name] => {
                let record = self.log.state.framework(self.frameworks[name]);
                let notices = record.unwrap().notices.values();
                notices
                    .map(|it| format!("{} {}: {}\n", it.operation, it.subject, it.reason))
                    .collect()
            }
            ["why-gang", name, key] => {
                let framework = self.frameworks[name];
                let state = &self.log.state;
                let gang = state.framework(framework).unwrap().gangs[key].gang.clone();
                let why = self.allocator.explain_gang(state, framework, &gang);
                why.summary + "\n"
            }
            ["starts", name, key] => {
                let by = self.allocator.starts_by(self.frameworks[name], key);
                match by {
                    Some(by) => format!("{key} starts by {} s\n", by.0 / 1000),
                    None => format!("nobody knows when {key} starts\n"),
                }
            }
            ["preempt"] => self.preempt(),
            ["usage", role] => {
                let used = self.log.state.role_use(&role.parse().unwrap());
                format!("{role} has {}\n", cpus(&used))
            }
            ["holding", name] => {
                let holding = self.allocator.holding(self.frameworks[name]);
                let (offers, expired) = (holding.offers, holding.expired);
                format!(
                    "{name} holds {offers} of {}, {expired} expired\n",
                    cpus(&holding.resources)
                )
            }
            ["why", name, ref rest @ ..] => {
                let framework = self.frameworks[name];
                let demand = demand(1, rest);
                let why = self.allocator.explain(&self.log.state, framework, &demand);
                why.summary + "\n"
            }
            _ => {
                let said = self.play_operation(&words);
                said.unwrap_or_else(|| panic!("no such command: {line}"))
            }
        }
    }

    fn agent(&mut self, name: &str, rest: &[&str]) -> String {
        let info = named(name, rest);
        let known = self.agents.get(name).copied();
        let nonce = known.map_or(self.agents.len() as u64 + 1, |agent| agent.0);
        let id = AgentId(nonce);
        let tasks = self
            .log
            .state
            .agent(id)
            .into_iter()
            .flat_map(|agent| &agent.tasks);
        let tasks = tasks.map(|operation| &self.log.state.tasks[operation].id);
        let tasks = tasks.map(|task| report(task, TaskState::Running)).collect();
        self.agents.insert(name.into(), id);
        self.apply(register(nonce.into(), known, info, tasks))
    }

    fn role(&mut self, role: &str, rest: &[&str]) -> String {
        let mut settings = RoleSettings::default();
        for word in rest.iter().filter(|word| **word != "forced") {
            let (what, amount) = word.split_once('=').unwrap();
            let set = match what.split_once('.') {
                None if what == "preemptible" => {
                    settings.preemptible = Some(amount == "yes");
                    continue;
                }
                None => {
                    settings.weight_milli = thousandths(amount) as u32;
                    continue;
                }
                Some((what, name)) => (what, resources(&[&format!("{name}={amount}")])),
            };
            match set {
                ("guarantee", amounts) => settings.guarantee.include(&amounts),
                ("limit", amounts) => limit(&mut settings.limit, &amounts),
                other => panic!("no such setting: {other:?}"),
            }
        }
        let force = rest.contains(&"forced");
        let role = role.parse().unwrap();
        self.apply(Command::SetRole {
            role,
            settings,
            force,
        })
    }

    fn launch(&mut self, task: &str, name: &str, agent: &str, rest: &[&str]) -> String {
        let (rest, role) = in_role(rest);
        let (rest, spec) = spec_of(rest);
        let taken = self.resources(agent, &rest);
        let (framework, agent) = (self.frameworks[name], self.agents[agent]);
        let attempt = self.log.state.framework(framework).unwrap().next_attempt;
        let mut operation = launch(agent, task, taken);
        if let Operation::Launch(launch) = &mut operation {
            launch.role = role;
        }
        let said = self.turn(name, |turn| {
            turn.specs = vec![spec];
            turn.operations.push(operation);
        });
        let id = TaskId {
            framework,
            name: task.parse().unwrap(),
            attempt,
        };
        let status = &self.log.state.task(&id).unwrap().status;
        let dropped = status
            .reason
            .as_ref()
            .map(|reason| format!("{task} is dropped: {}\n", reason.message));
        self.tasks.insert(task.into(), id);
        said + &dropped.unwrap_or_default()
    }

    fn report(&mut self, task: &str, state: TaskState) -> String {
        let task = self.tasks[task].clone();
        let agent = self.log.state.task(&task).unwrap().agent;
        let reports = vec![report(&task, state)];
        self.apply(Command::ReportTasks { agent, reports })
    }

    fn turn(&mut self, name: &str, fill: impl FnOnce(&mut tepui_cluster::Turn)) -> String {
        let mut turn = self.log.next_turn(self.frameworks[name]);
        fill(&mut turn);
        self.apply(Command::Turn(turn))
    }

    fn apply(&mut self, command: Command) -> String {
        let applied = self.log.apply(command);
        match applied.outcome {
            Ok(_) => self.follow(applied.changes),
            Err(refusal) => format!("refused: {refusal}\n"),
        }
    }

    fn follow(&mut self, changes: tepui_cluster::Changes) -> String {
        self.allocator.on_changes(&self.log.state, &changes);
        String::new()
    }

    fn cycle(&mut self) -> String {
        let mut said = String::new();
        for decision in self
            .allocator
            .allocate(&self.log.state, Timestamp(self.now))
        {
            match decision {
                Decision::Offer(framework, offer) => {
                    let name = self.seat(framework, &offer.role);
                    write!(said, "{name} gets {}: {}", offer.hostname, offer.resources).unwrap();
                    if let Some(share) = &offer.gang {
                        write!(said, " for {}{:?}", share.key, share.parts).unwrap();
                    }
                    if let Some(until) = offer.until {
                        write!(said, " until {} s", until.0 / 1000).unwrap();
                    }
                    said.push('\n');
                    self.held.push((framework, offer));
                }
                Decision::Rescind(framework, id) => {
                    let at = self
                        .held
                        .iter()
                        .position(|(_, offer)| offer.id == id)
                        .unwrap();
                    let (_, offer) = self.held.remove(at);
                    let name = self.seat(framework, &offer.role);
                    writeln!(said, "{name} loses {}", offer.hostname).unwrap();
                }
            }
        }
        if said.is_empty() {
            "nothing\n".into()
        } else {
            said
        }
    }

    /// Cycles in which all offers are given back; answers how often each was offered something.
    fn rounds(&mut self, count: u32) -> String {
        let mut served = BTreeMap::new();
        for _ in 0..count {
            self.cycle();
            for (framework, offer) in std::mem::take(&mut self.held) {
                let name = self.seat(framework, &offer.role);
                *served.entry(name).or_insert(0) += 1;
                self.allocator.answered(&[offer.id]);
            }
        }
        served
            .iter()
            .map(|(name, times)| format!("{name} {times} times\n"))
            .collect()
    }

    /// Declines an offer, or runs as many tasks on it as its framework wants of its first shape.
    fn answer(&mut self, name: &str, agent: &str, refuse_ms: Option<u64>) -> String {
        let (name, role) = name
            .split_once(':')
            .map_or((name, None), |(name, role)| (name, Some(role)));
        let (framework, agent) = (self.frameworks[name], self.agents[agent]);
        let is_meant = |(to, offer): &(FrameworkId, Offer)| {
            (*to, offer.agent) == (framework, agent)
                && role.is_none_or(|role| offer.role.as_str() == role)
        };
        let at = self
            .held
            .iter()
            .position(is_meant)
            .unwrap_or_else(|| panic!("{name} holds no offer on {agent}: {:?}", self.held));
        let (_, offer) = self.held.remove(at);
        match refuse_ms {
            Some(millis) => self
                .allocator
                .decline(&[offer.id], millis, Timestamp(self.now)),
            None => {
                self.use_up(name, &offer);
                self.allocator.answered(&[offer.id]);
            }
        }
        String::new()
    }

    fn use_up(&mut self, name: &str, offer: &Offer) {
        let record = self
            .log
            .state
            .framework(self.frameworks[name])
            .unwrap()
            .clone();
        let roles = &record.info.roles;
        let mut demands = record.demands.iter();
        let is_for = |demand: &Demand| roles.get(demand.role.as_ref()) == Some(&offer.role);
        let wanted = demands.find(|(_, entry)| is_for(&entry.demand));
        let (key, entry) = wanted.expect("it wants something");
        let mut left = offer.resources.clone();
        let mut operations: Vec<Operation> = Vec::new();
        while (operations.len() as u32) < entry.demand.count {
            let Ok(picked) = left.pick(&entry.demand.request) else {
                break;
            };
            left = left.saturating_sub(&picked);
            let task = format!("{name}-{}", record.next_attempt + operations.len() as u64);
            let attempt = record.next_attempt + operations.len() as u64;
            let mut operation = launch(offer.agent, &task, picked);
            if let Operation::Launch(launch) = &mut operation {
                launch.role = Some(offer.role.clone());
            }
            operations.push(operation);
            let id = TaskId {
                framework: record.id,
                name: task.parse().unwrap(),
                attempt,
            };
            self.tasks.insert(task, id);
        }
        let count = entry.demand.count - operations.len() as u32;
        let demand = Demand {
            count,
            ..entry.demand.clone()
        };
        self.turn(name, |turn| {
            turn.demands.push((key.to_string(), demand));
            turn.operations = operations;
        });
    }

    /// A framework's name, with the role if it has several.
    fn seat(&self, framework: FrameworkId, role: &Role) -> String {
        let is_it = |(_, id): &(&String, &FrameworkId)| **id == framework;
        let name = self.frameworks.iter().find(is_it).unwrap().0.clone();
        let info = &self.log.state.framework(framework);
        match info.map_or(1, |framework| framework.info.roles.iter().count()) {
            1 => name,
            _ => format!("{name} in {role}"),
        }
    }
}

/// Plays a file; every title begins a new cluster.
fn check(name: &str) {
    // Tests run in their package's folder.
    let folder = Path::new("tests/it/testdata");
    let path = folder.join(name).with_extension("txt");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut stage = Stage::new();
    let mut played = Vec::new();
    for block in text.trim_end().split("\n\n") {
        let (commands, is_question) = match block.split_once("\n----") {
            Some((commands, _)) => (commands, true),
            None => (block, false),
        };
        let mut said = String::new();
        for line in commands.lines() {
            match line.strip_prefix('#') {
                Some(_) => stage = Stage::new(),
                None => said.push_str(&stage.play(line)),
            }
        }
        let said = if said.is_empty() {
            "ok"
        } else {
            said.trim_end()
        };
        played.push(match is_question {
            true => format!("{commands}\n----\n{said}"),
            false => commands.to_owned(),
        });
    }
    let played = played.join("\n\n") + "\n";
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(path, played).unwrap();
    } else {
        let path = path.display();
        assert_eq!(
            played, text,
            "{path}: UPDATE_EXPECT=1 writes what it is now"
        );
    }
}

#[test]
fn shares_are_fair() {
    check("shares");
}

#[test]
fn only_what_is_wanted_is_offered() {
    check("demand");
}

#[test]
fn what_is_declined_stays_away() {
    check("filters");
}

#[test]
fn guarantees_and_limits_are_kept() {
    check("quota");
}

#[test]
fn nothing_is_lost_when_agents_change() {
    check("agents");
}

#[test]
fn constraints_keep_away_what_would_be_declined() {
    check("constraints");
}

#[test]
fn frameworks_take_part_in_each_of_their_roles() {
    check("roles");
}

#[test]
fn operators_settings_hold_for_all() {
    check("settings");
}

#[test]
fn slivers_are_not_offered() {
    check("minimum");
}

#[test]
fn time_limits_end_tasks() {
    check("time_limits");
}

#[test]
fn a_role_below_its_guarantee_takes_back_what_others_have_above_theirs() {
    check("preemption");
}

#[test]
fn gangs_start_together_or_not_at_all() {
    check("gangs");
}

#[test]
fn what_ends_in_time_runs_before_a_gang_that_waits() {
    check("backfill");
}

#[test]
fn whoever_waits_is_told_why() {
    check("reasons");
}

#[test]
fn reservations_are_kept_for_their_roles() {
    check("reservations");
}

#[test]
fn volumes_outlive_tasks() {
    check("volumes");
}
