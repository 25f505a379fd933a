//! One account's tunnel: the task that does what the [`Course`] says.

use std::collections::{BTreeSet, HashMap};
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use postern_auth::Gate;
use postern_model::{
    AccountId, BoxFuture, CreateProxyPeer, Generation, InboundListener, Management, ManagementError, MappedPeer,
    PeerMap, PeerMaps, PublicKey,
};
use postern_tunnel::{Folder, Identity, IdentityError, Tunnel};
use tokio::sync::{OnceCell, mpsc, oneshot, watch};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::course::{Course, Happened, Stage, Step};
use super::ticket::Ticket;
use crate::config::TunnelConfig;
use crate::directory::Standing;
use crate::live::Revocation;
use crate::metrics::Metrics;
use crate::orders::{Listeners, Load, Workers};

/// What all supervisors share.
pub(crate) struct Parts {
    pub(crate) config: TunnelConfig,
    pub(crate) management: Arc<dyn Management>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) workers: Workers,
    pub(crate) metrics: Arc<Metrics>,
    /// Of the keys; ours alone from the first tunnel on.
    pub(crate) folder: OnceCell<Arc<Folder>>,
}

impl Parts {
    async fn folder(&self) -> Result<Arc<Folder>, String> {
        let open = || async {
            let path = self.config.data_dir.clone();
            on_disk(move || Folder::open(&path)).await.map(Arc::new)
        };
        self.folder.get_or_try_init(open).await.cloned()
    }
}

/// Opens one tunnel, keeps it open, and closes it.
pub(super) struct Supervisor {
    account: AccountId,
    parts: Arc<Parts>,
    tickets: mpsc::UnboundedReceiver<Ticket>,
    close: CancellationToken,
    standing: watch::Sender<Standing>,
    nudge: mpsc::UnboundedSender<AccountId>,
    course: Course,
    bound: Option<Bound>,
    /// What management was asked.
    call: Option<BoxFuture<'static, Answered>>,
    maps: Option<Box<dyn PeerMaps>>,
    /// What is in force.
    map: Option<PeerMap>,
}

/// A tunnel, and word of its end.
struct Bound {
    tunnel: Tunnel,
    ended: oneshot::Receiver<String>,
}

/// What management answered.
enum Answered {
    Registered(Result<(), ManagementError>),
    Maps(Result<Box<dyn PeerMaps>, ManagementError>),
}

/// What a supervisor waits for.
enum Word {
    Ticket(Ticket),
    Answered(Answered),
    Map(Option<PeerMap>),
    Died(String),
    Time,
}

impl Supervisor {
    pub(super) fn new(
        account: AccountId,
        parts: Arc<Parts>,
        tickets: mpsc::UnboundedReceiver<Ticket>,
        close: CancellationToken,
        standing: watch::Sender<Standing>,
        nudge: mpsc::UnboundedSender<AccountId>,
    ) -> Self {
        let course = Course::new(rand::random());
        Self { account, parts, tickets, close, standing, nudge, course, bound: None, call: None, maps: None, map: None }
    }

    /// Runs until it is told to close.
    pub(super) async fn run(mut self) {
        let close = self.close.clone();
        let _closed = close.run_until_cancelled(self.supervise()).await;
        if let Some(Bound { tunnel, ended, .. }) = self.bound.take() {
            tunnel.close();
            let _in_vain = timeout(FAREWELL, ended).await;
            self.revoke_all();
        }
        self.parts.gate.evict_account(&self.account);
    }

