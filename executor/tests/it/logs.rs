//! Commands of which the latest output is kept, in several files.

use std::fs;
use std::io::Read;
use std::path::Path;

use tepui_executor::output::parts;
use tepui_executor::runtime::Runtime;
use tepui_types::Bytes;
use tepui_types::wire::executor::ImageConfig;

use crate::containers::{IMAGE, finished, image};
use crate::env::{Builder, Executor, check, eventually};

const POLICY: &str = r#"{"logs": {"max_bytes": 50000, "files": 3}}"#;

/// The files of a stream that are there, in the order in which they were written. Each begins where the one
/// before it ends.
#[track_caller]
fn files(folder: &Path, stream: &str) -> Vec<String> {
    placed(folder, stream).1
}

/// The same, and where the first of them begins.
#[track_caller]
fn placed(folder: &Path, stream: &str) -> (u64, Vec<String>) {
    let path = folder.join(stream);
    let begins = parts::list(&path).unwrap();
    let first = begins.first().copied().unwrap_or(0);
    let (mut all, mut at) = (Vec::new(), first);
    for begins in begins {
        assert_eq!(begins, at);
        all.push(fs::read_to_string(parts::complete(&path, begins)).unwrap());
        at += all.last().unwrap().len() as u64;
    }
    all.push(fs::read_to_string(path).unwrap());
    (first, all)
}

/// The lines of `seq 1 last` from one on, and no others.
#[track_caller]
fn check_lines(files: &[String], last: u32, most: usize) {
    let text = files.concat();
    let first: u32 = text.lines().next().unwrap().parse().unwrap();
    let expected: String = (first..=last).map(|number| format!("{number}\n")).collect();
    // No `assert_eq`: it would print them.
    assert!(text == expected, "from {first}");
    for file in files {
        assert!(file.len() <= most && file.ends_with('\n'));
    }
}

#[test]
fn the_latest_output_is_kept_in_whole_lines_and_all_of_it_when_it_is_little() {
    for mut executor in Executor::native_keeping(Bytes::mib(1)) {
        let script = "seq 1 1000000; seq 1 9000 >&2; echo end >&2";
        executor.launch(Builder::script("t", script).life(POLICY));
        check(&executor.end("t"), "finished", "", Some(0), "");
        let folder = executor.task_dir("t");
        let out = files(&folder, "stdout");
        assert_eq!(out.len(), 3);
        check_lines(&out, 1_000_000, 50_000);
        // Two are full but for less than the part that may stay empty.
        assert!(out[..2].iter().all(|file| file.len() > 45_000));
        let expected: String = (1..=9_000).map(|number| format!("{number}\n")).collect();
        assert_eq!(files(&folder, "stderr").concat(), expected + "end\n");
    }
}

