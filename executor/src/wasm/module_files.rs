//! Files of WASI preview 1, as far as they take disk.
//!
//! Each function here stands in the place of wasmtime's, asks whether there is room, and calls it.
//! Without room the guest is told `nospc`, as on a disk that is full; `xdev`, as between file systems,
//! where a file would go from a volume into the sandbox, or back.

use wasmtime::{AsContextMut, Caller, Extern, Linker};
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as wasi, WasiSnapshotPreview1 as _};
use wiggle::GuestMemory;

use crate::program::ModuleState;

/// The interface.
const MODULE: &str = "wasi_snapshot_preview1";
/// The first folder that is open from the start, after the three streams.
pub const FIRST_FOLDER: u32 = 3;
const SUCCESS: i32 = 0;
const NOENT: i32 = 44;
const NOSPC: i32 = 51;
const XDEV: i32 = 75;
/// Flags of `path_open`.
const CREAT: i32 = 1;
const EXCL: i32 = 4;
/// An address and a length.
const IOVEC_BYTES: usize = 8;

type Call<'a> = Caller<'a, ModuleState>;

/// Puts these functions in the place of wasmtime's.
pub fn bound(linker: &mut Linker<ModuleState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    bound_writes(linker)?;
    bound_entries(linker)?;
    bound_moves(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn bound_writes(linker: &mut Linker<ModuleState>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        "fd_write",
        |mut call: Call<'_>, (fd, parts, count, out): (i32, i32, i32, i32)| {
            Box::new(async move {
                let (memory, state) = split(&mut call)?;
                let len = len(memory, parts, count);
                let Some(_room) = state.files.room_for(fd as u32, len) else {
                    return Ok(NOSPC);
                };
                let memory = &mut GuestMemory::Unshared(memory);
                wasi::fd_write(&mut state.wasi, memory, fd, parts, count, out).await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_pwrite",
        |mut call: Call<'_>, (fd, parts, count, offset, out): (i32, i32, i32, i64, i32)| {
            Box::new(async move {
                let (memory, state) = split(&mut call)?;
                let len = len(memory, parts, count);
                let Some(_room) = state.files.room_for(fd as u32, len) else {
                    return Ok(NOSPC);
                };
                let memory = &mut GuestMemory::Unshared(memory);
                wasi::fd_pwrite(&mut state.wasi, memory, fd, parts, count, offset, out).await
            })
        },
    )?;
    Ok(())
}

fn bound_entries(linker: &mut Linker<ModuleState>) -> wasmtime::Result<()> {
    linker.func_wrap_async(MODULE, "path_open", |mut call: Call<'_>, open: Open| {
        Box::new(async move { path_open(&mut call, open).await })
    })?;
    linker.func_wrap_async(
        MODULE,
        "path_create_directory",
        |mut call: Call<'_>, (folder, path, len): (i32, i32, i32)| {
            Box::new(async move {
                let (memory, state) = split(&mut call)?;
                let Some(_room) = state.files.room_for_entry(folder as u32) else {
                    return Ok(NOSPC);
                };
                let memory = &mut GuestMemory::Unshared(memory);
                wasi::path_create_directory(&mut state.wasi, memory, folder, path, len).await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "path_symlink",
        |mut call: Call<'_>, (old, old_len, folder, new, new_len): (i32, i32, i32, i32, i32)| {
            Box::new(async move {
                let (memory, state) = split(&mut call)?;
                let Some(_room) = state.files.room_for_entry(folder as u32) else {
                    return Ok(NOSPC);
                };
                let memory = &mut GuestMemory::Unshared(memory);
                let wasi = &mut state.wasi;
                wasi::path_symlink(wasi, memory, old, old_len, folder, new, new_len).await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_renumber",
        |mut call: Call<'_>, (from, to): (i32, i32)| {
            Box::new(async move {
                let (memory, state) = split(&mut call)?;
                let memory = &mut GuestMemory::Unshared(memory);
                let answer = wasi::fd_renumber(&mut state.wasi, memory, from, to).await?;
                if answer == SUCCESS {
                    state.files.opened(to as u32, from as u32);
                }
                Ok(answer)
            })
        },
    )?;
    Ok(())
}

fn bound_moves(linker: &mut Linker<ModuleState>) -> wasmtime::Result<()> {
    type Link = (i32, i32, i32, i32, i32, i32, i32);
    linker.func_wrap_async(MODULE, "path_link", |mut call: Call<'_>, link: Link| {
        Box::new(async move {
            let (from, flags, old, old_len, to, new, new_len) = link;
            let (memory, state) = split(&mut call)?;
            if state.files.are_apart(from as u32, to as u32) {
                return Ok(XDEV);
            }
            let Some(_room) = state.files.room_for_entry(to as u32) else {
                return Ok(NOSPC);
            };
            let _move = state.files.begin_move(to as u32).await;
            let memory = &mut GuestMemory::Unshared(memory);
            let wasi = &mut state.wasi;
            wasi::path_link(wasi, memory, from, flags, old, old_len, to, new, new_len).await
        })
    })?;
    type Rename = (i32, i32, i32, i32, i32, i32);
    linker.func_wrap_async(
        MODULE,
        "path_rename",
        |mut call: Call<'_>, names: Rename| {
            Box::new(async move {
                let (from, old, old_len, to, new, new_len) = names;
                let (memory, state) = split(&mut call)?;
                if state.files.are_apart(from as u32, to as u32) {
                    return Ok(XDEV);
                }
                let _move = state.files.begin_move(to as u32).await;
                let memory = &mut GuestMemory::Unshared(memory);
                let wasi = &mut state.wasi;
                wasi::path_rename(wasi, memory, from, old, old_len, to, new, new_len).await
            })
        },
    )?;
    Ok(())
}

/// Folder, whether links are followed, path and its length, how, rights, rights of what is below,
/// flags, and where the answer goes.
type Open = (i32, i32, i32, i32, i32, i64, i64, i32, i32);

/// On a full disk a file that is there can be opened all the same, to make it shorter.
async fn path_open(call: &mut Call<'_>, open: Open) -> wasmtime::Result<i32> {
    let (folder, follow, path, path_len, mut how, rights, rights_below, flags, out) = open;
    let (memory, state) = split(call)?;
    let creates = how & CREAT != 0;
    let room = creates.then(|| state.files.room_for_entry(folder as u32));
    let is_full = matches!(room, Some(None));
    if is_full {
        if how & EXCL != 0 {
            return Ok(NOSPC);
        }
        how &= !CREAT;
    }
    let guest = &mut GuestMemory::Unshared(memory);
    let answer = wasi::path_open(
        &mut state.wasi,
        guest,
        folder,
        follow,
        path,
        path_len,
        how,
        rights,
        rights_below,
        flags,
        out,
    )
    .await?;
    match answer {
        SUCCESS => {
            let opened = guest.read(wiggle::GuestPtr::<u32>::new(out as u32))?;
            state.files.opened(opened, folder as u32);
            Ok(SUCCESS)
        }
        NOENT if is_full => Ok(NOSPC),
        refused => Ok(refused),
    }
}

/// The guest's memory, and what it can reach. As wasmtime's own functions do, each call may copy so
/// much of the memory.
fn split<'a>(call: &'a mut Call<'_>) -> wasmtime::Result<(&'a mut [u8], &'a mut ModuleState)> {
    let Some(Extern::Memory(memory)) = call.get_export("memory") else {
        return Err(wasmtime::Error::msg("the module exports no `memory`"));
    };
    let most = call.as_context_mut().hostcall_fuel();
    let (memory, state) = memory.data_and_store_mut(call);
    state.wasi.set_hostcall_fuel(most);
    Ok((memory, state))
}

/// What is written: the first part with anything in it. Wrong addresses are told by who writes.
fn len(memory: &[u8], parts: i32, count: i32) -> u64 {
    let parts = memory.get(parts as u32 as usize..).unwrap_or_default();
    let parts = parts.chunks_exact(IOVEC_BYTES).take(count as u32 as usize);
    let mut lens = parts.map(|part| u32::from_le_bytes([part[4], part[5], part[6], part[7]]));
    lens.find(|len| *len > 0).unwrap_or(0).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_the_first_part_with_anything_in_it() {
        let mut memory = [0; 32];
        memory[20] = 7;
        memory[28] = 9;
        assert_eq!(len(&memory, 8, 2), 7);
        assert_eq!(len(&memory, 8, 1), 0);
        assert_eq!(len(&memory, 24, -1), 9);
        assert_eq!(len(&memory, -8, 5), 0);
    }
}
