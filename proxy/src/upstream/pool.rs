//! Connections to upstreams that are kept for the next request. Each worker has its own, so nothing is locked.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::config::UpstreamLimits;
use crate::error::{Connect, Error, Kind, Result};
use crate::http::upload::Upload;
use crate::table::{Upstream, UpstreamKey};
use crate::upstream::connect::Connector;

/// The connections of one worker that no request uses.
pub(crate) struct Pool {
    connector: Arc<Connector>,
    limits: UpstreamLimits,
    idle: RefCell<HashMap<UpstreamKey, Vec<Idle>>>,
    kept: Cell<usize>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// A connection and the task that carries it. Dropping it ends the task in the middle of whatever it waits for: an upstream that
/// takes nothing more would keep it for ever.
struct Connection {
    sender: http1::SendRequest<Upload>,
    task: AbortOnDropHandle<()>,
}

impl Pool {
    pub(crate) fn new(connector: Arc<Connector>, limits: UpstreamLimits) -> Rc<Self> {
        Rc::new(Self { connector, limits, idle: RefCell::default(), kept: Cell::new(0) })
    }

    pub(crate) fn limits(&self) -> &UpstreamLimits {
        &self.limits
    }

    /// The connection that was used last, if one is fit for a request that begins `now`.
    pub(crate) fn take(self: &Rc<Self>, upstream: &Arc<Upstream>, now: Instant) -> Option<Lease> {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.get_mut(&upstream.key)?;
        let position = kept.iter().rposition(|idle| idle.connection.sender.is_ready())?;
        // Those above it are closed or not yet ready; the order among them does not matter.
        let found = kept.swap_remove(position);
        self.kept.set(self.kept.get() - 1);
        let idle = now.saturating_duration_since(found.since);
        let used = if idle < self.limits.rested { Used::Now } else { Used::Rested };
        (idle < self.limits.idle_timeout).then(|| self.lease(upstream, found.connection, used))
    }

    /// A new connection, reached within `patience`.
    ///
    /// # Errors
    /// [`Kind::UpstreamConnect`].
    pub(crate) async fn dial(self: &Rc<Self>, upstream: &Arc<Upstream>, patience: Duration) -> Result<Lease> {
        let stream = self.connector.connect(&upstream.key, patience, self.limits.tls_handshake_timeout).await?;
        // Not more headers than hyper's own 100: any other limit makes it fill a table of them for each answer.
        let (sender, connection) = http1::Builder::new()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Error::with(Kind::UpstreamConnect(Connect::Other), error))?;
        // What ends it early reaches whoever waits for the answer.
        let task = AbortOnDropHandle::new(tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::trace!(%error, "upstream connection ended");
            }
        }));
        Ok(self.lease(upstream, Connection { sender, task }, Used::Never))
    }

    /// Closes what has been idle for too long.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let mut left = 0;
        self.idle.borrow_mut().retain(|_, kept| {
            kept.retain(|idle| !idle.connection.sender.is_closed() && now - idle.since < self.limits.idle_timeout);
            left += kept.len();
            !kept.is_empty()
        });
        self.kept.set(left);
    }

    fn lease(self: &Rc<Self>, upstream: &Arc<Upstream>, connection: Connection, used: Used) -> Lease {
        Lease { pool: Rc::clone(self), upstream: Arc::clone(upstream), connection, used }
    }

    fn keep(&self, key: &UpstreamKey, connection: Connection) {
        if connection.sender.is_closed() || self.kept.get() >= self.limits.max_idle {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let kept = match idle.get_mut(key) {
            Some(kept) => kept,
            None => idle.entry(key.clone()).or_default(),
        };
        if kept.len() < self.limits.max_idle_per_host {
            kept.push(Idle { connection, since: Instant::now() });
            self.kept.set(self.kept.get() + 1);
        }
    }
}

/// A connection while a request uses it. Dropping it closes it.
pub(crate) struct Lease {
    pool: Rc<Pool>,
    upstream: Arc<Upstream>,
    connection: Connection,
    pub(crate) used: Used,
}

/// When a connection was used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Used {
    /// It is new.
    Never,
    /// A moment ago.
    Now,
    /// So long ago that the upstream may be closing it.
    Rested,
}

impl Lease {
    /// Where to send a request.
    pub(crate) fn sender(&mut self) -> &mut http1::SendRequest<Upload> {
        &mut self.connection.sender
    }

    /// Keeps the connection for the next request. Only right once both messages are complete.
    pub(crate) fn give_back(self) {
        self.pool.keep(&self.upstream.key, self.connection);
    }

    /// Leaves the connection to whoever takes it over from its task once the protocol has changed.
    pub(crate) fn give_up(self) {
        drop(self.connection.task.detach());
    }
}
