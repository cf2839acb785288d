//! What no right cluster could have answered.
//!
//! A job is a register that only goes up: absent, living, killing, ended. For such a register a
//! history is linearizable exactly if some simple rules hold for every pair of its operations of
//! which one ended before the other began; no search over orders is needed, as it would be for a
//! register that is written at will:
//!
//! - a read sees every write that was acknowledged before it began,
//! - a read sees nothing that nobody had begun to write when it ended,
//! - a read sees no less than one that ended before it began.
//!
//! If they hold, an order that explains the history is found by sorting by what was seen, writes
//! before the reads that see them. (The steps that the cluster takes by itself, such as a task's end,
//! are writes that may have happened at any moment.) Jobs are independent of each other, and
//! linearizability is a property of each object alone, so each is checked by itself.
//!
//! Beside that: a key makes one job, however often it was sent, and nobody else's; and when all is
//! over every acknowledged job is there, and its task has run once.

use std::collections::{BTreeMap, BTreeSet};

use super::{Asked, Operation, Outcome, Seen, Stage};

/// How the cluster stands when all is over, beside the history.
#[derive(Debug, Clone, Default)]
pub struct Outlook {
    /// Every job that a master lists.
    pub jobs: BTreeMap<String, Seen>,
    /// How often the task of a key's job has run, as it wrote itself; a key that is absent never.
    pub runs: BTreeMap<String, usize>,
}

/// Everything that is known of one job.
#[derive(Debug, Default)]
struct Job {
    /// When the first submission that may have made it began.
    begun: Option<u64>,
    /// When the first answer was there that said that it was made.
    acknowledged: Option<u64>,
    /// The same of its kills.
    kill_begun: Option<u64>,
    kill_acknowledged: Option<u64>,
    /// Began, ended, saw.
    reads: Vec<(u64, u64, Seen)>,
}

/// What is wrong with a history; empty for one of a right cluster.
pub fn check(history: &[Operation]) -> Vec<String> {
    let (names, mut faults) = names(history);
    let mut jobs: BTreeMap<&str, Job> = BTreeMap::new();
    for operation in history {
        let Operation { began, ended, .. } = *operation;
        match &operation.asked {
            Asked::Submit { key, outcome } => {
                // An unknown one that was never acknowledged under its key has the key's name, if
                // it has any.
                let name = names.get(key.as_str()).copied().unwrap_or(key);
                let job = jobs.entry(name).or_default();
                note(outcome, began, ended, &mut job.begun, &mut job.acknowledged);
            }
            Asked::Kill { job, outcome } => {
                let job = jobs.entry(job).or_default();
                let (begun, done) = (&mut job.kill_begun, &mut job.kill_acknowledged);
                note(outcome, began, ended, begun, done);
            }
            Asked::Read { job, seen } => {
                let job = jobs.entry(job).or_default();
                job.reads.push((began, ended, *seen));
            }
        }
    }
    for (name, job) in &jobs {
        check_job(name, job, &mut faults);
    }
    faults
}

/// What is wrong with how it stands in the end.
pub fn check_outlook(history: &[Operation], outlook: &Outlook) -> Vec<String> {
    let (names, mut faults) = names(history);
    let mut known = BTreeSet::new();
    for (key, name) in &names {
        known.insert(*name);
        let runs = outlook.runs.get(*key).copied().unwrap_or(0);
        match outlook.jobs.get(*name) {
            None => faults.push(format!("{name} was acknowledged and is lost")),
            Some(seen) if seen.stage != Stage::Ended => {
                faults.push(format!("{name} has not ended: {seen:?}"));
            }
            // A job that was killed may have ended before its task began.
            Some(seen) if runs == 1 || (runs == 0 && seen.is_killed) => {}
            Some(seen) => faults.push(format!("the task of {name} ran {runs} times: {seen:?}")),
        }
    }
    let mut unknown = BTreeSet::new();
    for operation in history {
        if let Asked::Submit { key, .. } = &operation.asked
            && !names.contains_key(key.as_str())
        {
            unknown.insert(key.as_str());
        }
    }
    for key in &unknown {
        let runs = outlook.runs.get(*key).copied().unwrap_or(0);
        if runs > 1 {
            faults.push(format!(
                "the task of the unacknowledged {key} ran {runs} times"
            ));
        }
    }
    let strangers = outlook
        .jobs
        .keys()
        .filter(|name| !known.contains(name.as_str()));
    let strangers: Vec<_> = strangers.collect();
    if strangers.len() > unknown.len() {
        faults.push(format!(
            "{strangers:?} were made by no more than {} submissions without an answer",
            unknown.len()
        ));
    }
    faults
}

