//! `tepui dev` and what a killed one leaves, with parts that do nothing but run.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tepui_cli::leftovers;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::master::within;

/// A part: it makes its folder, and goes on. Tests run in their crate's folder, wherever that lies by now.
const PART: &str = "tests/it/part.sh";

/// The program beside such parts, and a folder for a cluster.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// No program here is written: one that is open for writing, be it in another test's child that has
    /// not come to its own program yet, cannot be run.
    fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::fs::hard_link(env!("CARGO_BIN_EXE_tepui"), dir.path().join("tepui")).unwrap();
        let program = std::path::absolute(PART).unwrap();
        for part in ["tepui-master", "tepui-agent"] {
            symlink(&program, dir.path().join(part)).unwrap();
        }
        Self { dir }
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    fn dev(&self, args: &[&str]) -> Child {
        Command::new(self.dir.path().join("tepui"))
            .args(["dev", "--dir"])
            .arg(self.home())
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// What one says that ends by itself, and whether it succeeds.
    async fn says(&self, args: &[&str]) -> (bool, String) {
        let output = within(self.dev(args).wait_with_output()).await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    /// The processes of these parts, once they all run.
    async fn parts(&self, names: &[&str]) -> Vec<i32> {
        let notes = self.home().join("processes");
        let living = || {
            names
                .iter()
                .map(|name| leftovers::living(&notes.join(name)))
        };
        loop {
            let pids: Option<Vec<i32>> = living().collect();
            match pids {
                Some(pids) => return pids,
                // sleep: a note on disk tells nobody that it is there.
                None => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        }
    }

    /// One that is killed once its parts run.
    async fn killed(&self, args: &[&str], names: &[&str]) -> Vec<i32> {
        let mut dev = self.dev(args);
        let pids = within(self.parts(names)).await;
        within(dev.kill()).await.unwrap();
        pids
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let notes = std::fs::read_dir(self.home().join("processes"));
        let notes = notes.into_iter().flatten().flatten();
        let living = notes.filter_map(|note| leftovers::living(&note.path()));
        living.for_each(leftovers::kill_process);
    }
}

fn is_alive(pid: i32) -> bool {
    let state = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    state.is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn what_a_killed_one_left_is_named_and_ended_by_the_next() {
    let place = Place::new();
    let names = ["agent-1", "agent-2", "master"];
    let pids = place
        .killed(&["--port", "0", "--agents", "2"], &names)
        .await;
    let mut next = place.dev(&["--port", "0", "--agents", "1"]);
    let mut said = BufReader::new(next.stderr.take().unwrap());
    let mut line = String::new();
    within(said.read_line(&mut line)).await.unwrap();
    for (name, pid) in names.iter().zip(&pids) {
        assert!(line.contains(&format!("{name} (pid {pid})")), "{line}");
        assert!(!is_alive(*pid), "{name}");
    }
    within(place.parts(&["agent-1", "master"])).await;
    let (is_fine, stopped) = place.says(&["--stop"]).await;
    assert!(is_fine && stopped.contains("is stopped"), "{stopped}");
    let mut rest = String::new();
    within(said.read_to_string(&mut rest)).await.unwrap();
    assert!(rest.contains("the cluster is stopped"), "{rest}");
    assert!(within(next.wait()).await.unwrap().success());
}

#[tokio::test]
async fn what_a_killed_one_left_can_be_stopped() {
    let place = Place::new();
    let (is_fine, said) = place.says(&["--stop"]).await;
    assert!(!is_fine && said.contains("--dir"), "{said}");
    assert!(!place.home().exists());
    let names = ["agent-1", "master"];
    let pids = place
        .killed(&["--port", "0", "--agents", "1"], &names)
        .await;
    let (is_fine, said) = place.says(&["--stop"]).await;
    assert!(is_fine, "{said}");
    for (name, pid) in names.iter().zip(&pids) {
        assert!(said.contains(&format!("{name} (pid {pid})")), "{said}");
        assert!(!is_alive(*pid), "{name}");
    }
    let (is_fine, said) = place.says(&["--stop"]).await;
    assert!(is_fine && said.contains("no part"), "{said}");
}

#[tokio::test]
async fn a_port_that_is_taken_leaves_no_new_folder() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (is_fine, said) = place.says(&["--port", &port]).await;
    assert!(!is_fine && said.contains("is not free"), "{said}");
    assert!(!place.home().exists());
}
