use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use postern_model::{AccountId, Secret, ServiceId};
use postern_proto::management::proxy_service_server::ProxyServiceServer;
use postern_proto::postern::v1::proxy_server::ProxyServer;
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

use crate::access_log::AccessLogs;
use crate::admin::{self, Admin};
use crate::data_dir::{DataDir, DataDirError};
use crate::desired::Desired;
use crate::enrolment::Enrolment;
use crate::file::{self, FileError};
use crate::grpc::Rpc;
use crate::hub::Hub;
use crate::listener::{self, Connection, Security, Tls};
use crate::peer_error::PeerError;
use crate::problems::Problems;
use crate::shared::Shared;
use crate::steward::{ApplyError, Order};
use crate::store::{Store, StoreError};
use crate::tokens::{TokenCheck, Tokens};
use crate::watch::Watch;

/// The one account of this server (NetBird: `account_id`).
pub const DEFAULT_ACCOUNT: &str = "default";

/// Proxies ping every 20 s; so do we, and miss a dead one soon.
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(10);
/// A batch of access-log lines fits.
const STREAM_WINDOW: u32 = 1 << 20;
/// How long streams may take to hear that the server stops.
const STOP: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything that must survive is kept: database, local CA, administration socket. One process at a time.
    pub data_dir: PathBuf,
    /// For proxies elsewhere; `None` serves only this process.
    pub listener: Option<Listener>,
    /// What to publish.
    pub source: Source,
}

/// Where proxies elsewhere connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Port 0 takes a free one.
    pub addr: SocketAddr,
    /// How it is secured.
    pub tls: Tls,
}

/// Where the desired state comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A `postern.toml`, followed as it changes.
    File(PathBuf),
    /// Given here, changed by [`Running::apply`].
    Given(Box<Desired>),
}

