//! The images of a task: pulled, held while it lives, and told apart.
//!
//! What a command's own image turns out to be decides what the task is: files, from which a container
//! runs, or a WebAssembly program, which takes the command's place. Companions and mounts want files.

use std::sync::Arc;

use tepui_image::{Component, Image, Progress, Pulled};
use tepui_types::container::MountSource;
use tepui_types::image::ImageSource;
use tepui_types::task::{CommandWorkload, reason};
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::executor::{ImageConfig, LocalImage};
use tepui_types::{Bytes, ImageRef, PullPolicy, Reason, TaskId};

use super::Containers;
use super::progress::Teller;
use crate::agent::{LocalProgram, Prepared, as_program};

impl Containers {
    /// Gets all images of a command.
    pub(super) async fn pull_all(
        &self,
        prepared: &mut Prepared,
        launch: &TaskLaunch,
        command: &CommandWorkload,
    ) -> Result<(), Reason> {
        let own = command.image();
        for (name, pull) in images_of(command) {
            let key = name.to_string();
            if prepared.images.contains_key(&key) {
                continue;
            }
            match self.pull(&launch.task, name, pull).await? {
                Pulled::Image(image) => {
                    prepared.images.insert(key, Arc::new(local(&image)));
                }
                Pulled::Component(component) if own == Some(name) => {
                    as_program(launch, component.wasm)?;
                    prepared.program = Some(Arc::new(program(&component)));
                    // It has neither companions nor mounts.
                    return Ok(());
                }
                Pulled::Component(_) => {
                    let message = format!(
                        "{name} is a WebAssembly program, which has no files for a companion or a \
                         mount: give it a task of its own"
                    );
                    return Err(Reason::new(reason::IMAGE_INVALID, message));
                }
            }
        }
        let options = command.options.as_ref();
        if let Some(name) = own
            && options.is_some_and(|options| options.wasm.is_some())
        {
            let message = format!(
                "{name} is no WebAssembly program, and as a container it is given nothing of \
                 `wasm`: leave that out (--connect, --listen, --stdin, --address, --concurrency, \
                 --request-timeout)"
            );
            return Err(Reason::new(reason::CONTAINER_REFUSED, message));
        }
        prepared.image = own.and_then(|name| prepared.images.get(&name.to_string()).cloned());
        Ok(())
    }

    async fn pull(
        &self,
        task: &TaskId,
        name: &ImageRef,
        pull: PullPolicy,
    ) -> Result<Pulled, Reason> {
        let teller = Teller::new(&self.events, task);
        let progress = |progress| teller.say(|| pulling(name, progress));
        let pulled = match name.source() {
            ImageSource::Artifact(digest) => {
                self.fetcher.fetch(digest).await?;
                let path = self.layout.artifact(&digest);
                let pulling = self.images.archive(name, &path, progress);
                teller.while_doing(pulling).await
            }
            ImageSource::Registry(_) | ImageSource::Layout { .. } => {
                teller
                    .while_doing(self.images.pull(name, pull, progress))
                    .await
            }
        };
        let pulled = pulled.map_err(|error| {
            let code = error.code();
            Reason::new(code, format!("{:#}", anyhow::Error::from(error)))
        })?;
        if let Some(job) = self.jobs().get_mut(task) {
            job.images.push(pulled.clone());
        }
        Ok(pulled)
    }
}

/// The images that a command's containers run from and mount, its own first, and when each is asked
/// for anew.
fn images_of(command: &CommandWorkload) -> impl Iterator<Item = (&ImageRef, PullPolicy)> {
    command.containers().flat_map(|container| {
        let mounted = container
            .mounts
            .iter()
            .filter_map(|mount| match &mount.source {
                MountSource::Image(image) => Some(image),
                _ => None,
            });
        let images = container.image.iter().chain(mounted);
        images.map(|image| (image, container.pull))
    })
}

/// How far a pull is, for people.
fn pulling(name: &ImageRef, progress: Progress) -> Reason {
    let of = |done, total| format!("{} of {}", Bytes(done), Bytes(total));
    let message = match progress {
        Progress::Resolving => format!("looking for {name}"),
        Progress::Downloading { done, total } => format!("fetching {name}: {}", of(done, total)),
        Progress::Unpacking { done, total } => format!("unpacking {name}: {}", of(done, total)),
        Progress::Done => format!("{name} is here"),
    };
    Reason::new(reason::PREPARING, message)
}

fn local(image: &Image) -> LocalImage {
    let config = image.config.clone();
    LocalImage {
        digest: image.digest,
        layers: image
            .layers
            .iter()
            .map(|path| path.to_string_lossy().into_owned())
            .collect(),
        config: ImageConfig {
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            env: config.env,
            user: config.user.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            stop_signal: config.stop_signal,
        },
    }
}

fn program(component: &Component) -> LocalProgram {
    LocalProgram {
        image: component.digest,
        digest: component.wasm,
        path: component.path.to_string_lossy().into_owned(),
    }
}
