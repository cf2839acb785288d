//! What clients of three masters saw while masters were killed, stopped and cut off, their disks full,
//! damaged or empty and their clocks wrong, checked afterwards: nothing acknowledged is lost, nothing is
//! doubled, and reads never lag or go back.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use serde::Deserialize;
use tepui_tests::history::check::{Outlook, check, check_outlook};
use tepui_tests::history::clients::{Common, Worker, seen};
use tepui_tests::history::{Asked, Operation, Outcome, Seen, Stage};
use tepui_tests::sim::dice::Dice;
use tepui_tests::site::{CALLER, FIRST_JOB, MASTERS, Plan, Site, TOKEN};
use tepui_tests::{Client, eventually};
use tepui_types::api::job::JobView;
use tokio::task::JoinSet;

use super::Result;
use super::damage::damage_last_entry;

/// Names a seed to be played again.
const SEED: &str = "TEPUI_HISTORY_SEED";
/// Clients at the same time.
const CLIENTS: usize = 5;
/// How many seconds a wrong clock is off: more than masters bear.
const CLOCK_S: i64 = 5;
/// Milliseconds that a fault lasts: from less than an election takes to some of them.
const FAULT_MS: std::ops::Range<u64> = 200..2_500;
/// Milliseconds between two faults, in which the cluster may or may not come to itself.
const CALM_MS: std::ops::Range<u64> = 200..1_500;

fn masters(site: &Site) -> anyhow::Result<Vec<Client>> {
    let urls = (0..MASTERS).map(|host| format!("http://{}", site.listen(host)));
    urls.map(|url| Client::with_token(&url, TOKEN)).collect()
}

/// What goes wrong at a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It is killed.
    Killed,
    /// It hangs.
    Stopped,
    /// It is cut off.
    Cut,
    /// It does not hear one of the others.
    Deaf,
    /// It loses packets.
    Lossy,
    /// What it says comes late.
    Slow,
    /// Its clock is wrong.
    Clock,
    /// Its disk is full.
    Full,
    /// It is killed, and its last log record damaged.
    Damaged,
    /// It is killed, and all that it had is gone.
    Wiped,
}

impl Fault {
    const ALL: [Self; 10] = [
        Self::Killed,
        Self::Stopped,
        Self::Cut,
        Self::Deaf,
        Self::Lossy,
        Self::Slow,
        Self::Clock,
        Self::Full,
        Self::Damaged,
        Self::Wiped,
    ];

    /// Whether what a master has acknowledged is gone: the others must have all of it.
    fn forgets(self) -> bool {
        matches!(self, Self::Damaged | Self::Wiped)
    }

    fn begin(self, site: &mut Site, host: usize, dice: &mut Dice) -> anyhow::Result<()> {
        match self {
            Self::Killed | Self::Wiped | Self::Damaged => site.kill(host),
            Self::Stopped => site.signal(host, Signal::SIGSTOP)?,
            Self::Cut => site.net.cut(host)?,
            Self::Deaf => {
                let other = (host + 1 + dice.place(MASTERS - 1)) % MASTERS;
                site.net.deafen(host, other)?;
            }
            Self::Lossy => site.net.lose(host, 30)?,
            Self::Slow => site.net.slow(host)?,
            Self::Clock => site.set_clock(host, CLOCK_S * [1, -1][dice.place(2)])?,
            Self::Full => site.disk(host)?.fill(0)?,
        }
        Ok(())
    }

    fn end(self, site: &mut Site, host: usize) -> anyhow::Result<()> {
        match self {
            Self::Killed => site.start_master(host)?,
            Self::Stopped => site.signal(host, Signal::SIGCONT)?,
            Self::Cut | Self::Deaf | Self::Lossy | Self::Slow => site.net.mend(host)?,
            Self::Clock => site.set_clock(host, 0)?,
            Self::Full => {
                // It has ended, or would in the next moment.
                site.kill(host);
                site.disk(host)?.free()?;
                site.start_master(host)?;
            }
            Self::Damaged => {
                damage_last_entry(&site.folder_of_master(host).join("db"))?;
                site.start_master_also(host, &["--rejoin"])?;
            }
            Self::Wiped => {
                site.wipe_master(host)?;
                site.start_master(host)?;
            }
        }
        Ok(())
    }
}

/// Each kind of fault, in an order that the dice give.
fn faults(dice: &mut Dice) -> Vec<Fault> {
    let mut left = Fault::ALL.to_vec();
    let mut drawn = Vec::new();
    while !left.is_empty() {
        drawn.push(left.swap_remove(dice.place(left.len())));
    }
    drawn
}

