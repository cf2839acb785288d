//! Which of a task's commands run, and when the task has ended.
//!
//! Pure: what has happened goes in with its time, [`Supervision::next`] says what is to be done about
//! it, one thing after another, and [`Supervision::deadline`] when to ask again. A command alone is
//! a task of one. What prepares the others (init) runs to its end before anything else begins, one
//! after another; what serves them (sidecars) begins before the command and its peers, and ends after
//! them. Nothing is started once the task's end is decided, and a decided end stays. What a member's first
//! process ended with by itself counts, whatever is asked for while the rest of it is cleared away.

use std::time::{Duration, Instant};

use tepui_types::command::{Restart, RestartAfter};
use tepui_types::task::{MemberState, MemberStatus, TaskSigns};
use tepui_types::{Reason, TaskState};

use crate::verdict::{End, Verdict, asked_for};

/// How often the killing of what does not end is repeated.
pub const FORCE_INTERVAL: Duration = Duration::from_millis(2);
/// The shortest pause before a restart: a command that ends at once keeps nobody busy.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// One command of a task.
#[derive(Debug)]
pub struct Member {
    /// Its name in the task.
    pub name: String,
    /// What it is to the others.
    pub part: Part,
    /// When it is started again.
    pub restart: Option<Restart>,
}

/// What a command is to the others of its task, in the order in which they begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// It prepares them.
    Init,
    /// It serves them.
    Sidecar,
    /// The task's command itself.
    Main,
    /// As important as that.
    Peer,
}

/// What is to be done, for a member by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is started; [`Supervision::on_started`] or [`Supervision::on_refused`] follows, at once or
    /// after [`Supervision::on_starting`].
    Start(usize),
    /// It is asked to end; where it is being started, that is given up, or it is asked again when it runs.
    Stop(usize),
    /// It is made to end.
    Force(usize),
}

/// A task's members, and how far they are.
pub struct Supervision {
    /// Numbered as they were given.
    members: Vec<Watched>,
    /// Their numbers, in the order in which they begin.
    order: Vec<usize>,
    grace: Duration,
    course: Course,
}

struct Watched {
    member: Member,
    stage: Stage,
    restarts: u32,
    /// The next pause, in milliseconds.
    backoff_ms: u64,
    last: Option<End>,
}

#[derive(Clone, Copy)]
enum Stage {
    Waiting,
    Starting {
        /// Whether it has run before.
        is_again: bool,
        is_asked: bool,
    },
    Running {
        since: Instant,
        is_asked: bool,
        forced_at: Option<Instant>,
        /// Its first process ended before anybody asked for that.
        has_exited: bool,
    },
    Pausing {
        until: Instant,
    },
    Over {
        is_success: bool,
        /// Whether it came to that by itself, and not because the task's end was decided.
        is_own: bool,
    },
}

enum Course {
    Going,
    Ending(Ending),
}

/// The task ends.
struct Ending {
    outcome: Outcome,
    /// Whether the sidecars' turn has come.
    has_come_to_sidecars: bool,
    /// When those whose turn it is are made to end.
    force_at: Instant,
    /// When all are, whosever turn it is.
    all_at: Option<Instant>,
}

enum Outcome {
    Finished,
    Failed(Reason, Option<i32>),
    Error(Reason),
    Killed(&'static str),
}

impl Supervision {
    /// Nothing runs yet. When they are not asked by somebody with a grace of his own, members have
    /// `grace` to end.
    pub fn new(members: Vec<Member>, grace: Duration) -> Self {
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by_key(|number| members[*number].part);
        let watch = |member: Member| Watched {
            backoff_ms: member.restart.map_or(0, |restart| restart.backoff_ms),
            member,
            stage: Stage::Waiting,
            restarts: 0,
            last: None,
        };
        Self {
            members: members.into_iter().map(watch).collect(),
            order,
            grace,
            course: Course::Going,
        }
    }

    /// What is to be done now, if anything; asked again until there is nothing.
    pub fn next(&mut self, now: Instant) -> Option<Action> {
        match self.course {
            Course::Going => self.next_start(now),
            Course::Ending(_) => self.next_end(now),
        }
    }

    fn next_start(&self, now: Instant) -> Option<Action> {
        let mut stages = self.members.iter().map(|watched| watched.stage);
        if stages.any(|stage| matches!(stage, Stage::Starting { .. })) {
            // One after another.
            return None;
        }
        for number in &self.order {
            let watched = &self.members[*number];
            match watched.stage {
                Stage::Waiting => return Some(Action::Start(*number)),
                Stage::Pausing { until } if until <= now => return Some(Action::Start(*number)),
                Stage::Over { .. } => {}
                // Its end comes before all others.
                _ if watched.member.part == Part::Init => return None,
                Stage::Starting { .. } | Stage::Running { .. } | Stage::Pausing { .. } => {}
            }
        }
        None
    }

