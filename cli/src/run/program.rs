//! What the word names that is to be run: a WebAssembly program, an archive of an image, or an image.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Where a word stands, as messages need to know.
#[derive(Debug)]
pub struct Standing<'a> {
    /// What a file there is not.
    pub no_file: &'a str,
    /// How a command of the agents' machines begins there.
    pub dashes: &'a str,
}

/// The first word of `tepui run`.
pub const MAIN: Standing<'static> = Standing {
    no_file: "neither a WebAssembly program nor an archive of an image",
    dashes: "tepui run --",
};

/// What a word names that is no file of a program or an archive.
pub fn image<'a>(path: &'a Path, standing: &Standing<'_>) -> Result<&'a str> {
    let Standing { no_file, dashes } = standing;
    let text = path.to_str();
    let text = text.with_context(|| format!("{} is not UTF-8", path.display()))?;
    if let Some(name) = after_scheme(text) {
        return Ok(name);
    }
    let looks_like_a_file = text.starts_with(['.', '/']) || path.exists();
    anyhow::ensure!(
        !looks_like_a_file,
        "{text} is {no_file}; a command of the agents' machines comes after two dashes: {dashes} {text} …"
    );
    let is_bare = !text.contains(['/', ':', '@']);
    anyhow::ensure!(
        !(is_bare && is_command_here(text)),
        "{text} is a command of this machine: one of the agents' machines comes after two dashes \
         ({dashes} {text} …), and an image of that name has its tag: {text}:latest"
    );
    Ok(text)
}

/// What follows `oci:` or `oci://`, as other tools write images of registries; a registry of that
/// name has its port there.
fn after_scheme(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("oci:")?;
    let name = rest.strip_prefix("//").unwrap_or(rest);
    let has_port = rest.starts_with(|first: char| first.is_ascii_digit());
    (!has_port && !name.starts_with(['.', '/'])).then_some(name)
}

/// Whether the shell that this was typed into would find such a program.
fn is_command_here(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Refuses a folder, which is brought nowhere, with the name of what it may be.
pub fn refuse_folder(path: &Path) -> Result<()> {
    let shown = path.display();
    match (path.is_dir(), path.join("oci-layout").is_file()) {
        (false, _) => Ok(()),
        (true, true) => {
            let whole = std::path::absolute(path)
                .with_context(|| format!("{shown} cannot be named from the root"))?;
            bail!(
                "{shown} is a folder with an image in it, which an agent whose machine has that \
                 folder, too, runs as oci-layout:{}; others run an archive of it (tar -C {shown} -cf \
                 image.tar .)",
                whole.display()
            )
        }
        (true, false) => bail!(
            "{shown} is a folder, and no image is in it (it has no file `oci-layout`): name a \
             WebAssembly program, an archive of an image, or an image"
        ),
    }
}

/// Whether a file is an archive, plain or compressed by gzip: `docker save` and skopeo make them.
pub fn is_archive(path: &Path) -> Result<bool> {
    let Ok(file) = std::fs::File::open(path) else {
        return Ok(false);
    };
    let mut head = Vec::new();
    file.take(512)
        .read_to_end(&mut head)
        .with_context(|| format!("failed to read {}", path.display()))?;
    Ok(head.starts_with(&[0x1f, 0x8b]) || head.get(257..262) == Some(b"ustar"))
}

/// Whether a file is to be run as WebAssembly: by its name, or by how it begins.
pub fn is_program(path: &Path) -> Result<bool> {
    let named = path
        .extension()
        .is_some_and(|extension| extension == "wasm");
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(_) if !named => return Ok(false),
        Err(error) => {
            return Err(error).with_context(|| format!("failed to read {}", path.display()));
        }
    };
    let mut magic = [0; 4];
    Ok(named || file.read_exact(&mut magic).is_ok() && &magic == b"\0asm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_name_or_by_their_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("plain");
        std::fs::write(&plain, "#!/bin/sh").unwrap();
        let bare = folder.path().join("bare");
        std::fs::write(&bare, b"\0asm\x01\0\0\0").unwrap();
        let named = folder.path().join("named.wasm");
        std::fs::write(&named, "garbage is the executor's to refuse").unwrap();
        assert!(!is_program(&plain).unwrap());
        assert!(is_program(&bare).unwrap());
        assert!(is_program(&named).unwrap());
        assert!(!is_program(Path::new("echo")).unwrap());
        assert!(is_program(&folder.path().join("none.wasm")).is_err());
    }

    #[test]
    fn a_folder_is_refused_with_the_name_of_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let error = refuse_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("no image is in it"), "{error}");
        let layout = folder.path().join("oci-layout");
        std::fs::write(&layout, "{}").unwrap();
        let error = refuse_folder(folder.path()).unwrap_err().to_string();
        let name = format!("oci-layout:{}", folder.path().display());
        assert!(error.contains(&name), "{error}");
        assert!(refuse_folder(&layout).is_ok());
        assert!(refuse_folder(Path::new("busybox:1.36")).is_ok());
    }

    #[test]
    fn images_may_say_that_they_are_of_a_registry() {
        for (text, name) in [
            ("oci:r.example/a:1", Some("r.example/a:1")),
            ("oci://r.example:5000/a", Some("r.example:5000/a")),
            ("oci:5000/a", None),
            ("oci:/folder", None),
            ("r.example/a:1", None),
        ] {
            assert_eq!(after_scheme(text), name, "{text}");
        }
    }
}
