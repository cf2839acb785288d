//! `wasi:filesystem` of components, as far as it takes disk.
//!
//! Each function here stands in the place of wasmtime's, asks whether there is room, and calls it.
//! Without room the guest is told `insufficient-space`, as on a disk that is full; `cross-device`, as
//! between file systems, where a file would go from a volume into the sandbox, or back.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, LinkerInstance, Resource};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, ErrorCode, Host as _, HostDescriptor, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{
    DynOutputStream, FsError, FsResult, OutputStream, Pollable, StreamError, StreamResult,
};

use crate::disk::{Disk, Room};
use crate::program::ComponentState;

/// The interfaces by the release of them that wasmtime gives. Were it another one, guests would
/// have no limit; a test fills a disk.
const TYPES: &str = "wasi:filesystem/types@0.2.12";
const PREOPENS: &str = "wasi:filesystem/preopens@0.2.12";

type Handle = Resource<Descriptor>;
type Context<'a> = StoreContextMut<'a, ComponentState>;
type Answer<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

/// Puts these functions in the place of wasmtime's.
pub fn bound(linker: &mut Linker<ComponentState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    bound_preopens(&mut linker.instance(PREOPENS)?)?;
    let mut types = linker.instance(TYPES)?;
    bound_writes(&mut types)?;
    bound_streams(&mut types)?;
    bound_entries(&mut types)?;
    bound_moves(&mut types)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn bound_preopens(preopens: &mut LinkerInstance<'_, ComponentState>) -> wasmtime::Result<()> {
    preopens.func_wrap("get-directories", |mut store: Context<'_>, ()| {
        let state = store.data_mut();
        let folders = state.filesystem().get_directories()?;
        state
            .files
            .preopened(folders.iter().map(|(handle, _)| handle.rep()));
        Ok((folders,))
    })
}

fn bound_writes(types: &mut LinkerInstance<'_, ComponentState>) -> wasmtime::Result<()> {
    types.func_wrap_async(
        "[method]descriptor.write",
        |mut store: Context<'_>, (file, bytes, offset): (Handle, Vec<u8>, u64)| {
            Box::new(async move {
                let state = store.data_mut();
                let Some(_room) = state.files.room_for(file.rep(), bytes.len() as u64) else {
                    return full();
                };
                let written = state.filesystem().write(file, bytes, offset).await;
                answer(state, written)
            })
        },
    )
}

fn bound_streams(types: &mut LinkerInstance<'_, ComponentState>) -> wasmtime::Result<()> {
    types.func_wrap(
        "[method]descriptor.write-via-stream",
        |mut store: Context<'_>, (file, offset): (Handle, u64)| {
            let (state, handle) = (store.data_mut(), file.rep());
            let stream = state.filesystem().write_via_stream(file, offset);
            answer_stream(state, handle, stream)
        },
    )?;
    types.func_wrap(
        "[method]descriptor.append-via-stream",
        |mut store: Context<'_>, (file,): (Handle,)| {
            let (state, handle) = (store.data_mut(), file.rep());
            let stream = state.filesystem().append_via_stream(file);
            answer_stream(state, handle, stream)
        },
    )
}

fn bound_entries(types: &mut LinkerInstance<'_, ComponentState>) -> wasmtime::Result<()> {
    type Open = (Handle, PathFlags, String, OpenFlags, DescriptorFlags);
    types.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store: Context<'_>, open: Open| {
            Box::new(async move { open_at(&mut store, open).await })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.create-directory-at",
        |mut store: Context<'_>, (folder, path): (Handle, String)| {
            Box::new(async move {
                let state = store.data_mut();
                let Some(_room) = state.files.room_for_entry(folder.rep()) else {
                    return full();
                };
                let made = state.filesystem().create_directory_at(folder, path).await;
                answer(state, made)
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.symlink-at",
        |mut store: Context<'_>, (folder, old, new): (Handle, String, String)| {
            Box::new(async move {
                let state = store.data_mut();
                let Some(_room) = state.files.room_for_entry(folder.rep()) else {
                    return full();
                };
                let made = state.filesystem().symlink_at(folder, old, new).await;
                answer(state, made)
            })
        },
    )?;
    Ok(())
}

