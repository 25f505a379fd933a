//! What somebody wants published, as types.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};
use postern_model::{HostName, PathMapping, Restrictions, Secret, ServiceId};

pub use crate::endpoint::{Endpoint, InvalidEndpoint};

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
    /// What proves it; `None` for somebody who comes over the tunnel alone.
    pub password: Option<Password>,
    /// For `X-NetBird-Groups`, and for the private services that the user's peers open; no commas.
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
    /// Where its paths lead; at least one, each path once. Without `direct_upstream`, the host of a target is the name of a
    /// peer, and the way there is the tunnel.
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
    /// These users by HTTP Basic; at least one, each a key of [`Desired::users`] with a password.
    Basic(Vec<String>),
    /// Over the tunnel only, and there the peers of these groups; if there is none, nobody.
    Private(BTreeSet<String>),
}

/// The settings of a process; what is `None` is left to flags and defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `[proxy]`.
    pub proxy: ProxySettings,
    /// `[management]`.
    pub management: ManagementSettings,
    /// `[tunnel]`.
    pub tunnel: TunnelSettings,
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

/// `[tunnel]`: what WireGuard peers come through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelSettings {
    /// `network`: the IPv4 addresses that peers and proxies get, a private range from /8 to /29.
    pub network: Option<Ipv4Net>,
    /// `mtu`: the largest IP packet inside the tunnel, in bytes.
    pub mtu: Option<u16>,
    /// `endpoint`: where peers reach the proxy of this process.
    pub endpoint: Option<Endpoint>,
    /// `port`: the UDP port that the proxy of this process listens on, where it is not the endpoint's.
    pub port: Option<u16>,
}

impl TunnelSettings {
    /// The UDP port that the proxy of this process listens on, for every machine. Where nobody wrote one, it takes a free
    /// one on 127.0.0.1: no other machine is meant to come.
    #[must_use]
    pub fn listen_port(&self) -> Option<u16> {
        self.port.or_else(|| self.endpoint.as_ref().map(Endpoint::port))
    }
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
