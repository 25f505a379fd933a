use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use parking_lot::Mutex;
use postern_model::{
    AccountId, AuthMechanism, HostName, Management, PeerKind, Principal, PublicKey, TunnelPeer, TunnelVerdict,
    ValidateTunnelPeer,
};
use tokio::task::JoinSet;

use crate::access::{Door, Sessions};
use crate::clock::Clock;
use crate::decide::{Answer, Proof};
use crate::peer_cache::{Lookup, PeerCache, Pending, Visit};
use crate::session;

/// For a management that is not bounded in time by itself, as it should be.
const DEADLINE: Duration = Duration::from_secs(10);

/// Finds out which tunnel peers may enter where: from memory, else from management, once for all who ask the same.
pub(crate) struct Peers {
    management: Arc<dyn Management>,
    memory: Arc<Memory>,
    life: Duration,
    /// The questions under way, each in a task of its own, so that whoever asked first may hang up. They end with this.
    questions: Mutex<JoinSet<()>>,
}

/// What the questions put their answers into.
struct Memory {
    clock: Arc<dyn Clock>,
    accounts: DashMap<AccountId, PeerCache>,
}

impl Peers {
    /// Verdicts are kept for `life`.
    pub(crate) fn new(management: Arc<dyn Management>, clock: Arc<dyn Clock>, life: Duration) -> Self {
        let memory = Arc::new(Memory { clock, accounts: DashMap::new() });
        Self { management, memory, life, questions: Mutex::default() }
    }

    /// Cannot fail: what goes wrong is the answer [`Answer::Unavailable`], and that lets nobody in.
    pub(crate) async fn answer(&self, peer: &TunnelPeer, door: &Door) -> Answer {
        let visit = Visit::new(peer, door);
        match self.look(peer.account(), &visit) {
            Lookup::Hit(principal) => Answer::Yes(Proof { principal, session: None }),
            Lookup::Join(pending) => pending.answer().await,
            Lookup::Fetch(pending) => {
                self.ask(visit, pending.clone(), peer, door);
                pending.answer().await
            }
            Lookup::Full => Answer::Unavailable,
        }
    }

    /// Forgets one peer of an account.
    pub(crate) fn evict(&self, account: &AccountId, peer: PublicKey) {
        if let Some(mut cache) = self.memory.accounts.get_mut(account) {
            cache.evict(peer);
        }
    }

    /// Forgets all peers of an account.
    pub(crate) fn evict_account(&self, account: &AccountId) {
        if let Some((_, mut cache)) = self.memory.accounts.remove(account) {
            cache.evict_all();
        }
    }

    fn look(&self, account: &AccountId, visit: &Visit) -> Lookup {
        let now = self.memory.clock.steady();
        if let Some(mut cache) = self.memory.accounts.get_mut(account) {
            return cache.lookup(visit, now);
        }
        self.memory.accounts.entry(account.clone()).or_insert_with(|| PeerCache::new(self.life)).lookup(visit, now)
    }

    fn ask(&self, visit: Visit, pending: Pending, peer: &TunnelPeer, door: &Door) {
        let mut question = Question {
            memory: self.memory.clone(),
            peer: peer.clone(),
            host: door.host.clone(),
            sessions: door.sessions,
            visit,
            pending,
            answer: Answer::Unavailable,
        };
        let management = self.management.clone();
        let mut questions = self.questions.lock();
        while questions.try_join_next().is_some() {}
        questions.spawn(async move { question.put_to(&*management).await });
    }
}

/// A question under way. Whatever becomes of its task, the answer is told when this is dropped, unless those who wait for it
/// were told something else meanwhile.
struct Question {
    memory: Arc<Memory>,
    peer: TunnelPeer,
    host: HostName,
    sessions: Option<Sessions>,
    visit: Visit,
    pending: Pending,
    answer: Answer,
}

impl Question {
    async fn put_to(&mut self, management: &dyn Management) {
        let request = ValidateTunnelPeer {
            address: self.peer.address(),
            host: self.host.clone(),
            account: self.peer.account().clone(),
            key: self.peer.key(),
            generation: self.peer.generation(),
        };
        let unanswered = match tokio::time::timeout(DEADLINE, management.validate_tunnel_peer(request)).await {
            Ok(Ok(verdict)) => return self.answer = self.judge(verdict),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "management took too long".to_owned(),
        };
        tracing::debug!(host = %self.host, peer = %self.peer.key(), error = %unanswered, "no verdict on a tunnel peer");
    }

    /// What a verdict means here. A yes must come with a session token; where the service has sessions, the token proves
    /// that the verdict is about this service.
    fn judge(&self, verdict: TunnelVerdict) -> Answer {
        let (host, key) = (&self.host, self.peer.key());
        let (session_token, user_id, email, groups) = match verdict {
            TunnelVerdict::Valid { session_token, user_id, email, groups } => (session_token, user_id, email, groups),
            TunnelVerdict::Denied(reason) => {
                tracing::debug!(%host, peer = %key, ?reason, "a tunnel peer is not let in");
                return Answer::No;
            }
        };
        let token = session_token.expose();
        let valid = match self.sessions {
            Some(sessions) => session::verify_fresh(token, &sessions.key, host, self.memory.clock.wall()).is_ok(),
            None => !token.is_empty(),
        };
        if !valid {
            tracing::warn!(%host, peer = %key, "management let in a tunnel peer with a session token not valid here");
            return Answer::Unavailable;
        }
        let method = AuthMechanism::TunnelPeer.as_str().to_owned();
        let principal = match self.peer.kind() {
            PeerKind::Device if user_id.is_empty() => {
                Principal { subject: format!("peer:{key}"), email, groups, method }
            }
            PeerKind::Device => Principal { subject: user_id, email, groups, method },
            // The groups may be those of a user, and which user of the network this is nobody knows.
            PeerKind::Site => Principal { subject: format!("site:{key}"), email: None, groups: Vec::new(), method },
        };
        Answer::Yes(Proof { principal: Arc::new(principal), session: None })
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let now = self.memory.clock.steady();
        if let Some(mut cache) = self.memory.accounts.get_mut(self.peer.account()) {
            cache.complete(self.visit.clone(), &self.pending, &self.answer, now);
        }
        self.pending.tell(self.answer.clone());
    }
}
