//! What somebody wants published, as types.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use postern_model::{HostName, PathMapping, Restrictions, Secret, ServiceId};

/// What somebody wants published: the whole of a `postern.toml`, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// How the process itself is set up. Read at start; later changes wait for the next start.
    pub settings: Settings,
    /// The users by name.
    pub users: BTreeMap<String, User>,
    /// The services by id, which is the name in the file.
    pub services: BTreeMap<ServiceId, Service>,
}

/// Somebody who may be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// What proves it.
    pub password: Password,
    /// For `X-NetBird-Groups`; no commas.
    pub groups: Vec<String>,
}

/// A password as somebody wrote it down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// The password itself.
    Plain(Secret),
    /// Its Argon2id hash in PHC form, `$argon2id$v=19$m=…`.
    Hash(Secret),
}

/// One published service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where it is published; no two services share one.
    pub host: HostName,
    /// Who may enter.
    pub access: Access,
    /// Where its paths lead; at least one, each path once, all over the host's own network.
    pub paths: Vec<PathMapping>,
    /// Whether the upstream sees the client's Host instead of its own.
    pub pass_host_header: bool,
    /// Whether absolute `Location`s of the upstream are rewritten to the public host.
    pub rewrite_redirects: bool,
    /// From where it may be reached.
    pub restrictions: Restrictions,
}

/// Who may enter a service. There is no default: nothing is open by accident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// These users by HTTP Basic; at least one, each a key of [`Desired::users`].
    Basic(Vec<String>),
}

/// The settings of a process; what is `None` is left to flags and defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `[proxy]`.
    pub proxy: ProxySettings,
    /// `[management]`.
    pub management: ManagementSettings,
    /// `[log] level`.
    pub log_level: Option<LogLevel>,
}

/// `[proxy]`: the public side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxySettings {
    /// `https`: where HTTPS is served.
    pub https: Option<SocketAddr>,
    /// `tls_cert` and `tls_key`: the certificate to serve instead of those of the local CA.
    pub tls: Option<TlsFiles>,
    /// `trusted_proxies`: whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// `[management]`: the gRPC listener for proxies elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManagementSettings {
    /// `listen`: where it listens.
    pub listen: Option<SocketAddr>,
    /// `tls_cert` and `tls_key`: its certificate instead of one of the local CA.
    pub tls: Option<TlsFiles>,
    /// `names`: what proxies call it, for the certificate of the local CA.
    pub names: Vec<String>,
    /// `allow_plaintext`: speak without TLS, tokens in clear.
    pub allow_plaintext: bool,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Only what needs somebody.
    Error,
    /// And what is odd.
    Warn,
    /// And changes of state.
    Info,
    /// And each request.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Every level, quietest first.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// As files and flags spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}
