//! Components in a compiler's process: what it refuses, what stops it, and what is kept of its work.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tepui_master::frameworks::compiler::process::Refusal;
use tepui_master::frameworks::compiler::{CompileError, Limits};
use tepui_master::frameworks::{Compiler, ComponentError};
use tepui_types::{Bytes, Digest};

use crate::host::{Master, compiler, guest};

/// A compiler that nobody can start.
fn no_compiler() -> Compiler {
    Compiler {
        program: "/nowhere/tepui-master".into(),
        ..Compiler::default()
    }
}

/// A component of functions that do nothing but sums, and far too many.
fn bomb() -> Vec<u8> {
    // (module (func (param i64) (result i64) local.get 0 local.get 0 i64.add …)…)
    let mut body = vec![0, 0x20, 0];
    body.extend([0x20, 0, 0x7c].repeat(100_000));
    body.push(0x0b);
    let body = [leb(body.len()), body].concat();
    let count = 50;
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    module.extend(section(1, &[1, 0x60, 1, 0x7e, 1, 0x7e]));
    module.extend(section(3, &[leb(count), vec![0; count]].concat()));
    module.extend(section(10, &[leb(count), body.repeat(count)].concat()));
    [b"\0asm\x0d\0\x01\0".to_vec(), section(1, &module)].concat()
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [vec![id], leb(content.len()), content.to_vec()].concat()
}

/// A number as WebAssembly writes it.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// The compiled components that a master keeps.
fn kept(master: &Master) -> Vec<PathBuf> {
    let entries = fs::read_dir(master.folder.code()).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// The same folder under another compiler.
async fn restart(master: Master, compiler: Compiler) -> Master {
    let place = master.place.clone();
    drop(master);
    Master::start_at(place, compiler, None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_framework_is_refused_before_it_is_deployed() {
    let master = Master::start(None).await;
    let garbage = master.upload(b"hello".to_vec()).await;
    let error = master.frameworks.validate(garbage).await.unwrap_err();
    assert!(
        matches!(error, ComponentError::Refused(Refusal::NotWasm(_))),
        "{error}"
    );
    let unknown = Digest::of(b"nobody has this");
    let error = master.frameworks.validate(unknown).await.unwrap_err();
    assert!(error.to_string().contains("upload it first"), "{error}");
    let mut torn = std::fs::read(guest()).unwrap();
    torn.truncate(torn.len() / 2);
    let torn = master.upload(torn).await;
    let error = master.frameworks.validate(torn).await.unwrap_err();
    assert!(
        matches!(error, ComponentError::Refused(Refusal::Invalid(_))),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compilation_above_its_limits_is_refused_and_the_master_lives() {
    let generous = Limits::default();
    let limited = |limits| Compiler {
        limits,
        ..compiler()
    };
    let memory = Bytes::mib(64).0;
    let impatient = Compiler {
        wait: Duration::ZERO,
        ..compiler()
    };
    let mut master = Master::start(None).await;
    let framework = master.deploy("unruly", "").await;
    for (compiler, above) in [
        (limited(Limits { memory, ..generous }), "64 MiB of memory"),
        (
            limited(Limits {
                cpu_s: 1,
                ..generous
            }),
            "1 s of processor time",
        ),
        (
            limited(Limits {
                code: 0,
                ..generous
            }),
            "0 B of compiled code",
        ),
        (impatient, "more than 0 s"),
    ] {
        master = restart(master, compiler).await;
        // For its code alone a small one will do.
        let bytes = match above.contains("code") {
            true => b"\0asm\x0d\0\x01\0".to_vec(),
            false => bomb(),
        };
        let digest = master.upload(bytes).await;
        let error = master.frameworks.validate(digest).await.unwrap_err();
        let ComponentError::Compile(CompileError::OverLimit(_)) = &error else {
            panic!("{above}: {error}")
        };
        assert!(error.to_string().contains(above), "{error}");
        assert_eq!(kept(&master).len(), 1, "nothing is left of it");
        assert_eq!(master.text(framework, "GET", "/count").await, "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_that_crashes_or_cannot_start_is_named() {
    let master =
        Master::start_at(Arc::new(tempfile::tempdir().unwrap()), no_compiler(), None).await;
    let digest = master.upload(fs::read(guest()).unwrap()).await;
    let error = master.frameworks.validate(digest).await.unwrap_err();
    assert!(
        error.to_string().contains("/nowhere/tepui-master"),
        "{error}"
    );

    let program = master.place.path().join("crashes");
    fs::write(&program, "#!/bin/sh\nkill -SEGV $$\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let crashing = Compiler {
        program,
        ..compiler()
    };
    let master = restart(master, crashing).await;
    let error = master.frameworks.validate(digest).await.unwrap_err();
    assert!(error.to_string().contains("signal: 11"), "{error}");
    let master = restart(master, compiler()).await;
    master.frameworks.validate(digest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_compiled_once_is_not_compiled_again() {
    let master = Master::start(None).await;
    let framework = master.deploy("unruly", "").await;
    assert_eq!(master.text(framework, "POST", "/add").await, "1");
    let master = restart(master, no_compiler()).await;
    assert_eq!(master.text(framework, "POST", "/add").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_or_foreign_code_is_never_run() {
    let master = Master::start(None).await;
    let digest = master.upload(fs::read(guest()).unwrap()).await;
    master.frameworks.validate(digest).await.unwrap();
    let [code] = kept(&master).try_into().unwrap();
    let good = fs::read(&code).unwrap();

    // One bit of it, with no compiler to make up for it.
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    let master = restart(master, no_compiler()).await;
    fs::write(&code, &bad).unwrap();
    let error = master.frameworks.validate(digest).await.unwrap_err();
    assert!(matches!(error, ComponentError::Compile(_)), "{error}");

    // Whole, but nothing that this engine has made.
    let foreign = b"whatever".to_vec();
    let name = code.file_name().unwrap().to_str().unwrap();
    let (made_from, _) = name.rsplit_once('-').unwrap();
    let foreign_name = format!("{made_from}-{}", Digest::of(&foreign).hex());
    fs::write(master.folder.code().join(foreign_name), &foreign).unwrap();
    let master = restart(master, compiler()).await;
    master.frameworks.validate(digest).await.unwrap();
    assert_eq!(kept(&master), [code], "it is replaced");
    assert_eq!(fs::read(&kept(&master)[0]).unwrap(), good);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_artifact_is_named() {
    let master = Master::start(None).await;
    let digest = master.upload(fs::read(guest()).unwrap()).await;
    fs::write(master.folder.artifacts().join(digest.hex()), "evil").unwrap();
    let error = master.frameworks.validate(digest).await.unwrap_err();
    let ComponentError::Read(_, cause) = error else {
        panic!("{error}")
    };
    let cause = cause.to_string();
    assert!(
        cause.contains("is damaged") && cause.contains(&digest.hex()),
        "{cause}"
    );
}