    async fn supervise(&mut self) {
        loop {
            while let Ok(ticket) = self.tickets.try_recv() {
                self.course.hear(Happened::Ticket(ticket), now());
            }
            self.publish();
            let happened = match self.course.next(now()) {
                Step::Bind => Some(match self.bind().await {
                    Ok(()) => Happened::Bound,
                    Err(reason) => Happened::Unbound(reason),
                }),
                Step::Register(ticket) => self.register(ticket),
                Step::Watch => self.watch(),
                Step::Resync => {
                    tracing::info!(account = %self.account, "asking for new one-time tokens");
                    self.parts.management.resync();
                    None
                }
                Step::Wait(until) => match self.word(until).await {
                    Word::Ticket(ticket) => Some(Happened::Ticket(ticket)),
                    Word::Answered(answered) => Some(self.answered(answered)),
                    Word::Map(Some(map)) => Some(self.take_map(map).await),
                    Word::Map(None) => {
                        self.maps = None;
                        Some(Happened::Forgotten)
                    }
                    Word::Died(reason) => {
                        self.bound = None;
                        self.revoke_all();
                        Some(Happened::Died(reason))
                    }
                    Word::Time => None,
                },
            };
            if let Some(happened) = happened {
                self.course.hear(happened, now());
            }
        }
    }

