//! A file that bytes go into as they come, hashed on their way.

use std::fs::File;
use std::io;

use sha2::{Digest as _, Sha256};
use tepui_types::Digest;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

/// A file being filled. Whose it is, and what its errors mean, whoever fills it knows.
#[derive(Debug)]
pub struct Sink {
    file: tokio::fs::File,
    hash: Sha256,
    bytes: u64,
}

impl Sink {
    /// Into an empty file.
    pub fn new(file: File) -> Self {
        Self {
            file: tokio::fs::File::from_std(file),
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    /// Bytes that are here.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes more of them.
    ///
    /// # Errors
    /// The disk's; a write is told of with a later one, at the latest by [`Sink::finish`].
    pub async fn take(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.hash.update(chunk);
        self.file.write_all(chunk).await?;
        self.bytes += chunk.len() as u64;
        Ok(())
    }

    /// Begins anew, with nothing.
    ///
    /// # Errors
    /// The disk's.
    pub async fn restart(&mut self) -> io::Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        self.file.rewind().await?;
        self.file.set_len(0).await?;
        self.hash = Sha256::new();
        self.bytes = 0;
        Ok(())
    }

    /// Sees to it that all is in the file, and says what it has come to. More may be taken.
    ///
    /// # Errors
    /// The disk's.
    pub async fn finish(&mut self) -> io::Result<Digest> {
        self.file.flush().await?;
        Ok(Digest(self.hash.clone().finalize().into()))
    }

    /// Sees to it that all is on the disk, also after a power cut.
    ///
    /// # Errors
    /// The disk's.
    pub async fn sync(&self) -> io::Result<()> {
        self.file.sync_all().await
    }

    /// The file, open at its end.
    pub async fn into_file(self) -> File {
        self.file.into_std().await
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    #[tokio::test]
    async fn what_was_begun_anew_has_nothing_of_before() {
        let mut sink = Sink::new(tempfile::tempfile().unwrap());
        sink.take(b"something longer").await.unwrap();
        sink.restart().await.unwrap();
        sink.take(b"a").await.unwrap();
        assert_eq!(sink.finish().await.unwrap(), Digest::of(b"a"));
        sink.take(b"b").await.unwrap();
        assert_eq!(sink.finish().await.unwrap(), Digest::of(b"ab"));
        assert_eq!(sink.bytes(), 2);
        let mut file = sink.into_file().await;
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "ab");
    }
}
