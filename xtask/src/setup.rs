//! What a fresh machine lacks: Debian packages, installed once.
//!
//! `build::everything` asks for [`BUILD`], `cargo xtask test` for [`TEST`] as well. What is wanted
//! is looked for as a program or a file, not as a package, so a machine that has it from elsewhere
//! is left alone. Without root or without apt nothing is tried: the error holds the exact command.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{process, say};

/// One thing that has to be on the machine.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    /// Debian's package.
    package: &'static str,
    /// What it is for, in the reader's words.
    purpose: &'static str,
    present: fn() -> bool,
}

/// What every build needs.
pub const BUILD: [Need; 3] = [
    Need {
        package: "g++",
        purpose: "compiles RocksDB",
        present: || process::exists("c++") || process::exists("g++"),
    },
    Need {
        package: "libclang-dev",
        purpose: "reads RocksDB's headers",
        present: has_libclang,
    },
    Need {
        package: "protobuf-compiler",
        purpose: "compiles raft's messages",
        present: || std::env::var_os("PROTOC").is_some() || process::exists("protoc"),
    },
];

/// What only the tests need.
pub const TEST: [Need; 15] = [
    Need {
        package: "chromium",
        purpose: "shows the dashboard to the browser test",
        present: || process::exists("chromium"),
    },
    Need {
        package: "chromium-driver",
        purpose: "drives the browser",
        present: || process::exists("chromedriver"),
    },
    Need {
        package: "clang-19",
        purpose: "compiles the C task",
        present: || process::exists("clang-19"),
    },
    Need {
        package: "lld-19",
        purpose: "links the C task",
        present: || process::exists("wasm-ld-19"),
    },
    Need {
        package: "libclang-rt-19-dev-wasm32",
        purpose: "is the C task's compiler runtime",
        present: || installed("libclang-rt-19-dev-wasm32"),
    },
    Need {
        package: "wasi-libc",
        purpose: "is the C task's standard library",
        present: || installed("wasi-libc"),
    },
    Need {
        package: "iproute2",
        purpose: "gives the network tests hosts of their own",
        present: || process::exists("ip"),
    },
    Need {
        package: "iptables",
        purpose: "drops packets between those hosts",
        present: || process::exists("iptables"),
    },
    Need {
        package: "curl",
        purpose: "asks from those hosts",
        present: || process::exists("curl"),
    },
    Need {
        package: "containernetworking-plugins",
        purpose: "attaches tasks to networks",
        present: || Path::new("/usr/lib/cni/bridge").exists(),
    },
    Need {
        package: "docker-registry",
        purpose: "has the images that the tests pull",
        present: || process::exists("docker-registry"),
    },
    Need {
        package: "skopeo",
        purpose: "pushes and saves those images",
        present: || process::exists("skopeo"),
    },
    Need {
        package: "umoci",
        purpose: "makes those images",
        present: || process::exists("umoci"),
    },
    Need {
        package: "redis-server",
        purpose: "is a database that agents run",
        present: || process::exists("redis-server"),
    },
    Need {
        package: "busybox-static",
        purpose: "is what runs in them",
        present: || process::exists("busybox"),
    },
];

/// What only the virtual machine needs; its kernel is not installed.
pub const VM: [Need; 4] = [
    Need {
        package: "qemu-system-x86",
        purpose: "emulates a machine with a kernel of its own",
        present: || process::exists("qemu-system-x86_64"),
    },
    Need {
        package: "busybox-static",
        purpose: "is what that machine runs besides",
        present: || process::exists("busybox"),
    },
    Need {
        package: "e2fsprogs",
        purpose: "makes its disk",
        present: || exists_for_root("mke2fs"),
    },
    Need {
        package: "xfsprogs",
        purpose: "makes a disk with quotas in it",
        present: || exists_for_root("mkfs.xfs"),
    },
];

/// Whether there is a program, also where only root's PATH leads.
fn exists_for_root(program: &str) -> bool {
    let folders = ["/usr/sbin", "/sbin"].map(Path::new);
    process::exists(program) || folders.iter().any(|f| f.join(program).exists())
}

/// Installs those packages that are missing, or says how to.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !(need.present)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for need in &missing {
        say::note(&format!("missing: {} ({})", need.package, need.purpose));
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let by_hand = format!(
        "apt-get update && apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    );
    if !process::exists("apt-get") {
        bail!(
            "this machine has no apt-get. Install what Debian calls: {}",
            packages.join(" ")
        );
    }
    if !is_root() {
        bail!(
            "only root can install packages. Run this, then the same command again:\n\n    sudo sh -c '{by_hand}'\n"
        );
    }
    say::step(&format!("installing {}", packages.join(" ")), || {
        // One broken third-party source must not keep Debian's own packages out.
        if let Err(error) = process::run(apt_get().args(["-qq", "update"])) {
            say::note(&format!(
                "{error:#}; going on with the lists that are there"
            ));
        }
        process::run(
            apt_get()
                .args(["-qq", "install", "-y", "--no-install-recommends"])
                .args(&packages),
        )
    })?;
    let absent: Vec<&str> = missing
        .iter()
        .filter(|need| !(need.present)())
        .map(|need| need.package)
        .collect();
    if !absent.is_empty() {
        bail!(
            "installed, and yet not found: {}. By hand: {by_hand}",
            absent.join(" ")
        );
    }
    Ok(())
}

/// `apt-get`, which asks nothing and waits for others of its kind.
pub fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Another apt may be at work, for example the machine's own daily one.
        .args(["-o", "DPkg::Lock::Timeout=300"]);
    command
}

fn is_root() -> bool {
    process::output(Command::new("id").arg("-u")).is_ok_and(|id| id == "0")
}

fn installed(package: &str) -> bool {
    process::output(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

/// Looks where clang-sys looks: the folder it is told, LLVM's own folders, the system's.
fn has_libclang() -> bool {
    let mut folders = vec!["/usr/lib".into(), "/usr/local/lib".into()];
    folders.extend(std::env::var_os("LIBCLANG_PATH").map(Into::into));
    for (parent, prefix, below) in [
        ("/usr/lib", "llvm-", "lib"),
        ("/usr/lib", "x86_64-linux-gnu", ""),
        ("/usr/lib", "aarch64-linux-gnu", ""),
    ] {
        let matching = entries(Path::new(parent))
            .into_iter()
            .filter(|entry| file_name(entry).starts_with(prefix));
        folders.extend(matching.map(|folder| folder.join(below)));
    }
    folders
        .iter()
        .flat_map(|folder| entries(folder))
        .any(|entry| is_libclang(&file_name(&entry)))
}

/// `libclang-cpp.so` is another library, with clang's C++ interface.
fn is_libclang(name: &str) -> bool {
    let versioned = name.starts_with("libclang-") && !name.starts_with("libclang-cpp");
    name.starts_with("libclang.so") || versioned && name.contains(".so")
}

fn entries(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_c_interface_of_clang_is_not_taken_for_its_c_plus_plus_one() {
        for name in ["libclang.so", "libclang.so.1", "libclang-14.so.14.0.6"] {
            assert!(is_libclang(name), "{name}");
        }
        for name in ["libclang-cpp.so.14", "libclang-14.a", "libLLVM-14.so"] {
            assert!(!is_libclang(name), "{name}");
        }
    }

    #[test]
    fn nothing_is_installed_when_nothing_is_missing() {
        let need = Need {
            package: "no-such-package",
            purpose: "is here already",
            present: || true,
        };
        ensure(&[need]).unwrap();
    }
}