#[test]
fn of_many_small_files_the_latest_stay_and_nothing_between_is_missing() {
    for files_kept in [2, 3, 40] {
        let mut executor = Executor::native();
        let policy = format!(r#"{{"logs": {{"max_bytes": 4096, "files": {files_kept}}}}}"#);
        // Some come one by one, most in large parts.
        let script = "seq 1 700; sleep 0.1; seq 701 1500; sleep 0.1; seq 1501 200000";
        executor.launch(Builder::script("t", script).life(&policy));
        check(&executor.end("t"), "finished", "", Some(0), "");
        let out = files(&executor.task_dir("t"), "stdout");
        assert_eq!(out.len(), files_kept);
        check_lines(&out, 200_000, 4096);
    }
}

#[test]
fn a_byte_has_the_same_place_whatever_was_removed_before_it() {
    for files_kept in [2, 40] {
        let mut executor = Executor::native();
        let policy = format!(r#"{{"logs": {{"max_bytes": 4096, "files": {files_kept}}}}}"#);
        let script = "seq 1 700; sleep 0.1; seq 701 1500; sleep 0.1; seq 1501 200000";
        executor.launch(Builder::script("t", script).life(&policy));
        check(&executor.end("t"), "finished", "", Some(0), "");
        let (begins, files) = placed(&executor.task_dir("t"), "stdout");
        let all: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
        // No `assert_eq`: it would print them.
        assert!(begins > 0 && all[begins as usize..] == files.concat());
    }
}

#[test]
fn several_files_are_together_no_more_than_the_agent_keeps() {
    for mut executor in Executor::native_keeping(Bytes(100_000)) {
        executor.launch(Builder::script("t", "seq 1 100000").life(POLICY));
        check(&executor.end("t"), "finished", "", Some(0), "");
        let out = files(&executor.task_dir("t"), "stdout");
        assert_eq!(out.len(), 2);
        check_lines(&out, 100_000, 50_000);
    }
}

#[test]
fn one_file_is_the_commands_own_bound() {
    for mut executor in Executor::native_keeping(Bytes(100_000)) {
        let policy = r#"{"logs": {"max_bytes": 5000}}"#;
        executor.launch(Builder::script("t", "yes | head -c 6000").life(policy));
        check(&executor.end("t"), "finished", "", Some(0), "");
        let out = executor.output("t", "stdout");
        assert_eq!(out[..5000], "y\n".repeat(2500));
        assert!(out.ends_with("the rest is dropped: 1000 bytes]\n"), "{out}");
    }
}

#[test]
fn who_follows_the_output_reads_each_file_to_its_end_and_finds_the_next() {
    let mut executor = Executor::native();
    let script = "echo 1; while ! test -e go; do sleep 0.01; done; seq 2 2000";
    let policy = r#"{"logs": {"max_bytes": 4096, "files": 50}}"#;
    executor.launch(Builder::script("t", script).life(policy));
    let folder = executor.task_dir("t");
    eventually("it writes", || executor.output("t", "stdout") == "1\n");
    let mut followed = fs::File::open(folder.join("stdout")).unwrap();
    fs::write(folder.join("sandbox/go"), "").unwrap();
    check(&executor.end("t"), "finished", "", Some(0), "");
    let files = files(&folder, "stdout");
    check_lines(&files, 2_000, 4096);
    assert!(files.len() > 2 && files[0].starts_with("1\n"));
    let mut text = String::new();
    followed.read_to_string(&mut text).unwrap();
    assert_eq!(text, files[0]);
}

#[test]
fn containers_have_it_too_and_a_disk_that_refuses_takes_the_output_alone() {
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let script = "i=0; while test $i -lt 20000; do i=$((i+1)); echo $i; done";
    let builder = Builder::script("task", script)
        .container(IMAGE)
        .life(POLICY);
    executor.launch(builder.image(image(dir.path(), ImageConfig::default())));
    let end = executor.end("task");
    finished(&executor, &end);
    check_lines(&files(&executor.task_dir("task"), "stdout"), 20_000, 50_000);

    let mut executor = Executor::native();
    // What is to be renamed over cannot be.
    let first = parts::complete(&executor.task_dir("t").join("stdout"), 0);
    fs::create_dir_all(first.join("in-the-way")).unwrap();
    executor.launch(Builder::script("t", "seq 1 200000; echo well >&2").life(POLICY));
    check(&executor.end("t"), "finished", "", Some(0), "");
    assert_eq!(executor.output("t", "stderr"), "well\n");
    let out = executor.output("t", "stdout");
    let (kept, notice) = out.split_at(out.find("[tepui: ").unwrap());
    assert!(kept.starts_with("1\n2\n") && kept.len() <= 50_000);
    let all: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    let lost = all.strip_prefix(kept.trim_end()).unwrap().len() - 1;
    assert!(
        notice.ends_with(&format!("the rest is dropped: {lost} bytes]\n")),
        "{notice}"
    );
}

#[test]
fn of_companions_as_much_is_kept_as_of_their_command() {
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let options = r#"{"logs": {"max_bytes": 50000, "files": 3}, "companions": [
        {"name": "side", "role": "peer", "argv": ["busybox", "seq", "1", "50000"],
         "container": {"image": "test"}}]}"#;
    let builder = Builder::script("task", "true").container(IMAGE);
    let image = image(dir.path(), ImageConfig::default());
    executor.launch(builder.life(options).image(image));
    let end = executor.end("task");
    finished(&executor, &end);
    let out = files(&executor.task_dir("task").join("members/side"), "stdout");
    assert_eq!(out.len(), 3);
    check_lines(&out, 50_000, 50_000);
}
