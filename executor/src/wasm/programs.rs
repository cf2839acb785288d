//! The programs of this process, by digest.
//!
//! A program is made once, however many launches of it come at the same time, and off the guests'
//! threads. What is wrong with its bytes is kept like a program: a thousand launches of garbage look
//! at it once. Where the agent keeps a folder of machine code, it comes from there, and what is not
//! there yet is compiled by a process apart.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tepui_types::task::reason;
use tepui_types::{Digest, Reason};
use tokio::sync::{OnceCell, Semaphore};
use wasmtime::Engine;

use crate::code_cache::CodeCache;
use crate::compiler;
use crate::machine_code;
use crate::program::{Compiled, Linkers, Program};

/// Programs that are kept when nothing runs them. A compiled program takes
/// some MiB.
const MAX_PROGRAMS: usize = 64;
/// Processes that compile at once: each keeps all processors busy by itself.
const MAX_COMPILERS: usize = 2;

/// All programs of this process.
pub struct Programs {
    engine: Engine,
    linkers: Arc<Linkers>,
    /// Machine code on disk, where the agent keeps some.
    code: Option<Arc<CodeCache>>,
    compilers: Semaphore,
    kept: Mutex<Kept>,
}

type Slot = Arc<OnceCell<Result<Arc<Program>, Reason>>>;

#[derive(Default)]
struct Kept {
    slots: HashMap<Digest, (Slot, u64)>,
    /// Counts uses: the slot with the lowest number was used longest ago.
    uses: u64,
}

impl Kept {
    fn slot(&mut self, digest: Digest) -> Slot {
        self.uses += 1;
        if self.slots.len() >= MAX_PROGRAMS && !self.slots.contains_key(&digest) {
            let oldest = self.slots.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(digest, _)| *digest) {
                self.slots.remove(&oldest);
            }
        }
        let (slot, used) = self.slots.entry(digest).or_default();
        *used = self.uses;
        slot.clone()
    }
}

impl Programs {
    /// None made yet. `code` is the folder of machine code.
    pub fn new(engine: Engine, code: Option<PathBuf>) -> wasmtime::Result<Self> {
        Ok(Self {
            linkers: Arc::new(Linkers::new(engine.clone())?),
            code: code.map(|folder| Arc::new(CodeCache::new(folder, &engine))),
            compilers: Semaphore::new(MAX_COMPILERS),
            kept: Mutex::default(),
            engine,
        })
    }

    /// The program with this digest, whose bytes lie at `path`. To be called
    /// inside a tokio runtime.
    pub async fn get(&self, digest: Digest, path: PathBuf) -> Result<Arc<Program>, Reason> {
        let slot = self
            .kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .slot(digest);
        let make = || async {
            match &self.code {
                Some(code) => self.map_code(code, digest, &path).await,
                None => self.compile_here(digest, path).await,
            }
        };
        slot.get_or_try_init(make).await?.clone()
    }

    /// Compiled here. The outer error may pass: the bytes may be there the next time.
    async fn compile_here(
        &self,
        digest: Digest,
        path: PathBuf,
    ) -> Result<Result<Arc<Program>, Reason>, Reason> {
        let (engine, linkers) = (self.engine.clone(), self.linkers.clone());
        blocking(move || {
            let bytes = machine_code::read(digest, &path)?;
            let compiled = machine_code::compile(&engine, &bytes);
            let program = compiled.and_then(|compiled| linkers.link(&compiled));
            Ok(program.map(Arc::new))
        })
        .await?
    }

    /// Mapped from the folder, into which another process compiles it first if need be.
    async fn map_code(
        &self,
        code: &Arc<CodeCache>,
        digest: Digest,
        path: &Path,
    ) -> Result<Result<Arc<Program>, Reason>, Reason> {
        if let Some(program) = self.load(code, digest).await? {
            return Ok(program);
        }
        // The semaphore is never closed.
        let _turn = self.compilers.acquire().await;
        if let Err(refused) = compiler::compile(digest, path, code.folder()).await? {
            return Ok(Err(refused));
        }
        let loaded = self.load(code, digest).await?;
        loaded.ok_or_else(|| {
            let message = "its machine code is gone as soon as it is there: see that the agent's \
                           disk has room";
            Reason::new(reason::EXECUTOR_FAILED, message)
        })
    }

    async fn load(
        &self,
        code: &Arc<CodeCache>,
        digest: Digest,
    ) -> Result<Option<Result<Arc<Program>, Reason>>, Reason> {
        let (engine, linkers, code) = (self.engine.clone(), self.linkers.clone(), code.clone());
        blocking(move || {
            let compiled: Compiled = code.load(&engine, digest)?;
            Some(linkers.link(&compiled).map(Arc::new))
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Reason> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Reason::new(reason::EXECUTOR_FAILED, format!("compiling: {error}")))
}