    fn next_end(&mut self, now: Instant) -> Option<Action> {
        self.turn_to_sidecars(now);
        let Course::Ending(ending) = &self.course else {
            return None;
        };
        let is_due = ending.force_at <= now;
        for number in self.whose_turn(now) {
            if let Stage::Starting { is_asked, .. } = &mut self.members[number].stage
                && !*is_asked
            {
                *is_asked = true;
                return Some(Action::Stop(number));
            }
            let Stage::Running {
                is_asked,
                forced_at,
                ..
            } = &mut self.members[number].stage
            else {
                continue;
            };
            if !*is_asked {
                *is_asked = true;
                return Some(Action::Stop(number));
            }
            if is_due && forced_at.is_none_or(|at| at + FORCE_INTERVAL <= now) {
                *forced_at = Some(now);
                return Some(Action::Force(number));
            }
        }
        None
    }

    /// Once nothing runs that they serve.
    fn turn_to_sidecars(&mut self, now: Instant) {
        let is_left = self.running().any(|(_, part)| part != Part::Sidecar);
        if let Course::Ending(ending) = &mut self.course
            && !ending.has_come_to_sidecars
            && !is_left
        {
            ending.has_come_to_sidecars = true;
            let own = now + self.grace;
            ending.force_at = match (&ending.outcome, ending.all_at) {
                (Outcome::Killed(_), Some(all_at)) => all_at,
                (_, all_at) => all_at.map_or(own, |all_at| all_at.min(own)),
            };
        }
    }

    /// Who is to end now: all whom sidecars serve; then these, the last that began first.
    fn whose_turn(&self, now: Instant) -> Vec<usize> {
        let Course::Ending(ending) = &self.course else {
            return Vec::new();
        };
        let is_over = |at: Instant| at <= now;
        let all_now = ending.all_at.is_some_and(is_over)
            || (ending.has_come_to_sidecars && is_over(ending.force_at));
        let running = self.running();
        if all_now {
            return running.map(|(number, _)| number).collect();
        }
        if !ending.has_come_to_sidecars {
            let served = running.filter(|(_, part)| *part != Part::Sidecar);
            return served.map(|(number, _)| number).collect();
        }
        running
            .last()
            .map(|(number, _)| number)
            .into_iter()
            .collect()
    }

    /// In the order in which they began; what is being started as well.
    fn running(&self) -> impl Iterator<Item = (usize, Part)> {
        let all = self
            .order
            .iter()
            .map(|number| (*number, &self.members[*number]));
        let is_running = |stage| matches!(stage, Stage::Starting { .. } | Stage::Running { .. });
        let running = all.filter(move |(_, watched)| is_running(watched.stage));
        running.map(|(number, watched)| (number, watched.member.part))
    }

    /// When [`Supervision::next`] has something to say, if nothing happens before.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let stages = self.members.iter().map(|watched| watched.stage);
        let Course::Ending(ending) = &self.course else {
            if self.next_start(now).is_some() {
                return Some(now);
            }
            let pauses = stages.filter_map(|stage| match stage {
                Stage::Pausing { until } => Some(until),
                _ => None,
            });
            return pauses.min();
        };
        let turns = self.whose_turn(now);
        let forced = turns
            .iter()
            .filter_map(|number| match self.members[*number].stage {
                Stage::Running { forced_at, .. } => {
                    Some(forced_at.map_or(ending.force_at, |at| at + FORCE_INTERVAL))
                }
                _ => None,
            });
        let all = ending.all_at.filter(|at| *at > now && !turns.is_empty());
        forced.chain(all).min()
    }

    /// A member is being started, which takes a while.
    pub fn on_starting(&mut self, number: usize) {
        let watched = &mut self.members[number];
        watched.stage = Stage::Starting {
            is_again: watched.has_run(),
            is_asked: false,
        };
    }

    /// A member runs.
    pub fn on_started(&mut self, number: usize, now: Instant) {
        let watched = &mut self.members[number];
        if watched.has_run() {
            watched.restarts += 1;
        }
        watched.stage = Stage::Running {
            since: now,
            is_asked: false,
            forced_at: None,
            has_exited: false,
        };
    }

    /// The first process of a member has ended; what it left behind is being ended.
    pub fn on_exited(&mut self, number: usize) {
        let is_going = matches!(self.course, Course::Going);
        if let Stage::Running { has_exited, .. } = &mut self.members[number].stage {
            *has_exited = is_going;
        }
    }

