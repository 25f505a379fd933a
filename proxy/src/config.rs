//! What the proxy is told when it starts, and the limits that protect it.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

/// What `start` needs to know. The defaults of the parts are the ones to use unless somebody asked otherwise.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where HTTPS is served. Port 0 takes a free one.
    pub https: SocketAddr,
    /// Where health and metrics are served, over plain HTTP; `None` serves neither.
    pub health: Option<SocketAddr>,
    /// Threads that serve requests, each with everything of its own. One per core is right.
    pub workers: NonZeroUsize,
    /// Forwarders whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// What `X-Forwarded-Proto` says.
    pub forwarded_proto: ForwardedProto,
    /// Limits towards clients.
    pub limits: Limits,
    /// Limits towards upstreams.
    pub upstream: UpstreamLimits,
    /// How tunnels are opened for the accounts that need one; `None` opens none.
    pub tunnel: Option<TunnelConfig>,
}

impl Config {
    /// Serves HTTPS at `https` with one worker per core, and no health endpoint.
    #[must_use]
    pub fn new(https: SocketAddr) -> Self {
        Self {
            https,
            health: None,
            workers: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            trusted_proxies: Vec::new(),
            forwarded_proto: ForwardedProto::Auto,
            limits: Limits::default(),
            upstream: UpstreamLimits::default(),
            tunnel: None,
        }
    }
}

/// The tunnels: one per account, each with a key and a UDP port of its own.
#[derive(Clone, Debug)]
pub struct TunnelConfig {
    /// Where WireGuard peers reach us, over UDP (NetBird: `--wg-port`). Port 0 takes a free one for each account, and keeps it.
    pub listen: SocketAddr,
    /// Where keys, ports and addresses are kept. Made, for its owner alone, with the first tunnel.
    pub data_dir: PathBuf,
    /// The name this proxy goes by at management (NetBird: `--domain`).
    pub cluster: String,
    /// How long management's yes to a peer counts (NetBird: `NB_PROXY_TUNNEL_CACHE_TTL`).
    pub cache_ttl: Duration,
    /// Whether peers reach services: ports 443 and 80 in each tunnel (NetBird: `--private`). Upstreams are reached without.
    pub inbound: bool,
}

/// NetBird's `--forwarded-proto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedProto {
    /// What the client really spoke.
    #[default]
    Auto,
    /// Always `http`: somebody in front speaks it and forwards TLS to us.
    Http,
    /// Always `https`.
    Https,
}

/// What one worker grants its clients.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections open at once; more wait in the kernel's queue. In an account's tunnel there are as many once more, of which a
    /// peer opens one only while it has less than an eighth of those that are left; else it is reset.
    pub connections: usize,
    /// From the connection to the end of the TLS handshake.
    pub handshake: Duration,
    /// From the first to the last byte of a request's head (HTTP/1.1). The first request of a connection has as long from its
    /// beginning, or from the end of the TLS handshake (HTTP/2 too).
    pub head: Duration,
    /// A connection between requests.
    pub idle: Duration,
    /// A request body of which no byte comes.
    pub body: Duration,
    /// A client that takes no byte of what we have for it.
    pub write: Duration,
    /// An upgraded connection on which nothing moves either way.
    pub upgrade: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            body: Duration::from_secs(60),
            write: Duration::from_secs(120),
            // Applications that keep a WebSocket for long send pings far more often than this.
            upgrade: Duration::from_secs(3600),
        }
    }
}

/// How one worker deals with upstreams (NetBird: `NB_PROXY_*`).
#[derive(Clone, Debug)]
pub struct UpstreamLimits {
    /// Idle connections kept in all.
    pub max_idle: usize,
    /// Idle connections kept for one upstream.
    pub max_idle_per_host: usize,
    /// How long an idle connection is kept. Shorter than what upstreams usually allow, so that they do not close it just
    /// as it is used.
    pub idle_timeout: Duration,
    /// From this age on, the upstream may be closing an idle connection just as it is used. A request that can be made twice
    /// is then kept until it is answered; to keep it always would cost each request of a busy service a copy of its head.
    pub rested: Duration,
    /// Name resolution and TCP connection; a service's own timeout may be shorter.
    pub dial_timeout: Duration,
    /// The TLS handshake with an `https` upstream.
    pub tls_handshake_timeout: Duration,
    /// How long the answer's head may take where the service sets no timeout; `None` waits as long as the client does.
    pub response_header_timeout: Option<Duration>,
    /// How long a client's `Expect: 100-continue` waits for the upstream's word before its body is sent all the same.
    pub expect_continue_timeout: Duration,
}

impl Default for UpstreamLimits {
    fn default() -> Self {
        Self {
            max_idle: 512,
            // More than this doubled the memory of a busy worker and won nothing.
            max_idle_per_host: 128,
            idle_timeout: Duration::from_secs(55),
            rested: Duration::from_millis(100),
            dial_timeout: Duration::from_secs(30),
            tls_handshake_timeout: Duration::from_secs(10),
            response_header_timeout: None,
            expect_continue_timeout: Duration::from_secs(1),
        }
    }
}
