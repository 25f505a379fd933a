//! What a worker has: the part all workers share, and the part that is its own.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use postern_auth::Gate;
use postern_certs::Certificates;
use postern_model::{HostName, Management, RequestId};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, ForwardedProto};
use crate::connection::Pulse;
use crate::http::forwarded::Peer;
use crate::live::Live;
use crate::metrics::WorkerMetrics;
use crate::table::{Router, Scope};
use crate::upstream::Pool;

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) router: Router,
    pub(crate) gate: Arc<Gate>,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) management: Arc<dyn Management>,
    pub(crate) ids: RequestIds,
}

/// One worker: everything in here is touched by its thread alone.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) live: Rc<Live>,
    pub(crate) pool: Rc<Pool>,
    pub(crate) metrics: Arc<WorkerMetrics>,
    /// Fires when nothing new shall begin.
    pub(crate) draining: CancellationToken,
    /// The client connections and the upgraded flows.
    pub(crate) tasks: TaskTracker,
}

/// One client connection.
pub(crate) struct Conn {
    pub(crate) worker: Rc<Worker>,
    pub(crate) scope: Scope,
    /// Whoever is at the other end of the TCP connection.
    pub(crate) peer: Peer,
    /// The name the TLS connection was made for.
    pub(crate) sni: HostName,
    pub(crate) http2: bool,
    pub(crate) pulse: Arc<Pulse>,
    /// Held as long as anything of the connection is left, a WebSocket that it became included.
    pub(crate) _place: Place,
}

impl Conn {
    /// What `X-Forwarded-Proto` and links to us say.
    pub(crate) fn scheme(&self) -> postern_model::Scheme {
        match self.worker.shared.config.forwarded_proto {
            ForwardedProto::Auto | ForwardedProto::Https => postern_model::Scheme::Https,
            ForwardedProto::Http => postern_model::Scheme::Http,
        }
    }
}

/// A connection's place among those that a worker may have open. Counted as open as long as it is held.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    metrics: Arc<WorkerMetrics>,
}

impl Place {
    pub(crate) fn take(permit: OwnedSemaphorePermit, metrics: &Arc<WorkerMetrics>) -> Self {
        metrics.connection_opened();
        Self { _permit: permit, metrics: Arc::clone(metrics) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.connection_closed();
    }
}

/// Makes request ids: 48 bits of this process, then a number, in base 32. They name requests, they guard nothing.
#[derive(Debug)]
pub(crate) struct RequestIds {
    process: u64,
    next: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new() -> Self {
        Self { process: rand::random::<u64>() >> 16, next: AtomicU64::new(0) }
    }

    /// 20 characters, as NetBird's.
    pub(crate) fn next(&self) -> RequestId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut rest = (u128::from(self.process) << 52) | u128::from(number & ((1 << 52) - 1));
        let mut text = [0; 20];
        for place in text.iter_mut().rev() {
            *place = b"0123456789abcdefghijklmnopqrstuv"[(rest & 31) as usize];
            rest >>= 5;
        }
        let text = std::str::from_utf8(&text).expect("the alphabet is ASCII");
        RequestId::parse(text).expect("20 letters and digits are an id")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_differ_and_have_one_length() {
        let ids = RequestIds::new();
        let (first, second) = (ids.next(), ids.next());
        assert_ne!(first, second);
        assert_eq!((first.as_str().len(), second.as_str().len()), (20, 20));
        assert_eq!(first.as_str()[..9], second.as_str()[..9]);
        assert_ne!(first.as_str()[..9], RequestIds::new().next().as_str()[..9], "another process");
    }
}
