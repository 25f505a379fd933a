use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use postern_model::{ServiceId, StatusUpdate};
use postern_proto::convert::status_to_wire;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::failure::{Failure, call, classify};
use crate::rpc::Rpc;

const DEADLINE: Duration = Duration::from_secs(10);
/// Calls at a time. A round ends before the next begins, so that statuses of one service arrive in order.
const ROUND: usize = 16;
/// How often a status is offered that the server answers with an error of its own.
const TRIES: u32 = 3;

/// The newest status of each service that has one to deliver.
#[derive(Default)]
pub(crate) struct Board {
    statuses: Mutex<BTreeMap<ServiceId, Pending>>,
    changed: Notify,
}

struct Pending {
    status: StatusUpdate,
    tries: u32,
}

impl Board {
    pub(crate) fn put(&self, status: StatusUpdate) {
        self.statuses.lock().insert(status.service.clone(), Pending { status, tries: 0 });
        self.changed.notify_one();
    }

    fn take(&self) -> Vec<Pending> {
        let mut statuses = self.statuses.lock();
        std::iter::from_fn(|| statuses.pop_first()).take(ROUND).map(|(_, pending)| pending).collect()
    }

    /// Unless there is a newer one.
    fn put_back(&self, pending: Pending) {
        self.statuses.lock().entry(pending.status.service.clone()).or_insert(pending);
    }
}

/// The task that delivers statuses.
pub(crate) struct Statuses {
    pub(crate) rpc: Rpc,
    pub(crate) board: Arc<Board>,
    pub(crate) closing: CancellationToken,
}

impl Statuses {
    /// Runs until the shutdown, and then until nothing waits.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::new(rand::random());
        loop {
            let round = self.board.take();
            if !round.is_empty() {
                self.deliver(round, &mut backoff).await;
            } else if self.closing.is_cancelled() {
                return;
            } else {
                let _ = self.closing.run_until_cancelled(self.board.changed.notified()).await;
            }
        }
    }

    async fn deliver(&self, round: Vec<Pending>, backoff: &mut Backoff) {
        let answers = join_all(round.iter().map(|pending| self.send(&pending.status))).await;
        let mut again = false;
        for (mut pending, answer) in round.into_iter().zip(answers) {
            let service = &pending.status.service;
            match answer {
                Ok(()) => backoff.answered(),
                Err(Failure::Refused(reason)) => {
                    tracing::debug!(%service, "management does not take the status: {reason}");
                    backoff.answered();
                }
                Err(Failure::Unsure(reason)) if pending.tries + 1 == TRIES => {
                    tracing::warn!(%service, "management cannot take the status: {reason}");
                }
                Err(failure @ (Failure::Unsure(_) | Failure::Unreachable(_))) => {
                    tracing::debug!(%service, "the status waits: {}", failure.reason());
                    pending.tries += u32::from(matches!(failure, Failure::Unsure(_)));
                    self.board.put_back(pending);
                    again = true;
                }
            }
        }
        if again {
            backoff.pause(&self.closing).await;
        }
    }

    async fn send(&self, status: &StatusUpdate) -> Result<(), Failure> {
        let mut management = self.rpc.management();
        let answer = call(DEADLINE, management.send_status_update(status_to_wire(status))).await;
        answer.map(|_| ()).map_err(|status| classify(&status))
    }
}