/// Why the server does not start. Each text is one sentence that ends with what to do, or one for each mistake.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The database in it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The configuration file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The desired state.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The peers of the tunnel.
    #[error(transparent)]
    Peers(#[from] PeerError),
    /// The certificate of the listener.
    #[error(transparent)]
    Certificate(#[from] postern_certs::Error),
    /// Plaintext where others could listen in.
    #[error(
        "management would speak without TLS on {0}, which others can reach; listen on 127.0.0.1, give it a certificate, or set \
         `allow_plaintext = true` in [management]"
    )]
    Plaintext(SocketAddr),
    /// The address of the listener.
    #[error("management cannot listen on {addr}: {source}; choose another address, or stop what uses this one")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The administration socket.
    #[error("cannot make the administration socket {}: {source}; choose a --data-dir with a short path on a local disk", .path.display())]
    Admin {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A management server that runs. Dropping it ends it at once; [`Running::shutdown`] takes leave first.
#[derive(Debug)]
pub struct Running {
    addr: Option<SocketAddr>,
    ca_file: Option<PathBuf>,
    memory: mpsc::Sender<DuplexStream>,
    token: Secret,
    orders: mpsc::Sender<Order>,
    hub: Arc<Hub>,
    enrolment: Enrolment,
    pub(crate) logs: Arc<AccessLogs>,
    pub(crate) store: Store,
    pub(crate) problems: Arc<Problems>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    /// Dropped last: while the folder is locked, nobody else opens what is in it.
    data_dir: DataDir,
}

/// Starts it. When this returns, the desired state is in force and every socket is open.
///
/// # Errors
/// [`StartError`]; then nothing runs and the data folder is free.
pub async fn start(config: Config) -> Result<Running, StartError> {
    let data_dir = DataDir::open(&config.data_dir)?;
    let listening = listen(config.listener.as_ref(), data_dir.path()).await?;
    let store = Store::open(data_dir.path()).await?;
    let (desired, watch) = read(config.source).await?;
    let tunnel = desired.settings.tunnel.clone();
    let account = AccountId::parse(DEFAULT_ACCOUNT).expect("an account id");
    let shared = Shared::load(account, store, &tunnel).await?;
    let mut steward = shared.steward().await?;
    steward.begin(desired, watch.as_ref().map(Watch::path)).await?;
    let path = admin::socket_path(data_dir.path());
    let admin_socket = admin::bind(&path).map_err(|source| StartError::Admin { path, source })?;

    let stop = CancellationToken::new();
    let addr = listening.as_ref().map(|listening| listening.addr);
    let ca_file = listening.as_ref().and_then(|listening| listening.ca_file.clone());
    let admin = shared.admin(addr, &steward, tunnel);
    let enrolment = admin.enrolment.clone();
    let mut tasks = JoinSet::new();
    let (orders, ordered) = mpsc::channel(1);
    let problems = shared.problems.clone();
    let steward = steward.run(watch, ordered, stop.clone());
    watched(&mut tasks, &problems, "changes of what is published are not taken up", steward);
    let housekeeping = shared.housekeeping().run(stop.clone());
    watched(&mut tasks, &problems, "what proxies report is not written down", housekeeping);
    let ends = shared.peers.clone().run(stop.clone());
    watched(&mut tasks, &problems, "peers whose time is over stay in the tunnel", ends);
    tasks.spawn(administer(admin_socket, admin, stop.clone()));
    let Connections { memory, ready } = connections(listening, &mut tasks, &stop);
    tasks.spawn(serve(shared.rpc(&stop), shared.tokens.clone(), ready, stop.clone()));
    let token = shared.tokens.internal(&shared.account);
    let Shared { hub, logs, store, .. } = shared;
    Ok(Running { addr, ca_file, memory, token, orders, hub, enrolment, logs, store, problems, stop, tasks, data_dir })
}

impl Running {
    /// Why a service leads nowhere, in whole or in part, and what to do: one sentence for each that does, by id.
    #[must_use]
    pub fn lacks(&self) -> BTreeMap<ServiceId, String> {
        let (catalog, _) = self.hub.catalog();
        catalog.iter().filter_map(|(id, published)| Some((id.clone(), published.lacks.clone()?))).collect()
    }

    /// Where this process's proxy connects to: what is sent here is served as a connection.
    #[must_use]
    pub fn in_memory(&self) -> mpsc::Sender<DuplexStream> {
        self.memory.clone()
    }

    /// The token for this process's proxy, valid in this run.
    #[must_use]
    pub fn token(&self) -> Secret {
        self.token.clone()
    }

    /// Where proxies elsewhere connect to.
    #[must_use]
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// What proxies elsewhere need to trust, where the listener has a certificate of the local CA.
    #[must_use]
    pub fn ca_file(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }

    /// The data folder, absolute.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    /// Puts a desired state in force, whole or not at all.
    ///
    /// # Errors
    /// [`ApplyError`]; what was in force stays.
    pub async fn apply(&self, desired: Desired) -> Result<(), ApplyError> {
        let (done, result) = oneshot::channel();
        self.orders.send((desired, done)).await.map_err(|_| ApplyError::Stopping)?;
        result.await.map_err(|_| ApplyError::Stopping)?
    }

    /// Returns once the proxy in this process, and no other, is in the tunnel, so that configurations name it. It goes there
    /// when the first service needs it.
    ///
    /// # Errors
    /// As soon as it has said that it has no tunnel: why, in one sentence.
    pub async fn proxy_peer_ready(&self) -> Result<(), String> {
        self.enrolment.proxy_peer_ready().await
    }

    /// Ends every stream, takes leave of every proxy, and writes down what is known.
    pub async fn shutdown(mut self) {
        self.hub.close();
        self.stop.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(STOP, all).await.is_err() {
            tracing::warn!("some proxies did not take leave in time");
            self.tasks.shutdown().await;
        }
        self.store.close().await;
        let problems = self.problems.list().len();
        tracing::info!(access_log_lines = self.logs.total(), problems, "management stopped");
        let _ = std::fs::remove_file(admin::socket_path(self.data_dir.path()));
    }
}

async fn read(source: Source) -> Result<(Desired, Option<Watch>), StartError> {
    match source {
        Source::Given(desired) => Ok((*desired, None)),
        Source::File(path) => {
            let (watch, content) = Watch::begin(path.clone()).await;
            let content = content.map_err(|detail| FileError::Read { path: path.clone(), detail })?;
            Ok((file::parse_bytes(&path, &content)?, Some(watch)))
        }
    }
}

/// A task whose panic is told of.
fn watched(
    tasks: &mut JoinSet<()>,
    problems: &Arc<Problems>,
    consequence: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let problems = problems.clone();
    tasks.spawn(async move { problems.watch(consequence, task).await });
}

struct Listening {
    socket: TcpListener,
    addr: SocketAddr,
    security: Arc<Security>,
    ca_file: Option<PathBuf>,
}

async fn listen(listener: Option<&Listener>, data_dir: &Path) -> Result<Option<Listening>, StartError> {
    let Some(Listener { addr, tls }) = listener else { return Ok(None) };
    if *tls == (Tls::Plaintext { anywhere: false }) && !addr.ip().to_canonical().is_loopback() {
        return Err(StartError::Plaintext(*addr));
    }
    let security = Security::new(tls, *addr, data_dir)?;
    let ca_file = security.ca_file();
    let refused = |source| StartError::Bind { addr: *addr, source };
    let socket = TcpListener::bind(addr).await.map_err(refused)?;
    let addr = socket.local_addr().map_err(refused)?;
    Ok(Some(Listening { socket, addr, security: Arc::new(security), ca_file }))
}

struct Connections {
    memory: mpsc::Sender<DuplexStream>,
    ready: std::pin::Pin<Box<dyn tokio_stream::Stream<Item = io::Result<Connection>> + Send>>,
}

/// Connections from memory and from the listener become one stream of connections.
fn connections(listening: Option<Listening>, tasks: &mut JoinSet<()>, stop: &CancellationToken) -> Connections {
    let (memory, from_memory) = mpsc::channel(16);
    let (ready, from_listener) = mpsc::channel(16);
    if let Some(Listening { socket, security, .. }) = listening {
        let (watched, stopped) = (security.clone(), stop.clone());
        tasks.spawn(async move {
            stopped.run_until_cancelled(watched.watch()).await;
        });
        let stopped = stop.clone();
        tasks.spawn(async move {
            stopped.run_until_cancelled(listener::accept(socket, security, ready)).await;
        });
    }
    let from_memory = ReceiverStream::new(from_memory).map(Connection::in_memory);
    let both = from_memory.merge(ReceiverStream::new(from_listener)).map(Ok);
    Connections { memory, ready: Box::pin(both) }
}

async fn serve(
    rpc: Rpc,
    tokens: Arc<Tokens>,
    connections: std::pin::Pin<Box<dyn tokio_stream::Stream<Item = io::Result<Connection>> + Send>>,
    stop: CancellationToken,
) {
    let check = TokenCheck(tokens);
    let rpc = Arc::new(rpc);
    let server = Server::builder()
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PONG))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(4 * STREAM_WINDOW)
        .add_service(InterceptedService::new(ProxyServiceServer::from_arc(rpc.clone()), check.clone()))
        .add_service(InterceptedService::new(ProxyServer::from_arc(rpc), check));
    if let Err(error) = server.serve_with_incoming_shutdown(connections, stop.cancelled_owned()).await {
        tracing::error!(%error, "management no longer serves proxies; start it again");
    }
}

async fn administer(socket: tokio::net::UnixListener, admin: Admin, stop: CancellationToken) {
    let served = axum::serve(socket, admin::router(admin)).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "administration no longer answers; start again");
    }
}
