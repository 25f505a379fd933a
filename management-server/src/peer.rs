//! Whoever has a place in an account's tunnel, as the store keeps it.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::{IpNet, Ipv4Net};
use postern_model::{Generation, PublicKey};
use serde::{Deserialize, Serialize};

use crate::peer_reports::PeerState;

/// A place in the tunnel and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) key: PublicKey,
    pub(crate) generation: Generation,
    pub(crate) role: Role,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// Somebody has added it.
    Device(Device),
    /// It has registered itself (NetBird: an embedded peer).
    Proxy(Proxy),
}

/// A machine, or a network behind one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) owner: Option<Owner>,
    pub(crate) groups: BTreeSet<String>,
    /// What lies behind it.
    pub(crate) site: Vec<IpNet>,
    pub(crate) enabled: bool,
    /// Seconds since 1970, as every time here. From this moment on it is nobody.
    pub(crate) expires: Option<i64>,
    pub(crate) created: i64,
}

impl Device {
    pub(crate) fn user(&self) -> Option<&str> {
        self.owner.as_ref().map(|owner| owner.user.as_str())
    }

    /// Its own and its owner's.
    pub(crate) fn all_groups(&self) -> BTreeSet<String> {
        let listed = match self.owner.as_ref().map(|owner| &owner.standing) {
            Some(Standing::Listed(groups)) => Some(groups),
            Some(Standing::Unlisted | Standing::Gone) | None => None,
        };
        self.groups.iter().chain(listed.into_iter().flatten()).cloned().collect()
    }

    pub(crate) fn state(&self, now: i64) -> PeerState {
        let owner_gone = self.owner.as_ref().is_some_and(|owner| owner.standing == Standing::Gone);
        if !self.enabled {
            PeerState::Disabled
        } else if self.expires.is_some_and(|expires| expires <= now) {
            PeerState::Expired
        } else if owner_gone {
            PeerState::UserGone
        } else {
            PeerState::Active
        }
    }

    /// Whoever is behind it comes with the same key, so nobody there is taken for a user: not behind a range, and not behind
    /// a single address besides its own either.
    pub(crate) fn is_site(&self) -> bool {
        !self.site.is_empty()
    }
}

/// Whose device it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) user: String,
    pub(crate) standing: Standing,
}

/// What the desired state says of an owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Standing {
    /// It has never named it: whoever added the peer did.
    Unlisted,
    /// It names it, with these groups.
    Listed(BTreeSet<String>),
    /// It has named it and does not any more.
    Gone,
}

/// A proxy's own peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proxy {
    /// What the proxy calls itself, for people.
    pub(crate) name: String,
    /// The domain of its cluster.
    pub(crate) cluster: String,
    /// It runs in this process.
    pub(crate) in_process: bool,
    /// The UDP port that it listens on; 0 where it did not say.
    pub(crate) port: u16,
    pub(crate) last_seen: i64,
}

/// Everything that is kept of one account's tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) range: Ipv4Net,
    /// The newest that was given to a peer; 0 if none was.
    pub(crate) generation: Generation,
    /// By number.
    pub(crate) peers: BTreeMap<u32, Peer>,
    /// Numbers that nobody has any more, and since when.
    pub(crate) released: BTreeMap<u32, i64>,
}

/// What leads from one [`Kept`] to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delta {
    /// Where either is another.
    pub(crate) network: Option<(Ipv4Net, Generation)>,
    pub(crate) gone: Vec<u32>,
    pub(crate) put: Vec<(u32, Peer)>,
    pub(crate) released: Vec<(u32, i64)>,
    pub(crate) taken: Vec<u32>,
}

impl Delta {
    pub(crate) fn between(before: &Kept, after: &Kept) -> Self {
        let head = |kept: &Kept| (kept.range, kept.generation);
        Self {
            network: (head(before) != head(after)).then(|| head(after)),
            gone: missing(&before.peers, &after.peers),
            put: changed(&before.peers, &after.peers),
            released: changed(&before.released, &after.released),
            taken: missing(&before.released, &after.released),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn missing<T>(before: &BTreeMap<u32, T>, after: &BTreeMap<u32, T>) -> Vec<u32> {
    before.keys().filter(|number| !after.contains_key(number)).copied().collect()
}

fn changed<T: Clone + PartialEq>(before: &BTreeMap<u32, T>, after: &BTreeMap<u32, T>) -> Vec<(u32, T)> {
    let other = |(number, value): &(&u32, &T)| before.get(number) != Some(*value);
    after.iter().filter(other).map(|(number, value)| (*number, value.clone())).collect()
}
