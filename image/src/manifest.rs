//! What manifests say, checked: which image of an index is ours, what it consists of, how it is run.
//!
//! Pure. Manifests and configurations are JSON of the OCI image-spec, or Docker's of the same shape;
//! their digests have been checked by whoever fetched them.

use std::collections::BTreeMap;

use oci_spec::image::{
    Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os,
};
use serde::{Deserialize, Serialize};
use tepui_types::Digest;

use crate::error::ImageError;

/// The largest manifest or index, as registries have it.
pub const MAX_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;
/// The largest configuration: it has a line of history for each layer, and labels.
pub const MAX_CONFIG_BYTES: u64 = 8 * 1024 * 1024;
/// Layers of one image, as Docker builds at most; overlayfs takes 500.
pub const MAX_LAYERS: usize = 127;
/// An index may hold an index, as some builders nest them.
pub const MAX_DEPTH: usize = 2;

/// Media types of a component's configuration, and perhaps its `artifactType`.
const WASM_CONFIGS: [&str; 2] = [
    "application/vnd.wasm.config.v0+json",
    "application/vnd.wasm.config.v1+json",
];
/// Those of its bytes: of CNCF's layout, and from before there was one.
const WASM_LAYERS: [&str; 2] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
];

/// What is fetched by its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob {
    /// The digest of its bytes as they are sent.
    pub digest: Digest,
    /// How many these are.
    pub size: u64,
}

/// What a manifest or index leads to.
#[derive(Debug)]
pub enum Manifest {
    /// Another manifest, for this machine.
    Index(Blob),
    /// An image: its configuration and layers.
    Image {
        /// The configuration.
        config: Blob,
        /// Base first.
        layers: Vec<Blob>,
    },
    /// A WebAssembly component.
    Wasm(Blob),
}

/// How an image wants to be run. What it does not say is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The program, and arguments that stand before all others.
    pub entrypoint: Vec<String>,
    /// Arguments, or the program where there is no entrypoint, unless the task has its own.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`; names are those of the image.
    pub user: Option<String>,
    /// Where the program starts.
    pub working_dir: Option<String>,
    /// What asks the program to end: `SIGTERM`, `15`.
    pub stop_signal: Option<String>,
    /// Folders whose content is not to lie in the image.
    pub volumes: Vec<String>,
    /// `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// What its author says of it.
    pub labels: BTreeMap<String, String>,
}

/// Reads a manifest or index of `image`.
pub fn read(image: &str, bytes: &[u8]) -> Result<Manifest, ImageError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        schema_version: u32,
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
    }
    let what = || format!("the manifest of {image}");
    let unread = |error: serde_json::Error| ImageError::invalid(what(), error.to_string());
    let shape: Shape = serde_json::from_slice(bytes).map_err(unread)?;
    if shape.schema_version != 2 {
        let why = "it is of Docker's first schema: push it again with a builder of today";
        return Err(ImageError::invalid(what(), why));
    }
    if shape.manifests.is_some() && shape.layers.is_some() {
        // Two readers could take it for two things (CVE-2021-41190).
        return Err(ImageError::invalid(
            what(),
            "it is an index and a manifest in one",
        ));
    }
    if shape.manifests.is_some() {
        let index: ImageIndex = serde_json::from_slice(bytes).map_err(unread)?;
        return choose(image, &index).map(Manifest::Index);
    }
    let manifest: ImageManifest = serde_json::from_slice(bytes).map_err(unread)?;
    read_manifest(image, &manifest)
}

