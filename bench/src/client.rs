//! A small HTTPS client that makes a new connection, with a full TLS 1.3 handshake, for every request.
//!
//! wrk cannot do this: it resumes the session of the connection before.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned};

use crate::summary::Summary;

/// How long one exchange may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What client and server agreed on, and what came back.
pub(crate) struct Answer {
    /// Version, cipher suite and key exchange, for people and for comparison.
    pub(crate) tls: String,
    pub(crate) body: Vec<u8>,
    received: u64,
}

/// One request over a new connection with every check: chain up to `ca`, an ECDSA P-256 key, status 200.
pub(crate) fn fetch(address: SocketAddr, host: &str, ca: &str, path: &str) -> Result<Answer> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.context("the CA file is not PEM")?).context("the CA is not usable")?;
    }
    let mut provider = provider();
    provider.signature_verification_algorithms = only_p256(provider.signature_verification_algorithms)?;
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Target::new(address, host, path, config)?.exchange()
}

/// Loads a server with new connections for some seconds.
#[derive(Args)]
pub(crate) struct Connections {
    #[arg(long)]
    address: SocketAddr,
    #[arg(long)]
    host: String,
    #[arg(long)]
    path: String,
    /// Connections at a time, one thread each.
    #[arg(long)]
    threads: usize,
    #[arg(long)]
    seconds: u64,
}

impl Connections {
    /// The same as arguments of this program.
    pub(crate) fn arguments(
        address: SocketAddr,
        host: &str,
        path: &str,
        threads: usize,
        duration: Duration,
    ) -> Vec<String> {
        let pairs = [
            ("--address", address.to_string()),
            ("--host", host.to_owned()),
            ("--path", path.to_owned()),
            ("--threads", threads.to_string()),
            ("--seconds", duration.as_secs().to_string()),
        ];
        let pairs = pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        ["connections".to_owned()].into_iter().chain(pairs).collect()
    }

    /// Prints a [`Summary`] once it is over.
    pub(crate) fn run(&self) -> Result<()> {
        // Checking the same certificate again and again would only slow the load down: `fetch` has checked it.
        let config = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unchecked))
            .with_no_client_auth();
        let target = Target::new(self.address, &self.host, &self.path, config)?;
        let begun = Instant::now();
        let deadline = begun + Duration::from_secs(self.seconds);
        let mut total = thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads).map(|_| scope.spawn(|| target.load_until(deadline))).collect();
            threads.into_iter().try_fold(Summary::default(), |total, thread| {
                let part = thread.join().map_err(|_| anyhow!("a thread of the load panicked"))??;
                Ok::<_, anyhow::Error>(total.plus(part))
            })
        })?;
        total.microseconds = u64::try_from(begun.elapsed().as_micros())?;
        println!("{}", total.line()?);
        Ok(())
    }
}

struct Target {
    address: SocketAddr,
    name: ServerName<'static>,
    request: String,
    config: Arc<ClientConfig>,
}

impl Target {
    fn new(address: SocketAddr, host: &str, path: &str, mut config: ClientConfig) -> Result<Self> {
        config.resumption = Resumption::disabled();
        Ok(Self {
            address,
            name: ServerName::try_from(host.to_owned()).context("not a host name")?,
            request: format!("GET {path} HTTP/1.1\r\nHost: {host}:{}\r\nConnection: close\r\n\r\n", address.port()),
            config: Arc::new(config),
        })
    }

    fn load_until(&self, deadline: Instant) -> Result<Summary> {
        let mut summary = Summary::default();
        while Instant::now() < deadline {
            let answer = self.exchange()?;
            summary.requests += 1;
            summary.bytes += answer.received;
        }
        Ok(summary)
    }

