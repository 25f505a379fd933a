//! What management says of tunnel peers.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use postern_model::{
    AccountId, BoxFuture, CreateProxyPeer, Group, ManagementError, MappedPeer, PeerMap, PeerMaps, Principal, PublicKey,
    TunnelVerdict, ValidateTunnelPeer,
};
use tokio::sync::{Notify, watch};

use super::basics::{key, soon};

/// The proxy's address in every account's tunnel.
pub(super) const PROXY: &str = "100.72.0.1";

/// The tunnels' side of management.
pub(super) struct Peers {
    /// By account; an account that is not here gets no maps.
    accounts: Mutex<BTreeMap<AccountId, Account>>,
    /// Whether calls are answered.
    answering: watch::Sender<bool>,
    /// The one-time tokens that are refused.
    pub(super) burnt: Mutex<Vec<String>>,
    /// How many of the next registrations are not answered.
    pub(super) failing: Mutex<usize>,
    resyncs: watch::Sender<usize>,
    questions: Mutex<Vec<ValidateTunnelPeer>>,
    changed: Notify,
}

struct Account {
    registered: Vec<CreateProxyPeer>,
    map: watch::Sender<PeerMap>,
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            accounts: Mutex::default(),
            answering: watch::Sender::new(true),
            burnt: Mutex::default(),
            failing: Mutex::default(),
            resyncs: watch::Sender::new(0),
            questions: Mutex::default(),
            changed: Notify::new(),
        }
    }
}

impl Peers {
    /// From here on `account` has a tunnel for `peers`.
    pub(super) fn set(&self, account: &str, peers: Vec<MappedPeer>) {
        let map = PeerMap { addresses: vec![PROXY.parse().unwrap()], mtu: 1420, peers };
        let mut accounts = self.accounts.lock();
        let account = accounts
            .entry(AccountId::parse(account).unwrap())
            .or_insert_with(|| Account { registered: Vec::new(), map: watch::Sender::new(map.clone()) });
        account.map.send_replace(map);
    }

    /// Leaves calls without an answer until it is set again.
    pub(super) fn answer(&self, answering: bool) {
        self.answering.send_replace(answering);
    }

    /// What was asked about peers.
    pub(super) fn questions(&self) -> Vec<ValidateTunnelPeer> {
        self.questions.lock().clone()
    }

    /// How often the proxy has become a peer of `account`.
    pub(super) fn registrations(&self, account: &str) -> Vec<CreateProxyPeer> {
        self.accounts.lock()[&AccountId::parse(account).unwrap()].registered.clone()
    }

    /// The last registration at `account`, once there is one.
    pub(super) async fn registered(&self, account: &str) -> CreateProxyPeer {
        soon(async {
            loop {
                let changed = self.changed.notified();
                if let Some(last) = self.registrations(account).pop() {
                    return last;
                }
                changed.await;
            }
        })
        .await
    }

    pub(super) fn resync(&self) {
        self.resyncs.send_modify(|resyncs| *resyncs += 1);
    }

    /// How often a snapshot was asked for, once it was.
    pub(super) async fn resynced(&self) -> usize {
        let mut resyncs = self.resyncs.subscribe();
        *soon(resyncs.wait_for(|resyncs| *resyncs > 0)).await.unwrap()
    }

    pub(super) async fn register(&self, request: CreateProxyPeer) -> Result<(), ManagementError> {
        self.answered().await;
        let failing = *self.failing.lock();
        if failing > 0 {
            *self.failing.lock() = failing - 1;
            return Err(ManagementError::Unavailable("it is starting".into()));
        }
        if self.burnt.lock().iter().any(|token| token == request.token.0.expose()) {
            return Err(ManagementError::Refused("the token is used or too old".into()));
        }
        if let Some(account) = self.accounts.lock().get_mut(&request.account) {
            account.registered.push(request);
        }
        self.changed.notify_waiters();
        Ok(())
    }

    pub(super) fn maps(&self, account: &AccountId, key: PublicKey) -> Result<Box<dyn PeerMaps>, ManagementError> {
        let accounts = self.accounts.lock();
        let refused = || ManagementError::Refused("this management server sends no peer maps".into());
        let account = accounts.get(account).ok_or_else(refused)?;
        if !account.registered.iter().any(|request| request.key == key) {
            return Err(ManagementError::Unknown("nobody has this key".into()));
        }
        let mut map = account.map.subscribe();
        map.mark_changed();
        Ok(Box::new(Maps(map)))
    }

    /// A peer with the name `stranger` is let in nowhere. What is answered late is as old as the question.
    pub(super) async fn validate(&self, request: ValidateTunnelPeer) -> Result<TunnelVerdict, ManagementError> {
        let verdict = self.verdict(&request);
        self.questions.lock().push(request);
        self.changed.notify_waiters();
        self.answered().await;
        verdict
    }

    fn verdict(&self, request: &ValidateTunnelPeer) -> Result<TunnelVerdict, ManagementError> {
        let account = self.accounts.lock()[&request.account].map.borrow().clone();
        let peer = account.peers.into_iter().find(|peer| peer.key == request.key);
        let Some(peer) = peer.filter(|peer| peer.generation == request.generation) else {
            return Ok(TunnelVerdict::Denied("peer_not_found".into()));
        };
        if peer.name == "stranger" {
            return Ok(TunnelVerdict::Denied("not_in_group".into()));
        }
        let groups = vec![Group { id: "g1".into(), name: "eng".into() }];
        let principal = Principal {
            subject: peer.name.clone(),
            email: Some(peer.name.clone()),
            groups: groups.clone(),
            method: "oidc".into(),
        };
        let session_token = key().sign(&principal, &request.host, SystemTime::now(), Duration::from_secs(60));
        Ok(TunnelVerdict::Valid { session_token, user_id: peer.name.clone(), email: Some(peer.name), groups })
    }

    /// Waits until `count` peers were asked about.
    pub(super) async fn asked(&self, count: usize) {
        soon(async {
            loop {
                let changed = self.changed.notified();
                if self.questions.lock().len() >= count {
                    return;
                }
                changed.await;
            }
        })
        .await;
    }

    async fn answered(&self) {
        let mut answering = self.answering.subscribe();
        let _never_dropped = answering.wait_for(|answering| *answering).await;
    }
}

struct Maps(watch::Receiver<PeerMap>);

impl PeerMaps for Maps {
    fn next(&mut self) -> BoxFuture<'_, Option<PeerMap>> {
        Box::pin(async {
            self.0.changed().await.ok()?;
            Some(self.0.borrow_and_update().clone())
        })
    }
}
