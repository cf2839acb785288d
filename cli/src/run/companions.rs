//! What runs with a command in one task, as flags say it.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use tepui_types::ImageRef;
use tepui_types::command::{Companion, CompanionRole};
use tepui_types::container::Container;

use super::program::{self, Standing};

/// How a companion is written.
const FORM: &str = "write NAME=IMAGE, with its arguments behind it, or NAME=-- COMMAND LINE";

/// The companions of a command in a container.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Companions")]
pub struct CompanionOptions {
    /// Run this to its end before the command: an image with its arguments (`fill=data:7 sh -c …`),
    /// or a command of the agents' machines (`fill=-- cp -r /srv/data .`); again for more
    #[arg(long, value_parser = init, value_name = "NAME=PROGRAM")]
    init: Vec<Companion>,
    /// Run this beside the command, from before it until after it, and start it again when it ends
    #[arg(long, value_parser = sidecar, value_name = "NAME=PROGRAM")]
    sidecar: Vec<Companion>,
    /// Run this with the command, and fail the task if it fails
    #[arg(long, value_parser = peer, value_name = "NAME=PROGRAM")]
    peer: Vec<Companion>,
}

impl CompanionOptions {
    /// All of them, in the order in which they begin.
    pub fn all(&self) -> impl Iterator<Item = &Companion> {
        self.init.iter().chain(&self.sidecar).chain(&self.peer)
    }

    /// Refuses them for what has none.
    ///
    /// # Errors
    /// Says what to do about it.
    pub fn refuse_without_container(&self, container: Option<&Container>) -> Result<()> {
        anyhow::ensure!(
            container.is_some() || self.all().next().is_none(),
            "companions share the container of a command: name an image, or isolate a command of \
             the agents' machines (--isolate)"
        );
        Ok(())
    }

    /// Refuses them for a WebAssembly program.
    ///
    /// # Errors
    /// Says what to do about it.
    pub fn refuse_for_wasm(&self) -> Result<()> {
        anyhow::ensure!(
            self.all().next().is_none(),
            "a WebAssembly program has no companions: leave out --init, --sidecar and --peer, and \
             run them as jobs of their own"
        );
        Ok(())
    }
}

fn init(text: &str) -> Result<Companion, String> {
    companion(text, CompanionRole::Init)
}

fn sidecar(text: &str) -> Result<Companion, String> {
    companion(text, CompanionRole::Sidecar)
}

fn peer(text: &str) -> Result<Companion, String> {
    companion(text, CompanionRole::Peer)
}

fn companion(text: &str, role: CompanionRole) -> Result<Companion, String> {
    let (name, program) = text.split_once('=').ok_or(FORM)?;
    let words = shlex::split(program)
        .ok_or("a quotation mark has no other: quote what belongs together")?;
    let (image, argv) = match words.split_first() {
        Some((dashes, argv)) if dashes == "--" && !argv.is_empty() => (None, argv),
        Some((image, argv)) if image != "--" => (Some(image), argv),
        _ => return Err(FORM.into()),
    };
    let image = image.map(|word| {
        let standing = Standing {
            no_file: "a file, and companions run images of registries",
            dashes: &format!("{name}=--"),
        };
        let image = program::image(Path::new(word), &standing);
        let image = image.map_err(|why| why.to_string())?;
        let parsed = image.parse::<ImageRef>();
        parsed.map_err(|why| format!("`{image}` is no image ({why}): {FORM}"))
    });
    let container = image.transpose()?.map(|image| Container {
        image: Some(image),
        ..Container::default()
    });
    Ok(Companion {
        name: name.to_owned(),
        role,
        argv: argv.to_vec(),
        env: Default::default(),
        container: container.map(Box::new),
        restart: None,
        mem_bytes: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_companion_is_an_image_or_a_command_with_its_arguments() {
        let fill = init("fill=data:7 sh -c 'cp -r /data/. .'").unwrap();
        assert_eq!((&*fill.name, fill.role), ("fill", CompanionRole::Init));
        assert_eq!(fill.argv, ["sh", "-c", "cp -r /data/. ."]);
        let image = fill.container.unwrap().image.unwrap();
        assert_eq!(image, "data:7".parse().unwrap());

        let proxy = sidecar("proxy=localhost:5000/proxy:1").unwrap();
        assert_eq!((proxy.role, proxy.argv.len()), (CompanionRole::Sidecar, 0));

        let here = sidecar("proxy=oci://r.example/proxy:1").unwrap();
        let image = here.container.unwrap().image.unwrap();
        assert_eq!(image, "r.example/proxy:1".parse().unwrap());

        let worker = peer("worker=-- work --env A=b").unwrap();
        assert_eq!(worker.role, CompanionRole::Peer);
        assert_eq!(worker.argv, ["work", "--env", "A=b"]);
        assert_eq!(worker.container, None);
    }

    #[test]
    fn what_is_no_companion_is_told_how_one_is_written() {
        for text in ["proxy", "proxy=", "proxy=--", "proxy=A:b:c"] {
            let error = sidecar(text).unwrap_err();
            assert!(error.contains("NAME=IMAGE"), "{text}: {error}");
        }
        for text in ["fill=cp -r /srv/data .", "fill=/bin/cp x", "fill=./fill"] {
            let error = init(text).unwrap_err();
            let word = text["fill=".len()..].split(' ').next().unwrap();
            assert!(
                error.contains(&format!("fill=-- {word} …")),
                "{text}: {error}"
            );
        }
        let error = peer("a=b 'c").unwrap_err();
        assert!(error.contains("quote"), "{error}");
    }
}
