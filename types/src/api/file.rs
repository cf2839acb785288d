//! `GET /v1/tasks/{id}/files/{path}`: what is in a task's sandbox.

use serde::{Deserialize, Serialize};

/// The most entries of one answer.
pub const MAX_ENTRIES: usize = 10_000;

/// What is in a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileList {
    /// By their names.
    pub entries: Vec<FileEntry>,
    /// Whether there are more than [`MAX_ENTRIES`].
    pub is_cut: bool,
}

/// Something in a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileEntry {
    /// Its name; bytes that are no UTF-8 are replaced, and such a file is had with its folder alone.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// Bytes in it.
    pub size: u64,
    /// Its permissions, as chmod(2) has them.
    pub mode: u32,
    /// When it was last changed, in milliseconds since 1970.
    pub modified_ms: u64,
}

/// What something in a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum FileKind {
    /// A file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// Anything else.
    Other,
}
