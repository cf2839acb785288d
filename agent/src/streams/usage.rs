//! What running tasks use, as one document.

use tepui_types::wire::stream::{MAX_CHUNK, StreamFrame, UsageRequest};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Means, Sender, StreamError, Subject, refused};
use crate::usage;

pub(super) async fn serve<C: AsyncRead + AsyncWrite>(
    sender: &mut Sender<'_, C>,
    means: &Means,
    subject: &Subject,
    request: UsageRequest,
) -> Result<(), StreamError> {
    let mut list = means.gauge.look(&request).await;
    if let (UsageRequest::Task(_), []) = (&request, &list.tasks[..]) {
        // It has not begun, or has just ended.
        list.tasks.push(usage::view(subject.launch()?, None));
    }
    let json = serde_json::to_vec(&list);
    let json = json.map_err(|error| refused("usage-unreadable", error.to_string()))?;
    for chunk in json.chunks(MAX_CHUNK) {
        sender.send(StreamFrame::Data(chunk.to_vec())).await?;
    }
    sender.send(StreamFrame::End).await
}
