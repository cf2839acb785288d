//! All descriptions on a machine.
//!
//! Folders are read in the order given; a later one counts before an earlier one, so that what is
//! made at run time takes the place of what was installed. Two files of one folder that describe the
//! same device are a conflict, and the device is had from neither, unless a later folder settles it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::CdiError;
use super::file::CdiFile;
use super::name::DeviceName;
use super::resolve;
use crate::edits::ContainerEdits;
use crate::nodes::Nodes;
use crate::trust::check_trust;

/// Where the specification has them, the one that counts more last.
pub const DEFAULT_FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// The most files of a folder: a machine has one or two a vendor.
pub const MAX_FILES: usize = 256;
/// The most bytes of a file: eight devices in seven instances each take 200 KB.
pub const MAX_FILE: u64 = 1024 * 1024;

/// Where a device is described.
#[derive(Debug)]
enum Place {
    /// By the file of this number.
    File(usize),
    /// By these two of one folder.
    Conflict(usize, usize),
}

/// What was read, and what could not be.
#[derive(Debug, Default)]
pub struct Registry {
    folders: Vec<PathBuf>,
    files: Vec<CdiFile>,
    devices: BTreeMap<DeviceName, Place>,
    problems: Vec<CdiError>,
}

impl Registry {
    /// Reads all files of these folders, the one that counts most last. A folder that is not there
    /// is an ordinary case.
    pub fn read<P: AsRef<Path>>(folders: &[P]) -> Self {
        let mut registry = Self::default();
        for folder in folders {
            let folder = folder.as_ref();
            registry.folders.push(folder.to_owned());
            match paths(folder) {
                Ok(paths) => registry.read_folder(folder, paths),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => registry.problems.push(CdiError::Read {
                    path: folder.to_owned(),
                    source,
                }),
            }
        }
        registry
    }

    /// What is wrong with files; their devices are not known.
    pub fn problems(&self) -> &[CdiError] {
        &self.problems
    }

    /// The devices that can be asked for.
    pub fn devices(&self) -> impl Iterator<Item = &DeviceName> {
        let is_clear = |(name, place): (_, &Place)| matches!(place, Place::File(_)).then_some(name);
        self.devices.iter().filter_map(is_clear)
    }

    /// Whether a device is described, or at least meant to be.
    pub fn knows(&self, name: &DeviceName) -> bool {
        self.devices.contains_key(name)
    }

    /// What a container with these devices needs, with the numbers that `nodes` have now.
    pub fn resolve(
        &self,
        names: &[DeviceName],
        nodes: &impl Nodes,
    ) -> Result<ContainerEdits, CdiError> {
        let (mut edits, mut seen) = (ContainerEdits::default(), Vec::new());
        for name in names {
            let (number, file) = self.file(name)?;
            if !seen.contains(&number) {
                seen.push(number);
                edits.append(resolve::edits(file, &file.common, nodes)?);
            }
            // invariant: the file is the one where the name was found.
            let own = file.devices.get(name).expect("the device of that name");
            edits.append(resolve::edits(file, own, nodes)?);
        }
        Ok(edits)
    }

    fn file(&self, name: &DeviceName) -> Result<(usize, &CdiFile), CdiError> {
        match self.devices.get(name) {
            Some(Place::File(number)) => Ok((*number, &self.files[*number])),
            Some(Place::Conflict(first, second)) => Err(CdiError::Conflict {
                name: name.clone(),
                first: self.files[*first].path.clone(),
                second: self.files[*second].path.clone(),
            }),
            None => {
                let beside = self.devices().filter(|known| known.is_beside(name));
                // As many as fit a line.
                let known: Vec<_> = beside.take(8).map(DeviceName::device).collect();
                let folders = self
                    .folders
                    .iter()
                    .map(|folder| folder.display().to_string());
                Err(CdiError::Unknown {
                    name: name.clone(),
                    folders: folders.collect::<Vec<_>>().join(" or "),
                    known: match known.as_slice() {
                        [] => String::new(),
                        known => format!(" (of its kind there are {})", known.join(", ")),
                    },
                })
            }
        }
    }

    fn read_folder(&mut self, folder: &Path, paths: Vec<PathBuf>) {
        let first = self.files.len();
        if paths.len() > MAX_FILES {
            self.problems.push(CdiError::Invalid {
                path: folder.to_owned(),
                why: format!("it has more than {MAX_FILES} files, and the rest is not read"),
            });
        }
        for path in paths.into_iter().take(MAX_FILES) {
            match load(&path) {
                Ok(file) => self.add(first, file),
                Err(error) => self.problems.push(error),
            }
        }
    }

    /// Files from `first` on are of the same folder.
    fn add(&mut self, first: usize, file: CdiFile) {
        let number = self.files.len();
        for name in file.devices.keys() {
            let place = match self.devices.get(name) {
                Some(Place::File(other)) if *other >= first => Place::Conflict(*other, number),
                Some(Place::Conflict(a, b)) if *a >= first => Place::Conflict(*a, *b),
                _ => Place::File(number),
            };
            self.devices.insert(name.clone(), place);
        }
        self.files.push(file);
    }
}

/// Hooks run with the agent's rights: who could write them must have those. It is looked at before it is
/// read, and by its real path, so that what is read is what was trusted.
fn load(path: &Path) -> Result<CdiFile, CdiError> {
    let trusted = check_trust(path);
    let text = read(trusted.as_deref().unwrap_or(path))?;
    let file = CdiFile::parse(path, &text)?;
    match trusted {
        Err(why) if file.has_hooks() => Err(CdiError::Hooks {
            path: file.path,
            why,
        }),
        Ok(_) | Err(_) => Ok(file),
    }
}

/// The files that may be descriptions, in the order of their names.
fn paths(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let extension = path.extension().and_then(OsStr::to_str);
        if extension.is_some_and(|known| ["json", "yaml", "yml"].contains(&known)) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// A link is followed: what counts is who may write where it leads.
fn read(path: &Path) -> Result<String, CdiError> {
    let failed = |source| CdiError::Read {
        path: path.to_owned(),
        source,
    };
    let invalid = |why: &str| CdiError::Invalid {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    let mut options = OpenOptions::new();
    // A pipe without a writer must not keep the agent waiting.
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    options.read(true).custom_flags(flags.bits().cast_signed());
    let file = options.open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(invalid("it is not a file"));
    }
    if found.mode() & 0o002 != 0 {
        return Err(invalid("everybody may write it: `chmod o-w` it"));
    }
    let mut bytes = Vec::new();
    let mut part = file.take(MAX_FILE + 1);
    part.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(invalid("it is longer than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| invalid("it is not in UTF-8"))
}