fn read_manifest(image: &str, manifest: &ImageManifest) -> Result<Manifest, ImageError> {
    if is_component(manifest) {
        return component(image, manifest.layers()).map(Manifest::Wasm);
    }
    let layers = manifest.layers();
    if layers.len() > MAX_LAYERS {
        let why = format!(
            "it has {} layers, and {MAX_LAYERS} are taken: squash some",
            layers.len()
        );
        return Err(ImageError::invalid(image, why));
    }
    if let Some(layer) = layers.iter().find(|layer| is_foreign(layer.media_type())) {
        let why = format!(
            "it has a layer of {}, which is no file tree",
            layer.media_type()
        );
        return Err(ImageError::invalid(image, why));
    }
    let config = blob(image, manifest.config())?;
    if config.size > MAX_CONFIG_BYTES {
        let what = format!("the configuration of {image}");
        return Err(ImageError::invalid(what, "it is larger than 8 MiB"));
    }
    let layers = layers.iter().map(|layer| blob(image, layer));
    Ok(Manifest::Image {
        config,
        layers: layers.collect::<Result<_, _>>()?,
    })
}

fn is_one_of(media_type: &MediaType, list: &[&str]) -> bool {
    list.contains(&media_type.as_ref())
}

/// Whether any part of the manifest says that it is one: tools differ in which they set.
fn is_component(manifest: &ImageManifest) -> bool {
    let artifact = manifest.artifact_type().as_ref();
    let mut layers = manifest.layers().iter();
    is_one_of(manifest.config().media_type(), &WASM_CONFIGS)
        || artifact.is_some_and(|it| is_one_of(it, &WASM_CONFIGS) || is_one_of(it, &WASM_LAYERS))
        || layers.any(|layer| is_one_of(layer.media_type(), &WASM_LAYERS))
}

/// The only layer of a component. Of several, nobody says here which one is run; and files beside it
/// would not be there when it runs.
fn component(image: &str, layers: &[Descriptor]) -> Result<Blob, ImageError> {
    let invalid = |why| ImageError::invalid(format!("the component {image}"), why);
    match layers {
        [layer] if is_one_of(layer.media_type(), &WASM_LAYERS) => blob(image, layer),
        [layer] => Err(invalid(format!(
            "its layer is of {:.80}, and not of {}: push it with `wkg oci push`",
            layer.media_type().as_ref(),
            WASM_LAYERS[0]
        ))),
        layers => Err(invalid(format!(
            "it has {} layers, and one of {} is taken: compose its components into one, and push \
             that alone",
            layers.len(),
            WASM_LAYERS[0]
        ))),
    }
}

/// Layers are archives, whatever they are compressed with; encrypted ones and artifacts are not.
fn is_foreign(media_type: &MediaType) -> bool {
    let name = media_type.as_ref();
    name.contains("+encrypted") || !name.contains(".tar")
}

/// The one for Linux on this machine's processor; failing that, a component, which runs on any.
fn choose(image: &str, index: &ImageIndex) -> Result<Blob, ImageError> {
    let host = Arch::default();
    let is_plain = |variant: &Option<String>| {
        variant
            .as_deref()
            .is_none_or(|variant| matches!(variant, "" | "v1" | "v8"))
    };
    let entries = index.manifests();
    let ours = entries.iter().filter(|entry| {
        let platform = entry.platform().as_ref();
        platform
            .is_some_and(|platform| *platform.os() == Os::Linux && *platform.architecture() == host)
    });
    let best = ours.min_by_key(|entry| {
        // What is built for newer processors only comes last.
        let variant = entry.platform().as_ref().map(|platform| platform.variant());
        !variant.is_none_or(is_plain)
    });
    let component = || {
        entries.iter().find(|entry| {
            let platform = entry.platform().as_ref();
            platform.is_some_and(|platform| *platform.architecture() == Arch::Wasm)
        })
    };
    let only = || match &entries[..] {
        [only] if only.platform().is_none() => Some(only),
        _ => None,
    };
    if let Some(chosen) = best.or_else(component).or_else(only) {
        return blob(image, chosen);
    }
    let mut found: Vec<String> = entries
        .iter()
        .filter_map(|entry| entry.platform().as_ref())
        .map(|platform| format!("{}/{}", platform.os(), platform.architecture()))
        .collect();
    found.sort();
    found.dedup();
    // Text from outside goes into messages in small pieces.
    found.truncate(16);
    Err(ImageError::Architecture {
        image: image.to_owned(),
        wanted: wanted(),
        found: match found.is_empty() {
            true => "no machine that it names".to_owned(),
            false => found.join(", "),
        },
    })
}

