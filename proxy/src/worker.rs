//! What a worker has: the part all workers share, and the part that is its own.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ipnet::IpNet;
use postern_auth::{Gate, Origin};
use postern_certs::Certificates;
use postern_model::{HostName, Management, Principal, RequestId, Scheme};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, ForwardedProto};
use crate::connection::Pulse;
use crate::http::forwarded::Peer;
use crate::http::stamp::Identity;
use crate::live::Live;
use crate::metrics::WorkerMetrics;
use crate::places::Seat;
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
    /// Who it comes from: the public, or a peer that the tunnel vouches for.
    pub(crate) origin: Origin,
    /// Whoever is at the other end of the TCP connection.
    pub(crate) peer: Peer,
    /// The name the TLS connection was made for; `None` where plain HTTP is spoken.
    pub(crate) sni: Option<HostName>,
    pub(crate) seen: Seen,
    pub(crate) http2: bool,
    pub(crate) pulse: Arc<Pulse>,
    /// Held as long as anything of the connection is left, a WebSocket that it became included.
    pub(crate) _place: Place,
}

impl Conn {
    /// What `X-Forwarded-Proto` and links to us say.
    pub(crate) fn scheme(&self) -> Scheme {
        let said = match self.origin {
            Origin::Public => self.worker.shared.config.forwarded_proto,
            // Nobody in front of us terminated anything here.
            Origin::Tunnel(_) => ForwardedProto::Auto,
        };
        match said {
            ForwardedProto::Auto if self.sni.is_none() => Scheme::Http,
            ForwardedProto::Auto | ForwardedProto::Https => Scheme::Https,
            ForwardedProto::Http => Scheme::Http,
        }
    }

    /// Whose word counts about who the client is. In a tunnel a peer is who its key says.
    pub(crate) fn trusted_proxies(&self) -> &[IpNet] {
        match self.origin {
            Origin::Public => &self.worker.shared.config.trusted_proxies,
            Origin::Tunnel(_) => &[],
        }
    }
}

/// What the requests of a connection mostly have in common, so that it is read or written once.
#[derive(Default)]
pub(crate) struct Seen {
    host: OnceCell<HostName>,
    identity: RefCell<Option<(Arc<Principal>, Rc<Identity>)>>,
}

impl Seen {
    /// The host of the first request.
    pub(crate) fn host(&self) -> Option<&HostName> {
        self.host.get()
    }

    /// A request names this host.
    pub(crate) fn named(&self, host: &HostName) {
        self.host.get_or_init(|| host.clone());
    }

    /// What upstreams are told of whoever asks.
    pub(crate) fn identity(&self, principal: &Arc<Principal>) -> Rc<Identity> {
        let mut last = self.identity.borrow_mut();
        match &*last {
            Some((same, identity)) if Arc::ptr_eq(same, principal) => Rc::clone(identity),
            Some(_) | None => {
                let identity = Rc::new(Identity::of(principal));
                *last = Some((Arc::clone(principal), Rc::clone(&identity)));
                identity
            }
        }
    }
}

/// A connection's place among those that a worker may have open. Counted as open as long as it is held.
pub(crate) struct Place {
    _among: Among,
    metrics: Arc<WorkerMetrics>,
}

/// Whose connections share the places.
pub(crate) enum Among {
    /// All of the public listener.
    Public { _permit: OwnedSemaphorePermit },
    /// Those of a tunnel's peers.
    Peers { _seat: Seat },
}

impl Place {
    pub(crate) fn take(among: Among, metrics: &Arc<WorkerMetrics>) -> Self {
        metrics.connection_opened();
        Self { _among: among, metrics: Arc::clone(metrics) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.connection_closed();
    }
}

/// Makes request ids: this process, then a number. They name requests, they guard nothing.
#[derive(Debug)]
pub(crate) struct RequestIds {
    process: u64,
    next: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new() -> Self {
        Self { process: rand::random(), next: AtomicU64::new(0) }
    }

    pub(crate) fn next(&self) -> RequestId {
        RequestId::new(self.process, self.next.fetch_add(1, Ordering::Relaxed))
    }
}
