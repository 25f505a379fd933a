//! Clients: a polite one over hyper, and one that writes whatever bytes it is given.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::within;

/// Who to talk to, and whom to trust.
#[derive(Clone)]
pub struct Client {
    addr: SocketAddr,
    config: Arc<ClientConfig>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body's bytes.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header as text; empty where there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

impl Client {
    /// Trusts the CA in `ca` alone, speaks HTTP/1.1.
    #[must_use]
    pub fn new(addr: SocketAddr, ca: &Path) -> Self {
        Self { addr, config: Arc::new(config(ca, &[b"http/1.1"])) }
    }

    /// Trusts the CA in `ca` alone, speaks HTTP/2.
    #[must_use]
    pub fn h2(addr: SocketAddr, ca: &Path) -> Self {
        Self { addr, config: Arc::new(config(ca, &[b"h2"])) }
    }

    /// The same client with another memory for TLS sessions.
    #[must_use]
    pub fn resuming(&self, resumption: Resumption) -> Self {
        let mut config = (*self.config).clone();
        config.resumption = resumption;
        Self { addr: self.addr, config: Arc::new(config) }
    }

    /// A TLS connection with `sni` in its ClientHello.
    ///
    /// # Errors
    /// What the handshake says.
    pub async fn tls(&self, sni: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(sni.to_owned()).map_err(std::io::Error::other)?;
        let tcp = TcpStream::connect(self.addr).await?;
        TlsConnector::from(Arc::clone(&self.config)).connect(name, tcp).await
    }

    /// `GET https://host/path`.
    pub async fn get(&self, host: &str, path: &str) -> Answer {
        let request = Request::get(path).header("host", host).body(Full::default()).expect("a request");
        self.send(host, request).await
    }

    /// One HTTP/1.1 request on a connection of its own.
    pub async fn send(&self, sni: &str, request: Request<Full<Bytes>>) -> Answer {
        within("an answer", async {
            let tls = self.tls(sni).await.expect("the handshake succeeds");
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.expect("http");
            let connection = tokio::spawn(connection);
            let response = sender.send_request(request).await.expect("an answer");
            let answer = collect(response).await;
            drop(sender);
            connection.abort();
            answer
        })
        .await
    }

    /// One HTTP/2 request on a connection of its own; use [`Client::h2`].
    pub async fn send_h2(&self, sni: &str, request: Request<Full<Bytes>>) -> Answer {
        within("an answer over h2", async {
            let tls = self.tls(sni).await.expect("the handshake succeeds");
            let http = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await;
            let (mut sender, connection) = http.expect("http");
            let connection = tokio::spawn(connection);
            let answer = collect(sender.send_request(request).await.expect("an answer")).await;
            connection.abort();
            answer
        })
        .await
    }

    /// Writes `bytes` after the handshake and returns everything that comes back until the other side closes.
    pub async fn raw(&self, sni: &str, bytes: &[u8]) -> String {
        within("the connection to close", async {
            let mut tls = self.tls(sni).await.expect("the handshake succeeds");
            // The other side may have answered and closed before all was written; what it said is what counts.
            let _ = tls.write_all(bytes).await;
            let _ = tls.flush().await;
            let mut answer = Vec::new();
            let mut chunk = [0; 4096];
            while let Ok(n) = tls.read(&mut chunk).await {
                if n == 0 {
                    break;
                }
                answer.extend_from_slice(&chunk[..n]);
            }
            String::from_utf8_lossy(&answer).into_owned()
        })
        .await
    }
}

/// The whole answer to a GET over plain HTTP/1.1, as the health listener speaks it.
pub async fn plain_get(addr: &str, path: &str) -> String {
    within("an answer", async {
        let mut tcp = TcpStream::connect(addr).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: health\r\nConnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.expect("an answer");
        answer
    })
    .await
}

/// The value of `Authorization` for a user.
///
/// # Panics
/// For what RFC 7617 cannot carry.
#[must_use]
pub fn basic(user: &str, password: &str) -> http::HeaderValue {
    postern_auth::basic::build(user, &password.into()).expect("it can be carried")
}

/// The status of an answer that [`Client::raw`] returned; 0 where there was none.
#[must_use]
pub fn status_of(raw: &str) -> u16 {
    raw.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok()).unwrap_or(0)
}

async fn collect(response: Response<hyper::body::Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}

fn config(ca: &Path, alpn: &[&[u8]]) -> ClientConfig {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).expect("the CA file is readable") {
        roots.add(certificate.expect("PEM")).expect("a certificate");
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config
}
