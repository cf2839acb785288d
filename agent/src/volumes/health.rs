//! Volumes that tasks use and that take no writes any more: a disk below had an error. It is said in the
//! log, once, with what mends it, and counted; whoever is to use one next is told by
//! [`make_ready`](super::Volumes::make_ready).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tepui_quota::Mounts;
use tepui_types::wire::agent::TaskVolume;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::Volumes;
use crate::event_loop::{Event, census};
use crate::metrics::Metrics;

/// How often is looked: a table of mounts is read, and no disk.
const INTERVAL: Duration = Duration::from_secs(10);

/// What is wrong with each volume that takes no writes, by its name.
type Stopped = BTreeMap<String, String>;

/// Looks at the volumes of all tasks for as long as the event loop lives.
pub async fn watch(volumes: Arc<Volumes>, metrics: Arc<Metrics>, events: mpsc::Sender<Event>) {
    let mut interval = interval(INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = Stopped::new();
    loop {
        interval.tick().await;
        let Some(running) = census(&events).await else {
            return;
        };
        let used = running.iter().flat_map(|one| one.launch.volumes.clone());
        let used: Vec<TaskVolume> = used.collect();
        let volumes = volumes.clone();
        let looked = tokio::task::spawn_blocking(move || look(&volumes, &used));
        let Ok(now) = looked.await else { return };
        say(&before, &now);
        metrics.volumes_stopped.set(now.len() as i64);
        before = now;
    }
}

fn look(volumes: &Volumes, used: &[TaskVolume]) -> Stopped {
    if used.is_empty() {
        return Stopped::new();
    }
    let mounts = match Mounts::look() {
        Ok(mounts) => mounts,
        Err(error) => {
            tracing::warn!(%error, "nobody knows whether volumes take writes");
            return Stopped::new();
        }
    };
    let stopped = used.iter().filter_map(|volume| {
        let error = volumes.check_writes(volume, &mounts).err()?;
        let name = match &volume.disk {
            None => volume.made_by.to_string(),
            Some(disk) => format!("{} on {disk}", volume.made_by),
        };
        Some((name, format!("{:#}", anyhow::Error::from(error))))
    });
    stopped.collect()
}

fn say(before: &Stopped, now: &Stopped) {
    for (volume, why) in now.iter().filter(|(name, _)| !before.contains_key(*name)) {
        tracing::warn!(volume, "tasks use a volume that takes no writes: {why}");
    }
    for volume in before.keys().filter(|name| !now.contains_key(*name)) {
        tracing::info!(volume, "no task uses it any more, or it takes writes again");
    }
}
