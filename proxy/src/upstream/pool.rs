//! Connections to upstreams that are kept for the next request. Each worker has its own, so nothing is locked.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::UpstreamLimits;
use crate::error::Result;
use crate::table::{Upstream, UpstreamKey};
use crate::upstream::connect::Connector;
use crate::upstream::wire::Wire;

/// The connections of one worker that no request uses.
pub(crate) struct Pool {
    connector: Arc<Connector>,
    limits: UpstreamLimits,
    idle: RefCell<HashMap<UpstreamKey, Vec<Idle>>>,
    kept: Cell<usize>,
}

struct Idle {
    wire: Rc<RefCell<Wire>>,
    since: Instant,
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
        loop {
            let found = kept.pop()?;
            self.kept.set(self.kept.get() - 1);
            let idle = now.saturating_duration_since(found.since);
            if idle < self.limits.idle_timeout && found.wire.borrow_mut().is_quiet() {
                let used = if idle < self.limits.rested { Used::Now } else { Used::Rested };
                return Some(self.lease(upstream, found.wire, used));
            }
        }
    }

    /// A new connection, reached within `patience`.
    ///
    /// # Errors
    /// [`Kind::UpstreamConnect`](crate::error::Kind::UpstreamConnect).
    pub(crate) async fn dial(self: &Rc<Self>, upstream: &Arc<Upstream>, patience: Duration) -> Result<Lease> {
        let stream = self.connector.connect(&upstream.key, patience, self.limits.tls_handshake_timeout).await?;
        Ok(self.lease(upstream, Rc::new(RefCell::new(Wire::new(stream))), Used::Never))
    }

    /// Closes what has been idle for too long.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let mut left = 0;
        self.idle.borrow_mut().retain(|_, kept| {
            kept.retain(|idle| now - idle.since < self.limits.idle_timeout && idle.wire.borrow_mut().is_quiet());
            left += kept.len();
            !kept.is_empty()
        });
        self.kept.set(left);
    }

    fn lease(self: &Rc<Self>, upstream: &Arc<Upstream>, wire: Rc<RefCell<Wire>>, used: Used) -> Lease {
        Lease { pool: Rc::clone(self), upstream: Arc::clone(upstream), wire, used }
    }

    fn keep(&self, key: &UpstreamKey, wire: Rc<RefCell<Wire>>) {
        if !wire.borrow_mut().rest() || self.kept.get() >= self.limits.max_idle {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let kept = match idle.get_mut(key) {
            Some(kept) => kept,
            None => idle.entry(key.clone()).or_default(),
        };
        if kept.len() < self.limits.max_idle_per_host {
            kept.push(Idle { wire, since: Instant::now() });
            self.kept.set(self.kept.get() + 1);
        }
    }
}

/// A connection while a request uses it. Dropping it closes it, once whoever shares it has let go as well.
pub(crate) struct Lease {
    pool: Rc<Pool>,
    upstream: Arc<Upstream>,
    /// Shared with what is left of an upload once its answer has begun.
    pub(crate) wire: Rc<RefCell<Wire>>,
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
    /// Keeps the connection for the next request, unless the upstream has said more than its answer. Only right once both
    /// messages are complete.
    pub(crate) fn give_back(self) {
        self.pool.keep(&self.upstream.key, self.wire);
    }

    /// The connection for whoever takes it over once the protocol has changed; `None` while it is shared.
    pub(crate) fn take_over(self) -> Option<Wire> {
        Rc::try_unwrap(self.wire).ok().map(|wire| wire.into_inner().changed())
    }
}
