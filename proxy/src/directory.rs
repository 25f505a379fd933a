//! How the tunnels stand: written by their supervisors, read by whoever dials, reports or counts.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use postern_model::{AccountId, InboundListener};
use postern_tunnel::Tunnel;
use tokio::sync::watch;

/// How an account's tunnel stands, as its services see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TunnelState {
    /// It is being opened.
    Coming,
    /// It is there, and with it the listeners for its peers, if this proxy has any.
    Up {
        /// Where peers reach the account's services.
        inbound: Option<InboundListener>,
    },
    /// It could not be opened, or broke down. It is tried again.
    Down {
        /// One sentence with the next action.
        reason: String,
    },
}

/// Something that became of a tunnel.
#[derive(Clone, Debug)]
pub(crate) struct TunnelEvent {
    /// Whose it is.
    pub account: AccountId,
    /// How it stands.
    pub state: TunnelState,
}

/// The same with the tunnel itself.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// Dials wait.
    Coming,
    /// Dials go through it.
    Up {
        /// The tunnel.
        tunnel: Tunnel,
        /// Where peers reach the account's services.
        inbound: Option<InboundListener>,
    },
    /// Dials fail, for this reason.
    Down(Arc<str>),
}

impl Standing {
    /// Without the tunnel.
    pub(crate) fn state(&self) -> TunnelState {
        match self {
            Self::Coming => TunnelState::Coming,
            Self::Up { inbound, .. } => TunnelState::Up { inbound: *inbound },
            Self::Down(reason) => TunnelState::Down { reason: reason.to_string() },
        }
    }
}

/// Where the tunnel of an account is found. Their owner alone writes it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directory(Arc<ArcSwap<HashMap<AccountId, watch::Receiver<Standing>>>>);

impl Directory {
    /// The tunnel of `account`, once it is up.
    ///
    /// # Errors
    /// One sentence: there is none, or it is down.
    pub(crate) async fn up(&self, account: &AccountId) -> Result<Tunnel, Arc<str>> {
        let Some(mut standing) = self.0.load().get(account).cloned() else { return Err(NONE.into()) };
        let settled = standing.wait_for(|standing| !matches!(standing, Standing::Coming)).await;
        match settled.as_deref() {
            Ok(Standing::Up { tunnel, .. }) => Ok(tunnel.clone()),
            Ok(Standing::Down(reason)) => Err(Arc::clone(reason)),
            Ok(Standing::Coming) | Err(_) => Err(NONE.into()),
        }
    }

    /// The tunnels that are up.
    pub(crate) fn all_up(&self) -> Vec<(AccountId, Tunnel)> {
        let up = |standing: &watch::Receiver<Standing>| match &*standing.borrow() {
            Standing::Up { tunnel, .. } => Some(tunnel.clone()),
            Standing::Coming | Standing::Down(_) => None,
        };
        self.0.load().iter().filter_map(|(account, standing)| Some((account.clone(), up(standing)?))).collect()
    }

    /// From here on whoever dials for `account` goes by this.
    pub(crate) fn insert(&self, account: &AccountId, standing: &watch::Receiver<Standing>) {
        self.0.rcu(|all| {
            let mut all = HashMap::clone(all);
            all.insert(account.clone(), standing.clone());
            all
        });
    }

    /// `account` has none any more.
    pub(crate) fn remove(&self, account: &AccountId) {
        self.0.rcu(|all| {
            let mut all = HashMap::clone(all);
            all.remove(account);
            all
        });
    }
}

const NONE: &str = "the account has no tunnel";
