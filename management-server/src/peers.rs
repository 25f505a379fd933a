use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use postern_model::{AccountId, PublicKey};
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::clock::unix_now;
use crate::desired::TunnelSettings;
use crate::network::{DEFAULT_RANGE, Network};
use crate::peer::{Delta, Device, Proxy};
use crate::peer_error::PeerError;
use crate::roster::Roster;
use crate::store::Store;

/// What is left of an Ethernet frame's 1500 bytes after WireGuard's and IPv6's.
const MTU: u16 = 1420;
/// A proxy that was away for less finds its address again.
const KEPT: i64 = 7 * 24 * 3600;
/// However far away the next end is, clocks are compared again after so long.
const LONGEST_SLEEP: Duration = Duration::from_secs(24 * 3600);

/// The tunnels of all accounts: in memory, where everybody reads, and in the store. Whoever watches hears of a change once
/// it is on disk and before whoever made it does.
#[derive(Debug)]
pub(crate) struct Peers {
    store: Store,
    network: Network,
    mtu: u16,
    started: i64,
    /// The devices whose addresses are others since this start, each by its number and key: their files are of no use.
    moved: HashSet<(AccountId, u32, PublicKey)>,
    rosters: watch::Sender<Arc<Rosters>>,
    /// Held from the look at a roster to the change of it.
    changing: Arc<tokio::sync::Mutex<()>>,
    seen: Mutex<HashMap<(AccountId, PublicKey), Seen>>,
    entered: watch::Sender<()>,
}

pub(crate) type Rosters = BTreeMap<AccountId, Arc<Roster>>;

/// When a proxy was here.
#[derive(Clone, Copy, Debug)]
struct Seen {
    streams: usize,
    /// Those of them that come from this process.
    in_process: usize,
    /// The end of the last one.
    until: i64,
}

/// A change of one account's roster that nobody knows of yet. Dropping it changes nothing.
#[derive(Debug)]
pub(crate) struct Change {
    peers: Arc<Peers>,
    account: AccountId,
    before: Arc<Roster>,
    pub(crate) roster: Roster,
    _alone: OwnedMutexGuard<()>,
}

/// A proxy that hears of peers; dropping it is its leave.
#[derive(Debug)]
pub(crate) struct Presence {
    peers: Arc<Peers>,
    of: (AccountId, PublicKey),
    in_process: bool,
}

impl Peers {
    pub(crate) async fn load(store: Store, settings: &TunnelSettings) -> Result<Self, PeerError> {
        let range = settings.network.unwrap_or(DEFAULT_RANGE);
        let network = Network::new(range).ok_or(PeerError::Network(range))?;
        let (mut rosters, mut moved) = (Rosters::new(), HashSet::new());
        for (account, kept) in store.peers().await? {
            let roster = Roster::restore(kept.clone(), network)?;
            let delta = roster.since(&kept);
            if !delta.is_empty() {
                store.change_peers(&account, &delta).await?;
            }
            if kept.range != range {
                let of = |(number, _): (u32, &Device)| (account.clone(), number, kept.peers[&number].key);
                moved.extend(roster.devices().map(of));
            }
            rosters.insert(account, Arc::new(roster));
        }
        Ok(Self {
            store,
            network,
            mtu: settings.mtu.unwrap_or(MTU),
            started: unix_now(),
            moved,
            rosters: watch::Sender::new(Arc::new(rosters)),
            changing: Arc::default(),
            seen: Mutex::default(),
            entered: watch::Sender::default(),
        })
    }

    pub(crate) fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Whether a device has other addresses than before this start.
    pub(crate) fn has_moved(&self, account: &AccountId, number: u32, key: PublicKey) -> bool {
        self.moved.contains(&(account.clone(), number, key))
    }

    /// What that means for the devices of an account, if there are any.
    pub(crate) fn moved(&self, account: &AccountId) -> Option<String> {
        let network = self.network.range();
        let count = self.moved.iter().filter(|(of, _, _)| of == account).count();
        (count > 0).then(|| {
            format!(
                "the tunnel's network is {network} since this start, so that {count} of its peers have other addresses than \
                 their files say; print each file again with `postern peer show NAME`"
            )
        })
    }

    pub(crate) fn roster(&self, account: &AccountId) -> Arc<Roster> {
        self.rosters.borrow().get(account).cloned().unwrap_or_else(|| Arc::new(Roster::new(self.network)))
    }

