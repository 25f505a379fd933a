use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use postern_certs::{ALPN_H2, Certificates, LocalCa, StaticPair, server_config};
use postern_model::HostName;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tonic::transport::server::Connected;

use crate::desired::TlsFiles;

/// From a connection's beginning to its first call with a valid token. Whoever has none cannot use up our file
/// descriptors: so many connections wait for that call at once, and so long.
const INTRODUCTION: Duration = Duration::from_secs(10);
const STRANGERS: usize = 256;
/// Out of file descriptors: trying again at once would only burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Two thirds of the life of a leaf of the local CA.
const RENEW_AFTER: Duration = Duration::from_secs(264 * 24 * 3600);

/// How the listener for proxies speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// TLS with a pair of files, followed as they change.
    Files(TlsFiles),
    /// TLS with a certificate of the local CA in the data folder, for `localhost`, the address listened on and these names.
    LocalCa {
        /// What proxies call this server.
        names: Vec<String>,
    },
    /// No TLS: tokens travel in clear.
    Plaintext {
        /// Not only on loopback. To be said explicitly, never a default.
        anywhere: bool,
    },
}

/// How connections are secured, ready for use.
#[derive(Debug)]
pub(crate) enum Security {
    None,
    Files(Certificates),
    Local(Box<Issued>),
}

/// A certificate of the local CA, issued anew long before it ends.
#[derive(Debug)]
pub(crate) struct Issued {
    ca: LocalCa,
    names: Vec<String>,
    current: Mutex<(Instant, Arc<ServerConfig>)>,
}

impl Security {
    pub(crate) fn new(tls: &Tls, address: SocketAddr, data_dir: &Path) -> Result<Self, postern_certs::Error> {
        match tls {
            Tls::Plaintext { .. } => Ok(Self::None),
            Tls::Files(files) => {
                let pair = StaticPair::load(&files.certificate, &files.key)?;
                Ok(Self::Files(Certificates::fixed(pair)))
            }
            Tls::LocalCa { names } => {
                let ca = LocalCa::load_or_create(data_dir)?;
                let mut names = names.clone();
                names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
                let own = address.ip().to_string();
                if !address.ip().is_unspecified() && !names.contains(&own) {
                    names.push(own);
                }
                let config = issue(&ca, &names)?;
                let current = Mutex::new((Instant::now(), config));
                Ok(Self::Local(Box::new(Issued { ca, names, current })))
            }
        }
    }

    /// Follows the files; never returns.
    pub(crate) async fn watch(&self) {
        match self {
            Self::Files(certificates) => certificates.watch().await,
            Self::None | Self::Local(_) => std::future::pending().await,
        }
    }

    /// What to trust, where the certificate is the local CA's.
    pub(crate) fn ca_file(&self) -> Option<PathBuf> {
        match self {
            Self::Local(issued) => Some(issued.ca.ca_file()),
            Self::None | Self::Files(_) => None,
        }
    }

    /// `None` for plaintext.
    fn config(&self) -> Result<Option<Arc<ServerConfig>>, postern_certs::Error> {
        match self {
            Self::None => Ok(None),
            Self::Files(certificates) => {
                // The one pair serves every name, those without a name too.
                let any = HostName::parse("localhost").expect("a host name");
                Ok(certificates.server_config(&any))
            }
            Self::Local(issued) => {
                let Issued { ca, names, current } = &**issued;
                let mut current = current.lock();
                if current.0.elapsed() > RENEW_AFTER {
                    *current = (Instant::now(), issue(ca, names)?);
                }
                Ok(Some(current.1.clone()))
            }
        }
    }
}

fn issue(ca: &LocalCa, names: &[String]) -> Result<Arc<ServerConfig>, postern_certs::Error> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    server_config(ca.issue(&names)?, &[ALPN_H2])
}

/// A connection of a proxy, whatever carries it.
pub(crate) struct Connection {
    io: Box<dyn Io>,
    info: ConnectionInfo,
    stranger: Option<Stranger>,
}

/// What a connection has until a call with a valid token came over it.
pub(crate) struct Stranger {
    until: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Stranger {
    fn new(place: OwnedSemaphorePermit) -> Self {
        Self { until: Box::pin(sleep_until(Instant::now() + INTRODUCTION)), _place: place }
    }
}

/// What calls know of the connection they came over.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionInfo {
    /// No two connections of a run have the same.
    pub(crate) id: u64,
    /// The proxy's address; loopback for the proxy in this process.
    pub(crate) peer: IpAddr,
    introduced: Arc<AtomicBool>,
}

impl ConnectionInfo {
    /// A call with a valid token came over it.
    pub(crate) fn introduced(&self) {
        self.introduced.store(true, Ordering::Relaxed);
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Connection {
    fn new(io: impl Io + 'static, peer: IpAddr, stranger: Option<Stranger>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let info = ConnectionInfo { id, peer: peer.to_canonical(), introduced: Arc::default() };
        Self { io: Box::new(io), info, stranger }
    }

    /// One from this very process.
    pub(crate) fn in_memory(io: DuplexStream) -> Self {
        Self::new(io, IpAddr::from([127, 0, 0, 1]), None)
    }

    /// An error once a stranger has had its time.
    fn in_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.info.introduced.load(Ordering::Relaxed) {
            self.stranger = None;
        }
        let overdue = |stranger: &mut Stranger| stranger.until.as_mut().poll(cx).is_ready();
        if self.stranger.as_mut().is_some_and(overdue) { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.in_time(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.in_time(cx)?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.in_time(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Accepts connections and hands them over once they are secure. Never returns; its handshakes end with it.
pub(crate) async fn accept(listener: TcpListener, security: Arc<Security>, ready: mpsc::Sender<Connection>) {
    let places = Arc::new(Semaphore::new(STRANGERS));
    let mut handshakes = JoinSet::new();
    loop {
        let place = places.clone().acquire_owned().await.expect("never closed");
        while handshakes.try_join_next().is_some() {}
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of a proxy");
                sleep_until(Instant::now() + ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (security, ready) = (security.clone(), ready.clone());
        handshakes.spawn(async move {
            let stranger = Stranger::new(place);
            let until = stranger.until.deadline();
            match timeout_at(until, secure(stream, peer, &security, stranger)).await {
                Ok(Ok(connection)) => drop(ready.send(connection).await),
                Ok(Err(error)) => tracing::debug!(%peer, %error, "handshake with a proxy failed"),
                Err(_) => tracing::debug!(%peer, "handshake with a proxy took too long"),
            }
        });
    }
}

async fn secure(
    stream: TcpStream,
    peer: SocketAddr,
    security: &Security,
    stranger: Stranger,
) -> io::Result<Connection> {
    let stranger = Some(stranger);
    stream.set_nodelay(true)?;
    match security.config().map_err(io::Error::other)? {
        None => Ok(Connection::new(stream, peer.ip(), stranger)),
        Some(config) => Ok(Connection::new(TlsAcceptor::from(config).accept(stream).await?, peer.ip(), stranger)),
    }
}
