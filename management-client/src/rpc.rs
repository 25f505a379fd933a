use std::io;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use postern_model::Secret;
use postern_proto::management::proxy_service_client::ProxyServiceClient;
use postern_proto::postern::v1::proxy_client::ProxyClient;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use crate::config::{ConfigError, InMemory, Roots, Transport};

/// NetBird's proxy pings as often, and servers are set up for it.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_ANSWER: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(10);
/// Above what h2 takes for a flood of small frames (it budgets half the connection's window).
const CONNECTION_WINDOW: u32 = 16 << 20;
const STREAM_WINDOW: u32 = 4 << 20;
/// A batch of 500 mappings with long headers passes the usual 4 MiB, and so does a peer map of 40,000; one that cannot be
/// read would end every stream. A full /16 of 65,536 peers takes about 170 bytes each with names of 64: 11 MiB.
const MESSAGE: usize = 16 << 20;
/// Of an in-memory connection, each way.
const PIPE: usize = 256 << 10;

/// One connection to the server, made when it is needed and made again when it breaks; clones share it.
#[derive(Clone)]
pub(crate) struct Rpc {
    channel: InterceptedService<Channel, Token>,
}

impl Rpc {
    /// Checks everything that can be checked without the server. Must run inside the runtime that shall carry the
    /// connection.
    pub(crate) fn new(transport: Transport, token: &Secret) -> Result<Self, ConfigError> {
        let token = Token::new(token)?;
        let channel = match transport {
            Transport::Network { url, roots, allow_plaintext } => network(&url, roots, allow_plaintext)?,
            Transport::InMemory(server) => in_memory(server),
        };
        Ok(Self { channel: InterceptedService::new(channel, token) })
    }

    /// NetBird's service.
    pub(crate) fn management(&self) -> ProxyServiceClient<InterceptedService<Channel, Token>> {
        ProxyServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE)
    }

    /// Our own service, which stock servers do not have.
    pub(crate) fn postern(&self) -> ProxyClient<InterceptedService<Channel, Token>> {
        ProxyClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE)
    }
}

/// Puts the token on each call.
#[derive(Clone)]
pub(crate) struct Token(MetadataValue<Ascii>);

impl Token {
    fn new(token: &Secret) -> Result<Self, ConfigError> {
        let plain = !token.expose().is_empty() && token.expose().bytes().all(|b| b.is_ascii_graphic());
        let value = format!("Bearer {}", token.expose()).parse::<MetadataValue<Ascii>>().ok().filter(|_| plain);
        let mut value = value.ok_or(ConfigError::Token)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

fn network(url: &Uri, roots: Roots, allow_plaintext: bool) -> Result<Channel, ConfigError> {
    let unusable = || ConfigError::Url(without_password(url));
    let authority = url.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(unusable)?;
    let server = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(443));
    let tls = match url.scheme_str() {
        Some("https") => true,
        Some("http") if allow_plaintext => false,
        Some("http") => return Err(ConfigError::Plaintext(server)),
        Some(_) | None => return Err(unusable()),
    };
    let endpoint = Endpoint::from_shared(format!("{}://{server}", if tls { "https" } else { "http" }))
        .map_err(|_| unusable())?
        .tcp_keepalive(Some(PING_EVERY));
    let endpoint = if tls { with_tls(endpoint, roots)? } else { endpoint };
    Ok(tuned(endpoint).connect_lazy())
}

/// What stands before an `@` is not shown.
fn without_password(url: &Uri) -> String {
    let text = url.to_string();
    match url.authority().and_then(|authority| authority.as_str().rsplit_once('@')) {
        Some((user, _)) => text.replacen(&format!("{user}@"), "", 1),
        None => text,
    }
}

fn with_tls(endpoint: Endpoint, roots: Roots) -> Result<Endpoint, ConfigError> {
    let tls = match roots {
        Roots::System => ClientTlsConfig::new().with_native_roots(),
        Roots::Pem(pem) => {
            let mut certificates = CertificateDer::pem_slice_iter(&pem);
            if !matches!(certificates.next(), Some(Ok(_))) || certificates.any(|certificate| certificate.is_err()) {
                return Err(ConfigError::Roots);
            }
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
        }
    };
    endpoint.tls_config(tls).map_err(|error| {
        let root = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        ConfigError::Tls(root)
    })
}

fn in_memory(server: InMemory) -> Channel {
    let connect = tower::service_fn(move |_: Uri| {
        let server = server.clone();
        async move {
            let (ours, theirs) = tokio::io::duplex(PIPE);
            let gone = |_| io::Error::other("the management server of this process has stopped");
            server.0.send(theirs).await.map_err(gone)?;
            Ok::<_, io::Error>(TokioIo::new(ours))
        }
    });
    tuned(Endpoint::from_static("http://management")).connect_with_connector_lazy(connect)
}

/// No timeout of the endpoint's own: it would end the long streams.
fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER)
        .keep_alive_while_idle(true)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(url: &str, roots: Roots, allow_plaintext: bool) -> Result<Rpc, ConfigError> {
        let url = url.parse().expect("a URL");
        Rpc::new(Transport::Network { url, roots, allow_plaintext }, &Secret::from("nbx_token"))
    }

    #[tokio::test]
    async fn the_token_travels_in_plaintext_only_with_leave() {
        for url in ["http://management.example", "http://127.0.0.1:33073", "http://localhost:33073/path"] {
            let error = open(url, Roots::System, false).err().expect(url).to_string();
            assert!(error.contains("NB_PROXY_ALLOW_INSECURE") && !error.contains("nbx_token"), "{error}");
            assert!(open(url, Roots::System, true).is_ok(), "{url}");
        }
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused() {
        for url in
            ["management.example:443", "/path", "ftp://management.example", "https://user:hush@management.example"]
        {
            let error = open(url, Roots::System, true).err().expect(url);
            assert!(matches!(error, ConfigError::Url(_)) && !error.to_string().contains("hush"), "{error}");
        }
    }

    #[tokio::test]
    async fn roots_must_be_certificates() {
        let key = rcgen::generate_simple_self_signed(["management.example".to_owned()]).expect("a certificate");
        assert!(open("https://management.example", Roots::Pem(key.cert.pem().into_bytes()), false).is_ok());
        for pem in ["", "not a certificate"] {
            let opened = open("https://management.example", Roots::Pem(pem.into()), false);
            assert!(matches!(opened, Err(ConfigError::Roots)), "{pem:?}");
        }
    }

    #[tokio::test]
    async fn a_token_must_fit_a_header() {
        let url = || Uri::from_static("https://management.example");
        for token in ["", "nbx_\n", "nbx é"] {
            let transport = Transport::Network { url: url(), roots: Roots::System, allow_plaintext: false };
            assert!(matches!(Rpc::new(transport, &Secret::from(token)), Err(ConfigError::Token)), "{token:?}");
        }
    }
}
