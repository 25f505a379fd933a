use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A peer to be added to the tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddPeer {
    /// 1 to 64 letters, digits, hyphens, dots and underscores, a letter or a digit first; no two peers share one.
    pub name: String,
    /// Whose it is. Upstreams hear this name; it need not be a user of the configuration.
    pub user: Option<String>,
    /// Which private services it opens, together with the groups that its user has in the configuration.
    pub groups: BTreeSet<String>,
    /// The key of a device that keeps its private key to itself, as `wg pubkey` prints it. Without it a pair is made, and
    /// its private half is in the configuration that is returned and nowhere else.
    pub public_key: Option<String>,
    /// Where the peer reaches the proxy, as `HOST:PORT`, if not at `endpoint` of `[tunnel]`.
    pub endpoint: Option<String>,
    /// What lies behind the peer, networks or single addresses; such a peer is a site, never a user.
    pub site: Vec<IpNet>,
    /// From when on it is nobody, in seconds since 1970.
    pub expires: Option<i64>,
}

/// What becomes of an optional value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Update<T> {
    /// It stays.
    #[default]
    Keep,
    /// It goes.
    Clear,
    /// It becomes this.
    To(T),
}

impl<T: Clone> Update<T> {
    /// `None` where it stays.
    pub(crate) fn value(&self) -> Option<Option<T>> {
        match self {
            Self::Keep => None,
            Self::Clear => Some(None),
            Self::To(value) => Some(Some(value.clone())),
        }
    }
}

/// What is to be another about a peer. Its live connections end, unless only its end moves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerChanges {
    /// Whose it is.
    pub user: Update<String>,
    /// All the groups of its own.
    pub groups: Option<BTreeSet<String>>,
    /// Whether it is anybody.
    pub enabled: Option<bool>,
    /// From when on it is nobody, in seconds since 1970.
    pub expires: Update<i64>,
}

/// Whether a peer is somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// It is.
    Active,
    /// Somebody has disabled it.
    Disabled,
    /// Its time is over.
    Expired,
    /// Its user was in the configuration and is not any more.
    UserGone,
}

impl PeerState {
    /// Why it is nobody, and what to do.
    pub(crate) fn sentence(self, name: &str, user: Option<&str>) -> Option<String> {
        let user = user.unwrap_or_default();
        match self {
            Self::Active => None,
            Self::Disabled => {
                Some(format!("the peer {name} is disabled; enable it with `postern peer set {name} --enable`"))
            }
            Self::Expired => Some(format!(
                "the peer {name} has expired; give it another end with `postern peer set {name} --expires`"
            )),
            Self::UserGone => Some(format!(
                "the user {user} of the peer {name} is not in the configuration any more; add [user.\"{user}\"] again, or \
                 give the peer to somebody with `postern peer set {name} --user`"
            )),
        }
    }
}

/// How a peer stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// 44 characters of base64.
    pub public_key: String,
    /// Its addresses in the tunnel, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Whose it is.
    pub user: Option<String>,
    /// Its own groups and those that its user has in the configuration.
    pub groups: BTreeSet<String>,
    /// What lies behind it; a peer with anything there is a site.
    pub site: Vec<IpNet>,
    /// From when on it is nobody, in seconds since 1970, as every time here.
    pub expires: Option<i64>,
    /// When it was added.
    pub created: i64,
    /// Whether it is somebody.
    pub state: PeerState,
    /// Why it is not, or why it does not find its way in, and what to do; one sentence.
    pub sentence: Option<String>,
    /// The hosts of the private services that it opens.
    pub opens: Vec<String>,
    /// What may not have been meant, one sentence each: what upstreams do not hear of it, that it opens nothing; usually nothing.
    pub warnings: Vec<String>,
}

/// A peer and what to give to its WireGuard.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPeer {
    /// How it stands.
    pub peer: PeerStatus,
    /// The text of a wg-quick file. The private key is in it only where it was made for this very answer.
    pub conf: String,
    /// What people should know before they use it, one sentence each, the peer's own among them; usually nothing.
    pub warnings: Vec<String>,
}

impl fmt::Debug for NewPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewPeer").field("peer", &self.peer).field("warnings", &self.warnings).finish_non_exhaustive()
    }
}

/// The tunnel at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// The addresses that it gives, IPv4 first.
    pub networks: Vec<IpNet>,
    /// How many peers were added.
    pub peers: usize,
    /// How many of them are somebody.
    pub active_peers: usize,
    /// The proxies that are in it, or were lately.
    pub proxies: Vec<TunnelProxy>,
}

/// A proxy's end of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelProxy {
    /// What the proxy calls itself.
    pub name: String,
    /// 44 characters of base64.
    pub public_key: String,
    /// Its addresses in the tunnel, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// The UDP port that it listens on; 0 where it did not say.
    pub port: u16,
    /// It hears of peers now.
    pub connected: bool,
    /// When it was seen last.
    pub last_seen: i64,
}