fn bound_moves(types: &mut LinkerInstance<'_, ComponentState>) -> wasmtime::Result<()> {
    type Link = (Handle, PathFlags, String, Handle, String);
    types.func_wrap_async(
        "[method]descriptor.link-at",
        |mut store: Context<'_>, (from, flags, old, to, new): Link| {
            Box::new(async move {
                let state = store.data_mut();
                if state.files.are_apart(from.rep(), to.rep()) {
                    return Ok((Err(ErrorCode::CrossDevice),));
                }
                let Some(_room) = state.files.room_for_entry(to.rep()) else {
                    return full();
                };
                let _move = state.files.begin_move(to.rep()).await;
                let made = state.filesystem().link_at(from, flags, old, to, new).await;
                answer(state, made)
            })
        },
    )?;
    type Rename = (Handle, String, Handle, String);
    types.func_wrap_async(
        "[method]descriptor.rename-at",
        |mut store: Context<'_>, (from, old, to, new): Rename| {
            Box::new(async move {
                let state = store.data_mut();
                if state.files.are_apart(from.rep(), to.rep()) {
                    return Ok((Err(ErrorCode::CrossDevice),));
                }
                let _move = state.files.begin_move(to.rep()).await;
                let moved = state.filesystem().rename_at(from, old, to, new).await;
                answer(state, moved)
            })
        },
    )
}

/// On a full disk a file that is there can be opened all the same, to make it shorter.
async fn open_at(
    store: &mut Context<'_>,
    (folder, follow, path, mut how, flags): (Handle, PathFlags, String, OpenFlags, DescriptorFlags),
) -> Answer<Handle> {
    let (state, parent) = (store.data_mut(), folder.rep());
    let creates = how.contains(OpenFlags::CREATE);
    let room = creates.then(|| state.files.room_for_entry(parent));
    let is_full = matches!(room, Some(None));
    if is_full {
        if how.contains(OpenFlags::EXCLUSIVE) {
            return full();
        }
        how &= !OpenFlags::CREATE;
    }
    let opened = state
        .filesystem()
        .open_at(folder, follow, path, how, flags)
        .await;
    match answer(state, opened)? {
        (Ok(handle),) => {
            state.files.opened(handle.rep(), parent);
            Ok((Ok(handle),))
        }
        (Err(ErrorCode::NoEntry),) if is_full => full(),
        refused => Ok(refused),
    }
}

fn full<T>() -> Answer<T> {
    Ok((Err(ErrorCode::InsufficientSpace),))
}

fn answer<T>(state: &mut ComponentState, result: FsResult<T>) -> Answer<T> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(state.filesystem().convert_error_code(error)?),)),
    }
}

fn answer_stream(
    state: &mut ComponentState,
    handle: u32,
    stream: FsResult<Resource<DynOutputStream>>,
) -> Answer<Resource<DynOutputStream>> {
    let stream = stream.and_then(|stream| {
        let Some(disk) = state.files.disk_of(handle) else {
            return Ok(stream);
        };
        let disk = disk.clone();
        let inner = state.table.delete(stream).map_err(FsError::from)?;
        let bounded: DynOutputStream = Box::new(Bounded {
            inner,
            disk,
            writing: Room::default(),
        });
        state.table.push(bounded).map_err(FsError::from)
    });
    answer(state, stream)
}

/// A stream into a file of the sandbox.
struct Bounded {
    inner: DynOutputStream,
    disk: Arc<Disk>,
    /// Of what goes on after `write` has returned, until the stream is ready again.
    writing: Room,
}

impl Bounded {
    fn room_for(&self, bytes: usize) -> StreamResult<Room> {
        let room = self.disk.room_for(bytes as u64);
        // wasmtime knows the code of such errors, and tells the guest.
        let full = || io::Error::from_raw_os_error(libc::ENOSPC).into();
        room.ok_or_else(|| StreamError::LastOperationFailed(full()))
    }
}

#[async_trait]
impl OutputStream for Bounded {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let room = self.room_for(bytes.len())?;
        self.inner.write(bytes)?;
        // It was ready, or that was a trap: what it had before is written.
        self.writing = room;
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.inner.check_write()
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.ready().await;
        let _room = self.room_for(bytes.len())?;
        self.inner.blocking_write_and_flush(bytes).await
    }

    async fn write_ready(&mut self) -> StreamResult<usize> {
        self.ready().await;
        self.inner.check_write()
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
        self.writing = Room::default();
    }
}

#[async_trait]
impl Pollable for Bounded {
    async fn ready(&mut self) {
        self.inner.ready().await;
        self.writing = Room::default();
    }
}
