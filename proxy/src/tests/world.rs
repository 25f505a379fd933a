//! A proxy and whoever steers it.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Method;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use postern_certs::{Certificates, LocalCa};
use postern_model::{
    AccessLogLine, AccountId, Ack, Authenticate, Authenticated, Authentication, Batch, BoxFuture, Challenge, Change,
    CreateProxyPeer, Credential, Delivery, Group, HeaderAuth, HostName, Management, ManagementError, Mapping,
    MappingEvents, Mode, OneTimeToken, PathMapping, PeerMaps, Principal, PublicKey, Restrictions, Secret, ServiceId,
    ServiceState, StatusUpdate, SyncEvent, Target, TargetOptions, TunnelVerdict, ValidateTunnelPeer,
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::basics::{Heard, heard, key, request, soon};
use super::peers::Peers;
use crate::{Config, Running, TunnelConfig, start};

pub(super) struct World {
    pub(super) proxy: Running,
    pub(super) management: Arc<Fake>,
    events: mpsc::UnboundedSender<Delivery>,
    pub(super) tls: Arc<ClientConfig>,
    tls_h2: Arc<ClientConfig>,
    _folder: tempfile::TempDir,
}

/// What the proxy is given as management.
#[derive(Default)]
pub(super) struct Fake {
    /// What it says about tunnels.
    pub(super) peers: Peers,
    lines: Mutex<Vec<AccessLogLine>>,
    statuses: Mutex<Vec<StatusUpdate>>,
    questions: Mutex<usize>,
    changed: Notify,
}

impl Management for Fake {
    fn authenticate(&self, request: Authenticate) -> BoxFuture<'_, Result<Authenticated, ManagementError>> {
        *self.questions.lock() += 1;
        let Credential::Header { value, .. } = &request.credential;
        // "alice:secret"
        let right = value.expose() == "Basic YWxpY2U6c2VjcmV0";
        let host = HostName::parse(&format!("{}.test", request.service)).unwrap();
        Box::pin(async move {
            if !right {
                return Ok(Authenticated::No);
            }
            let principal = Principal {
                subject: "user:alice".into(),
                email: Some("alice".into()),
                groups: vec![Group { id: "g1".into(), name: "staff".into() }],
                method: "header".into(),
            };
            let session_token = key().sign(&principal, &host, SystemTime::now(), Duration::from_secs(60));
            Ok(Authenticated::Yes { session_token })
        })
    }

    fn resync(&self) {
        self.peers.resync();
    }

    fn create_proxy_peer(&self, request: CreateProxyPeer) -> BoxFuture<'_, Result<(), ManagementError>> {
        Box::pin(self.peers.register(request))
    }

    fn peer_maps(
        &self,
        account: &AccountId,
        key: PublicKey,
    ) -> BoxFuture<'_, Result<Box<dyn PeerMaps>, ManagementError>> {
        let maps = self.peers.maps(account, key);
        Box::pin(async { maps })
    }

    fn validate_tunnel_peer(
        &self,
        request: ValidateTunnelPeer,
    ) -> BoxFuture<'_, Result<TunnelVerdict, ManagementError>> {
        Box::pin(self.peers.validate(request))
    }

    fn report(&self, status: StatusUpdate) {
        self.statuses.lock().push(status);
        self.changed.notify_waiters();
    }

    fn log(&self, line: AccessLogLine) {
        self.lines.lock().push(line);
        self.changed.notify_waiters();
    }

    fn lines_dropped(&self) -> u64 {
        0
    }
}

impl Fake {
    pub(super) fn questions(&self) -> usize {
        *self.questions.lock()
    }

    pub(super) fn lines(&self) -> Vec<AccessLogLine> {
        self.lines.lock().clone()
    }

    /// What was last reported of a service, once it is `state`.
    pub(super) async fn status(&self, service: &str, state: ServiceState) -> StatusUpdate {
        soon(async {
            loop {
                let changed = self.changed.notified();
                let last = self.statuses.lock().iter().rfind(|status| status.service.as_str() == service).cloned();
                if let Some(last) = last.filter(|last| last.state == state) {
                    return last;
                }
                changed.await;
            }
        })
        .await
    }

    /// The line of a path, once it is there.
    pub(super) async fn line(&self, path: &str) -> AccessLogLine {
        soon(async {
            loop {
                let changed = self.changed.notified();
                if let Some(line) = self.lines.lock().iter().find(|line| *line.path == *path) {
                    return line.clone();
                }
                changed.await;
            }
        })
        .await
    }
}

struct Stream(mpsc::UnboundedReceiver<Delivery>);

impl MappingEvents for Stream {
    fn next(&mut self) -> BoxFuture<'_, Option<Delivery>> {
        Box::pin(self.0.recv())
    }
}

