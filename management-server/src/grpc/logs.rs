use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::unfold;
use postern_model::AccountId;
use postern_proto::management::AccessLog;
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
        for line in &lines {
            own(line, &self.bearer.account)?;
        }
        self.logs.store(lines);
        Ok(Some(AccessLogAck { sequence }))
    }
}

/// A line belongs to the token's account, or to none where no service was found.
pub(super) fn own(line: &AccessLog, account: &AccountId) -> Result<(), Status> {
    if line.account_id.is_empty() || line.account_id == account.as_str() {
        Ok(())
    } else {
        Err(Status::permission_denied("the token is not of the account that the line is of"))
    }
}
