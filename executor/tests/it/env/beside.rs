//! What tests do beside a task: commands of all kinds, questions what it uses, and how many files their
//! executor may open.

use tepui_executor::protocol;
use tepui_types::wire::executor::{
    FromExecutor, RunBeside, RunIo, TaskInput, TaskMeasure, ToExecutor,
};

use super::{Executor, task};

impl Executor {
    /// Has a command run beside a task that reads and writes nothing.
    pub fn run_beside(&mut self, id: u64, name: &str, argv: &[&str], timeout_ms: u64) {
        self.send(&ToExecutor::Run(RunBeside {
            id,
            task: task(name),
            member: None,
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            env: Vec::new(),
            timeout_ms: Some(timeout_ms),
            io: RunIo::Nothing,
        }));
    }

    /// What it tells of what these tasks use; updates before it are skipped.
    pub fn measure(&self, names: &[&str]) -> Vec<TaskMeasure> {
        let tasks = names.iter().map(|name| task(name)).collect();
        let mut stream = self.connection();
        protocol::write_frame(&mut stream, &ToExecutor::Measure { id: 7, tasks }).unwrap();
        loop {
            match protocol::read_frame(&mut stream).expect("an answer before the deadline") {
                Some(FromExecutor::Measured { id: 7, tasks }) => return tasks,
                Some(FromExecutor::Update(_)) => {}
                other => panic!("not an answer: {other:?}"),
            }
        }
    }

    /// How a command beside a task ended; updates before it are skipped.
    pub fn ran(&mut self, id: u64) -> Result<i32, String> {
        loop {
            match protocol::read_frame(&mut self.stream).expect("an answer before the deadline") {
                Some(FromExecutor::Ran { id: ran, result }) if ran == id => return result,
                Some(FromExecutor::Update(_) | FromExecutor::Took(_)) => {}
                other => panic!("not an answer: {other:?}"),
            }
        }
    }

    /// Whether a command beside a task was not run because that one does not run now; updates before
    /// it are skipped.
    pub fn is_not_now(&mut self, id: u64) -> bool {
        loop {
            match protocol::read_frame(&mut self.stream).expect("an answer before the deadline") {
                Some(FromExecutor::NotNow(ran)) if ran == id => return true,
                Some(FromExecutor::Ran { id: ran, .. }) if ran == id => return false,
                Some(FromExecutor::Update(_) | FromExecutor::Took(_)) => {}
                other => panic!("not an answer: {other:?}"),
            }
        }
    }

    /// Sends a piece of an input that is this caller's own.
    pub fn type_in(&mut self, name: &str, caller: u128, at: u64, bytes: &[u8]) {
        self.send(&ToExecutor::Input(TaskInput {
            task: task(name),
            bytes: bytes.to_vec(),
            caller,
            source: caller,
            at,
        }));
    }

    /// Whether what this caller sent is taken; updates before it are skipped.
    pub fn took(&mut self, caller: u128) -> bool {
        loop {
            match protocol::read_frame(&mut self.stream).expect("an answer before the deadline") {
                Some(FromExecutor::Took(told)) if told == caller => return true,
                Some(FromExecutor::NotTook(told)) if told == caller => return false,
                Some(FromExecutor::Update(_)) => {}
                other => panic!("not an answer: {other:?}"),
            }
        }
    }

    /// Whatever it says next.
    pub fn frame(&mut self) -> FromExecutor {
        let frame = protocol::read_frame(&mut self.stream).expect("a frame before the deadline");
        frame.expect("it hung up")
    }

    /// Lets the process open so many files more; tells how many it might have open before.
    pub fn limit_files(&self, more: usize) -> libc::rlimit {
        let names = std::fs::read_dir(format!("/proc/{}/fd", self.identity.pid)).unwrap();
        let open: Vec<u64> = names
            .map(|entry| {
                entry
                    .unwrap()
                    .file_name()
                    .to_str()
                    .unwrap()
                    .parse()
                    .unwrap()
            })
            .collect();
        let free = (0..).filter(|number| !open.contains(number));
        let limit = free.take(more + 1).last().unwrap();
        let mut before = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        let pid = self.identity.pid;
        // SAFETY: both are of the type that this call reads and writes.
        let got = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &mut before) };
        assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
        self.restore_files(libc::rlimit {
            rlim_cur: limit,
            ..before
        });
        before
    }

    /// Lets the process have so many files open.
    pub fn restore_files(&self, limit: libc::rlimit) {
        let pid = self.identity.pid;
        // SAFETY: the limit is of the type that this call reads.
        let set = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    }
}
