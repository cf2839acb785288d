//! Clocks that can be set, one for each master: the time of day that a process reads is shifted by
//! what stands in a file, at any moment, and its monotonic clock is left alone.
//!
//! Linux has no time of day for a part of a machine (its time namespaces cover the monotonic clocks
//! only), so a small library stands before the C library's. It is compiled by `cc`, which a build
//! needs anyway.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Where the shift is read from, in the process whose clock it is.
const VARIABLE: &str = "TEPUI_TEST_CLOCK";

const SOURCE: &str = r#"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    long result = syscall(SYS_clock_gettime, clock, time);
    const char *path = getenv("TEPUI_TEST_CLOCK");
    if (result != 0 || clock != CLOCK_REALTIME || path == NULL)
        return (int)result;
    char text[32] = {0};
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        if (read(file, text, sizeof text - 1) > 0)
            time->tv_sec += atol(text);
        close(file);
    }
    return 0;
}
"#;

/// The clocks of a cluster's masters.
#[derive(Debug)]
pub struct Clocks {
    dir: PathBuf,
    library: PathBuf,
}

impl Clocks {
    /// Compiles the library, in a folder.
    pub fn prepare(dir: &Path) -> Result<Self> {
        let (source, library) = (dir.join("clock.c"), dir.join("clock.so"));
        std::fs::write(&source, SOURCE)?;
        let mut command = Command::new("cc");
        command.args(["-shared", "-fPIC", "-O1", "-o"]);
        let output = command.arg(&library).arg(&source).output();
        let output = output.context("failed to start `cc`: install gcc")?;
        if !output.status.success() {
            bail!("cc: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(Self {
            dir: dir.to_owned(),
            library,
        })
    }

    /// What `env` is to set for a master.
    pub fn environment(&self, master: usize) -> [OsString; 2] {
        let variable = |name: &str, path: PathBuf| {
            let mut variable = OsString::from(format!("{name}="));
            variable.push(path);
            variable
        };
        [
            variable("LD_PRELOAD", self.library.clone()),
            variable(VARIABLE, self.file(master)),
        ]
    }

    /// Sets a master's clock to so many seconds after the machine's.
    pub fn set(&self, master: usize, ahead_s: i64) -> Result<()> {
        // Whole or not at all: it is read at any moment.
        let unfinished = self.dir.join("clock.new");
        std::fs::write(&unfinished, ahead_s.to_string())?;
        std::fs::rename(unfinished, self.file(master))?;
        Ok(())
    }

    fn file(&self, master: usize) -> PathBuf {
        self.dir.join(format!("clock-{master}"))
    }
}
