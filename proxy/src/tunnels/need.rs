//! Which accounts need a tunnel, and what that means for their services: pure.

use std::collections::{BTreeMap, BTreeSet};

use postern_model::{AccountId, InboundListener, Mapping, ServiceId, ServiceState};

use crate::directory::{TunnelEvent, TunnelState};

/// The tunnels that are needed, by account.
#[derive(Debug, Default)]
pub(crate) struct Need(BTreeMap<AccountId, Tunnel>);

#[derive(Debug)]
struct Tunnel {
    by: BTreeSet<ServiceId>,
    state: TunnelState,
}

impl Need {
    /// What is served for `id` was `before` and is `after`. Whether that is the first need of an account.
    pub(crate) fn change(&mut self, id: &ServiceId, before: Option<&Mapping>, after: Option<&Mapping>) -> bool {
        if let Some(tunnel) = before.and_then(|mapping| self.0.get_mut(&mapping.account)) {
            tunnel.by.remove(id);
        }
        let Some(mapping) = after.filter(|mapping| needs_tunnel(mapping)) else { return false };
        let first = !self.0.contains_key(&mapping.account);
        let coming = || Tunnel { by: BTreeSet::new(), state: TunnelState::Coming };
        self.0.entry(mapping.account.clone()).or_insert_with(coming).by.insert(id.clone());
        first
    }

    /// Takes out the accounts that nobody needs a tunnel of once all changes are in.
    pub(crate) fn take_unneeded(&mut self) -> Vec<AccountId> {
        self.0.extract_if(.., |_, tunnel| tunnel.by.is_empty()).map(|(account, _)| account).collect()
    }

    /// Whether the tunnel of `account` is needed.
    pub(crate) fn has(&self, account: &AccountId) -> bool {
        self.0.contains_key(account)
    }

    /// Takes in how a tunnel stands; word of one that nobody needs any more is nothing.
    pub(crate) fn observe(&mut self, event: TunnelEvent) {
        if let Some(tunnel) = self.0.get_mut(&event.account) {
            tunnel.state = event.state;
        }
    }

    /// Where the peers of `account` reach its services, if they do.
    pub(crate) fn inbound(&self, account: &AccountId) -> Option<InboundListener> {
        match self.state(account)? {
            TunnelState::Up { inbound } => *inbound,
            TunnelState::Coming | TunnelState::Down { .. } => None,
        }
    }

    /// Whether a service that is in the table can be reached and can reach its upstreams, and else what is missing.
    pub(crate) fn met(&self, mapping: &Mapping) -> (ServiceState, Option<String>) {
        if !needs_tunnel(mapping) {
            return (ServiceState::Active, None);
        }
        match self.state(&mapping.account) {
            Some(TunnelState::Up { inbound: None }) if mapping.private => {
                let reason = "the proxy opens no listeners in tunnels; start it with --private";
                (ServiceState::TunnelNotCreated, Some(reason.to_owned()))
            }
            Some(TunnelState::Up { .. }) => (ServiceState::Active, None),
            Some(TunnelState::Down { reason }) => (ServiceState::TunnelNotCreated, Some(reason.clone())),
            Some(TunnelState::Coming) | None => (ServiceState::Pending, None),
        }
    }

    fn state(&self, account: &AccountId) -> Option<&TunnelState> {
        self.0.get(account).map(|tunnel| &tunnel.state)
    }
}

/// To let the account's peers in, or to reach an upstream.
fn needs_tunnel(mapping: &Mapping) -> bool {
    mapping.private || mapping.paths.iter().any(|path| !path.options.direct_upstream)
}