/// The name that each key's job was said to have; and what is wrong with that.
fn names(history: &[Operation]) -> (BTreeMap<&str, &str>, Vec<String>) {
    let mut names = BTreeMap::new();
    let mut faults = Vec::new();
    for operation in history {
        let Asked::Submit { key, outcome } = &operation.asked else {
            continue;
        };
        let Outcome::Done(name) = outcome else {
            continue;
        };
        let known = *names.entry(key.as_str()).or_insert(name.as_str());
        if known != name {
            faults.push(format!("{key} was doubled: it is {known} and {name}"));
        }
    }
    let mut keys = BTreeMap::new();
    for (key, name) in &names {
        if let Some(other) = keys.insert(*name, *key) {
            faults.push(format!("{key} and {other} were told the same job, {name}"));
        }
    }
    (names, faults)
}

/// Takes a write into account: it may have happened from when it first began, and has when it is
/// acknowledged.
fn note<T>(
    outcome: &Outcome<T>,
    began: u64,
    ended: u64,
    begun: &mut Option<u64>,
    acknowledged: &mut Option<u64>,
) {
    if matches!(outcome, Outcome::Refused) {
        return;
    }
    *begun = Some(begun.map_or(began, |earlier| earlier.min(began)));
    if matches!(outcome, Outcome::Done(_)) {
        *acknowledged = Some(acknowledged.map_or(ended, |earlier| earlier.min(ended)));
    }
}

fn check_job(name: &str, job: &Job, faults: &mut Vec<String>) {
    let before = |moment: Option<u64>, later: u64| moment.is_some_and(|moment| moment < later);
    for (began, ended, seen) in &job.reads {
        let mut fault = |what: &str| {
            faults.push(format!(
                "{name}: a read from {began} to {ended} µs {what}: {seen:?}"
            ));
        };
        if seen.stage == Stage::Absent && before(job.acknowledged, *began) {
            fault("misses its acknowledged submission");
        }
        if seen.stage < Stage::Killing && before(job.kill_acknowledged, *began) {
            fault("misses its acknowledged kill");
        }
        if seen.stage > Stage::Absent && !before(job.begun, *ended) {
            fault("sees it before anyone submitted it");
        }
        if seen.is_killed && !before(job.kill_begun, *ended) {
            fault("sees it killed before anyone asked for that");
        }
    }
    check_order(name, &job.reads, faults);
}