    /// Tells of every change of any roster, and of every moment from which on somebody is nobody.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Rosters>> {
        self.rosters.subscribe()
    }

    /// Begins a change; another waits until it is over.
    pub(crate) async fn change(self: &Arc<Self>, account: &AccountId) -> Change {
        let alone = self.changing.clone().lock_owned().await;
        let before = self.roster(account);
        let roster = Roster::clone(&before);
        Change { peers: self.clone(), account: account.clone(), before, roster, _alone: alone }
    }

    /// Gives a proxy its place in the tunnel.
    pub(crate) async fn register(
        self: &Arc<Self>,
        account: &AccountId,
        key: PublicKey,
        proxy: Proxy,
    ) -> Result<(), PeerError> {
        let mut change = self.change(account).await;
        change.roster.register(key, proxy, |key| self.is_here(account, key), unix_now())?;
        change.commit().await
    }

    /// A proxy hears of peers from now on.
    pub(crate) fn enter(self: &Arc<Self>, account: &AccountId, key: PublicKey, in_process: bool) -> Presence {
        let of = (account.clone(), key);
        let mut all = self.seen.lock();
        let seen = all.entry(of.clone()).or_insert(Seen { streams: 0, in_process: 0, until: 0 });
        seen.streams += 1;
        seen.in_process += usize::from(in_process);
        drop(all);
        self.entered.send_replace(());
        Presence { peers: self.clone(), of, in_process }
    }

    /// Tells of every proxy that enters.
    pub(crate) fn arrivals(&self) -> watch::Receiver<()> {
        self.entered.subscribe()
    }

    pub(crate) fn is_here(&self, account: &AccountId, key: PublicKey) -> bool {
        self.seen.lock().get(&(account.clone(), key)).is_some_and(|seen| seen.streams > 0)
    }

    /// Whether it is the proxy in this process.
    pub(crate) fn is_in_process(&self, account: &AccountId, key: PublicKey) -> bool {
        self.seen.lock().get(&(account.clone(), key)).is_some_and(|seen| seen.in_process > 0)
    }

    /// Writes down when proxies were here, and forgets those that did not come back.
    pub(crate) async fn tidy(self: &Arc<Self>, now: i64) -> Result<(), PeerError> {
        let mut seen: BTreeMap<AccountId, BTreeMap<PublicKey, i64>> = BTreeMap::new();
        self.seen.lock().retain(|(account, key), Seen { streams, until, .. }| {
            let at = if *streams > 0 { now } else { *until };
            seen.entry(account.clone()).or_default().insert(*key, at);
            *streams > 0
        });
        let accounts: Vec<_> = self.rosters.borrow().keys().cloned().collect();
        for account in accounts {
            let mut change = self.change(&account).await;
            change.roster.seen(seen.get(&account).unwrap_or(&BTreeMap::new()));
            // While nothing ran here, nobody could come back.
            if now - self.started > KEPT {
                change.roster.forget_proxies(now - KEPT, |key| self.is_here(&account, key), now);
            }
            change.commit().await?;
        }
        Ok(())
    }

    /// Tells whoever watches when somebody's time is over. Until told to stop.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut changes = self.watch();
        let mut told = unix_now();
        loop {
            let next = changes.borrow_and_update().values().filter_map(|roster| roster.next_end(told)).min();
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = at(next) => {
                    told = unix_now();
                    self.rosters.send_modify(|_| {});
                }
            }
        }
    }
}

impl Change {
    /// What is to be written down.
    pub(crate) fn delta(&self) -> Delta {
        self.roster.since(self.before.kept())
    }

    /// Puts in force what has been written down. Where nothing is different, nobody is told.
    pub(crate) fn publish(self) {
        let Self { peers, account, before, roster, .. } = self;
        if *before == roster {
            return;
        }
        peers.rosters.send_modify(|rosters| {
            let mut next = Rosters::clone(rosters);
            next.insert(account, Arc::new(roster));
            *rosters = Arc::new(next);
        });
    }

    /// Writes it down and puts it in force, even if the caller gives up meanwhile: memory and store would come apart.
    pub(crate) async fn commit(self) -> Result<(), PeerError> {
        let delta = self.delta();
        if delta.is_empty() {
            return Ok(());
        }
        let done = tokio::spawn(async move {
            self.peers.store.change_peers(&self.account, &delta).await?;
            self.publish();
            Ok(())
        });
        done.await.map_err(|_| PeerError::Stopping)?
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if let Some(seen) = self.peers.seen.lock().get_mut(&self.of) {
            seen.streams -= 1;
            seen.in_process -= usize::from(self.in_process);
            seen.until = unix_now();
        }
    }
}

