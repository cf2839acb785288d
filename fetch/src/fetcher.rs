//! The fetcher of an agent: fills sandboxes.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use tepui_transfer::{Joined, Report, StopOnDrop, alone, blocking};
use tepui_types::Digest;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::cache::{Cache, Lease};
use crate::config::FetchConfig;
use crate::error::FetchError;
use crate::files::{copy_checked, open_allowed, open_own};
use crate::http::{Answer, Ask, Http};
use crate::item::{Extract, Origin, Request, Wanted};
use crate::place::{From, Got, place};
use crate::progress::{Far, Progress, Tally};
use crate::sandbox::Sandbox;

/// Items of one request: more than anyone lists by hand; many files are better packed.
const MAX_ITEMS: usize = 1000;
/// Items of one request that are fetched before it is their turn to be put in place.
const AHEAD: usize = 4;

/// Fills sandboxes, and keeps what is to be kept for later ones.
pub struct Fetcher {
    shared: Arc<Shared>,
    joined: Joined<Key, Far, (Arc<Lease>, u64), FetchError>,
    /// Unpacking at a time: it takes processor time that belongs to tasks.
    placing: Arc<Semaphore>,
}

struct Shared {
    cache: Arc<Cache>,
    http: Http,
    config: Arc<FetchConfig>,
}

/// What downloads are joined by: the URL as a whole, and what it has to have.
type Key = (Digest, Option<Digest>);

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filled {
    /// Bytes that lie in the sandbox.
    pub bytes: u64,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fetcher")
    }
}

impl Fetcher {
    /// Takes the folder of kept downloads for this process, making it if there is none.
    ///
    /// # Errors
    /// Another process has it, or the disk does not do as it should.
    pub async fn open(dir: &Path, config: FetchConfig) -> Result<Self, FetchError> {
        let (dir, config) = (dir.to_owned(), Arc::new(config));
        let max_bytes = config.max_cache_bytes;
        let cache = blocking(move || Cache::open(&dir, max_bytes)).await?;
        Ok(Self {
            placing: Arc::new(Semaphore::new(config.parallel_downloads.max(1))),
            shared: Arc::new(Shared {
                cache,
                http: Http::new(config.clone()),
                config,
            }),
            joined: Joined::default(),
        })
    }

    /// Bytes of downloads that are kept.
    pub fn kept_bytes(&self) -> u64 {
        self.shared.cache.bytes()
    }

    /// Fills a sandbox: all of it, or nothing.
    ///
    /// When this fails or is dropped, what was made in the sandbox is removed again; after a drop, a
    /// moment later. Files of the same names that were there before are gone then, too.
    ///
    /// # Errors
    /// The first item, in their order, that cannot be had or put in place.
    pub async fn fetch(
        &self,
        request: &Request,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Filled, FetchError> {
        if request.items.len() > MAX_ITEMS {
            let why = format!("there are more than {MAX_ITEMS}: pack them into an archive");
            return Err(FetchError::invalid("the list of items", why));
        }
        let wanted: Result<Vec<_>, _> = request.items.iter().map(Wanted::new).collect();
        let wanted = wanted?;
        let tally = Tally::new(wanted.len(), &progress);
        let mut filling = Filling::open(request).await?;
        match self
            .fill(&mut filling, &wanted, request.limit, &tally)
            .await
        {
            Ok(()) => Ok(filling.keep()),
            Err(error) => {
                filling.undo().await;
                Err(error)
            }
        }
    }

    async fn fill(
        &self,
        filling: &mut Filling,
        wanted: &[Wanted],
        limit: u64,
        tally: &Tally<'_>,
    ) -> Result<(), FetchError> {
        let items = wanted.iter().enumerate();
        let items: Vec<_> = items
            .map(|(at, wanted)| self.prepare(at, wanted, limit, tally))
            .collect();
        let got = futures::stream::iter(items);
        let mut got = std::pin::pin!(got.buffered(AHEAD));
        while let Some((at, wanted, got)) = got.try_next().await? {
            filling.place(wanted, got, &self.placing).await?;
            tally.placed(at);
        }
        Ok(())
    }

    async fn prepare<'w>(
        &self,
        at: usize,
        wanted: &'w Wanted,
        limit: u64,
        tally: &Tally<'_>,
    ) -> Result<(usize, &'w Wanted, Got), FetchError> {
        let hear = |far: Far| {
            tally.far(at, far);
            fits(wanted, far, limit)
        };
        let got = self.obtain(wanted, hear).await?;
        Ok((at, wanted, got))
    }

