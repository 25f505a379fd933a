//! What the control side tells the workers.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::live::Revocation;

/// One message to one worker.
#[derive(Debug)]
pub(crate) enum Order {
    /// End what these are about.
    Revoke(Arc<[Revocation]>),
    /// Accept nothing more, finish what is under way, cut what is left at the deadline, and end.
    Drain {
        /// When patience ends.
        deadline: Instant,
    },
}

/// All workers of the process.
#[derive(Clone, Debug)]
pub(crate) struct Workers(Arc<[mpsc::UnboundedSender<Order>]>);

impl Workers {
    pub(crate) fn new(workers: Vec<mpsc::UnboundedSender<Order>>) -> Self {
        Self(workers.into())
    }

    /// Tells every worker to end what `revocations` are about.
    pub(crate) fn revoke(&self, revocations: &Arc<[Revocation]>) {
        self.send(|| Order::Revoke(Arc::clone(revocations)));
    }

    /// Tells every worker to finish.
    pub(crate) fn drain(&self, deadline: Instant) {
        self.send(|| Order::Drain { deadline });
    }

    /// A worker that is gone has nothing left to end.
    fn send(&self, order: impl Fn() -> Order) {
        for worker in self.0.iter() {
            let _gone = worker.send(order());
        }
    }
}
