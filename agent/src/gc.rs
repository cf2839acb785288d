//! Removes the folders of tasks that ended long ago.
//!
//! What people may still want to read is kept: the newest thousand, and none
//! longer than a week. Folders of tasks that the agent still holds stay
//! whatever their age.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tepui_types::TaskId;
use tokio::sync::{mpsc, oneshot};

use crate::event_loop::Event;
use crate::sandbox::Layout;

/// Folders of ended tasks that are kept.
const KEEP: usize = 1_000;
/// How long they are kept.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often they are looked through.
const INTERVAL: Duration = Duration::from_secs(60);

/// Looks through the folders for as long as the event loop lives.
#[expect(
    clippy::disallowed_methods,
    reason = "folders carry the time of day, and nothing else compares with it"
)]
pub async fn run(layout: Layout, events: mpsc::Sender<Event>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let tasks = layout.tasks();
        // The folders first: whatever is launched later is in neither list.
        let Ok(folders) = tokio::task::spawn_blocking(move || list(&tasks)).await else {
            continue;
        };
        let (sender, held) = oneshot::channel();
        if events.send(Event::HeldWanted(sender)).await.is_err() {
            return;
        }
        let Ok(held) = held.await else { return };
        let _ = tokio::task::spawn_blocking(move || {
            for path in expired(folders, &held, SystemTime::now()) {
                if let Err(error) = std::fs::remove_dir_all(&path) {
                    tracing::warn!(path = %path.display(), %error, "an old sandbox stays");
                }
            }
        })
        .await;
    }
}

#[derive(Debug, Clone)]
struct Folder {
    task: TaskId,
    path: PathBuf,
    changed: SystemTime,
}

fn list(tasks: &std::path::Path) -> Vec<Folder> {
    let entries = std::fs::read_dir(tasks).into_iter().flatten().flatten();
    let folder = |entry: std::fs::DirEntry| {
        let path = entry.path();
        let changed = [path.clone(), path.join("stdout"), path.join("stderr")]
            .iter()
            .filter_map(|path| path.metadata().ok()?.modified().ok())
            .max()?;
        Some(Folder {
            task: entry.file_name().to_str()?.parse().ok()?,
            path,
            changed,
        })
    };
    entries.filter_map(folder).collect()
}

/// The folders that go.
fn expired(mut folders: Vec<Folder>, held: &HashSet<TaskId>, now: SystemTime) -> Vec<PathBuf> {
    folders.retain(|folder| !held.contains(&folder.task));
    folders.sort_by_key(|folder| std::cmp::Reverse(folder.changed));
    let is_old = |folder: &Folder| {
        now.duration_since(folder.changed)
            .is_ok_and(|age| age > MAX_AGE)
    };
    let goes = |(position, folder): (usize, Folder)| {
        (position >= KEEP || is_old(&folder)).then_some(folder.path)
    };
    folders.into_iter().enumerate().filter_map(goes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(number: u64, age_secs: u64, now: SystemTime) -> Folder {
        let task: TaskId = format!("f1.t.{number}").parse().unwrap();
        let path = PathBuf::from(task.to_string());
        Folder {
            task,
            path,
            changed: now - Duration::from_secs(age_secs),
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any time will do")]
    fn newest_thousand_of_a_week_stay_and_so_do_held_ones() {
        let now = SystemTime::now();
        let week = MAX_AGE.as_secs();
        let mut folders: Vec<_> = (0..1_002)
            .map(|number| folder(number, number, now))
            .collect();
        folders.push(folder(5_000, week + 5, now));
        let held = HashSet::from([folders[1_001].task.clone()]);
        let gone = expired(folders.clone(), &held, now);
        assert_eq!(
            gone,
            [PathBuf::from("f1.t.1000"), PathBuf::from("f1.t.5000")]
        );
        folders.truncate(3);
        folders.push(folder(7, week + 1, now));
        assert_eq!(
            expired(folders, &HashSet::new(), now),
            [PathBuf::from("f1.t.7")]
        );
    }

    #[test]
    fn folders_are_listed_by_task() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("f1.a.0")).unwrap();
        std::fs::create_dir(dir.path().join("not a task")).unwrap();
        let listed = list(dir.path());
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].task, "f1.a.0".parse().unwrap());
    }
}