/// No read sees less than one that ended before it began.
fn check_order(name: &str, reads: &[(u64, u64, Seen)], faults: &mut Vec<String>) {
    let mut by_end: Vec<_> = reads.iter().collect();
    by_end.sort_by_key(|(_, ended, _)| *ended);
    let mut by_begin = by_end.clone();
    by_begin.sort_by_key(|(began, _, _)| *began);
    let mut over = by_end.into_iter().peekable();
    let mut most = Stage::Absent;
    for (began, ended, seen) in by_begin {
        while let Some((_, _, earlier)) = over.next_if(|(_, ended, _)| ended < began) {
            most = most.max(earlier.stage);
        }
        if seen.stage < most {
            faults.push(format!(
                "{name}: a read from {began} to {ended} µs goes back to {:?}, and it was {most:?}",
                seen.stage
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(stage: Stage) -> Seen {
        Seen {
            stage,
            is_killed: stage == Stage::Killing,
        }
    }

    fn at(began: u64, ended: u64, asked: Asked) -> Operation {
        Operation {
            client: 0,
            began,
            ended,
            asked,
        }
    }

    fn submit(began: u64, ended: u64, key: &str, outcome: Outcome<&str>) -> Operation {
        let outcome = match outcome {
            Outcome::Done(name) => Outcome::Done(name.to_owned()),
            Outcome::Refused => Outcome::Refused,
            Outcome::Unknown => Outcome::Unknown,
        };
        let key = key.to_owned();
        at(began, ended, Asked::Submit { key, outcome })
    }

    fn kill(began: u64, ended: u64, outcome: Outcome<()>) -> Operation {
        let job = "a".to_owned();
        at(began, ended, Asked::Kill { job, outcome })
    }

    fn read(began: u64, ended: u64, stage: Stage) -> Operation {
        let job = "a".to_owned();
        let seen = seen(stage);
        at(began, ended, Asked::Read { job, seen })
    }

    fn made() -> Operation {
        submit(10, 20, "a", Outcome::Done("a"))
    }

    #[track_caller]
    fn refused(history: &[Operation], why: &str) {
        let faults = check(history);
        assert!(
            faults.len() == 1 && faults[0].contains(why),
            "{why}: {faults:?}"
        );
    }

    #[test]
    fn what_overlaps_may_come_out_either_way() {
        let history = [
            made(),
            read(5, 15, Stage::Living),
            read(12, 18, Stage::Absent),
            read(11, 19, Stage::Living),
            kill(30, 40, Outcome::Unknown),
            read(50, 60, Stage::Living),
            read(70, 80, Stage::Killing),
            read(75, 85, Stage::Living),
            read(90, 95, Stage::Ended),
        ];
        assert_eq!(check(&history), Vec::<String>::new());
    }

    #[test]
    fn a_stale_read_is_found() {
        refused(
            &[made(), read(21, 30, Stage::Absent)],
            "acknowledged submission",
        );
        let killed = kill(30, 40, Outcome::Done(()));
        refused(
            &[made(), killed, read(41, 50, Stage::Living)],
            "acknowledged kill",
        );
    }

    #[test]
    fn a_read_of_what_nobody_wrote_is_found() {
        refused(
            &[made(), read(1, 9, Stage::Living)],
            "before anyone submitted",
        );
        let failed = submit(1, 2, "a", Outcome::Refused);
        refused(
            &[failed, read(3, 4, Stage::Living)],
            "before anyone submitted",
        );
        refused(
            &[made(), read(30, 40, Stage::Killing)],
            "before anyone asked",
        );
    }

    #[test]
    fn a_read_that_goes_back_is_found_also_where_no_answer_to_the_write_came() {
        let lost = submit(10, 20, "a", Outcome::Unknown);
        let (sees, misses) = (read(30, 40, Stage::Living), read(50, 60, Stage::Absent));
        refused(&[lost.clone(), misses.clone(), sees.clone()], "goes back");
        let early = read(21, 29, Stage::Absent);
        assert!(check(&[lost, early, sees]).is_empty());
        let (ended, living) = (read(30, 40, Stage::Ended), read(41, 50, Stage::Living));
        refused(&[made(), ended, living], "goes back");
    }

    #[test]
    fn a_key_that_made_two_jobs_is_found() {
        let twice = submit(30, 40, "a", Outcome::Done("b"));
        refused(&[made(), twice], "doubled");
        let shared = submit(30, 40, "b", Outcome::Done("a"));
        refused(&[made(), shared], "the same job");
        let again = submit(30, 40, "a", Outcome::Done("a"));
        assert!(check(&[made(), again]).is_empty());
    }

    fn outlook(jobs: &[(&str, Stage)], runs: &[(&str, usize)]) -> Outlook {
        Outlook {
            jobs: jobs
                .iter()
                .map(|(name, stage)| ((*name).to_owned(), seen(*stage)))
                .collect(),
            runs: runs
                .iter()
                .map(|(key, runs)| ((*key).to_owned(), *runs))
                .collect(),
        }
    }

    #[track_caller]
    fn refused_in_the_end(history: &[Operation], outlook: &Outlook, why: &str) {
        let faults = check_outlook(history, outlook);
        assert!(
            faults.len() == 1 && faults[0].contains(why),
            "{why}: {faults:?}"
        );
    }

    #[test]
    fn a_job_that_is_lost_or_never_ends_is_found() {
        let good = outlook(&[("a", Stage::Ended)], &[("a", 1)]);
        assert!(check_outlook(&[made()], &good).is_empty());
        refused_in_the_end(&[made()], &outlook(&[], &[("a", 1)]), "is lost");
        let living = outlook(&[("a", Stage::Living)], &[("a", 1)]);
        refused_in_the_end(&[made()], &living, "has not ended");
    }

    #[test]
    fn a_task_that_ran_twice_or_never_is_found() {
        for runs in [0, 2] {
            let outlook = outlook(&[("a", Stage::Ended)], &[("a", runs)]);
            refused_in_the_end(&[made()], &outlook, &format!("ran {runs} times"));
        }
        let lost = submit(10, 20, "a", Outcome::Unknown);
        let twice = outlook(&[("a", Stage::Ended)], &[("a", 2)]);
        refused_in_the_end(std::slice::from_ref(&lost), &twice, "ran 2 times");
        let once = outlook(&[("a", Stage::Ended)], &[("a", 1)]);
        assert!(check_outlook(&[lost], &once).is_empty());
    }

    #[test]
    fn a_job_that_nobody_submitted_is_found() {
        let jobs = outlook(&[("a", Stage::Ended), ("b", Stage::Ended)], &[("a", 1)]);
        refused_in_the_end(&[made()], &jobs, "submissions without an answer");
        let lost = submit(10, 20, "b", Outcome::Unknown);
        assert!(check_outlook(&[made(), lost], &jobs).is_empty());
    }
}
