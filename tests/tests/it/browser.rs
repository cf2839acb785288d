//! The dashboard in a real browser.

use anyhow::Context;
use fantoccini::Locator;
use tepui_tests::browser::Browser;
use tepui_tests::{Cluster, eventually};

use super::Result;

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_submitted_in_the_form_and_its_output_read_on_the_page() -> Result {
    let cluster = Cluster::new().start().await?;
    let browser = Browser::start().await?;
    let page = browser.page();
    page.goto(cluster.url()).await?;
    click(&browser, "#nav-submit").await?;
    click(&browser, "#submit-tab-command").await?;
    let argv = browser.element("#submit-command-argv").await?;
    argv.send_keys("sh -c 'echo seen in the browser'").await?;
    click(&browser, "#submit-button").await?;
    eventually("the output stands on the page", async || {
        let output = page.find(Locator::Css("#log-output")).await?.text().await?;
        match output.contains("seen in the browser") {
            true => Ok(()),
            false => anyhow::bail!("{output:?}"),
        }
    })
    .await;
    let tasks = cluster.client().tasks("?state=finished").await?;
    let task = tasks.first().context("the cluster knows the task")?;
    assert!(
        page.current_url()
            .await?
            .as_str()
            .starts_with(cluster.url())
    );
    assert_eq!(tasks.len(), 1, "{task:?}");
    browser.close().await?;
    Ok(())
}

async fn click(browser: &Browser, selector: &str) -> anyhow::Result<()> {
    browser.element(selector).await?.click().await?;
    Ok(())
}
