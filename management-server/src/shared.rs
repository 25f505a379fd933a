use std::net::SocketAddr;
use std::sync::Arc;

use postern_model::AccountId;
use tokio_util::sync::CancellationToken;

use crate::access_log::AccessLogs;
use crate::admin::Admin;
use crate::admission::Admission;
use crate::clock::unix_now;
use crate::desired::TunnelSettings;
use crate::enrolment::Enrolment;
use crate::grpc::Rpc;
use crate::housekeeping::Housekeeping;
use crate::hub::Hub;
use crate::logins::Logins;
use crate::peer_error::PeerError;
use crate::peers::Peers;
use crate::problems::Problems;
use crate::statuses::Statuses;
use crate::steward::Steward;
use crate::store::{Store, StoreError};
use crate::tokens::Tokens;

/// What the tasks have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) account: AccountId,
    pub(crate) store: Store,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) statuses: Arc<Statuses>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) logins: Arc<Logins>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) logs: Arc<AccessLogs>,
    pub(crate) problems: Arc<Problems>,
}

impl Shared {
    pub(crate) async fn load(account: AccountId, store: Store, tunnel: &TunnelSettings) -> Result<Self, PeerError> {
        let hub = Arc::new(Hub::new(store.revision().await?));
        let (peers, problems) = (Peers::load(store.clone(), tunnel).await?, Problems::default());
        peers.moved(&account).into_iter().for_each(|sentence| problems.note(sentence));
        Ok(Self {
            account,
            tokens: Arc::new(Tokens::load(store.clone()).await?),
            statuses: Arc::new(Statuses::new(store.statuses().await?)),
            logins: Arc::new(Logins::new(hub.clone())),
            peers: Arc::new(peers),
            logs: Arc::default(),
            problems: Arc::new(problems),
            hub,
            store,
        })
    }

    pub(crate) async fn steward(&self) -> Result<Steward, StoreError> {
        let (hub, logins, statuses) = (self.hub.clone(), self.logins.clone(), self.statuses.clone());
        Steward::new(self.account.clone(), hub, logins, statuses, self.peers.clone(), self.store.clone()).await
    }

    pub(crate) fn admin(&self, listener: Option<SocketAddr>, steward: &Steward, tunnel: TunnelSettings) -> Admin {
        let (account, peers, hub) = (self.account.clone(), self.peers.clone(), self.hub.clone());
        Admin {
            account: self.account.clone(),
            started: unix_now(),
            listener,
            file: steward.file(),
            enrolment: Enrolment { account, peers, hub, statuses: self.statuses.clone(), tunnel },
            hub: self.hub.clone(),
            tokens: self.tokens.clone(),
            statuses: self.statuses.clone(),
            logs: self.logs.clone(),
            problems: self.problems.clone(),
            store: self.store.clone(),
        }
    }

    pub(crate) fn housekeeping(&self) -> Housekeeping {
        Housekeeping {
            store: self.store.clone(),
            tokens: self.tokens.clone(),
            statuses: self.statuses.clone(),
            hub: self.hub.clone(),
            peers: self.peers.clone(),
        }
    }

    pub(crate) fn rpc(&self, stop: &CancellationToken) -> Rpc {
        Rpc {
            hub: self.hub.clone(),
            logins: self.logins.clone(),
            statuses: self.statuses.clone(),
            peers: self.peers.clone(),
            admission: Arc::new(Admission { hub: self.hub.clone(), peers: self.peers.clone() }),
            one_time: Arc::default(),
            logs: self.logs.clone(),
            stop: stop.clone(),
        }
    }
}