    /// A member could not be started. Where it has run before, that is one more of its ends.
    pub fn on_refused(&mut self, number: usize, reason: Reason, now: Instant) {
        let has_run = self.members[number].has_run();
        let end = End {
            how: reason.message.clone(),
            reason: Some(reason.clone()),
            exit_code: None,
        };
        if has_run {
            self.on_started(number, now);
            return self.on_ended(number, end, now);
        }
        let watched = &mut self.members[number];
        watched.last = Some(end);
        watched.stage = Stage::Over {
            is_success: false,
            is_own: true,
        };
        let reason = self.named(number, &reason);
        self.decide(Outcome::Error(reason), now);
    }

    /// A member has ended, and nothing of it is left.
    pub fn on_ended(&mut self, number: usize, end: End, now: Instant) {
        let is_going = matches!(self.course, Course::Going);
        let watched = &mut self.members[number];
        let Stage::Running {
            since,
            is_asked,
            has_exited,
            ..
        } = watched.stage
        else {
            return;
        };
        let is_success = end.reason.is_none();
        let is_own = is_going || has_exited;
        let pause = match is_own {
            true => watched.pause(is_success, now.duration_since(since)),
            false => None,
        };
        // One that would come back has not ended for good, also where the task's end was decided
        // meanwhile.
        let is_own = is_own && pause.is_none();
        let pause = pause.filter(|_| is_going);
        // Sidecars have no end of their own: the one that they were asked for is good.
        let was_served = is_asked && watched.member.part == Part::Sidecar;
        watched.stage = match pause {
            Some(pause) => Stage::Pausing { until: now + pause },
            None => Stage::Over {
                is_success: is_success || was_served,
                is_own,
            },
        };
        watched.last = Some(end);
        if is_own {
            self.on_over(number, is_success, now);
        }
    }

    /// A member has ended for good by itself, before the task's end was asked for.
    fn on_over(&mut self, number: usize, is_success: bool, now: Instant) {
        let watched = &self.members[number];
        match (watched.member.part, is_success) {
            (Part::Sidecar, _) | (Part::Init, true) => {}
            (Part::Init | Part::Main | Part::Peer, false) => {
                let end = watched.last.as_ref();
                let code = end.and_then(|end| end.exit_code);
                let reason = end.and_then(|end| end.reason.clone());
                let reason = reason.map(|reason| self.named(number, &reason));
                if let Some(reason) = reason {
                    let code = self.main_end().map_or(code, |end| end.exit_code);
                    self.conclude(Outcome::Failed(reason, code), now);
                }
            }
            (Part::Main | Part::Peer, true) => {
                let important = |watched: &&Watched| watched.member.part >= Part::Main;
                let is_over =
                    |watched: &Watched| matches!(watched.stage, Stage::Over { is_own: true, .. });
                if self.members.iter().filter(important).all(is_over) {
                    self.conclude(Outcome::Finished, now);
                }
            }
        }
    }

    /// Asks all to end, and makes them after `grace`. Asked again, the earlier end counts.
    pub fn kill(&mut self, reason: &'static str, grace: Duration, now: Instant) {
        self.decide(Outcome::Killed(reason), now);
        if let Course::Ending(ending) = &mut self.course {
            let all_at = now + grace;
            let all_at = ending.all_at.map_or(all_at, |before| before.min(all_at));
            ending.all_at = Some(all_at);
            // A longer grace than its own is given by who asks first.
            let is_asked_for = matches!(ending.outcome, Outcome::Killed(_));
            ending.force_at = match is_asked_for && !ending.has_come_to_sidecars {
                true => all_at,
                false => ending.force_at.min(all_at),
            };
        }
    }

    /// The members have decided it by themselves, which stands where a kill has come since then.
    fn conclude(&mut self, outcome: Outcome, now: Instant) {
        match &mut self.course {
            Course::Ending(ending) if matches!(ending.outcome, Outcome::Killed(_)) => {
                ending.outcome = outcome;
            }
            Course::Ending(_) | Course::Going => self.decide(outcome, now),
        }
    }

    fn decide(&mut self, outcome: Outcome, now: Instant) {
        if let Course::Ending(_) = self.course {
            return;
        }
        self.course = Course::Ending(Ending {
            outcome,
            has_come_to_sidecars: false,
            force_at: now + self.grace,
            all_at: None,
        });
        for watched in &mut self.members {
            if let Stage::Pausing { .. } = watched.stage {
                let last = watched.last.as_ref();
                watched.stage = Stage::Over {
                    is_success: last.is_some_and(|end| end.reason.is_none()),
                    is_own: false,
                };
            }
        }
    }

    /// Whether the task's end is decided.
    pub fn is_ending(&self) -> bool {
        matches!(self.course, Course::Ending(_))
    }

    /// Whether the task has ended.
    pub fn is_over(&self) -> bool {
        self.is_ending() && self.running().next().is_none()
    }

