//! Debian's Chromium, driven over WebDriver.
//!
//! Each browser has a driver and an empty profile of its own, and none of the
//! background traffic that a browser would otherwise send.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fantoccini::elements::Element;
use fantoccini::{ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;
use tempfile::TempDir;
use tepui_cli::leftovers;

use crate::eventually::{DEADLINE, eventually};

/// A browser with one page.
pub struct Browser {
    page: fantoccini::Client,
    driver: Driver,
    _profile: TempDir,
}

/// The driver, and the profile that names the browser's processes.
struct Driver(Child, PathBuf);

impl Browser {
    /// Starts a browser.
    ///
    /// # Errors
    /// When Chromium or its driver are not installed, with what to install.
    pub async fn start() -> Result<Self> {
        let driver = find(&["chromedriver"])?;
        let chromium = find(&["chromium", "chromium-browser", "google-chrome"])?;
        let profile = tempfile::Builder::new()
            .prefix("tepui-browser-")
            .tempdir()?;
        let log = profile.path().join("driver.log");
        let mut command = Command::new(driver);
        command
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&log)?)
            .stderr(Stdio::null());
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut driver = Driver(
            command.spawn().context("failed to start chromedriver")?,
            profile.path().to_owned(),
        );
        let port = eventually("chromedriver serves", async || {
            if let Some(status) = driver.0.try_wait()? {
                panic!("chromedriver ended with {status}");
            }
            let said = std::fs::read_to_string(&log)?;
            let (_, rest) = said
                .split_once("started successfully on port ")
                .with_context(|| said.clone())?;
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            anyhow::Ok(digits.parse::<u16>()?)
        })
        .await;
        let data = profile.path().join("data");
        let capabilities = json!({
            "goog:chromeOptions": {
                "binary": chromium,
                "args": [
                    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
                    "--no-first-run", "--disable-background-networking",
                    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
                    "--window-size=1280,900",
                    format!("--user-data-dir={}", data.display()),
                ],
            },
        });
        let capabilities = capabilities.as_object().cloned().unwrap_or_default();
        let page = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .context("failed to open a page in Chromium")?;
        Ok(Self {
            page,
            driver,
            _profile: profile,
        })
    }

    /// Its page.
    pub fn page(&self) -> &fantoccini::Client {
        &self.page
    }

    /// An element, once it is there and can be seen.
    pub async fn element(&self, selector: &str) -> Result<Element> {
        let found = self
            .page
            .wait()
            .at_most(DEADLINE)
            .every(Duration::from_millis(20))
            .for_element(Locator::Css(selector))
            .await;
        let element = match found {
            Ok(element) => element,
            Err(error) => {
                let source = self.page.source().await.unwrap_or_default();
                bail!("{selector} does not appear ({error}) on\n{source}");
            }
        };
        eventually(&format!("{selector} is shown"), async || {
            match element.is_displayed().await? {
                true => Ok(()),
                false => bail!("it is hidden"),
            }
        })
        .await;
        Ok(element)
    }

    /// Closes it.
    pub async fn close(self) -> Result<()> {
        let Self {
            page,
            driver,
            _profile,
        } = self;
        page.close().await?;
        drop(driver);
        Ok(())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
        leftovers::named(&self.1)
            .into_iter()
            .for_each(leftovers::kill_process);
    }
}

fn find(names: &[&str]) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|candidate| candidate.is_file())
        .with_context(|| {
            format!(
                "{} is missing: apt-get install chromium chromium-driver",
                names[0]
            )
        })
}
