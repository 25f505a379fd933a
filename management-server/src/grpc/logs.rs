use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::unfold;
use postern_model::AccountId;
use postern_proto::convert::access_log_keys;
use postern_proto::postern::v1::{AccessLogAck, AccessLogBatch};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::access_log::AccessLogs;
use crate::tokens::Bearer;

use super::mappings::removed;

/// A stream of access-log batches. A batch is counted and acknowledged in one step, so a stop between two batches leaves
/// none that was counted without the proxy being told.
pub(super) struct LogStream {
    pub(super) batches: Streaming<AccessLogBatch>,
    pub(super) logs: Arc<AccessLogs>,
    pub(super) bearer: Arc<Bearer>,
    pub(super) stop: CancellationToken,
}

impl LogStream {
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<AccessLogAck, Status>> + Send + 'static {
        unfold(Some(self), |stream| async move {
            let mut stream = stream?;
            match stream.next().await {
                Ok(Some(ack)) => Some((Ok(ack), Some(stream))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<AccessLogAck>, Status> {
        let batch = tokio::select! {
            biased;
            () = self.bearer.removed.cancelled() => return Err(removed()),
            () = self.stop.cancelled() => return Ok(None),
            batch = self.batches.message() => batch?,
        };
        let Some(AccessLogBatch { sequence, lines }) = batch else { return Ok(None) };
        let keys = lines.iter().map(|line| access_log_keys(line).ok_or_else(no_line)).collect::<Result<Vec<_>, _>>()?;
        for keys in &keys {
            own(keys.account, &self.bearer.account)?;
        }
        self.logs.store(keys.iter().zip(&lines).map(|(keys, line)| (keys.id, line.as_ref())));
        Ok(Some(AccessLogAck { sequence }))
    }
}

/// A line belongs to the token's account, or to none where no service was found.
pub(super) fn own(accounted: &[u8], account: &AccountId) -> Result<(), Status> {
    if accounted.is_empty() || accounted == account.as_str().as_bytes() {
        Ok(())
    } else {
        Err(Status::permission_denied("the token is not of the account that the line is of"))
    }
}

fn no_line() -> Status {
    Status::invalid_argument("a line of the access log cannot be read")
}