/// Not before `end`, in seconds since 1970, by this machine's clock as it is now.
async fn at(end: Option<i64>) {
    let Some(end) = end else { return std::future::pending().await };
    let end = UNIX_EPOCH + Duration::from_secs(end.unsigned_abs());
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    sleep_until(Instant::now() + left.min(LONGEST_SLEEP)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::NewDevice;
    use std::collections::BTreeSet;

    fn account() -> AccountId {
        AccountId::parse("default").expect("id")
    }

    fn device(n: u8) -> NewDevice {
        let (user, groups, site, expires) = (None, BTreeSet::new(), Vec::new(), None);
        NewDevice { name: format!("d{n}"), key: PublicKey([n; 32]), user, groups, site, expires }
    }

    async fn open(folder: &std::path::Path) -> (Store, Arc<Peers>) {
        let store = Store::open(folder).await.expect("opens");
        let peers = Peers::load(store.clone(), &TunnelSettings::default()).await.expect("loads");
        (store, Arc::new(peers))
    }

    /// Whoever hangs up has changed everything or nothing: memory and store never come apart.
    #[tokio::test]
    async fn a_change_comes_to_its_end_even_if_nobody_waits_for_it() {
        let folder = tempfile::tempdir().expect("tempdir");
        let (store, peers) = open(folder.path()).await;
        let mut change = peers.change(&account()).await;
        change.roster.add(device(1), 0).expect("adds");
        let mut commit = Box::pin(change.commit());
        assert!(futures_util::poll!(&mut commit).is_pending());
        drop(commit);
        let mut next = peers.change(&account()).await;
        assert_eq!(next.roster.devices().count(), 1, "the next change waited for it");
        assert_eq!(store.peers().await.expect("reads")[&account()], *peers.roster(&account()).kept());
        next.roster.add(device(2), 0).expect("adds");
        drop(next);
        assert_eq!(peers.roster(&account()).devices().count(), 1, "what is not committed is not");
    }

    #[tokio::test]
    async fn accounts_have_tunnels_of_their_own() {
        let folder = tempfile::tempdir().expect("tempdir");
        let (store, peers) = open(folder.path()).await;
        let other = AccountId::parse("other").expect("id");
        for account in [&account(), &other] {
            let mut change = peers.change(account).await;
            assert_eq!(change.roster.add(device(1), 0).expect("one key in each"), 1);
            change.commit().await.expect("writes");
        }
        let mut change = peers.change(&other).await;
        change.roster.remove("d1", 0).expect("removes");
        change.commit().await.expect("writes");
        assert_eq!(peers.roster(&account()).devices().count(), 1);
        store.close().await;
        let (_, again) = open(folder.path()).await;
        assert_eq!(again.roster(&account()), peers.roster(&account()));
        assert_eq!(again.roster(&other), peers.roster(&other));
    }

    #[tokio::test]
    async fn a_proxy_is_forgotten_a_week_after_it_was_seen_last() {
        let folder = tempfile::tempdir().expect("tempdir");
        let (_, peers) = open(folder.path()).await;
        let key = |n: u8| PublicKey([n; 32]);
        for n in [1, 2, 3] {
            let proxy =
                Proxy { name: "p".into(), cluster: "c".into(), in_process: false, port: 1, last_seen: peers.started };
            peers.register(&account(), key(n), proxy).await.expect("registers");
        }
        let here = peers.enter(&account(), key(1), false);
        let known = || peers.roster(&account()).proxies().map(|(number, ..)| number).collect::<Vec<_>>();
        peers.tidy(peers.started + 10).await.expect("writes");
        drop(peers.enter(&account(), key(2), false));
        peers.tidy(peers.started + KEPT).await.expect("writes");
        assert_eq!(known(), [1, 2, 3]);
        let seen = |n: u8| {
            let roster = peers.roster(&account());
            roster.proxies().find(|(_, peer, _)| peer.key == key(n)).map(|(_, _, proxy)| proxy.last_seen)
        };
        assert_eq!((seen(1), seen(3)), (Some(peers.started + KEPT), Some(peers.started)));
        peers.tidy(peers.started + KEPT + 3600).await.expect("writes");
        assert_eq!(known(), [1], "the one that is here");
        drop(here);
        peers.tidy(peers.started + KEPT + 3601).await.expect("writes");
        assert_eq!(known(), [1]);
        assert!(!peers.is_here(&account(), key(1)));
    }
}
