//! The virtual machine itself: one QEMU process, which ends when it powers off or is out of time.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process;

/// Software emulation on two busy cores takes about two minutes; a machine that hangs never ends.
const DEADLINE: Duration = Duration::from_secs(600);
/// Enough for a container's file system in memory and a test that eats what it may.
const MEMORY: &str = "2048M";
/// The first NVMe disk is the root; only the kernel's worst words reach the console, and a panic ends
/// the machine.
const KERNEL_LINE: &str =
    "console=ttyS0 root=/dev/nvme0n1 rw rootwait init=/init quiet loglevel=3 panic=-1";

/// Boots that kernel from that disk and waits for its end; its console goes to `log`.
pub fn run(kernel: &Path, disk: &Path, log: &Path) -> Result<()> {
    let errors = log.with_extension("qemu");
    let stderr =
        File::create(&errors).with_context(|| format!("failed to create {}", errors.display()))?;
    // A console of before must not be taken for this one's.
    File::create(log).with_context(|| format!("failed to create {}", log.display()))?;
    // The kernel ends it when this process dies, whatever it dies of.
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-accel", "tcg", "-cpu", "max"])
        .args(["-smp", "2", "-m", MEMORY])
        .arg("-serial")
        .arg(format!("file:{}", log.display()))
        .arg("-drive")
        // Nobody reads it after the machine's end, so nothing need reach the host's disk.
        .arg(format!(
            "file={},if=none,id=root,format=raw,cache=unsafe",
            disk.display()
        ))
        .args(["-device", "nvme,drive=root,serial=root"])
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", KERNEL_LINE])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr);
    let child = qemu
        .spawn()
        .with_context(|| format!("failed to start `{}`", process::line(&qemu)))?;
    wait(child, log, &errors)
}

fn wait(mut child: Child, log: &Path, errors: &Path) -> Result<()> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            if status.success() {
                return Ok(());
            }
            let said = std::fs::read_to_string(errors).unwrap_or_default();
            bail!("QEMU failed ({status}): {}", said.trim());
        }
        if started.elapsed() > DEADLINE {
            // It may have ended in between; both ways it is gone afterwards.
            let _ = child.kill();
            child.wait()?;
            bail!(
                "the virtual machine had not ended after {} s: its console is in {}",
                DEADLINE.as_secs(),
                log.display()
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
