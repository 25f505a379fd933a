//! Dialling an upstream: over the host's network or through the tunnel of its account, never over one for the other.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use postern_model::{AccountId, Scheme};
use postern_tunnel::ConnectError;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::directory::Directory;
use crate::error::{Connect, Error, Kind, Result};
use crate::listener::keepalive;
use crate::table::{UpstreamKey, Via};

/// Makes connections.
#[derive(Debug)]
pub(crate) struct Connector {
    tunnels: Directory,
    verified: OnceCell<Arc<ClientConfig>>,
    unverified: OnceCell<Arc<ClientConfig>>,
}

impl Connector {
    /// Dials through `tunnels` what is to be reached through one.
    pub(crate) fn new(tunnels: Directory) -> Self {
        Self { tunnels, verified: OnceCell::new(), unverified: OnceCell::new() }
    }

    /// A new connection to the upstream: `dial` bounds name and TCP, or the tunnel's coming up and TCP, `handshake` the TLS
    /// after it.
    ///
    /// # Errors
    /// [`Kind::UpstreamConnect`] with the leg that failed.
    pub(crate) async fn connect(&self, key: &UpstreamKey, dial: Duration, handshake: Duration) -> Result<Stream> {
        match &key.via {
            Via::Direct => {
                let tcp = timeout(dial, tcp(&key.host, key.port)).await.map_err(|_| failed(Connect::Timeout))??;
                match key.scheme {
                    Scheme::Http => Ok(Stream::Plain(tcp)),
                    Scheme::Https => Ok(Stream::Tls(self.secure(key, tcp, handshake).await?)),
                }
            }
            Via::Tunnel(account) => {
                let tcp = self.through(account, key, dial).await?;
                match key.scheme {
                    Scheme::Http => Ok(Stream::Tunnel(tcp)),
                    Scheme::Https => Ok(Stream::TunnelTls(self.secure(key, tcp, handshake).await?)),
                }
            }
        }
    }

    async fn through(
        &self,
        account: &AccountId,
        key: &UpstreamKey,
        patience: Duration,
    ) -> Result<postern_tunnel::Stream> {
        let deadline = Instant::now() + patience;
        // Compiling made sure of it: a tunnel resolves no names.
        let address: IpAddr = key.host.parse().map_err(|error| because(Connect::Dns, error))?;
        let up = timeout_at(deadline, self.tunnels.up(account)).await;
        let up = up.map_err(|_| because(Connect::TunnelDown, "the tunnel is still coming up"))?;
        let tunnel = up.map_err(|reason| because(Connect::TunnelDown, reason.to_string()))?;
        let left = deadline.saturating_duration_since(Instant::now());
        let stream = tunnel.connect(SocketAddr::new(address, key.port), left).await;
        stream.map_err(|error| because(classify_in_tunnel(&error), error))
    }

    async fn secure<S>(&self, key: &UpstreamKey, tcp: S, patience: Duration) -> Result<Box<TlsStream<S>>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(self.config(key.skip_tls_verify).await?);
        let name = ServerName::try_from(key.host.to_string()).map_err(|error| because(Connect::Tls, error))?;
        let tls = timeout(patience, connector.connect(name, tcp)).await;
        let tls = tls.map_err(|_| failed(Connect::Timeout))?.map_err(|error| because(Connect::Tls, error))?;
        Ok(Box::new(tls))
    }

    async fn config(&self, skip_verify: bool) -> Result<Arc<ClientConfig>> {
        let cell = if skip_verify { &self.unverified } else { &self.verified };
        // Reading the system's roots takes milliseconds of disk and parsing.
        let make = || async move {
            tokio::task::spawn_blocking(move || client_config(skip_verify))
                .await
                .map_err(|error| because(Connect::Tls, error))?
        };
        cell.get_or_try_init(make).await.cloned()
    }
}

/// Tries the addresses of a name in the order the resolver gives, each with a fair share of patience.
async fn tcp(host: &str, port: u16) -> Result<TcpStream> {
    let addresses: Vec<SocketAddr> = match host.parse() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => lookup_host((host, port)).await.map_err(|error| because(Connect::Dns, error))?.collect(),
    };
    let Some((last, others)) = addresses.split_last() else { return Err(failed(Connect::Dns)) };
    for address in others {
        if let Ok(Ok(stream)) = timeout(OTHER_ADDRESS, TcpStream::connect(address)).await {
            return ready(stream);
        }
    }
    ready(TcpStream::connect(last).await.map_err(|error| because(classify(&error), error))?)
}

/// An address that does not answer must not use up the time of the next.
const OTHER_ADDRESS: Duration = Duration::from_secs(3);

fn ready(stream: TcpStream) -> Result<TcpStream> {
    stream.set_nodelay(true).map_err(|error| because(Connect::Other, error))?;
    let socket = socket2::SockRef::from(&stream);
    socket.set_tcp_keepalive(&keepalive()).map_err(|error| because(Connect::Other, error))?;
    Ok(stream)
}

fn classify(error: &io::Error) -> Connect {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Connect::Refused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Connect::Unreachable,
        io::ErrorKind::TimedOut => Connect::Timeout,
        _ => Connect::Other,
    }
}

fn classify_in_tunnel(error: &ConnectError) -> Connect {
    match error {
        ConnectError::Refused(_) => Connect::Refused,
        ConnectError::Untried { .. } | ConnectError::NotUp(_) | ConnectError::Ended(_) => Connect::Unreachable,
        ConnectError::TimedOut(_) => Connect::Timeout,
        ConnectError::Closed => Connect::TunnelDown,
    }
}

fn failed(what: Connect) -> Error {
    Error::new(Kind::UpstreamConnect(what))
}

fn because(what: Connect, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::with(Kind::UpstreamConnect(what), error)
}

fn client_config(skip_verify: bool) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| because(Connect::Tls, error))?;
    let mut config = if skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))).with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        builder.with_root_certificates(roots).with_no_client_auth()
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// For upstreams whose operator asked for it (NetBird: `skip_tls_verify`): any certificate will do, but its owner still has to
/// prove that the key is theirs.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A connection to an upstream.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Tunnel(postern_tunnel::Stream),
    TunnelTls(Box<TlsStream<postern_tunnel::Stream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tunnel(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::TunnelTls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tunnel(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::TunnelTls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tunnel(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::TunnelTls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Tunnel(stream) => stream.is_write_vectored(),
            Self::TunnelTls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tunnel(stream) => Pin::new(stream).poll_flush(cx),
            Self::TunnelTls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tunnel(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::TunnelTls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
