//! Artifacts in a group: a majority has one when it is acknowledged.

use std::path::Path;

use anyhow::bail;
use reqwest::{Method, StatusCode};
use tepui_tests::{Client, Cluster, eventually};
use tepui_types::Digest;

use super::Result;

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_is_held_by_more_than_the_leader_when_it_is_acknowledged() -> Result {
    let mut cluster = Cluster::new().masters(3).without_batch().start().await?;
    let leader = cluster.leader().await?;
    let client = cluster.client_of(leader)?;
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
    let digest = client.upload(bytes.clone()).await?;
    cluster.kill_master_at(leader);
    cluster.speak_to((leader + 1) % 3)?;
    for index in (0..3).filter(|index| *index != leader) {
        let client = cluster.client_of(index)?;
        let answer = eventually("the artifact is there", async || {
            let answer = client.get_raw(&format!("/v1/artifacts/{digest}")).await?;
            match answer.status.is_success() {
                true => Ok(answer),
                false => bail!("{}: {}", answer.status, answer.text()),
            }
        })
        .await;
        assert!(answer.body == bytes);
    }
    Ok(())
}

/// A folder that can hold nothing, or can again.
fn take_away(folder: &Path) -> std::io::Result<()> {
    std::fs::rename(folder, folder.with_extension("away"))?;
    std::fs::write(folder, "")
}

fn give_back(folder: &Path) -> std::io::Result<()> {
    std::fs::remove_file(folder)?;
    std::fs::rename(folder.with_extension("away"), folder)
}

async fn put(client: &Client, bytes: &'static [u8]) -> anyhow::Result<StatusCode> {
    let path = format!("/v1/artifacts/{}", Digest::of(bytes));
    let request = client.request(Method::PUT, &path).body(bytes);
    Ok(client.send(request).await?.status)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_too_few_can_hold_is_refused() -> Result {
    let plan = Cluster::new().masters(3).agents(0).without_batch();
    let cluster = plan.start().await?;
    let leader = cluster.leader().await?;
    let client = cluster.client_of(leader)?;
    let followers = (0..3).filter(|index| *index != leader);
    let folders = followers.map(|index| cluster.dir_of_master(index).join("artifacts"));
    let [first, second] = &folders.collect::<Vec<_>>()[..] else {
        panic!("two follow");
    };
    take_away(first)?;
    assert!(put(&client, b"for two").await?.is_success());
    let file = second.join(Digest::of(b"for two").hex());
    assert_eq!(std::fs::read(file)?, b"for two", "it was acknowledged");
    take_away(second)?;
    assert_eq!(
        put(&client, b"for all").await?,
        503,
        "the leader alone has it"
    );
    give_back(first)?;
    give_back(second)?;
    assert!(put(&client, b"for all").await?.is_success());
    for folder in [first, second] {
        eventually("it has both", async || {
            for bytes in [&b"for two"[..], b"for all"] {
                std::fs::metadata(folder.join(Digest::of(bytes).hex()))?;
            }
            std::io::Result::Ok(())
        })
        .await;
    }
    Ok(())
}