    /// Waits for whatever comes first.
    async fn word(&mut self, until: Option<Instant>) -> Word {
        let Self { tickets, call, maps, bound, .. } = self;
        let call_ends = async {
            match call {
                Some(call) => call.await,
                None => pending().await,
            }
        };
        let next_map = async {
            match maps {
                Some(maps) => maps.next().await,
                None => pending().await,
            }
        };
        let death = async {
            match bound {
                Some(bound) => (&mut bound.ended).await.unwrap_or_else(|_| STOPPED.to_owned()),
                None => pending().await,
            }
        };
        let time = async {
            match until {
                Some(until) => sleep_until(until.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            Some(ticket) = tickets.recv() => Word::Ticket(ticket),
            answered = call_ends => Word::Answered(answered),
            map = next_map => Word::Map(map),
            reason = death => Word::Died(reason),
            () = time => Word::Time,
        }
    }

    /// Reads who we are, binds, and hands the driver to the account's home worker.
    async fn bind(&mut self) -> Result<(), String> {
        let (key, port) = self.identity(|identity| Ok((identity.key(), identity.port()))).await?;
        let TunnelConfig { mut listen, inbound, .. } = self.parts.config;
        if listen.port() == 0 {
            // The port that was free the first time, as peers know it.
            listen.set_port(port);
        }
        let config = postern_tunnel::Config {
            account: self.account.clone(),
            key,
            listen,
            limits: postern_tunnel::Limits::default(),
        };
        let (tunnel, driver) = Tunnel::bind(config).map_err(|error| error.to_string())?;
        let listeners = inbound.then(|| listen_on(&tunnel)).transpose()?;
        let port = tunnel.port();
        let keep = move |mut identity: Identity| {
            let addresses = identity.addresses().to_vec();
            identity.keep(port, &addresses)
        };
        self.identity(keep).await?;
        if let Some(map) = &self.map {
            set_map(&self.account, &tunnel, map);
        }
        let (ended, end) = oneshot::channel();
        self.parts.workers.carry(Load { account: self.account.clone(), driver, listeners, ended });
        tracing::info!(account = %self.account, port, key = %tunnel.public_key(), "a tunnel is bound");
        self.bound = Some(Bound { tunnel, ended: end });
        Ok(())
    }

    /// Does something with our identity in this tunnel, which is made if there is none.
    fn identity<T, W>(&self, work: W) -> impl Future<Output = Result<T, String>> + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce(Identity) -> Result<T, IdentityError> + Send + 'static,
    {
        let (parts, account) = (Arc::clone(&self.parts), self.account.clone());
        async move {
            let folder = parts.folder().await?;
            on_disk(move || Identity::load(&folder, &account).and_then(work)).await
        }
    }

    fn register(&mut self, ticket: Ticket) -> Option<Happened> {
        let tunnel = &self.bound.as_ref()?.tunnel;
        let request = CreateProxyPeer {
            service: ticket.service,
            account: ticket.account,
            token: ticket.token,
            key: tunnel.public_key(),
            cluster: self.parts.config.cluster.clone(),
            port: tunnel.port(),
        };
        let parts = Arc::clone(&self.parts);
        self.call = Some(Box::pin(async move {
            let begun = Instant::now();
            let answer = parts.management.create_proxy_peer(request).await;
            parts.metrics.peer_added(begun.elapsed(), answer.is_ok());
            Answered::Registered(answer)
        }));
        None
    }

    fn watch(&mut self) -> Option<Happened> {
        let (parts, account, key) =
            (Arc::clone(&self.parts), self.account.clone(), self.bound.as_ref()?.tunnel.public_key());
        self.call = Some(Box::pin(async move { Answered::Maps(parts.management.peer_maps(&account, key).await) }));
        None
    }

    fn answered(&mut self, answered: Answered) -> Happened {
        self.call = None;
        match answered {
            Answered::Registered(Ok(())) => Happened::Registered,
            Answered::Registered(Err(error)) => {
                tracing::warn!(account = %self.account, %error, "management does not make this proxy a peer");
                match error {
                    ManagementError::Refused(_) | ManagementError::Unknown(_) => {
                        Happened::Unregistered(error.to_string())
                    }
                    ManagementError::Unavailable(_) => Happened::Unanswered(error.to_string()),
                }
            }
            Answered::Maps(Ok(maps)) => {
                self.maps = Some(maps);
                Happened::Watching
            }
            Answered::Maps(Err(error)) => {
                tracing::warn!(account = %self.account, %error, "there is no stream of peer maps");
                match error {
                    ManagementError::Unknown(_) => Happened::Unknown,
                    ManagementError::Refused(_) | ManagementError::Unavailable(_) => {
                        Happened::Unwatched(error.to_string())
                    }
                }
            }
        }
    }

    /// Puts a map in force: first the flows of those who are gone end, then what was learned about them is forgotten, then
    /// what they had begun ends.
    async fn take_map(&mut self, map: PeerMap) -> Happened {
        if let Some(Bound { tunnel, .. }) = &self.bound {
            set_map(&self.account, tunnel, &map);
        }
        let gone = changed(self.map.as_ref(), &map);
        for (key, _) in &gone {
            self.parts.gate.evict(&self.account, *key);
        }
        self.revoke(gone);
        let moved = self.map.as_ref().is_none_or(|earlier| earlier.addresses != map.addresses);
        let addresses = map.addresses.clone();
        self.map = Some(map);
        if let Some(Bound { tunnel, .. }) = self.bound.as_ref().filter(|_| moved) {
            let port = tunnel.port();
            let kept = self.identity(move |mut identity| identity.keep(port, &addresses)).await;
            if let Err(error) = kept {
                tracing::warn!(account = %self.account, error, "the tunnel's addresses are not kept");
            }
        }
        Happened::Mapped
    }

    /// Ends what these have begun.
    fn revoke(&self, gone: BTreeSet<(PublicKey, Generation)>) {
        if !gone.is_empty() {
            let account = self.account.clone();
            self.parts.workers.revoke(&Arc::from([Revocation::Peers { account, gone }]));
        }
    }

    /// The tunnel has ended, and with it all that came through it.
    fn revoke_all(&self) {
        let peers = self.map.iter().flat_map(|map| &map.peers);
        self.revoke(peers.map(|peer| (peer.key, peer.generation)).collect());
    }

    /// Tells whoever dials and whoever reports, if it is something else than before.
    fn publish(&self) {
        let standing = match (self.course.stage(), &self.bound, &self.map) {
            (Stage::Up, Some(Bound { tunnel, .. }), Some(map)) => {
                Standing::Up { tunnel: tunnel.clone(), inbound: self.inbound(map) }
            }
            (Stage::Down(reason), ..) => Standing::Down(reason.into()),
            (Stage::Up | Stage::Coming, ..) => Standing::Coming,
        };
        let changed = self.standing.send_if_modified(|current| {
            let changed = current.state() != standing.state();
            *current = standing;
            changed
        });
        if changed {
            tracing::info!(account = %self.account, state = ?self.standing.borrow().state(), "a tunnel stands differently");
            let _nobody_reports = self.nudge.send(self.account.clone());
        }
    }

    fn inbound(&self, map: &PeerMap) -> Option<InboundListener> {
        let address =
            map.addresses.iter().copied().min_by_key(IpAddr::is_ipv6).filter(|_| self.parts.config.inbound)?;
        Some(InboundListener { address, https: HTTPS, http: HTTP })
    }
}

/// The ports of NetBird's inbound listeners.
const HTTPS: u16 = 443;
const HTTP: u16 = 80;

/// How long a tunnel may take to tell its peers that it ends.
const FAREWELL: Duration = Duration::from_secs(2);

const STOPPED: &str = "the tunnel has stopped";

/// The runtime's clock, which is also the one that it waits by.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Does what blocks on the disk elsewhere.
async fn on_disk<T, E, W>(work: W) -> Result<T, String>
where
    T: Send + 'static,
    E: ToString + Send + 'static,
    W: FnOnce() -> Result<T, E> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

fn listen_on(tunnel: &Tunnel) -> Result<Listeners, String> {
    let on = |port| tunnel.listen(port).map_err(|error| format!("cannot listen on port {port} of the tunnel: {error}"));
    Ok(Listeners { https: on(HTTPS)?, http: on(HTTP)? })
}

fn set_map(account: &AccountId, tunnel: &Tunnel, map: &PeerMap) {
    for misfit in tunnel.set_map(map) {
        tracing::warn!(%account, %misfit, "part of a peer map cannot be used");
    }
}

/// Whoever is gone, or stands for something else, since `before`. Other allowed IPs are something else for the netstack too.
fn changed(before: Option<&PeerMap>, now: &PeerMap) -> BTreeSet<(PublicKey, Generation)> {
    let identity = |peer: &MappedPeer| (peer.key, peer.generation);
    let ranges: HashMap<_, _> = now.peers.iter().map(|peer| (identity(peer), sorted(&peer.allowed_ips))).collect();
    let stays = |peer: &MappedPeer| ranges.get(&identity(peer)).is_some_and(|now| *now == sorted(&peer.allowed_ips));
    before.into_iter().flat_map(|map| &map.peers).filter(|peer| !stays(peer)).map(identity).collect()
}

fn sorted(ranges: &[IpNet]) -> Vec<IpNet> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_gone_or_something_else_has_changed_and_nobody_else() {
        let peer = |number, generation, ranges: &[&str]| MappedPeer {
            name: "a name is nothing".to_owned(),
            key: PublicKey([number; 32]),
            generation: Generation(generation),
            allowed_ips: ranges.iter().map(|range| range.parse().unwrap()).collect(),
            endpoint: None,
            keep_alive: None,
        };
        let map = |peers| PeerMap { addresses: vec!["100.72.0.1".parse().unwrap()], mtu: 1420, peers };
        let before = map(vec![
            peer(1, 1, &["100.72.0.2/32", "fd00::2/128"]),
            peer(2, 1, &["100.72.0.3/32"]),
            peer(3, 1, &["100.72.0.4/32"]),
            peer(4, 1, &["100.72.0.5/32"]),
        ]);
        let mut renamed = peer(1, 1, &["fd00::2/128", "100.72.0.2/32"]);
        renamed.name = "another".to_owned();
        let after = map(vec![
            renamed,
            peer(3, 2, &["100.72.0.4/32"]),
            peer(4, 1, &["100.72.0.5/32", "10.0.0.1/32"]),
            peer(5, 1, &["100.72.0.6/32"]),
        ]);
        let gone = [2, 3, 4].map(|number| (PublicKey([number; 32]), Generation(1)));
        assert_eq!(changed(Some(&before), &after), BTreeSet::from(gone));
        assert!(changed(None, &after).is_empty() && changed(Some(&before), &before).is_empty());
    }
}
