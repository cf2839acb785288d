//! From an artifact's bytes to machine code.

use std::path::Path;

use tepui_types::task::reason;
use tepui_types::{Digest, Reason};
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use crate::program::{Compiled, invalid, not_valid};

/// The first four bytes of any WebAssembly, then version and layer.
const MAGIC: &[u8; 4] = b"\0asm";
const CORE_MODULE: [u8; 4] = [1, 0, 0, 0];
const COMPONENT_LAYER: [u8; 2] = [1, 0];

enum Kind {
    Module,
    Component,
}

impl Kind {
    fn of(bytes: &[u8]) -> Result<Self, Reason> {
        match bytes.split_first_chunk() {
            Some((MAGIC, rest)) if rest.starts_with(&CORE_MODULE) => Ok(Self::Module),
            Some((MAGIC, rest)) if rest.get(2..4) == Some(&COMPONENT_LAYER) => Ok(Self::Component),
            Some((MAGIC, _)) => Err(invalid("it is WebAssembly of an unknown version")),
            _ => Err(invalid(
                "the artifact is not WebAssembly: it does not begin with the bytes `\\0asm`. \
                 Upload the compiled .wasm file",
            )),
        }
    }
}

/// The bytes with this digest, which lie at `path`.
pub fn read(digest: Digest, path: &Path) -> Result<Vec<u8>, Reason> {
    let bytes = std::fs::read(path).map_err(|error| unavailable(digest, path, error))?;
    if Digest::of(&bytes) != digest {
        return Err(damaged(digest, path));
    }
    Ok(bytes)
}

/// The artifact cannot be read.
pub fn unavailable(digest: Digest, path: &Path, why: impl std::fmt::Display) -> Reason {
    let message = format!(
        "the artifact {digest} cannot be had from {}: {why}",
        path.display()
    );
    Reason::new(reason::ARTIFACT_UNAVAILABLE, message)
}

/// The file has other bytes than those that were asked for.
pub fn damaged(digest: Digest, path: &Path) -> Reason {
    unavailable(digest, path, "the bytes there have another digest")
}

/// Compiles for this process.
pub fn compile(engine: &Engine, bytes: &[u8]) -> Result<Compiled, Reason> {
    match Kind::of(bytes)? {
        Kind::Module => Module::new(engine, bytes)
            .map(Compiled::Module)
            .map_err(|error| not_valid("module", &error)),
        Kind::Component => Component::new(engine, bytes)
            .map(Compiled::Component)
            .map_err(|error| not_valid("component", &error)),
    }
}

/// Compiles for a file.
pub fn precompile(engine: &Engine, bytes: &[u8]) -> Result<Vec<u8>, Reason> {
    match Kind::of(bytes)? {
        Kind::Module => engine
            .precompile_module(bytes)
            .map_err(|error| not_valid("module", &error)),
        Kind::Component => engine
            .precompile_component(bytes)
            .map_err(|error| not_valid("component", &error)),
    }
}
