//! The dashboard in a real browser.

use anyhow::{Context, ensure};
use fantoccini::Locator;
use reqwest::Method;
use tepui_tests::browser::Browser;
use tepui_tests::{Cluster, Job, eventually};
use tepui_types::AgentStatus;
use tepui_types::api::role::RoleView;
use tepui_types::setting::Settings;

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
    // Its output is read while it runs.
    let tasks = eventually("the cluster knows its end", async || {
        let tasks = cluster.client().tasks("?state=finished").await?;
        match tasks.is_empty() {
            true => anyhow::bail!("no task has finished"),
            false => Ok(tasks),
        }
    })
    .await;
    assert!(
        page.current_url()
            .await?
            .as_str()
            .starts_with(cluster.url())
    );
    assert_eq!(tasks.len(), 1, "{tasks:?}");
    browser.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_task_and_its_companion_wrote_is_found_on_their_pages() -> Result {
    let cluster = Cluster::new().start().await?;
    let mut job =
        Job::shell("while ! test -e beside; do sleep 0.05; done; echo bad luck >&2; exit 1");
    job = job.name("pod");
    job.companions(
        r#"[{"name": "helper", "argv": ["sh", "-c", "echo helps; touch beside; sleep 1000"]}]"#,
    );
    let client = cluster.client();
    client.submit(&job).await?;
    let task = client.ended("pod").await.task.context("it has a task")?;
    let browser = Browser::start().await?;
    let shows = async |text: &str| {
        eventually(text, async || {
            let output = browser.page().find(Locator::Css("#log-output")).await?;
            let output = output.text().await?;
            ensure!(output.contains(text), "{output:?}");
            anyhow::Ok(())
        })
        .await;
    };
    for page in [format!("tasks/{}", task.id), "jobs/pod".to_owned()] {
        let page = format!("{}/{page}", cluster.url());
        browser.page().goto(&page).await?;
        // Nothing is on standard output.
        shows("bad luck").await;
        let members = browser.element("#log-member").await?;
        members.select_by_value("helper").await?;
        shows("helps").await;
        members.select_by_value("main").await?;
        shows("bad luck").await;
        click(&browser, "#log-tab-stdout").await?;
        eventually("the empty output says where something is", async || {
            let phase = browser.element(".log-phase").await?.text().await?;
            ensure!(phase.contains("look at stderr"), "{phase:?}");
            anyhow::Ok(())
        })
        .await;
    }
    // Who ran with it is told after its end, and its job can be gone to.
    let page = format!("{}/tasks/{}", cluster.url(), task.id);
    browser.page().goto(&page).await?;
    let status = browser.element("section.status").await?.text().await?;
    assert!(status.contains("were helper (beside it)"), "{status}");
    click(&browser, "dl a[href='/jobs/pod']").await?;
    browser.element("#job-state").await?;
    browser.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opened_folder_has_the_focus_and_a_name_that_is_no_text_no_link() -> Result {
    let cluster = Cluster::new().start().await?;
    let script = r#"mkdir sub; touch sub/inside "$(printf 'bad\377name')" ready"#;
    let client = cluster.client();
    client.submit(&Job::shell(script).name("files")).await?;
    let task = client.ended("files").await.task.context("it has a task")?;
    let browser = Browser::start().await?;
    let page = format!("{}/tasks/{}", cluster.url(), task.id);
    browser.page().goto(&page).await?;
    click(&browser, "#task-files").await?;
    browser.element("a[download=ready]").await?;
    let bad = "//tr[contains(., 'bad') and contains(., 'as tar') and not(.//a)]";
    browser.page().find(Locator::XPath(bad)).await?;
    let folder = "//td/button[normalize-space()='sub/']";
    let folder = browser.page().find(Locator::XPath(folder)).await?;
    folder.click().await?;
    browser.element("a[download=inside]").await?;
    let focus = "return document.activeElement.innerText";
    let focus = browser.page().execute(focus, Vec::new()).await?;
    let focus = focus.as_str().unwrap_or_default();
    assert!(focus.starts_with("sandbox / sub /"), "{focus}");
    browser.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_phone_every_place_can_be_seen_and_pressed() -> Result {
    let cluster = Cluster::new().agents(0).without_batch().start().await?;
    let browser = Browser::start().await?;
    browser.page().set_window_size(500, 800).await?;
    browser.page().goto(cluster.url()).await?;
    for place in ["masters", "settings", "agents", "submit"] {
        // A click on what lies under something else is refused.
        click(&browser, &format!("#nav-{place}")).await?;
        eventually(place, async || {
            let url = browser.page().current_url().await?;
            ensure!(url.path() == format!("/{place}"), "{url}");
            anyhow::Ok(())
        })
        .await;
    }
    browser.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_is_told_before_it_begins() -> Result {
    let plan = Cluster::new().without_batch();
    let cluster = plan.resources("cpus=2,mem=1GiB,licenses=3").start().await?;
    let client = cluster.client();
    let agent = client.agent("agent-0").await?.id;
    let hour = 3_600_000;
    let start = client.agent("agent-0").await?.registered_at.0 + 100 * hour;
    let window = client
        .request(Method::POST, "/v1/maintenance")
        .json(&serde_json::json!({
            "agents": [agent], "start": start, "duration_ms": hour, "note": "new disks"
        }));
    let answer = client.send(window).await?;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let browser = Browser::start().await?;
    for (page, said) in [
        ("/agents".to_owned(), vec!["maintenance in 4 d"]),
        (
            format!("/agents/{agent}"),
            vec!["new disks", "drained in 4 d", "licenses: 0 of 3 used"],
        ),
    ] {
        let page = format!("{}{page}", cluster.url());
        browser.page().goto(&page).await?;
        for text in said {
            eventually(text, async || {
                let main = browser.page().find(Locator::Css("main")).await?;
                let main = main.text().await?;
                ensure!(main.contains(text), "{main:?}");
                anyhow::Ok(())
            })
            .await;
        }
    }
    browser.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_deactivated_and_used_again_on_its_page() -> Result {
    let cluster = Cluster::new().without_batch().start().await?;
    let client = cluster.client();
    let agent = client.agent("agent-0").await?.id;
    let browser = Browser::start().await?;
    let page = format!("{}/agents/{agent}", cluster.url());
    browser.page().goto(&page).await?;
    for (label, status) in [
        ("Deactivate", AgentStatus::Deactivated),
        ("Reactivate", AgentStatus::Active),
    ] {
        // The page's button opens a dialog with one that has the same words.
        for place in ["not(ancestor::dialog)", "ancestor::dialog"] {
            let button = format!("//button[normalize-space()='{label}' and {place}]");
            eventually(&format!("{label} can be pressed"), async || {
                let button = browser.page().find(Locator::XPath(&button)).await?;
                button.click().await
            })
            .await;
        }
        eventually(&format!("{label} is done"), async || {
            let agent = client.agent("agent-0").await?;
            match agent.status == status {
                true => Ok(()),
                false => anyhow::bail!("{agent:?}"),
            }
        })
        .await;
    }
    browser.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lead_is_handed_over_on_the_page_of_masters() -> Result {
    let cluster = Cluster::new().masters(3).agents(0).without_batch();
    let cluster = cluster.start().await?;
    let leader = cluster.leader().await?;
    let [asked, other] = [1, 2].map(|more| (leader + more) % 3);
    let browser = Browser::start().await?;
    let page = format!("{}/masters", cluster.url_of_master(asked));
    browser.page().goto(&page).await?;
    let row = |index: usize| {
        let url = cluster.url_of_master(index);
        let address = url.trim_start_matches("http://").to_owned();
        format!("//tr[th[contains(., '{address}')]]")
    };
    let shows = async |xpath: String| {
        eventually(&xpath, async || {
            browser.page().find(Locator::XPath(&xpath)).await.map(drop)
        })
        .await;
    };
    shows(format!(
        "{}[contains(., 'you speak to this one')]",
        row(asked)
    ))
    .await;
    shows(format!("{}[contains(., 'leader')]", row(leader))).await;
    for place in ["not(ancestor::dialog)", "ancestor::dialog"] {
        let button = format!(
            "{}//button[normalize-space()='Lead' and {place}]",
            row(other)
        );
        eventually("Lead can be pressed", async || {
            let button = browser.page().find(Locator::XPath(&button)).await?;
            button.click().await
        })
        .await;
    }
    shows(format!("{}[contains(., 'leader')]", row(other))).await;
    assert_eq!(cluster.leader().await?, other);
    browser.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_shown_with_what_was_set_of_them_and_can_be_reset() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let set = client
        .request(Method::PUT, "/v1/roles/eng/web")
        .json(&serde_json::json!({"weight_milli": 2500, "limit": {"cpus_milli": 1500}}));
    let answer = client.send(set).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let browser = Browser::start().await?;
    browser
        .page()
        .goto(&format!("{}/roles", cluster.url()))
        .await?;
    let row = "//tr[th[.//span[@title='eng/web']]]";
    for shown in ["[contains(., '2.5')]", "[contains(., '/ 1.5')]"] {
        eventually(shown, async || {
            let xpath = format!("{row}{shown}");
            browser.page().find(Locator::XPath(&xpath)).await.map(drop)
        })
        .await;
    }
    for place in ["not(ancestor::dialog)", "ancestor::dialog"] {
        let button = format!("{row}//button[normalize-space()='Reset' and {place}]");
        eventually("Reset can be pressed", async || {
            let button = browser.page().find(Locator::XPath(&button)).await?;
            button.click().await
        })
        .await;
    }
    eventually("nothing is set of it", async || {
        let roles: Vec<RoleView> = client.list("/v1/roles").await?;
        let left = roles.iter().any(|view| view.is_set);
        ensure!(!left, "{roles:?}");
        anyhow::Ok(())
    })
    .await;
    browser.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_set_in_the_form_and_what_is_wrong_stands_at_its_field() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let browser = Browser::start().await?;
    let page = format!("{}/roles/set", cluster.url());
    browser.page().goto(&page).await?;
    write(&browser, "#role-path", "eng").await?;
    write(&browser, "#role-weight", "2.5").await?;
    write(&browser, "#role-limit", "mem=1").await?;
    click(&browser, "form button[type=submit]").await?;
    let problem = browser.element("#role-limit-foot .field-problem").await?;
    assert!(problem.text().await?.contains("has no unit"));
    write(&browser, "#role-limit", "cpus=1.5,mem=1GiB").await?;
    click(&browser, "form button[type=submit]").await?;
    let set = eventually("it is set", async || {
        let roles: Vec<RoleView> = client.list("/v1/roles").await?;
        let set = roles.into_iter().find(|view| view.is_set);
        set.context("nothing is set")
    })
    .await;
    assert_eq!((set.role.as_str(), set.weight_milli), ("eng", 2_500));
    // Opened again, it shows what is set; the rest stays as it is.
    let page = format!("{}/roles/set?role=eng", cluster.url());
    browser.page().goto(&page).await?;
    write(&browser, "#role-weight", "3").await?;
    click(&browser, "form button[type=submit]").await?;
    let set = eventually("its weight is set", async || {
        let view: RoleView = client.get("/v1/roles/eng").await?;
        ensure!(view.weight_milli == 3_000, "{view:?}");
        Ok(view)
    })
    .await;
    assert_eq!(set.limit.entries().count(), 2, "{set:?}");
    browser.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_settings_are_changed_on_their_page() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let browser = Browser::start().await?;
    let page = format!("{}/settings", cluster.url());
    browser.page().goto(&page).await?;
    write(&browser, "#settings-offer-timeout", "45").await?;
    write(&browser, "#settings-allowed-hosts", "agent-*").await?;
    click(&browser, "form button[type=submit]").await?;
    let settings = eventually("they are set", async || {
        let settings: Settings = client.get("/v1/settings").await?;
        ensure!(settings.offer_timeout_ms == 45_000, "{settings:?}");
        Ok(settings)
    })
    .await;
    assert_eq!(settings.allowed_hosts, Some(vec!["agent-*".to_owned()]));
    assert_eq!(settings.minimum_offer, Settings::default().minimum_offer);
    browser.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_is_sent_compressed_and_once() -> Result {
    let cluster = Cluster::new().agents(0).without_batch().start().await?;
    let client = cluster.client();
    let get = async |name, value: &str| {
        let request = client.request(Method::GET, "/tepui-web_bg.wasm");
        client.send(request.header(name, value)).await
    };
    let plain = get("accept-encoding", "identity").await?;
    assert!(plain.body.starts_with(b"\0asm"));
    assert_eq!(plain.headers.get("content-encoding"), None);
    let gzip = get("accept-encoding", "gzip, deflate, br").await?;
    assert_eq!(gzip.headers["content-encoding"], "gzip");
    assert_eq!(gzip.headers["content-type"], "application/wasm");
    assert!(gzip.body.len() < plain.body.len() / 2);
    let (_, length) = gzip.body.split_last_chunk().context("a gzip trailer")?;
    let length = u32::from_le_bytes(*length) as usize;
    assert_eq!(length, plain.body.len(), "it is the same file");

    let tag = plain.headers["etag"].to_str()?;
    let again = get("if-none-match", tag).await?;
    assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
    assert_ne!(gzip.headers["etag"], plain.headers["etag"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_a_framework_that_is_not_there_says_so() -> Result {
    let cluster = Cluster::new().agents(0).without_batch().start().await?;
    let path = "/frameworks/nosuch/";
    // A program is told in its own words.
    let answer = cluster.client().get_raw(path).await?;
    assert_eq!(answer.problem().status, 404);
    let html = cluster.client().request(Method::GET, path);
    let html = html.header("accept", "text/html,*/*;q=0.8");
    let answer = cluster.client().send(html).await?;
    assert_eq!(answer.status.as_u16(), 404);
    let browser = Browser::start().await?;
    let page = format!("{}{path}", cluster.url());
    browser.page().goto(&page).await?;
    eventually(
        "the page says that there is no such framework",
        async || {
            let main = browser.page().find(Locator::Css("main")).await?;
            let text = main.text().await?;
            match text.contains("no framework") || text.contains("no such") {
                true => Ok(()),
                false => anyhow::bail!("{text:?}"),
            }
        },
    )
    .await;
    browser.close().await?;
    Ok(())
}

/// In place of what stands there.
async fn write(browser: &Browser, selector: &str, text: &str) -> anyhow::Result<()> {
    let field = browser.element(selector).await?;
    field.clear().await?;
    field.send_keys(text).await?;
    Ok(())
}

async fn click(browser: &Browser, selector: &str) -> anyhow::Result<()> {
    browser.element(selector).await?.click().await?;
    Ok(())
}