    /// How the task has ended, once nothing of it runs.
    pub fn verdict(&self) -> Option<Verdict> {
        let Course::Ending(ending) = &self.course else {
            return None;
        };
        if !self.is_over() {
            return None;
        }
        let (state, reason, exit_code) = match &ending.outcome {
            Outcome::Finished => {
                let code = self.main_end().and_then(|end| end.exit_code);
                (TaskState::Finished, None, code)
            }
            Outcome::Failed(reason, code) => (TaskState::Failed, Some(reason.clone()), *code),
            Outcome::Error(reason) => (TaskState::Error, Some(reason.clone()), None),
            Outcome::Killed(code) => {
                let end = self.main_end();
                let reason = asked_for(code, end.map(|end| end.how.as_str()));
                (
                    TaskState::Killed,
                    Some(reason),
                    end.and_then(|end| end.exit_code),
                )
            }
        };
        Some(Verdict {
            state,
            reason,
            exit_code,
        })
    }

    /// How the command itself has ended, if it has for good.
    fn main_end(&self) -> Option<&End> {
        let mut members = self.members.iter();
        let main = members.find(|watched| watched.member.part == Part::Main)?;
        let is_over = matches!(main.stage, Stage::Over { .. });
        main.last.as_ref().filter(|_| is_over)
    }

    /// What a member is called.
    pub fn name(&self, number: usize) -> &str {
        &self.members[number].member.name
    }

    /// The number of the member of that name.
    pub fn number_of(&self, name: &str) -> Option<usize> {
        let mut members = self.members.iter();
        members.position(|watched| watched.member.name == name)
    }

    /// Whether a member has ended for good.
    pub fn is_member_over(&self, number: usize) -> bool {
        matches!(self.members[number].stage, Stage::Over { .. })
    }

    /// How often a member was started again, and how it ended before.
    pub fn past(&self, number: usize) -> (u32, Option<&End>) {
        let watched = &self.members[number];
        (watched.restarts, watched.last.as_ref())
    }

    /// How its members are; empty where the task's own state says all.
    pub fn statuses(&self) -> Vec<MemberStatus> {
        let is_shown = self.members.len() > 1 || self.members.iter().any(Watched::is_known_to_end);
        match is_shown {
            true => self.members.iter().map(Watched::status).collect(),
            false => Vec::new(),
        }
    }

    /// That reason, with the member's name where it is not the command itself.
    fn named(&self, number: usize, reason: &Reason) -> Reason {
        let member = &self.members[number].member;
        let part = match member.part {
            Part::Main => return reason.clone(),
            Part::Init => "init",
            Part::Sidecar => "sidecar",
            Part::Peer => "peer",
        };
        let message = format!("{part} `{}`: {}", member.name, reason.message);
        Reason::new(&reason.code, message)
    }
}

impl Watched {
    /// How long it waits for its next start, if there is one.
    fn pause(&mut self, is_success: bool, ran: Duration) -> Option<Duration> {
        let restart = self.member.restart?;
        let is_meant = match restart.after {
            // What prepares others has then done so.
            RestartAfter::Any => !is_success || self.member.part != Part::Init,
            RestartAfter::Failure => !is_success,
        };
        if !is_meant || restart.most.is_some_and(|most| self.restarts >= most) {
            return None;
        }
        if ran >= Duration::from_millis(restart.max_backoff_ms) {
            self.backoff_ms = restart.backoff_ms;
        }
        let pause = Duration::from_millis(self.backoff_ms);
        let doubled = self.backoff_ms.saturating_mul(2);
        self.backoff_ms = doubled.min(restart.max_backoff_ms);
        Some(pause.max(SHORTEST_PAUSE))
    }

    /// Whether it has run before its present start.
    fn has_run(&self) -> bool {
        match self.stage {
            Stage::Pausing { .. } => true,
            Stage::Starting { is_again, .. } => is_again,
            Stage::Waiting | Stage::Running { .. } | Stage::Over { .. } => false,
        }
    }

    /// Whether it was started again, or will be.
    fn is_known_to_end(&self) -> bool {
        self.restarts > 0 || self.has_run()
    }

    fn status(&self) -> MemberStatus {
        let message = self.last.as_ref().map_or("", |end| end.how.as_str());
        let most = message.floor_char_boundary(TaskSigns::MAX_CHECK_MESSAGE);
        MemberStatus {
            name: self.member.name.clone(),
            state: match self.stage {
                Stage::Running { .. } => MemberState::Running,
                Stage::Over { is_success, .. } if is_success => MemberState::Finished,
                Stage::Over { .. } => MemberState::Failed,
                _ if self.has_run() => MemberState::Pausing,
                Stage::Waiting | Stage::Starting { .. } | Stage::Pausing { .. } => {
                    MemberState::Waiting
                }
            },
            restarts: self.restarts,
            message: message[..most].to_owned(),
        }
    }
}

#[cfg(test)]
#[path = "supervision/tests.rs"]
mod tests;