/// One fault on one master, and its end.
async fn one_fault(site: &mut Site, dice: &mut Dice, fault: Fault) -> anyhow::Result<()> {
    if fault.forgets() {
        site.all_vote().await;
    }
    // Mostly the leader's: the others are there to take its place.
    let leader = site.masters().await.map(|(leader, _)| leader).ok();
    let host = match leader {
        Some(leader) if dice.chance(7_000) => leader,
        _ => dice.place(MASTERS),
    };
    let lasts = Duration::from_millis(dice.within(FAULT_MS));
    eprintln!("{fault:?} at master {host} (leader: {leader:?}) for {lasts:?}");
    fault.begin(site, host, dice)?;
    // sleep: faults last as long as the dice say.
    tokio::time::sleep(lasts).await;
    fault.end(site, host)?;
    if fault.forgets() {
        site.all_vote().await;
    }
    // sleep: see above.
    tokio::time::sleep(Duration::from_millis(dice.within(CALM_MS))).await;
    Ok(())
}

/// A page of batch's list of jobs.
#[derive(Debug, Deserialize)]
struct Page {
    items: Vec<JobView>,
    next: Option<String>,
}

async fn jobs(client: &Client) -> anyhow::Result<BTreeMap<String, Seen>> {
    let mut jobs = BTreeMap::new();
    let mut after = String::new();
    loop {
        let path = format!("/frameworks/batch/jobs?limit=500{after}");
        let page: Page = client.get(&path).await?;
        let ours = page.items.iter().filter(|job| job.name != FIRST_JOB);
        jobs.extend(ours.map(|job| (job.name.clone(), seen(job))));
        match page.next {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(jobs),
        }
    }
}

/// How each master says that it all came out, once all has ended.
async fn outlooks(site: &Site, common: &Common) -> anyhow::Result<Vec<Outlook>> {
    let clients = masters(site)?;
    let listed = site.net.run(CALLER, async move || {
        let mut listed = Vec::new();
        for client in &clients {
            let all = eventually("all jobs have ended", async || {
                let jobs = jobs(client).await?;
                let living = jobs.iter().find(|(_, seen)| seen.stage != Stage::Ended);
                ensure!(living.is_none(), "{living:?} of {}", jobs.len());
                Ok(jobs)
            });
            listed.push(all.await);
        }
        Ok(listed)
    });
    let listed = tokio::task::spawn_blocking(move || listed.join()).await?;
    let Ok(listed) = listed else {
        bail!("the caller panicked");
    };
    let mut runs = BTreeMap::new();
    for file in std::fs::read_dir(&common.folder)? {
        let file = file?;
        let name = file.file_name().to_string_lossy().into_owned();
        let key = name.strip_prefix("ran-").context("a file of a task")?;
        let lines = std::fs::read_to_string(file.path())?.lines().count();
        runs.insert(key.to_owned(), lines);
    }
    let outlook = |jobs| Outlook {
        jobs,
        runs: runs.clone(),
    };
    Ok(listed?.into_iter().map(outlook).collect())
}

/// How much there is in a history: a check of nothing shows nothing.
fn counts(history: &[Operation]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for operation in history {
        let kind = match &operation.asked {
            Asked::Submit { outcome, .. } if *outcome == Outcome::Unknown => "submits unanswered",
            Asked::Submit { .. } => "submits",
            Asked::Kill { outcome, .. } if *outcome == Outcome::Unknown => "kills unanswered",
            Asked::Kill { .. } => "kills",
            Asked::Read { seen, .. } if seen.stage == Stage::Absent => "reads of nothing",
            Asked::Read { .. } => "reads",
        };
        *counts.entry(kind).or_insert(0) += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_see_while_masters_fail_is_what_one_right_master_would_show() -> Result {
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse()?,
        Err(_) => u64::from(std::process::id()),
    };
    eprintln!("{SEED}={seed} gives the same faults again");
    let mut dice = Dice::new(seed);
    let plan = Plan {
        agents: 1,
        own_machines: true,
    };
    let mut site = Site::start_as(plan).await?;
    let folder = site.path("ran");
    std::fs::create_dir(&folder)?;
    let common = Common::new(folder);
    let workers = (0..CLIENTS).map(|number| {
        Ok(Worker {
            number,
            masters: masters(&site)?,
            dice: dice.fork(),
            common: common.clone(),
        })
    });
    let workers = workers.collect::<anyhow::Result<Vec<_>>>()?;
    let working = site.net.run(CALLER, async move || {
        let mut working = JoinSet::new();
        workers.into_iter().for_each(|worker| {
            working.spawn(worker.work());
        });
        while let Some(worked) = working.join_next().await {
            worked??;
        }
        Ok(())
    });
    for fault in faults(&mut dice) {
        one_fault(&mut site, &mut dice, fault).await?;
    }
    common.stop();
    let worked = tokio::task::spawn_blocking(move || working.join()).await?;
    let Ok(worked) = worked else {
        panic!("a client panicked");
    };
    worked?;
    let history = common.recorder.history();
    eprintln!("{:?}", counts(&history));
    let mut faults = check(&history);
    for outlook in outlooks(&site, &common).await? {
        faults.extend(check_outlook(&history, &outlook));
    }
    assert!(
        faults.is_empty(),
        "{SEED}={seed}, {:?}: {faults:#?}",
        counts(&history)
    );
    let counts = counts(&history);
    let is_rich = |kind| counts.get(kind).is_some_and(|count| *count >= 50);
    assert!(is_rich("submits") && is_rich("reads"), "{counts:?}");
    Ok(())
}
