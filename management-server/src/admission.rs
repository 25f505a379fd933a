use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use postern_model::{AccountId, Group, Principal, PublicKey, TunnelVerdict};
use postern_proto::convert::PeerQuestion;

use crate::catalog::{Published, SESSION_AGE};
use crate::clock::unix_now;
use crate::hub::Hub;
use crate::peer::{Device, Peer, Role};
use crate::peer_reports::PeerState;
use crate::peers::Peers;

/// Tells who a tunnel peer is and whether it may enter, for proxies that ask (NetBird: `ValidateTunnelPeer`).
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) hub: Arc<Hub>,
    pub(crate) peers: Arc<Peers>,
}

/// The service belongs to another account than the token.
#[derive(Debug)]
pub(crate) struct OtherAccount;

impl Admission {
    /// NetBird's order and words. The caller's account is that of its token; what is asked about is the account of the
    /// service.
    pub(crate) fn verdict(&self, caller: &AccountId, ask: &PeerQuestion) -> Result<TunnelVerdict, OtherAccount> {
        let Some(published) = self.hub.at(&ask.host) else { return denied("service_not_found") };
        let account = &published.mapping.account;
        if account != caller {
            return Err(OtherAccount);
        }
        if ask.claim.as_ref().is_some_and(|claim| claim.account != *account) {
            return denied("account_mismatch");
        }
        let roster = self.peers.roster(account);
        let Some(peer) = roster.at(ask.address).filter(|peer| is_meant(peer, ask)) else {
            return denied("peer_not_found");
        };
        let device = match &peer.role {
            Role::Device(device) => device,
            // It is in no group.
            Role::Proxy(_) => return denied("not_in_group"),
        };
        match device.state(unix_now()) {
            PeerState::Active => {}
            PeerState::Disabled | PeerState::Expired => return denied("peer_not_found"),
            PeerState::UserGone => return denied("user_not_found"),
        }
        // What is not private is entered as its access says, never by way of the tunnel.
        let Published { private: Some(access), signing: Some(signing), .. } = &*published else {
            return denied("not_in_group");
        };
        let groups = device.all_groups();
        if access.is_disjoint(&groups) {
            return denied("not_in_group");
        }
        let principal = principal(peer.key, device, groups);
        let session_token = signing.sign(&principal, &published.mapping.host, SystemTime::now(), SESSION_AGE);
        let Principal { subject, email, groups, .. } = principal;
        let user_id = if email.is_some() { subject } else { String::new() };
        Ok(TunnelVerdict::Valid { session_token, user_id, email, groups })
    }
}

/// The peer's user, or else the peer itself. Of a site nobody says who it was: its groups have let it in, but are nobody's.
fn principal(key: PublicKey, device: &Device, groups: BTreeSet<String>) -> Principal {
    let (user, groups) = if device.is_site() { (None, BTreeSet::new()) } else { (device.user(), groups) };
    Principal {
        subject: user.map_or_else(|| format!("peer:{key}"), |user| format!("user:{user}")),
        email: user.map(str::to_owned),
        groups: groups.into_iter().map(|name| Group { id: name.clone(), name }).collect(),
        // NetBird's word.
        method: "oidc".to_owned(),
    }
}

/// An address has had several keys, and a key several identities: the one that the proxy knows must be that of now.
fn is_meant(peer: &Peer, ask: &PeerQuestion) -> bool {
    ask.claim.as_ref().is_none_or(|claim| claim.key == peer.key && claim.generation == peer.generation)
}

fn denied(reason: &str) -> Result<TunnelVerdict, OtherAccount> {
    Ok(TunnelVerdict::Denied(reason.to_owned()))
}
