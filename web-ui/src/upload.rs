//! A chosen file on its way to be an artifact: read once for its digest, then
//! sent by the browser itself, so that neither takes the file's size in memory.

use sha2::{Digest as _, Sha256};
use tepui_types::Digest;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Blob, File};

/// How much of a file is read at once, in bytes: quick enough that the page
/// answers in between.
const SLICE: f64 = 1024.0 * 1024.0;

/// How every WebAssembly file begins.
const MAGIC: &[u8; 4] = b"\0asm";

/// The digest of a WebAssembly file. `on_progress` is told the bytes read;
/// when it answers false, nobody waits for the digest any longer.
pub async fn digest(
    file: &File,
    on_progress: impl Fn(f64) -> bool,
) -> Result<Option<Digest>, String> {
    // The digest of a file is taken here, not by the browser: that would want
    // the whole file in memory, and a secure origin.
    let mut hasher = Sha256::new();
    let mut at = 0.0;
    while at < file.size() {
        let end = (at + SLICE).min(file.size());
        let bytes = read(file, at, end).await?;
        if at == 0.0 && !bytes.starts_with(MAGIC) {
            return Err("This is not a WebAssembly file: it does not begin with \\0asm.".into());
        }
        hasher.update(&bytes);
        at = end;
        if !on_progress(at) {
            return Ok(None);
        }
    }
    if at == 0.0 {
        return Err("The file is empty.".into());
    }
    Ok(Some(Digest(hasher.finalize().into())))
}

async fn read(file: &File, start: f64, end: f64) -> Result<Vec<u8>, String> {
    let unreadable = |_| "The file cannot be read; it may have been moved or changed.".to_owned();
    let slice: Blob = file
        .slice_with_f64_and_f64(start, end)
        .map_err(unreadable)?;
    let buffer = JsFuture::from(slice.array_buffer())
        .await
        .map_err(unreadable)?;
    Ok(js_sys::Uint8Array::new(&buffer).to_vec())
}
