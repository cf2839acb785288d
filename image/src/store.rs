//! The folder of images, and the one way by which things get their names in it.
//!
//! ```text
//! layers/DIFF-ID/{tree,layer.json}   a layer's tree, and its size
//! components/DIGEST.wasm             a WebAssembly component
//! images/DIGEST.json                 what an image consists of; its time is that of its last use
//! names/HASH.json                    what a reference named when it was last resolved
//! drafts/                            what is unfinished, or on its way out
//! ```
//!
//! Everything begins as a draft, is synced, and gets its name by a rename. So a power cut leaves a
//! draft or the whole, and never half of a layer under its digest. All of it blocks.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tepui_transfer::{Draft, Drafts, kept, touch};
use tepui_tree::remove_folder;
use tepui_types::Digest;

use crate::error::ImageError;
use crate::manifest::ImageConfig;

/// An image that is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Of its manifest.
    pub digest: Digest,
    /// Its layers by what they unpack from, base first.
    pub layers: Vec<Digest>,
    /// Its component, when it is one.
    pub wasm: Option<Digest>,
    /// How it is run.
    pub config: ImageConfig,
}

impl Record {
    /// Layers and component.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        let layers = self.layers.iter().copied().map(Part::Layer);
        layers.chain(self.wasm.map(Part::Component))
    }
}

/// What images consist of, and share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// A tree, by the digest of its plain archive.
    Layer(Digest),
    /// A component, by the digest of its bytes.
    Component(Digest),
}

/// What a reference named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// The reference, with every default written out.
    pub name: String,
    /// The manifest.
    pub image: Digest,
}

/// How large a part is, and what was left out of it: beside a layer's tree.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Size {
    /// Of the plain archive, or the component.
    pub bytes: u64,
    /// What was left out.
    pub notes: Arc<[String]>,
}

impl Size {
    /// Of a part that is all there.
    pub fn of(bytes: u64) -> Self {
        Self {
            bytes,
            notes: Arc::default(),
        }
    }
}

/// The folder.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    drafts: Drafts,
}

/// What was found in the folder.
#[derive(Debug, Default)]
pub struct Found {
    /// Parts and their sizes.
    pub parts: Vec<(Part, Size)>,
    /// Images and their last use.
    pub images: Vec<(Record, SystemTime)>,
    /// What references named.
    pub names: Vec<Name>,
}

impl Store {
    /// Makes the folder where it is missing, and removes what an earlier process left unfinished.
    pub fn open(dir: PathBuf) -> Result<Self, ImageError> {
        let drafts = dir.join("drafts");
        let drafts = Drafts::open(drafts.clone())
            .map_err(|error| ImageError::store("clear", &drafts, error))?;
        for name in ["layers", "components", "images", "names"] {
            let path = dir.join(name);
            let made = fs::create_dir_all(&path);
            made.map_err(|error| ImageError::store("make", &path, error))?;
        }
        // Layers hold programs that run as their owner, root often: the machine's users are not to
        // reach them. Overlayfs does not mind, whoever is in the container.
        let closed = fs::set_permissions(&dir, fs::Permissions::from_mode(0o700));
        closed.map_err(|error| ImageError::store("close", &dir, error))?;
        Ok(Self { dir, drafts })
    }

    /// Where a part lies.
    pub fn part(&self, part: &Part) -> PathBuf {
        match part {
            Part::Layer(diff_id) => self.dir.join("layers").join(diff_id.hex()).join("tree"),
            Part::Component(digest) => {
                let name = format!("{}.wasm", digest.hex());
                self.dir.join("components").join(name)
            }
        }
    }

    /// A place for something that is not whole yet.
    pub fn draft(&self) -> Draft {
        self.drafts.draft()
    }

    /// A draft that is an empty folder with the empty folder `tree` in it.
    pub fn draft_layer(&self) -> Result<(Draft, PathBuf), ImageError> {
        let draft = self.draft();
        let tree = draft.path().join("tree");
        // Whatever the agent's umask is: this is the root folder of whoever runs in it.
        let made = fs::create_dir_all(&tree)
            .and_then(|()| fs::set_permissions(&tree, fs::Permissions::from_mode(0o755)));
        made.map_err(|error| ImageError::store("make", &tree, error))?;
        Ok((draft, tree))
    }

    /// Gives a whole layer its name.
    pub fn keep_layer(&self, draft: Draft, diff_id: Digest, size: &Size) -> Result<(), ImageError> {
        write_json(&draft.path().join("layer.json"), size)?;
        let failed = |error| ImageError::store("sync", draft.path(), error);
        let folder = File::open(draft.path()).map_err(failed)?;
        // One call for all of its files: a call for each would take longer than unpacking them.
        rustix::fs::syncfs(&folder).map_err(|error| failed(error.into()))?;
        keep(&draft, &self.dir.join("layers").join(diff_id.hex()))
    }

    /// Gives a whole component its name.
    pub fn keep_component(&self, draft: Draft, digest: Digest) -> Result<(), ImageError> {
        sync(&draft)?;
        keep(&draft, &self.part(&Part::Component(digest)))
    }

    /// Remembers an image, and its use.
    pub fn keep_image(&self, record: &Record) -> Result<SystemTime, ImageError> {
        let path = self.image(&record.digest);
        self.keep_json(&path, record)?;
        self.used(&record.digest)
    }

    /// Remembers what a reference named.
    pub fn keep_name(&self, name: &Name) -> Result<(), ImageError> {
        self.keep_json(&self.name(&name.name), name)
    }