    async fn obtain(
        &self,
        wanted: &Wanted,
        hear: impl Fn(Far) -> Result<(), FetchError>,
    ) -> Result<Got, FetchError> {
        let shared = self.shared.clone();
        match &wanted.origin {
            Origin::Http(url) if wanted.cache => {
                let key = (Digest::of(url.as_str().as_bytes()), wanted.digest);
                let ask = ask(url, wanted);
                let start = |far| async move { shared.kept(&ask, key.0, &far).await };
                let waiting = self.joined.join(key, &wanted.name, start);
                let (lease, _) = waiting.ended(hear).await?;
                leased(lease).await
            }
            Origin::Http(url) => {
                let ask = ask(url, wanted);
                let start = |far| async move { shared.downloaded(&ask, &far).await };
                alone(&wanted.name, start).ended(hear).await
            }
            Origin::File(path) => {
                let path = path.clone();
                let open = move |config: &FetchConfig| open_allowed(&path, &config.file_folders);
                shared.here(wanted, open, hear).await
            }
            Origin::Local(path) => {
                let path = path.clone();
                shared.here(wanted, move |_| open_own(&path), hear).await
            }
        }
    }
}

impl Shared {
    /// What the cache has, or has now.
    async fn kept(
        &self,
        ask: &Ask,
        url: Digest,
        far: &Report<Far>,
    ) -> Result<(Arc<Lease>, u64), FetchError> {
        let cache = self.cache.clone();
        let digest = ask.digest;
        let found = blocking::<_, FetchError>(move || {
            Ok(match digest {
                Some(digest) => cache
                    .find(digest)
                    .map(|(lease, bytes)| (lease, bytes, None)),
                None => {
                    let found = cache.find_url(url);
                    found.map(|(lease, bytes, version)| (lease, bytes, Some(version)))
                }
            })
        });
        let (found, known) = match found.await? {
            Some((lease, bytes, known)) => (Some((Arc::new(lease), bytes)), known),
            None => (None, None),
        };
        if let (Some(found), None) = (&found, &known) {
            say_whole(far, found.1);
            return Ok(found.clone());
        }
        let ask = Ask {
            known,
            ..ask.clone()
        };
        match (self.http.download(&ask, &self.cache, far).await?, found) {
            (Answer::Same, Some(found)) => {
                say_whole(far, found.1);
                Ok(found)
            }
            (Answer::Same, None) => Err(FetchError::Unavailable {
                what: ask.name,
                why: "it says that nothing has changed, and was not asked".into(),
            }),
            (Answer::New(new), _) => {
                let cache = self.cache.clone();
                blocking(move || {
                    let lease = cache.keep(new.draft, new.digest, new.bytes)?;
                    cache.keep_url(url, new.digest, new.version)?;
                    Ok((Arc::new(lease), new.bytes))
                })
                .await
            }
        }
    }

    /// What is downloaded for one task.
    async fn downloaded(&self, ask: &Ask, far: &Report<Far>) -> Result<Got, FetchError> {
        if let Some(digest) = ask.digest {
            let cache = self.cache.clone();
            if let Some((lease, bytes)) =
                blocking::<_, FetchError>(move || Ok(cache.find(digest))).await?
            {
                say_whole(far, bytes);
                return leased(Arc::new(lease)).await;
            }
        }
        match self.http.download(ask, &self.cache, far).await? {
            Answer::New(new) => Ok(Got {
                file: Arc::new(new.file),
                from: From::Draft(Arc::new(new.draft)),
            }),
            Answer::Same => Err(FetchError::Unavailable {
                what: ask.name.clone(),
                why: "it says that nothing has changed, and was not asked".into(),
            }),
        }
    }

