//! What the disk holds after crashes and damage: nothing that was acknowledged is lost, and what
//! is damaged is named, not cut off.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tepui_master::raft::Options;
use tepui_master::storage::{Batch, Durability, Family, Storage, keys, snapshot};

use crate::env::{OpenLog, eager, folder, record};

/// Where the child works; its presence makes a test binary a child.
const CHILD: &str = "TEPUI_TEST_CRASHING_LOG";
const ROUNDS: u32 = 6;

/// Killed when the test ends, however it ends.
struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Not a test of its own: what [`kill_9_loses_nothing_that_was_acknowledged`] kills.
#[tokio::test(flavor = "multi_thread")]
async fn crashing_child() {
    let Ok(path) = std::env::var(CHILD) else {
        return;
    };
    let open = OpenLog::open(Path::new(&path), eager()).await.unwrap();
    let round = open.log.view.load().artifacts.len();
    let submit = |lane: u32| {
        let proposals = open.log.proposals.clone();
        async move {
            for n in 0..100_000 {
                let name = format!("{round}.{lane}.{n}");
                proposals
                    .submit(record(&name))
                    .await
                    .unwrap()
                    .outcome
                    .unwrap();
                println!("\nacknowledged {name}");
            }
        }
    };
    futures::future::join_all((0..8).map(|lane| tokio::spawn(submit(lane)))).await;
}

