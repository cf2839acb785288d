//! Bounded folders of real file systems on real loop devices, and what a killed process leaves.

/// A place for a test's folders, which leaves no mount and no device behind.
mod disk;
/// Sizes that are kept, contents that last, what is grown and removed.
mod images;
/// Kills between any two steps.
mod kills;
/// What folders take, looked at file by file.
mod measure;
/// Folders that are projects, where the kernel has their quotas.
mod projects;
/// Folders that nobody uses any more, and those that take no writes.
mod rest;