/// An open service `<name>.test` at `/`.
pub(super) fn open(name: &str, upstream: &str) -> Mapping {
    Mapping {
        id: ServiceId::parse(name).unwrap(),
        account: AccountId::parse("acc").unwrap(),
        host: HostName::parse(&format!("{name}.test")).unwrap(),
        mode: Mode::Http,
        listen_port: 0,
        paths: vec![path("/", upstream)],
        authentication: Authentication {
            session_key: None,
            max_session_age: Duration::from_secs(3600),
            password: false,
            pin: false,
            oidc: false,
            headers: Vec::new(),
            deliberately_open: Some(true),
        },
        private: false,
        pass_host_header: false,
        rewrite_redirects: false,
        restrictions: Restrictions::default(),
    }
}

/// A service `<name>.test` behind HTTP Basic.
pub(super) fn basic(name: &str, upstream: &str) -> Mapping {
    let mut mapping = open(name, upstream);
    mapping.authentication.session_key = Some(key().public());
    mapping.authentication.deliberately_open = Some(false);
    mapping.authentication.headers = vec![HeaderAuth {
        name: http::header::AUTHORIZATION,
        fingerprint: "1".into(),
        challenge: Some(Challenge::Basic { realm: "test".into() }),
    }];
    mapping
}

pub(super) fn path(path: &str, upstream: &str) -> PathMapping {
    let options = TargetOptions { direct_upstream: true, ..TargetOptions::default() };
    PathMapping { path: path.into(), target: Target::parse(upstream).unwrap(), options }
}

pub(super) fn upsert(mapping: &Mapping) -> Change {
    Change::Upsert(Box::new(mapping.clone()), OneTimeToken(Secret::from("token")))
}

impl World {
    pub(super) async fn start(mappings: &[Mapping]) -> Self {
        Self::start_with(mappings, |_| {}).await
    }

    pub(super) async fn start_with(mappings: &[Mapping], adjust: impl FnOnce(&mut Config)) -> Self {
        Self::start_under(Arc::default(), mappings, adjust).await
    }

    /// Starts a proxy that `management` steers.
    pub(super) async fn start_under(
        management: Arc<Fake>,
        mappings: &[Mapping],
        adjust: impl FnOnce(&mut Config),
    ) -> Self {
        let _already = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let ca = Arc::new(LocalCa::load_or_create(folder.path()).unwrap());
        let (tls, tls_h2) = (client_config(&ca, b"http/1.1"), client_config(&ca, b"h2"));
        let (events, stream) = mpsc::unbounded_channel();
        let mut config = Config::new("127.0.0.1:0".parse().unwrap());
        config.workers = NonZeroUsize::MIN;
        config.tunnel = Some(TunnelConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            data_dir: folder.path().join("tunnel"),
            cluster: "proxy.test".into(),
            cache_ttl: Duration::from_secs(300),
            inbound: true,
        });
        adjust(&mut config);
        let certificates = Arc::new(Certificates::local(ca));
        let proxy = start(config, Arc::clone(&management) as _, Box::new(Stream(stream)), certificates).await.unwrap();
        let world = Self { proxy, management, events, tls, tls_h2, _folder: folder };
        world.deliver(SyncEvent::Opened).await;
        let changes = mappings.iter().map(upsert).collect();
        world.deliver(SyncEvent::Batch(Batch { changes, initial_sync_complete: true })).await;
        soon(world.proxy.ready()).await;
        world
    }

    /// Sends changes and waits until they are in force.
    pub(super) async fn change(&self, changes: Vec<Change>) {
        self.deliver(SyncEvent::Batch(Batch { changes, initial_sync_complete: false })).await;
    }

    pub(super) async fn deliver(&self, event: SyncEvent) {
        let (acked, ack) = oneshot::channel();
        let ack_it = Ack::new(move || {
            let _nobody = acked.send(());
        });
        self.events.send(Delivery { event, ack: ack_it }).unwrap();
        soon(ack).await.expect("the event is applied");
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.proxy.https_addr()
    }

    /// A TLS connection for `name`, speaking HTTP/1.1.
    pub(super) async fn tls(&self, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        connect(self.address(), name, &self.tls).await
    }

    /// The same at another of the listener's addresses.
    pub(super) async fn tls_at(&self, address: SocketAddr, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        connect(address, name, &self.tls).await
    }

    pub(super) async fn http1(&self, name: &str) -> http1::SendRequest<Full<Bytes>> {
        self.http1_of(name).await
    }

    pub(super) async fn http1_of<B>(&self, name: &str) -> http1::SendRequest<B>
    where
        B: http_body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let stream = self.tls(name).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    pub(super) async fn http2<B>(&self, name: &str) -> http2::SendRequest<B>
    where
        B: http_body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
    {
        let stream = connect(self.address(), name, &self.tls_h2).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// One GET over a connection of its own.
    pub(super) async fn get(&self, host: &str, path: &str, headers: &[(&'static str, &str)]) -> Heard {
        let request = request(Method::GET, host, path, headers, "");
        heard(soon(self.http1(host).await.send_request(request)).await.unwrap()).await
    }
}

fn client_config(ca: &LocalCa, alpn: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.ca_pem().as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

async fn connect(address: SocketAddr, name: &str, tls: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    soon(TlsConnector::from(Arc::clone(tls)).connect(name, tcp)).await
}
