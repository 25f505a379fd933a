use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use postern_model::HostName;
use rustls::ServerConfig;
use rustls::sign::CertifiedKey;

use crate::tls::{ALPN_H2, ALPN_HTTP1};
use crate::{Error, LocalCa, StaticPair, tls, watch};

/// Two thirds of a leaf's life.
const RENEW_AFTER: Duration = Duration::from_secs(264 * 24 * 3600);
/// Hosts come from the routing table, so this many are there only after many changes; then all are issued afresh.
const MOST_LEAVES: usize = 65_536;

/// The certificates of the public listener: which one a host gets.
#[derive(Debug)]
pub struct Certificates(Source);

#[derive(Debug)]
enum Source {
    Local { ca: Arc<LocalCa>, leaves: Mutex<HashMap<HostName, Leaf>> },
    Fixed(StaticPair),
}

#[derive(Clone, Debug)]
struct Leaf {
    key: Arc<CertifiedKey>,
    config: Arc<ServerConfig>,
    issued: Instant,
}

impl Certificates {
    /// Every host gets a certificate of its own from the local authority, issued when it is first asked for.
    #[must_use]
    pub fn local(ca: Arc<LocalCa>) -> Self {
        Self(Source::Local { ca, leaves: Mutex::default() })
    }

    /// Every host gets the one pair.
    #[must_use]
    pub fn fixed(pair: StaticPair) -> Self {
        Self(Source::Fixed(pair))
    }

    /// The certificate for a host; cheap after the first time. `None` if none can be issued, which is logged.
    #[must_use]
    pub fn select(&self, host: &HostName) -> Option<Arc<CertifiedKey>> {
        match &self.0 {
            Source::Local { ca, leaves } => leaf(ca, leaves, host).map(|leaf| leaf.key),
            Source::Fixed(pair) => Some(pair.certified_key()),
        }
    }

    /// The TLS configuration for a host, with ALPN `h2` and `http/1.1`. It is the same value as long as the
    /// certificate is, so that sessions resume. `None` as for [`Certificates::select`].
    #[must_use]
    pub fn server_config(&self, host: &HostName) -> Option<Arc<ServerConfig>> {
        match &self.0 {
            Source::Local { ca, leaves } => leaf(ca, leaves, host).map(|leaf| leaf.config),
            Source::Fixed(pair) => Some(pair.current().config.clone()),
        }
    }

    /// Whether a client that trusts the issuer will accept the certificate for this host.
    #[must_use]
    pub fn covers(&self, host: &HostName) -> bool {
        match &self.0 {
            Source::Local { .. } => true,
            Source::Fixed(pair) => pair.covers(host),
        }
    }

    /// Follows the files and puts a changed pair in force; a bad one is logged and the old one stays. Never returns;
    /// ends when dropped.
    pub async fn watch(&self) {
        match &self.0 {
            Source::Local { .. } => std::future::pending().await,
            Source::Fixed(pair) => watch::follow(pair).await,
        }
    }
}

fn leaf(ca: &LocalCa, leaves: &Mutex<HashMap<HostName, Leaf>>, host: &HostName) -> Option<Leaf> {
    let fresh = |leaf: &&Leaf| leaf.issued.elapsed() < RENEW_AFTER;
    if let Some(leaf) = leaves.lock().get(host).filter(fresh) {
        return Some(leaf.clone());
    }
    // Not under the lock: other hosts need not wait. Of two that issue at once, the first stays for both.
    let made = issue(ca, host).inspect_err(|error| tracing::error!(%host, %error, "no certificate")).ok()?;
    let mut leaves = leaves.lock();
    if let Some(leaf) = leaves.get(host).filter(fresh) {
        return Some(leaf.clone());
    }
    if leaves.len() >= MOST_LEAVES {
        leaves.clear();
    }
    leaves.insert(host.clone(), made.clone());
    Some(made)
}

fn issue(ca: &LocalCa, host: &HostName) -> Result<Leaf, Error> {
    let key = ca.issue(&[host.as_str()])?;
    let config = tls::server_config(key.clone(), &[ALPN_H2, ALPN_HTTP1])?;
    Ok(Leaf { key, config, issued: Instant::now() })
}