    fn exchange(&self) -> Result<Answer> {
        let socket = TcpStream::connect_timeout(&self.address, PATIENCE).context("cannot connect")?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let connection = ClientConnection::new(Arc::clone(&self.config), self.name.clone())?;
        let mut stream = StreamOwned::new(connection, socket);
        stream.write_all(self.request.as_bytes()).context("the TLS handshake or the request failed")?;

        let mut response = Vec::with_capacity(4096);
        match stream.read_to_end(&mut response) {
            Ok(_) => {}
            // The body's length tells whether anything is missing.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error).context("the answer broke off"),
        }
        let received = u64::try_from(response.len())?;
        Ok(Answer { tls: agreed(&stream.conn)?, body: body(response)?, received })
    }
}

fn agreed(connection: &ClientConnection) -> Result<String> {
    match (
        connection.protocol_version(),
        connection.negotiated_cipher_suite(),
        connection.negotiated_key_exchange_group(),
    ) {
        (Some(version), Some(suite), Some(group)) => Ok(format!("{version:?} {:?} {:?}", suite.suite(), group.name())),
        _ => bail!("there was no TLS handshake"),
    }
}

/// The body of an answer with status 200 whose announced length arrived.
fn body(mut response: Vec<u8>) -> Result<Vec<u8>> {
    let end = response.windows(4).position(|window| window == b"\r\n\r\n").context("the answer has no end of head")?;
    let body = response.split_off(end + 4);
    let head = String::from_utf8_lossy(&response);
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    ensure!(status.split(' ').nth(1) == Some("200"), "the answer is `{status}`, not 200");
    let announced =
        lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let announced: usize = announced.context("the answer announces no length")?.1.trim().parse()?;
    ensure!(body.len() == announced, "the answer has {} bytes of {announced}", body.len());
    Ok(body)
}

/// X25519 on both sides; the cipher suite is the first that the client offers, AES-256-GCM.
fn provider() -> CryptoProvider {
    CryptoProvider { kx_groups: vec![kx_group::X25519], ..default_provider() }
}

fn only_p256(algorithms: WebPkiSupportedAlgorithms) -> Result<WebPkiSupportedAlgorithms> {
    let position = algorithms.mapping.iter().position(|(scheme, _)| *scheme == SignatureScheme::ECDSA_NISTP256_SHA256);
    let position = position.context("the TLS library cannot verify ECDSA P-256")?;
    Ok(WebPkiSupportedAlgorithms { mapping: &algorithms.mapping[position..=position], ..algorithms })
}

#[derive(Debug)]
struct Unchecked;

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is measured".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection, Stream};

    use super::*;
    use crate::certificate;

    /// Serves one connection with `response`; its address and its CA.
    fn server(response: &'static str) -> (SocketAddr, String) {
        let pair = certificate::issue("localhost").expect("a certificate");
        let chain = vec![CertificateDer::from_pem_slice(pair.chain.as_bytes()).expect("PEM")];
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a pair");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("a client");
            let mut connection = ServerConnection::new(Arc::new(config)).expect("a connection");
            let mut stream = Stream::new(&mut connection, &mut socket);
            // A client that refuses the certificate ends this early.
            if stream.read(&mut [0; 1024]).is_ok() {
                let _ = stream.write_all(response.as_bytes());
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        });
        (address, pair.ca)
    }

    #[test]
    fn a_good_answer_is_taken_with_what_was_agreed() {
        let (address, ca) = server("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");
        let answer = fetch(address, "localhost", &ca, "/").expect("an answer");
        assert_eq!(answer.body, b"hello");
        assert_eq!(answer.tls, "TLSv1_3 TLS13_AES_256_GCM_SHA384 X25519");
    }

    #[test]
    fn a_foreign_certificate_is_refused() {
        let (address, _) = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        let foreign = certificate::issue("localhost").expect("a certificate").ca;
        assert!(fetch(address, "localhost", &foreign, "/").is_err());
    }

    #[test]
    fn a_bad_answer_is_refused() {
        for response in [
            "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\n\r\nhello",
            "HTTP/1.1 200",
        ] {
            let (address, ca) = server(response);
            assert!(fetch(address, "localhost", &ca, "/").is_err(), "{response:?}");
        }
    }
}