fn wanted() -> String {
    format!("{}/{}", Os::Linux, Arch::default())
}

fn blob(image: &str, descriptor: &Descriptor) -> Result<Blob, ImageError> {
    let digest = descriptor.digest().to_string();
    let digest = digest.parse().map_err(|_| {
        let why = format!("it has the digest {digest:.80}, and only sha256 is taken");
        ImageError::invalid(format!("the manifest of {image}"), why)
    })?;
    Ok(Blob {
        digest,
        size: descriptor.size(),
    })
}

/// Reads a configuration, and the digests of the layers' plain bytes.
pub fn read_config(
    image: &str,
    bytes: &[u8],
    layers: usize,
) -> Result<(ImageConfig, Vec<Digest>), ImageError> {
    let what = || format!("the configuration of {image}");
    let config: ImageConfiguration = serde_json::from_slice(bytes)
        .map_err(|error| ImageError::invalid(what(), error.to_string()))?;
    if *config.os() != Os::Linux || *config.architecture() != Arch::default() {
        return Err(ImageError::Architecture {
            image: image.to_owned(),
            wanted: wanted(),
            found: format!("{}/{}", config.os(), config.architecture()),
        });
    }
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() != layers {
        let why = format!("it lists {} layers, its manifest {layers}", diff_ids.len());
        return Err(ImageError::invalid(what(), why));
    }
    let diff_ids = diff_ids.iter().map(|digest| {
        let why = || format!("it has the digest {digest:.80}, and only sha256 is taken");
        digest
            .parse()
            .map_err(|_| ImageError::invalid(what(), why()))
    });
    let diff_ids = diff_ids.collect::<Result<_, _>>()?;
    let said = config.config().clone().unwrap_or_default();
    let said_text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let said_list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let labels = said.labels().clone().unwrap_or_default();
    let config = ImageConfig {
        entrypoint: said_list(said.entrypoint()),
        cmd: said_list(said.cmd()),
        env: said_list(said.env()),
        user: said_text(said.user()),
        working_dir: said_text(said.working_dir()),
        stop_signal: said_text(said.stop_signal()),
        volumes: said_list(said.volumes()),
        exposed_ports: said_list(said.exposed_ports()),
        labels: labels.into_iter().collect(),
    };
    Ok((config, diff_ids))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn entry(platform: &str) -> String {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let digest = Digest::of(platform.as_bytes());
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":7{platform}}}"#)
    }

    fn platform(os: &str, architecture: &str, variant: &str) -> String {
        format!(
            r#","platform":{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}"#
        )
    }

    fn index(platforms: &[String]) -> Result<Manifest, ImageError> {
        let entries: Vec<String> = platforms.iter().map(|platform| entry(platform)).collect();
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            entries.join(",")
        );
        read("x", text.as_bytes())
    }

    fn chosen(platforms: &[String]) -> Digest {
        match index(platforms).unwrap() {
            Manifest::Index(blob) => blob.digest,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_machines_own_platform_is_chosen_then_a_component_then_the_only_one() {
        let host = Arch::default().to_string();
        let ours = platform("linux", &host, "");
        let newer = platform("linux", &host, "v3");
        let other = platform("linux", "s390x", "");
        let attestation = platform("unknown", "unknown", "");
        let wasm = platform("wasip1", "wasm", "");
        let digest = |platform: &str| Digest::of(platform.as_bytes());
        let all = [
            attestation,
            other.clone(),
            wasm.clone(),
            newer,
            ours.clone(),
        ];
        assert_eq!(chosen(&all), digest(&ours));
        assert_eq!(chosen(&[other.clone(), wasm.clone()]), digest(&wasm));
        assert_eq!(chosen(&[String::new()]), digest(""));
        let error = index(&[other]).unwrap_err();
        assert_eq!(error.code(), "image-architecture");
        assert!(error.to_string().contains("linux/s390x"), "{error}");
        assert_eq!(index(&[]).unwrap_err().code(), "image-architecture");
    }

    fn image(config: &str, layers: &[&str], digest: &str) -> Result<Manifest, ImageError> {
        artifact("", config, layers, digest)
    }

    fn artifact(
        more: &str,
        config: &str,
        layers: &[&str],
        digest: &str,
    ) -> Result<Manifest, ImageError> {
        let blob = |media_type: &&str| {
            format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":7}}"#)
        };
        let layers: Vec<String> = layers.iter().map(blob).collect();
        let text = format!(
            r#"{{"schemaVersion":2,{more}"config":{},"layers":[{}]}}"#,
            blob(&config),
            layers.join(",")
        );
        read("x", text.as_bytes())
    }

    #[test]
    fn components_are_known_by_configuration_artifact_type_or_layer() {
        let config = "application/vnd.oci.image.config.v1+json";
        let tar = "application/vnd.oci.image.layer.v1.tar+gzip";
        let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        let read = image(config, &[tar, docker], DIGEST).unwrap();
        assert!(matches!(read, Manifest::Image { layers, .. } if layers.len() == 2));
        let wasm = WASM_LAYERS[0];
        let empty = "application/vnd.oci.empty.v1+json";
        let typed = r#""artifactType":"application/wasm","#;
        for (more, config) in [("", WASM_CONFIGS[0]), ("", empty), (typed, empty)] {
            let read = artifact(more, config, &[wasm], DIGEST).unwrap();
            assert!(matches!(read, Manifest::Wasm(_)), "{more} {config}");
        }
        let error = artifact(typed, empty, &["text/plain"], DIGEST).unwrap_err();
        assert!(error.to_string().contains("its layer is of"), "{error}");
        for (config, layers) in [
            (WASM_CONFIGS[0], &[tar][..]),
            (WASM_CONFIGS[0], &[]),
            (WASM_CONFIGS[0], &[wasm, wasm]),
            (config, &[tar, wasm]),
            (config, &["text/plain"]),
            (
                config,
                &["application/vnd.oci.image.layer.v1.tar+encrypted"],
            ),
            (config, &[tar; MAX_LAYERS + 1]),
        ] {
            let error = image(config, layers, DIGEST).unwrap_err();
            assert_eq!(error.code(), "image-invalid", "{config} {layers:?}");
        }
        let sha512 = format!("sha512:{}", "0".repeat(128));
        let error = image(config, &[tar], &sha512).unwrap_err();
        assert!(error.to_string().contains("only sha256"), "{error}");
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        for text in [
            "",
            "[]",
            r#"{"schemaVersion":1}"#,
            r#"{"schemaVersion":2}"#,
            r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#,
        ] {
            let error = read("x", text.as_bytes()).unwrap_err();
            assert_eq!(error.code(), "image-invalid", "{text}");
        }
    }

    #[test]
    fn configurations_say_how_to_run_and_for_which_machine() {
        let config = |os: &str, diff_ids: &str| {
            let architecture = Arch::default();
            let text = format!(
                r#"{{"os":"{os}","architecture":"{architecture}","config":{{"Cmd":["sh"],"User":"",
                "ExposedPorts":{{"80/tcp":{{}}}},"StopSignal":"SIGINT"}},
                "rootfs":{{"type":"layers","diff_ids":[{diff_ids}]}}}}"#
            );
            read_config("x", text.as_bytes(), 1)
        };
        let (read, diff_ids) = config("linux", &format!("\"{DIGEST}\"")).unwrap();
        assert_eq!(diff_ids, [Digest::of(b"")]);
        assert_eq!(read.cmd, ["sh"]);
        assert_eq!(read.user, None, "nobody is said by an empty text");
        assert_eq!(read.exposed_ports, ["80/tcp"]);
        assert_eq!(read.stop_signal.as_deref(), Some("SIGINT"));
        let error = config("windows", &format!("\"{DIGEST}\"")).unwrap_err();
        assert_eq!(error.code(), "image-architecture");
        assert_eq!(config("linux", "").unwrap_err().code(), "image-invalid");
        assert_eq!(
            config("linux", "\"x\"").unwrap_err().code(),
            "image-invalid"
        );
    }
}
