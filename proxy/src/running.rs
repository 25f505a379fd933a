//! Starting and stopping the whole.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use postern_auth::{Gate, SystemClock};
use postern_certs::Certificates;
use postern_model::{Management, MappingEvents};
use tokio::sync::{OnceCell, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::controller::Controller;
use crate::directory::Directory;
use crate::health::{self, Health};
use crate::listener;
use crate::metrics::Metrics;
use crate::orders::Workers;
use crate::table::{Router, RoutingTable};
use crate::thread::{self, Fate};
use crate::tunnels::{Parts, Tunnels};
use crate::upstream::Connector;
use crate::worker::{RequestIds, Shared};

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody else listens there.
    #[error("{address} is already in use: stop the program that listens there, or choose another address")]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// Not everybody may listen there.
    #[error("listening on {address} is not permitted: choose a port above 1023, or grant CAP_NET_BIND_SERVICE")]
    NotPermitted {
        /// The address.
        address: SocketAddr,
    },
    /// It is not an address of this machine, or the system refuses for another reason.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The system gives no more threads.
    #[error("cannot start a worker thread: {0}")]
    Thread(io::Error),
}

impl StartError {
    fn listen(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address },
            io::ErrorKind::PermissionDenied => Self::NotPermitted { address },
            _ => Self::Listen { address, source },
        }
    }
}

/// A running proxy. Dropping it stops it at once; [`Running::shutdown`] lets requests finish.
pub struct Running {
    https: SocketAddr,
    health_addr: Option<SocketAddr>,
    health: Arc<Health>,
    workers: Workers,
    fates: Vec<Fate>,
    control: CancellationToken,
    controller: JoinHandle<()>,
    health_server: Option<JoinHandle<()>>,
}

/// Starts the proxy. It serves what `events` bring, reports to `management`, and presents the certificates of `certificates`.
/// Has to be called on a tokio runtime, where the control tasks then run.
///
/// # Errors
/// [`StartError`]: one sentence with the next action.
pub async fn start(
    config: Config,
    management: Arc<dyn Management>,
    events: Box<dyn MappingEvents>,
    certificates: Arc<Certificates>,
) -> Result<Running, StartError> {
    let listeners = bind_all(config.https, config.workers.get())?;
    let https = listeners[0].local_addr().map_err(|error| StartError::listen(config.https, error))?;
    let health_listener = match config.health {
        Some(address) => Some(bind_health(address).await?),
        None => None,
    };
    let health_addr = health_listener.as_ref().and_then(|listener| listener.local_addr().ok());

    let directory = Directory::default();
    let (health, metrics) = (Health::new(), Metrics::new(Arc::clone(&management), directory.clone()));
    let mut gate = Gate::new(Arc::clone(&management), Arc::new(SystemClock));
    if let Some(tunnel) = &config.tunnel {
        gate = gate.with_peer_ttl(tunnel.cache_ttl);
    }
    let router: Router = Arc::new(ArcSwap::from_pointee(RoutingTable::default()));
    let shared = Arc::new(Shared {
        config,
        router: Arc::clone(&router),
        gate: Arc::new(gate),
        certificates: Arc::clone(&certificates),
        management: Arc::clone(&management),
        ids: RequestIds::new(),
    });
    let (workers, fates) = start_workers(&shared, &metrics, listeners, &directory)?;
    health.set_bound();
    let parts = shared.config.tunnel.clone().map(|config| Parts {
        folder: OnceCell::new(),
        config,
        management: Arc::clone(&management),
        gate: Arc::clone(&shared.gate),
        workers: workers.clone(),
        metrics: Arc::clone(&metrics),
    });

    let control = CancellationToken::new();
    let covers = Box::new(move |host: &_| certificates.covers(host));
    let controller = Controller {
        events,
        management,
        covers,
        router,
        workers: workers.clone(),
        tunnels: Tunnels::new(parts, directory),
        health: Arc::clone(&health),
        metrics: Arc::clone(&metrics),
    };
    let controller = tokio::spawn(controller.run(control.clone()));
    let health_server = health_listener
        .map(|listener| tokio::spawn(health::serve(listener, Arc::clone(&health), metrics, control.clone())));
    Ok(Running { https, health_addr, health, workers, fates, control, controller, health_server })
}

impl Running {
    /// Where HTTPS is served.
    #[must_use]
    pub fn https_addr(&self) -> SocketAddr {
        self.https
    }

    /// Where health and metrics are served, if anywhere.
    #[must_use]
    pub fn health_addr(&self) -> Option<SocketAddr> {
        self.health_addr
    }

    /// Returns once the first whole snapshot of mappings is being served.
    pub async fn ready(&self) {
        self.health.ready().await;
    }

    /// Accepts nothing more, lets requests finish for `grace`, cuts what is left, closes the tunnels that they may have needed,
    /// and ends. All log lines are handed to management by then.
    pub async fn shutdown(mut self, grace: Duration) {
        self.health.set_draining();
        self.workers.drain(Instant::now() + grace);
        let (drained, ended): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.fates).into_iter().map(|fate| (fate.drained, fate.ended)).unzip();
        if timeout(grace + STUCK, join_all(drained)).await.is_err() {
            tracing::error!("a worker does not finish");
        }
        self.control.cancel();
        let _panicked = (&mut self.controller).await;
        self.workers.stop();
        if timeout(STUCK, join_all(ended)).await.is_err() {
            tracing::error!("a worker does not end");
        }
        if let Some(health_server) = &mut self.health_server {
            let _panicked = health_server.await;
        }
    }
}

/// Beyond this a worker is not draining but stuck.
const STUCK: Duration = Duration::from_secs(5);

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("https", &self.https).finish_non_exhaustive()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.control.cancel();
        self.workers.stop();
    }
}

/// As many listeners as workers on one address. The first bind is alone on it: with SO_REUSEPORT alone, a second process would
/// share the port without a word.
fn bind_all(address: SocketAddr, count: usize) -> Result<Vec<std::net::TcpListener>, StartError> {
    let failed = |error| StartError::listen(address, error);
    let probe = listener::bind(address, false).map_err(failed)?;
    let address = probe.local_addr().map_err(failed)?;
    drop(probe);
    (0..count).map(|_| listener::bind(address, true).map_err(failed)).collect()
}

async fn bind_health(address: SocketAddr) -> Result<tokio::net::TcpListener, StartError> {
    tokio::net::TcpListener::bind(address).await.map_err(|error| StartError::listen(address, error))
}

fn start_workers(
    shared: &Arc<Shared>,
    metrics: &Arc<Metrics>,
    listeners: Vec<std::net::TcpListener>,
    directory: &Directory,
) -> Result<(Workers, Vec<Fate>), StartError> {
    let connector = Arc::new(Connector::new(directory.clone()));
    let (mut orders, mut fates) = (Vec::new(), Vec::new());
    for (number, listener) in listeners.into_iter().enumerate() {
        let (sender, receiver) = mpsc::unbounded_channel();
        let start = thread::Start {
            number,
            shared: Arc::clone(shared),
            metrics: metrics.worker(),
            connector: Arc::clone(&connector),
            listener,
            orders: receiver,
        };
        fates.push(thread::spawn(start).map_err(StartError::Thread)?);
        orders.push(sender);
    }
    Ok((Workers::new(orders), fates))
}
