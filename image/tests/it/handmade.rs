//! OCI layouts written blob by blob: images that no builder makes.

use std::path::PathBuf;

use tepui_types::Digest;
use tepui_types::image::ImageRef;

use crate::fixture::run;

pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A layout folder, and what its index is to hold.
pub struct Handmade {
    pub folder: PathBuf,
    entries: Vec<String>,
}

impl Handmade {
    pub fn new(folder: PathBuf) -> Self {
        std::fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        std::fs::write(
            folder.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        Self {
            folder,
            entries: Vec::new(),
        }
    }

    /// A blob, and its descriptor without the closing brace.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes);
        let path = self.folder.join("blobs/sha256").join(digest.hex());
        std::fs::write(path, bytes).unwrap();
        let size = bytes.len();
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}"#)
    }

    /// A manifest's descriptor, without the closing brace.
    pub fn manifest(&self, config: (&str, &str), layers: &[(&str, &[u8])]) -> String {
        self.artifact("", config, layers)
    }

    /// One that says more, as `"artifactType":"…",`.
    pub fn artifact(&self, more: &str, config: (&str, &str), layers: &[(&str, &[u8])]) -> String {
        let config = self.blob(config.0, config.1.as_bytes());
        let layers: Vec<String> = layers
            .iter()
            .map(|(media_type, bytes)| self.blob(media_type, bytes) + "}")
            .collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,{more}"mediaType":"{MANIFEST}","config":{config}}},"layers":[{}]}}"#,
            layers.join(",")
        );
        self.blob(MANIFEST, manifest.as_bytes())
    }

    /// An index of images for several machines; descriptors without the closing brace.
    pub fn index(&self, entries: &[(String, &str, &str)]) -> String {
        let entries: Vec<String> = entries
            .iter()
            .map(|(entry, os, architecture)| {
                let platform = format!(r#"{{"os":"{os}","architecture":"{architecture}"}}"#);
                format!(r#"{entry},"platform":{platform}}}"#)
            })
            .collect();
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#,
            entries.join(",")
        );
        self.blob(INDEX, index.as_bytes())
    }

    /// Copies what the tag names to wherever skopeo can.
    pub fn copy(&self, tag: &str, to: &str) {
        let from = format!("oci:{}:{tag}", self.folder.display());
        let flags = ["copy", "-q", "--all", "--dest-tls-verify=false", &from, to];
        run("skopeo", &flags);
    }

    /// Makes the layout say that this is what the tag names.
    pub fn tag(&mut self, tag: &str, descriptor: &str) -> ImageRef {
        let name = format!(r#""annotations":{{"org.opencontainers.image.ref.name":"{tag}"}}"#);
        self.entries.push(format!("{descriptor},{name}}}"));
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            self.entries.join(",")
        );
        std::fs::write(self.folder.join("index.json"), index).unwrap();
        self.reference(tag)
    }

    pub fn reference(&self, tag: &str) -> ImageRef {
        format!("oci-layout:{}:{tag}", self.folder.display())
            .parse()
            .unwrap()
    }
}

/// A layer's archive with one file.
pub fn layer(name: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, content).unwrap();
    builder.into_inner().unwrap()
}

/// The configuration of an image with these layers.
pub fn config(architecture: &str, layers: &[&[u8]]) -> String {
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|layer| format!("\"{}\"", Digest::of(layer)))
        .collect();
    format!(
        r#"{{"os":"linux","architecture":"{architecture}","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    )
}

/// This machine, as images name it.
pub fn host() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