#[tokio::test]
async fn kill_9_loses_nothing_that_was_acknowledged() {
    let (_folder, path) = folder();
    let mut acknowledged = Vec::new();
    for _ in 0..ROUNDS {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["storage::crashing_child", "--exact", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = KilledOnDrop(child);
        let kill_after = 1 + getrandom::u32().unwrap() as usize % 700;
        let mut seen = 0;
        for line in BufReader::new(child.0.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            // The last line may be cut; names end in what says that they are whole.
            let Some(name) = line.strip_prefix("acknowledged ") else {
                continue;
            };
            seen += 1;
            if seen == kill_after {
                child.0.kill().unwrap();
            }
            acknowledged.push(name.to_owned());
        }
        child.0.wait().unwrap();
        assert!(seen >= kill_after, "the child ended by itself");
        // The pipe's last line may have been cut by the kill.
        acknowledged.pop();

        let open = OpenLog::open(&path, eager()).await.unwrap();
        for name in &acknowledged {
            assert!(open.knows(name), "{name} was acknowledged and is lost");
        }
    }
}

#[tokio::test]
async fn a_torn_tail_that_was_not_synced_is_fine() {
    let (_folder, path) = folder();
    let open = OpenLog::open(&path, Options::default()).await.unwrap();
    open.record_all((0..50).map(|n| n.to_string()), 1).await;
    drop(open);
    // A record of which only the beginning has come to the disk: like the first one's.
    let wal = newest_wal(&path);
    let beginning = fs::read(&wal).unwrap()[..20].to_vec();
    let mut file = OpenOptions::new().append(true).open(&wal).unwrap();
    file.write_all(&beginning).unwrap();
    drop(file);
    let open = OpenLog::open(&path, Options::default()).await.unwrap();
    assert!((0..50).all(|n| open.knows(&n.to_string())));
}

#[tokio::test]
async fn damage_anywhere_in_the_write_ahead_log_is_refused_or_harmless() {
    let (_folder, path) = folder_with_entries().await;
    let wal = newest_wal(&path);
    let whole = fs::read(&wal).unwrap();
    let db = path.join("db");
    let kept = path.join("kept");
    copy(&db, &kept);
    let mut refusals = 0;
    for offset in (0..whole.len()).step_by(whole.len() / 150) {
        let mut bytes = whole.clone();
        bytes[offset] ^= 1;
        fs::write(&wal, bytes).unwrap();
        // Where it opens, nothing of what was acknowledged may be missing.
        match OpenLog::open(&path, Options::default()).await {
            Ok(open) => assert!((0..50).all(|n| open.knows(&n.to_string())), "byte {offset}"),
            Err(_) => refusals += 1,
        }
        fs::remove_dir_all(&db).unwrap();
        copy(&kept, &db);
    }
    assert!(refusals > 100, "{refusals} of 150");
}

#[tokio::test]
async fn a_write_ahead_log_cut_in_what_was_synced_is_refused() {
    let (_folder, path) = folder_with_entries().await;
    let wal = newest_wal(&path);
    let file = OpenOptions::new().write(true).open(&wal).unwrap();
    // RocksDB itself sees nothing but a torn record.
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let error = refused(&path).await;
    assert!(
        error.contains("but entry 52 in term 2 was synced"),
        "{error}"
    );
}

#[tokio::test]
async fn a_damaged_entry_is_named() {
    let error = refused_after(|storage, index| {
        let key = keys::log(index);
        let mut entry = storage.get(Family::Log, &key).unwrap().unwrap();
        *entry.last_mut().unwrap() ^= 1;
        put(storage, Family::Log, &key, &entry);
    })
    .await;
    assert!(
        error.contains("log entry 20 is damaged: its checksum"),
        "{error}"
    );
}

#[tokio::test]
async fn a_missing_entry_is_named() {
    let error =
        refused_after(|storage, index| delete(storage, Family::Log, &keys::log(index))).await;
    assert!(
        error.contains("log entry 20 is damaged: it is missing"),
        "{error}"
    );
}

#[tokio::test]
async fn a_log_that_ends_before_its_commit_is_refused() {
    let error = refused_after(|storage, index| {
        for index in index..100 {
            delete(storage, Family::Log, &keys::log(index));
        }
    })
    .await;
    assert!(
        error.contains("it ends at entry 19 in term 2, but entry 52 in term 2 was synced"),
        "{error}"
    );
}

#[tokio::test]
async fn a_snapshot_that_is_not_what_was_written_is_refused() {
    let error = refused_after(|storage, _| {
        let record = snapshot::latest(storage).unwrap().unwrap();
        let key = keys::snapshot_chunk(record.index, 0);
        let mut bytes = storage
            .get(Family::Snapshot, &key)
            .unwrap()
            .unwrap()
            .to_vec();
        // Behind the version: the cluster's id.
        bytes[2] ^= 1;
        put(storage, Family::Snapshot, &key, &bytes);
    })
    .await;
    assert!(error.contains("snapshot 1"), "{error}");
}

#[tokio::test]
async fn a_snapshot_cut_short_is_not_taken_for_one() {
    let (_folder, path) = folder();
    let open = OpenLog::open(&path, Options::default()).await.unwrap();
    open.record("a").await;
    let hash = open.hash();
    drop(open);
    let storage = Storage::open(&path.join("db")).unwrap();
    put(
        &storage,
        Family::Snapshot,
        &keys::snapshot_chunk(2, 0),
        b"half an image",
    );
    drop(storage);
    let open = OpenLog::open(&path, Options::default()).await.unwrap();
    assert_eq!(open.hash(), hash);
    drop(open);
    let storage = Storage::open(&path.join("db")).unwrap();
    assert!(
        storage
            .get(Family::Snapshot, &keys::snapshot_chunk(2, 0))
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_database_of_another_cluster_is_refused() {
    let (_folder, path) = folder();
    let (_other_folder, other) = folder_with_entries().await;
    drop(OpenLog::open(&path, Options::default()).await.unwrap());
    fs::remove_dir_all(path.join("db")).unwrap();
    fs::rename(other.join("db"), path.join("db")).unwrap();
    let error = refused(&path).await;
    assert!(error.contains("the database belongs to cluster"), "{error}");
}

async fn folder_with_entries() -> (tempfile::TempDir, PathBuf) {
    let (folder, path) = folder();
    let open = OpenLog::open(&path, Options::default()).await.unwrap();
    // Entry 2 begins the term; these are 3 to 52.
    open.record_all((0..50).map(|n| n.to_string()), 1).await;
    (folder, path)
}

/// What a start says after `damage` was done to entry 20, or whatever.
async fn refused_after(damage: impl FnOnce(&Storage, u64)) -> String {
    let (_folder, path) = folder_with_entries().await;
    let storage = Storage::open(&path.join("db")).unwrap();
    damage(&storage, 20);
    drop(storage);
    refused(&path).await
}

async fn refused(path: &Path) -> String {
    let Err(error) = OpenLog::open(path, Options::default()).await else {
        panic!("it opened all the same")
    };
    format!("{:#}", anyhow::Error::from(error))
}

fn put(storage: &Storage, family: Family, key: &[u8], value: &[u8]) {
    let mut batch = Batch::default();
    batch.put(family, key, value);
    storage.write(batch, Durability::Synced).unwrap();
}

fn delete(storage: &Storage, family: Family, key: &[u8]) {
    let mut batch = Batch::default();
    batch.delete(family, key);
    storage.write(batch, Durability::Synced).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn newest_wal(path: &Path) -> PathBuf {
    let files = fs::read_dir(path.join("db"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|kind| kind == "log"))
        .max()
        .unwrap()
}
