//! A saved image, as `docker save`, `skopeo copy` or `podman save` write it: an OCI layout or
//! Docker's older form in a tar, perhaps compressed.
//!
//! Members are put into a draft folder under numbers of ours, so their names never meet the file
//! system; which name is which is kept in memory. Links in the archive, which Docker's older form has
//! between equal layers, are followed there. Blocks.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;
use sha2::Digest as _;
use tepui_tarball::{Kind, Tarball, plain};
use tepui_transfer::Draft;
use tepui_types::Digest;

use super::local::{self, Blobs, Local};
use crate::error::ImageError;
use crate::manifest::MAX_MANIFEST_BYTES;

/// Members of one archive: a manifest, a configuration, 127 layers with three files each, and room
/// for archives of several images.
const MAX_MEMBERS: usize = 10_000;
/// Links from one name to the next.
const MAX_LINKS: usize = 8;
const BUFFER: usize = 128 * 1024;

/// What Docker's older form says of an image.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    layers: Vec<String>,
}

/// A member that was put into the folder.
#[derive(Debug, Clone)]
struct Put {
    path: PathBuf,
    digest: Digest,
    size: u64,
}

/// The members by their names.
#[derive(Debug, Default)]
struct Members {
    files: HashMap<Vec<u8>, Put>,
    links: HashMap<Vec<u8>, Vec<u8>>,
}

/// Unpacks an archive into `folder`, and finds its image. Where it has several, `docker save` and the
/// like are to be given one.
pub fn open(archive: &Path, folder: Draft, limit: u64) -> Result<Local, ImageError> {
    let place = archive.display().to_string();
    let made = std::fs::create_dir(folder.path());
    made.map_err(|error| ImageError::store("make", folder.path(), error))?;
    let members = extract(archive, &place, folder.path(), limit)?;
    let blobs = |members: &Members, folder| {
        let files = members.files.values();
        let files = files.map(|put| (put.digest, put.path.clone())).collect();
        Blobs::Files { files, folder }
    };
    if let Some(index) = members.find(b"index.json") {
        let bytes = index.read(&place)?;
        return Local::choose(place, &bytes, None, blobs(&members, folder));
    }
    let Some(manifest) = members.find(b"manifest.json") else {
        let why = "it has neither index.json nor manifest.json: save it with `docker save`, \
                   `podman save` or `skopeo copy … oci-archive:FILE`";
        return Err(ImageError::invalid(place, why));
    };
    let top = docker_manifest(&place, &manifest.read(&place)?, &members)?;
    let blobs = blobs(&members, folder);
    Ok(Local::new(place, top, blobs))
}

/// Docker's older form has no manifest of the kind that registries have: it gets one.
fn docker_manifest(place: &str, bytes: &[u8], members: &Members) -> Result<Vec<u8>, ImageError> {
    let what = || format!("manifest.json of {place}");
    let images: Vec<DockerImage> = serde_json::from_slice(bytes)
        .map_err(|error| ImageError::invalid(what(), error.to_string()))?;
    let [image] = &images[..] else {
        let why = format!("it has {} images: save one alone", images.len());
        return Err(ImageError::invalid(what(), why));
    };
    let descriptor = |name: &str, media_type: &str| {
        let put = members.find(name.as_bytes());
        let put = put.ok_or_else(|| {
            let why = format!("{name:.200} is missing in it: save it again");
            ImageError::invalid(place, why)
        })?;
        Ok(json!({
            "mediaType": media_type, "digest": put.digest.to_string(), "size": put.size,
        }))
    };
    let layers = image
        .layers
        .iter()
        .map(|layer| descriptor(layer, "application/vnd.docker.image.rootfs.diff.tar"));
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": descriptor(&image.config, "application/vnd.docker.container.image.v1+json")?,
        "layers": layers.collect::<Result<Vec<_>, ImageError>>()?,
    });
    Ok(manifest.to_string().into_bytes())
}

fn extract(archive: &Path, place: &str, folder: &Path, limit: u64) -> Result<Members, ImageError> {
    let unreadable =
        |error: io::Error| ImageError::invalid(place, format!("{error}: save and upload it again"));
    let file = File::open(archive).map_err(|error| ImageError::store("open", archive, error))?;
    let plain = plain(BufReader::with_capacity(BUFFER, file)).map_err(unreadable)?;
    // One byte more tells what is too large from what fits.
    let mut tarball = Tarball::new(plain.take(limit.saturating_add(1)));
    let mut members = Members::default();
    let mut count = 0;
    loop {
        let member = match tarball.advance() {
            Ok(Some(member)) => member,
            Ok(None) => break,
            Err(_) if tarball.get_ref().limit() == 0 => return Err(too_large(place, limit)),
            Err(error) => return Err(unreadable(error)),
        };
        count += 1;
        if count > MAX_MEMBERS {
            let why = format!("it has more than {MAX_MEMBERS} members");
            return Err(ImageError::invalid(place, why));
        }
        let name = plain_name(&member.name, &[]);
        match member.kind {
            Kind::File if member.size > tarball.get_ref().limit() => {
                return Err(too_large(place, limit));
            }
            Kind::File => {
                let path = folder.join(count.to_string());
                let put = put(&mut tarball, path, &unreadable)?;
                members.files.insert(name, put);
            }
            Kind::Symlink => {
                let beside = name.iter().rposition(|byte| *byte == b'/');
                let target = plain_name(&member.link, &name[..beside.unwrap_or(0)]);
                members.links.insert(name, target);
            }
            Kind::HardLink => {
                members.links.insert(name, plain_name(&member.link, &[]));
            }
            Kind::Folder | Kind::Fifo | Kind::Device => {}
        }
    }
    Ok(members)
}

fn put(
    tarball: &mut Tarball<impl Read>,
    path: PathBuf,
    unreadable: &impl Fn(io::Error) -> ImageError,
) -> Result<Put, ImageError> {
    let failed = |error| ImageError::store("write", &path, error);
    let mut file = File::create(&path).map_err(failed)?;
    let mut hash = sha2::Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut size = 0;
    loop {
        let read = tarball.read(&mut buffer).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        file.write_all(&buffer[..read]).map_err(failed)?;
        size += read as u64;
    }
    let digest = Digest(hash.finalize().into());
    Ok(Put { path, digest, size })
}

fn too_large(place: &str, limit: u64) -> ImageError {
    ImageError::TooLarge {
        what: place.to_owned(),
        limit,
    }
}

/// A name without `.`, `..` and doubled slashes, seen from the folder `from`.
fn plain_name(name: &[u8], from: &[u8]) -> Vec<u8> {
    let from = from.split(|byte| *byte == b'/');
    let mut plain: Vec<&[u8]> = Vec::new();
    for part in from.chain(name.split(|byte| *byte == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain.join(&b'/')
}

impl Members {
    fn find(&self, name: &[u8]) -> Option<&Put> {
        let mut name = plain_name(name, &[]);
        for _ in 0..MAX_LINKS {
            match self.files.get(&name) {
                Some(put) => return Some(put),
                None => name = self.links.get(&name)?.clone(),
            }
        }
        None
    }
}

impl Put {
    fn read(&self, place: &str) -> Result<Vec<u8>, ImageError> {
        local::read(&self.path, MAX_MANIFEST_BYTES)
            .map_err(|error| ImageError::invalid(place, error.to_string()))
    }
}
