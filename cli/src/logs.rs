//! A task's output on its way to this process's: from where it broke off, for as long as the master
//! or the agent may only be away for a moment.

use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use tepui_types::TaskId;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::client::{Client, ClientError, LogStream};

/// How often in a row an output is asked for in vain, and the pause in between: together about ten
/// seconds for an agent to come back.
const MAX_FAILURES: u32 = 40;
const FAILURE_PAUSE: Duration = Duration::from_millis(250);

/// Copies an output, of a companion where one is named; with `follow` until the task has ended.
pub async fn copy(
    client: &Client,
    task: &TaskId,
    stream: LogStream,
    member: Option<&str>,
    follow: bool,
    mut to: impl AsyncWrite + Unpin,
) -> Result<()> {
    let mut offset = 0;
    let mut failures = 0;
    loop {
        let error = match client.task_logs(task, stream, member, offset, follow).await {
            Ok(mut bytes) => loop {
                match bytes.next().await {
                    Some(Ok(chunk)) => {
                        to.write_all(&chunk).await?;
                        to.flush().await?;
                        offset += chunk.len() as u64;
                        failures = 0;
                    }
                    Some(Err(error)) => break error,
                    None => return Ok(()),
                }
            },
            Err(error) => error,
        };
        failures += 1;
        // What is only looked at once is asked for again by whoever looks.
        if !follow || failures > MAX_FAILURES || !may_come_back(&error) {
            return Err(error.into());
        }
        tokio::time::sleep(FAILURE_PAUSE).await;
    }
}

/// Whether the master or the agent may only be away for a moment.
fn may_come_back(error: &ClientError) -> bool {
    error.is_connection() || matches!(error.status(), Some(502..=504))
}