    /// Writes down that an image is used now, and says when that is.
    pub fn used(&self, image: &Digest) -> Result<SystemTime, ImageError> {
        let path = self.image(image);
        let failed = |error| ImageError::store("touch", &path, error);
        touch(&path).map_err(failed)?;
        let metadata = fs::metadata(&path).map_err(failed)?;
        metadata.modified().map_err(failed)
    }

    /// Takes the name of an image away.
    pub fn remove_image(&self, image: &Digest) -> Result<(), ImageError> {
        remove(&self.image(image))
    }

    /// Forgets what a reference named.
    pub fn remove_name(&self, name: &str) -> Result<(), ImageError> {
        remove(&self.name(name))
    }

    /// Takes the name of a part away; dropping what is returned removes its bytes, which may take
    /// a while.
    pub fn remove_part(&self, part: &Part) -> Result<Draft, ImageError> {
        let draft = self.draft();
        let path = self.part(part);
        let path = match part {
            Part::Layer(_) => path.parent().unwrap_or(&path),
            Part::Component(_) => &path,
        };
        let taken = draft.take(path);
        taken.map_err(|error| ImageError::store("take away", path, error))?;
        Ok(draft)
    }

    /// Reads the folder. What cannot be read is left out, and said in the log: it is pulled again
    /// when it is wanted.
    pub fn find(&self) -> Result<Found, ImageError> {
        let mut found = Found::default();
        for (path, digest) in self.digests("layers", "")? {
            match read_json::<Size>(&path.join("layer.json")) {
                Ok(file) => found.parts.push((Part::Layer(digest), file)),
                Err(error) => {
                    unreadable(&path, &error);
                    // It would be in the way of a whole one.
                    let removed = remove_folder(&path);
                    removed.map_err(|error| ImageError::store("remove", &path, error))?;
                }
            }
        }
        for (path, digest) in self.digests("components", ".wasm")? {
            match fs::metadata(&path) {
                Ok(file) => found
                    .parts
                    .push((Part::Component(digest), Size::of(file.len()))),
                Err(error) => unreadable(&path, &error),
            }
        }
        for (path, digest) in self.digests("images", ".json")? {
            let used = fs::metadata(&path).and_then(|file| file.modified());
            match (read_json::<Record>(&path), used) {
                (Ok(record), Ok(used)) if record.digest == digest => {
                    found.images.push((record, used));
                }
                (Err(error), _) | (_, Err(error)) => unreadable(&path, &error),
                (Ok(_), _) => unreadable(&path, &io::Error::other("it is another image's")),
            }
        }
        for (path, _) in self.digests("names", ".json")? {
            match read_json(&path) {
                Ok(name) => found.names.push(name),
                Err(error) => unreadable(&path, &error),
            }
        }
        self.forget_broken(&mut found)?;
        Ok(found)
    }

    /// An image of which a part is missing is none, and a name without its image neither.
    fn forget_broken(&self, found: &mut Found) -> Result<(), ImageError> {
        let parts: HashSet<Part> = found.parts.iter().map(|(part, _)| *part).collect();
        let images = std::mem::take(&mut found.images);
        let (whole, broken): (Vec<_>, Vec<_>) = images
            .into_iter()
            .partition(|(record, _)| record.parts().all(|part| parts.contains(&part)));
        for (record, _) in broken {
            self.remove_image(&record.digest)?;
        }
        let images: HashSet<Digest> = whole.iter().map(|(record, _)| record.digest).collect();
        let names = std::mem::take(&mut found.names);
        let (good, stale): (Vec<_>, Vec<_>) = names
            .into_iter()
            .partition(|name| images.contains(&name.image));
        for name in stale {
            self.remove_name(&name.name)?;
        }
        (found.images, found.names) = (whole, good);
        Ok(())
    }

    fn digests(&self, folder: &str, suffix: &str) -> Result<Vec<(PathBuf, Digest)>, ImageError> {
        let folder = self.dir.join(folder);
        kept(&folder, suffix).map_err(|error| ImageError::store("list", &folder, error))
    }

    fn image(&self, image: &Digest) -> PathBuf {
        self.dir
            .join("images")
            .join(format!("{}.json", image.hex()))
    }

    fn name(&self, name: &str) -> PathBuf {
        // References hold slashes, and may be longer than a file's name.
        let hash = Digest::of(name.as_bytes()).hex();
        self.dir.join("names").join(format!("{hash}.json"))
    }

    fn keep_json(&self, path: &Path, value: &impl Serialize) -> Result<(), ImageError> {
        let draft = self.draft();
        write_json(draft.path(), value)?;
        sync(&draft)?;
        keep(&draft, path)
    }
}

fn unreadable(path: &Path, error: &io::Error) {
    tracing::warn!(path = %path.display(), %error, "left out of the images that are here");
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    serde_json::from_slice(&fs::read(path)?).map_err(io::Error::from)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), ImageError> {
    let failed = |error| ImageError::store("write", path, error);
    let bytes = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
    let mut file = File::create(path).map_err(failed)?;
    file.write_all(&bytes).map_err(failed)
}

fn sync(draft: &Draft) -> Result<(), ImageError> {
    let synced = draft.sync();
    synced.map_err(|error| ImageError::store("sync", draft.path(), error))
}

fn keep(draft: &Draft, to: &Path) -> Result<(), ImageError> {
    let kept = draft.keep(to);
    kept.map_err(|error| ImageError::store("name", to, error))
}

fn remove(path: &Path) -> Result<(), ImageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ImageError::store("remove", path, error))
        }
        _ => Ok(()),
    }
}
