use http::Uri;
use postern_model::{Capabilities, ProxyId, Secret};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

/// What a client needs to know.
#[derive(Debug)]
pub struct Config {
    /// How the server is reached.
    pub transport: Transport,
    /// Sent with each call.
    pub token: Secret,
    /// This process; another process under the same id ends its stream.
    pub proxy_id: ProxyId,
    /// Of the proxy, for people.
    pub version: String,
    /// The domain of the proxy's cluster, as the server knows it.
    pub address: String,
    /// What the proxy can do.
    pub capabilities: Capabilities,
}

/// How the server is reached.
#[derive(Debug)]
pub enum Transport {
    /// Over the network.
    Network {
        /// `https://host[:port]`, or `http://` for plaintext. The port is 443 by default, with either scheme; a path is
        /// ignored, as NetBird's proxy does.
        url: Uri,
        /// Who may vouch for the server.
        roots: Roots,
        /// Whether the token may travel in plaintext (`NB_PROXY_ALLOW_INSECURE`).
        allow_plaintext: bool,
    },
    /// To a server in the same process.
    InMemory(InMemory),
}

/// Who may vouch for the server's certificate.
#[derive(Clone, Debug)]
pub enum Roots {
    /// Whom the system trusts.
    System,
    /// The certificates of this PEM text, and nobody else.
    Pem(Vec<u8>),
}

/// A server in the same process: it receives its end of each new connection.
#[derive(Clone, Debug)]
pub struct InMemory(pub(crate) mpsc::Sender<DuplexStream>);

impl InMemory {
    /// Connections go to whoever receives from the other end of `accept`.
    #[must_use]
    pub fn new(accept: mpsc::Sender<DuplexStream>) -> Self {
        Self(accept)
    }
}

/// Why a client cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The URL has no scheme, another one than `https` or `http`, or no host.
    #[error("the management address {0} is not usable; write it as https://host:port")]
    Url(String),
    /// A plaintext URL without leave.
    #[error(
        "the token would travel to {0} in plaintext; use an https:// address, or set NB_PROXY_ALLOW_INSECURE=true if the \
         network between is trusted"
    )]
    Plaintext(String),
    /// The token cannot stand in a header.
    #[error("the management token is empty or holds a character that no token has; check NB_PROXY_TOKEN")]
    Token,
    /// The PEM text holds no certificate.
    #[error(
        "the certificate authority given for management holds no PEM certificate; give a file that begins with -----BEGIN CERTIFICATE-----"
    )]
    Roots,
    /// TLS cannot be set up.
    #[error(
        "TLS to management cannot be set up: {0}; if the system has no certificate authorities, install ca-certificates or give one by file"
    )]
    Tls(String),
}