    /// What is on the machine.
    async fn here(
        &self,
        wanted: &Wanted,
        open: impl FnOnce(&FetchConfig) -> Result<std::fs::File, FetchError> + Send + 'static,
        hear: impl Fn(Far) -> Result<(), FetchError>,
    ) -> Result<Got, FetchError> {
        let (config, cache) = (self.config.clone(), self.cache.clone());
        let (name, digest) = (wanted.name.clone(), wanted.digest);
        let stop = StopOnDrop::default();
        let cancelled = stop.flag();
        let (got, bytes) = blocking::<_, FetchError>(move || {
            let file = open(&config)?;
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            let Some(digest) = digest else {
                let from = From::Elsewhere;
                let file = Arc::new(file);
                return Ok((Got { file, from }, length));
            };
            let limit = config.max_download_bytes;
            let (draft, file) = copy_checked(file, &name, digest, &cache, limit, &cancelled)?;
            let (file, from) = (Arc::new(file), From::Draft(Arc::new(draft)));
            Ok((Got { file, from }, length))
        })
        .await?;
        hear(Far {
            done: bytes,
            total: Some(bytes),
        })?;
        Ok(got)
    }
}

async fn leased(lease: Arc<Lease>) -> Result<Got, FetchError> {
    blocking(move || {
        Ok(Got {
            file: Arc::new(lease.open()?),
            from: From::Kept(lease),
        })
    })
    .await
}

fn ask(url: &reqwest::Url, wanted: &Wanted) -> Ask {
    Ask {
        url: url.clone(),
        name: wanted.name.clone(),
        digest: wanted.digest,
        known: None,
    }
}

fn say_whole(far: &Report<Far>, bytes: u64) {
    far.say(Far {
        done: bytes,
        total: Some(bytes),
    });
}

/// Nobody waits for what its task has no room for. Archives are counted when they are unpacked.
fn fits(wanted: &Wanted, far: Far, limit: u64) -> Result<(), FetchError> {
    let bytes = far.total.unwrap_or(0).max(far.done);
    match wanted.extract {
        Extract::None if bytes > limit => Err(FetchError::TooLarge {
            what: wanted.name.clone(),
            limit,
            fix: "ask for more disk for the task",
        }),
        _ => Ok(()),
    }
}

/// A sandbox while it is filled. Dropped, it is emptied on a thread that may block.
struct Filling {
    /// Not while something is put into it: it is on that thread then.
    sandbox: Option<Sandbox>,
    stop: StopOnDrop,
}

impl Filling {
    async fn open(request: &Request) -> Result<Self, FetchError> {
        let (path, owner, limit) = (request.sandbox.clone(), request.owner, request.limit);
        let sandbox = blocking(move || {
            let sandbox = Sandbox::open(&path, owner, limit);
            sandbox.map_err(|error| FetchError::disk("open", &path, error))
        });
        Ok(Self {
            sandbox: Some(sandbox.await?),
            stop: StopOnDrop::default(),
        })
    }

    async fn place(
        &mut self,
        wanted: &Wanted,
        got: Got,
        placing: &Arc<Semaphore>,
    ) -> Result<(), FetchError> {
        let interrupted = || FetchError::Interrupted {
            what: wanted.name.clone(),
        };
        // The semaphore is never closed.
        let turn = placing.clone().acquire_owned().await;
        let mut sandbox = self.sandbox.take().ok_or_else(interrupted)?;
        let (owned, cancelled) = (wanted.clone(), self.stop.flag());
        let placed = spawn_blocking(move || {
            let placed = place(&mut sandbox, &owned, &got, &cancelled);
            drop((got, turn));
            (sandbox, placed)
        });
        let (sandbox, placed) = placed.await.map_err(|_| interrupted())?;
        self.sandbox = Some(sandbox);
        placed
    }

    /// Takes away what was made. Where it failed while it was put in place, that thread has.
    async fn undo(mut self) {
        if let Some(sandbox) = self.sandbox.take() {
            // A panic of it leaves something behind; there is nothing that would help.
            let _ = spawn_blocking(move || drop(sandbox)).await;
        }
    }

    fn keep(mut self) -> Filled {
        let bytes = self.sandbox.as_ref().map_or(0, Sandbox::bytes);
        if let Some(sandbox) = self.sandbox.take() {
            sandbox.keep();
        }
        Filled { bytes }
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        let Some(sandbox) = self.sandbox.take() else {
            return;
        };
        // Without a runtime there is nobody whom it could hold up.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(sandbox))),
            Err(_) => drop(sandbox),
        }
    }
}
