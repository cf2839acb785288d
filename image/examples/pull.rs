//! Pulls an image into a folder and says what it is: `pull DIR IMAGE [INSECURE-REGISTRY]`.

use std::sync::Mutex;

use tepui_image::{Images, ImagesConfig, Pulled};
use tepui_types::image::{ImageRef, PullPolicy};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(image)) = (arguments.next(), arguments.next()) else {
        return Err("usage: pull DIR IMAGE [INSECURE-REGISTRY]".into());
    };
    let image: ImageRef = image.parse()?;
    let config = ImagesConfig {
        insecure: arguments.collect(),
        ..ImagesConfig::default()
    };
    let images = Images::open(dir, config).await?;
    let last = Mutex::new(None);
    let pulled = images
        .pull(&image, PullPolicy::Always, |progress| {
            let mut last = last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if *last != Some(progress) {
                println!("{progress:?}");
            }
            *last = Some(progress);
        })
        .await?;
    match pulled {
        Pulled::Image(image) => {
            println!("{} {:?}", image.digest, image.config);
            for layer in &image.layers {
                println!("{}", layer.display());
            }
        }
        Pulled::Component(component) => {
            println!("{} {}", component.digest, component.path.display());
        }
    }
    Ok(())
}
