//! What clients of three masters saw while masters were killed, stopped and cut off, checked
//! afterwards: nothing acknowledged is lost, nothing is doubled, and reads never lag or go back.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use serde::Deserialize;
use tepui_tests::history::check::{Outlook, check, check_outlook};
use tepui_tests::history::clients::{Common, Worker, seen};
use tepui_tests::history::{Asked, Operation, Outcome, Seen, Stage};
use tepui_tests::sim::dice::Dice;
use tepui_tests::site::{CALLER, FIRST_JOB, MASTERS, Site, TOKEN};
use tepui_tests::{Client, eventually};
use tepui_types::api::job::JobView;
use tokio::task::JoinSet;

use super::Result;

/// Names a seed to be played again.
const SEED: &str = "TEPUI_HISTORY_SEED";
/// Clients at the same time.
const CLIENTS: usize = 5;
/// Faults, one after another.
const FAULTS: usize = 12;
/// Milliseconds that a fault lasts: from less than an election takes to some of them.
const FAULT_MS: std::ops::Range<u64> = 200..2_500;
/// Milliseconds between two faults, in which the cluster may or may not come to itself.
const CALM_MS: std::ops::Range<u64> = 200..1_500;

fn masters(site: &Site) -> anyhow::Result<Vec<Client>> {
    let urls = (0..MASTERS).map(|host| format!("http://{}", site.listen(host)));
    urls.map(|url| Client::with_token(&url, TOKEN)).collect()
}

/// One fault on one master, and its end.
async fn one_fault(site: &mut Site, dice: &mut Dice) -> anyhow::Result<()> {
    // Mostly the leader's: the others are there to take its place.
    let leader = site.masters().await.map(|(leader, _)| leader).ok();
    let host = match leader {
        Some(leader) if dice.chance(7_000) => leader,
        _ => dice.place(MASTERS),
    };
    let other = (host + 1 + dice.place(MASTERS - 1)) % MASTERS;
    let kind = dice.below(6);
    let lasts = Duration::from_millis(dice.within(FAULT_MS));
    eprintln!("fault {kind} at master {host} (leader: {leader:?}) for {lasts:?}");
    match kind {
        0 => site.kill(host),
        1 => site.signal(host, Signal::SIGSTOP)?,
        2 => site.net.cut(host)?,
        3 => site.net.deafen(host, other)?,
        4 => site.net.lose(host, 30)?,
        _ => site.net.slow(host)?,
    }
    // sleep: faults last as long as the dice say.
    tokio::time::sleep(lasts).await;
    match kind {
        0 => site.start_master(host)?,
        1 => site.signal(host, Signal::SIGCONT)?,
        _ => site.net.mend(host)?,
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
    let mut site = Site::start().await?;
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
    for _ in 0..FAULTS {
        one_fault(&mut site, &mut dice).await?;
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
