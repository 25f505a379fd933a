//! What is going on in one worker right now, so that a revocation reaches it.
//!
//! Every request registers itself before its upstream is dialled and stays registered to the last byte of its answer or upgrade.
//! The registry belongs to its worker's thread; entering and leaving cost the same however many there are.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::future::poll_fn;
use std::mem::replace;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use postern_auth::Origin;
use postern_model::{AccountId, Generation, PublicKey, ServiceId, TunnelPeer};

use crate::http::path::Prefix;
use crate::table::Route;

/// Something that was served and no longer is. Epochs keep what was admitted under the new state out of it: a worker may see
/// the new table before it hears of the revocation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Revocation {
    /// The service went away or its access changed: everything admitted under an access epoch lower than `before` ends.
    Service {
        /// The service.
        service: ServiceId,
        /// The first access epoch that stays.
        before: u64,
    },
    /// A path of the service went away or leads elsewhere: what it admitted under an upstream epoch lower than `before` ends if
    /// it is long, a WebSocket or a stream; an ordinary request may finish.
    Path {
        /// The service.
        service: ServiceId,
        /// The path.
        prefix: Prefix,
        /// The first upstream epoch that stays.
        before: u64,
    },
    /// Peers of a tunnel are gone or stand for something else: everything that came from them ends. Their connections are reset
    /// as well, but whoever waits for an upstream does not see that.
    Peers {
        /// Whose tunnel it is.
        account: AccountId,
        /// Who they were.
        gone: BTreeSet<(PublicKey, Generation)>,
    },
}

/// One worker's registry.
#[derive(Default)]
pub(crate) struct Live {
    slots: RefCell<Slots>,
}

impl Live {
    /// An empty registry.
    pub(crate) fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Registers a request that `route` was found for. No await may lie between the lookup and this.
    /// `origin` is where its connection came in.
    pub(crate) fn enter(self: &Rc<Self>, route: &Arc<Route>, origin: &Origin) -> Entry {
        let peer = match origin {
            Origin::Public => None,
            Origin::Tunnel(peer) => Some(Box::new(peer.clone())),
        };
        let record = Record { route: Arc::clone(route), peer, long: false, fate: Fate::Lives, waker: None };
        let slot = self.slots.borrow_mut().insert(record);
        Entry { live: Rc::clone(self), slot, route: Arc::clone(route) }
    }

    /// Cancels what `revocations` are about.
    pub(crate) fn revoke(&self, revocations: &[Revocation]) {
        let mut by_service: HashMap<&ServiceId, Vec<&Revocation>> = HashMap::with_capacity(revocations.len());
        let mut by_account: HashMap<&AccountId, Vec<&Revocation>> = HashMap::new();
        for revocation in revocations {
            match revocation {
                Revocation::Service { service, .. } | Revocation::Path { service, .. } => {
                    by_service.entry(service).or_default().push(revocation);
                }
                Revocation::Peers { account, .. } => by_account.entry(account).or_default().push(revocation),
            }
        }
        self.wake_cancelled(|record| {
            let about_service = by_service.get(&record.route.service.id);
            let about_peer = record.peer.as_ref().and_then(|peer| by_account.get(peer.account()));
            for revocation in [about_service, about_peer].into_iter().flatten().flatten() {
                record.revoke(revocation);
            }
        });
    }

    /// Cancels everything: the time for draining is over.
    pub(crate) fn cancel_all(&self) {
        self.wake_cancelled(|record| record.fate = Fate::Cancelled);
    }

    /// How many requests and flows there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.borrow().len()
    }

    /// How many of them are long.
    pub(crate) fn long(&self) -> usize {
        self.slots.borrow().long
    }

    /// Waits until there are none. One task waits at a time.
    pub(crate) async fn emptied(&self) {
        poll_fn(|cx| {
            let mut slots = self.slots.borrow_mut();
            if slots.len() == 0 {
                return Poll::Ready(());
            }
            slots.emptied = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn wake_cancelled(&self, mut act: impl FnMut(&mut Record)) {
        let mut wakers = Vec::new();
        for record in self.slots.borrow_mut().places.iter_mut().flatten() {
            act(record);
            if record.fate == Fate::Cancelled {
                wakers.extend(record.waker.take());
            }
        }
        // Only now, as a waker may run code that enters or leaves.
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A registered request or flow; dropping it takes it out of the registry.
pub(crate) struct Entry {
    live: Rc<Live>,
    slot: usize,
    route: Arc<Route>,
}

impl Entry {
    /// The route it was admitted by.
    pub(crate) fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Ready when it is revoked; else `cx` is woken once it is. The task that asked last is the one that is woken.
    pub(crate) fn poll_cancelled(&self, cx: &Context<'_>) -> Poll<()> {
        self.with(|record| {
            if record.fate == Fate::Cancelled {
                return Poll::Ready(());
            }
            match &mut record.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
    }

    /// Whether it is revoked.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.with(|record| record.fate == Fate::Cancelled)
    }

    /// It has turned out to be a long flow: an upgrade, or an answer that streams without end. If its upstream has been replaced
    /// meanwhile, it is cancelled now.
    pub(crate) fn set_long(&self) {
        let (first, waker) = self.with(|record| {
            let first = !replace(&mut record.long, true);
            if record.fate == Fate::EndsIfLong {
                record.fate = Fate::Cancelled;
            }
            let cancelled = record.fate == Fate::Cancelled;
            (first, record.waker.take_if(|_| cancelled))
        });
        self.live.slots.borrow_mut().long += usize::from(first);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn with<R>(&self, act: impl FnOnce(&mut Record) -> R) -> R {
        let mut slots = self.live.slots.borrow_mut();
        act(slots.places[self.slot].as_mut().expect("an entry holds its place until it is dropped"))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let emptied = self.live.slots.borrow_mut().remove(self.slot);
        if let Some(waker) = emptied {
            waker.wake();
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("service", &self.route.service.id).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Lives,
    /// Its upstream was replaced while it was an ordinary request.
    EndsIfLong,
    Cancelled,
}

struct Record {
    route: Arc<Route>,
    /// Whom it came from, if the tunnel vouches for it. Behind a pointer, as most have none.
    peer: Option<Box<TunnelPeer>>,
    long: bool,
    fate: Fate,
    waker: Option<Waker>,
}

impl Record {
    fn revoke(&mut self, revocation: &Revocation) {
        match revocation {
            Revocation::Service { before, .. } => {
                if self.route.service.access_epoch < *before {
                    self.fate = Fate::Cancelled;
                }
            }
            Revocation::Path { prefix, before, .. } => {
                let replaced = self.route.upstream_epoch < *before && self.route.prefix == *prefix;
                if replaced && self.long {
                    self.fate = Fate::Cancelled;
                } else if replaced && self.fate == Fate::Lives {
                    self.fate = Fate::EndsIfLong;
                }
            }
            Revocation::Peers { gone, .. } => {
                if self.peer.as_ref().is_some_and(|peer| gone.contains(&(peer.key(), peer.generation()))) {
                    self.fate = Fate::Cancelled;
                }
            }
        }
    }
}

/// Records in numbered places; a place is used again once it is free.
#[derive(Default)]
struct Slots {
    places: Vec<Option<Record>>,
    free: Vec<usize>,
    long: usize,
    emptied: Option<Waker>,
}

impl Slots {
    fn insert(&mut self, record: Record) -> usize {
        if let Some(slot) = self.free.pop() {
            self.places[slot] = Some(record);
            return slot;
        }
        self.places.push(Some(record));
        self.places.len() - 1
    }

    /// Frees a place; returns whom to tell if it was the last one in use.
    fn remove(&mut self, slot: usize) -> Option<Waker> {
        let record = self.places[slot].take();
        self.long -= usize::from(record.is_some_and(|record| record.long));
        self.free.push(slot);
        if self.len() == 0 { self.emptied.take() } else { None }
    }

    fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use postern_model::PeerKind;

    use super::*;
    use crate::compile::{compile, samples};

    fn routes(epoch: u64) -> Vec<Arc<Route>> {
        let mut mapping = samples::mapping("svc", "app.example", "http://10.0.0.1");
        mapping.paths.push(samples::path("/ws", "http://10.0.0.2"));
        compile(&mapping, None, epoch).expect("compiles").routes().to_vec()
    }

    fn service(before: u64) -> Revocation {
        Revocation::Service { service: ServiceId::parse("svc").expect("an id"), before }
    }

    fn path(prefix: &str, before: u64) -> Revocation {
        let prefix = Prefix::parse(prefix).expect("a prefix");
        Revocation::Path { service: ServiceId::parse("svc").expect("an id"), prefix, before }
    }

    fn woken(entry: &Entry) -> bool {
        poll_fn(|cx| entry.poll_cancelled(cx)).now_or_never().is_some()
    }

    #[test]
    fn a_service_revocation_ends_what_is_older_and_nothing_else() {
        let live = Live::new();
        let old = live.enter(&routes(1)[0], &Origin::Public);
        let new = live.enter(&routes(2)[0], &Origin::Public);
        live.revoke(&[Revocation::Service { service: ServiceId::parse("other").expect("an id"), before: 9 }]);
        assert!(!woken(&old));
        live.revoke(&[service(2)]);
        assert!(woken(&old));
        assert!(!woken(&new));
    }

    #[test]
    fn a_path_revocation_ends_long_flows_of_that_path_and_what_becomes_one() {
        let live = Live::new();
        let routes = routes(1);
        let (ws, root) = (&routes[0], &routes[1]);
        let [flow, request, late, elsewhere] = [ws, ws, ws, root].map(|route| live.enter(route, &Origin::Public));
        flow.set_long();
        elsewhere.set_long();
        live.revoke(&[path("/ws", 2)]);
        assert!(woken(&flow));
        assert!(!woken(&request) && !woken(&late) && !woken(&elsewhere));
        late.set_long();
        assert!(woken(&late));
        let newer = live.enter(&self::routes(2)[0], &Origin::Public);
        newer.set_long();
        assert!(!woken(&newer));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "no tunnel vouches for the peers of a test")]
    fn a_peer_revocation_ends_what_came_from_that_identity_in_that_account_and_nothing_else() {
        let live = Live::new();
        let route = &routes(1)[0];
        let key = |number| PublicKey([number; 32]);
        let peer = |account: &str, number, generation| {
            let account = AccountId::parse(account).expect("an id");
            let address = [100, 72, 0, number].into();
            Origin::Tunnel(TunnelPeer::minted(account, key(number), Generation(generation), address, PeerKind::Device))
        };
        let enter = |origin: &Origin| live.enter(route, origin);
        let [gone, again, other, foreign, public] =
            [peer("acc", 2, 1), peer("acc", 2, 2), peer("acc", 3, 1), peer("other", 2, 1), Origin::Public]
                .map(|origin| enter(&origin));
        let account = AccountId::parse("acc").expect("an id");
        live.revoke(&[
            Revocation::Peers { account: account.clone(), gone: BTreeSet::from([(key(2), Generation(1))]) },
            Revocation::Peers { account, gone: BTreeSet::new() },
        ]);
        assert!(woken(&gone));
        assert!([again, other, foreign, public].iter().all(|entry| !woken(entry)));
    }

    #[tokio::test]
    async fn a_waiting_task_is_woken_and_leaving_is_counted() {
        let live = Live::new();
        let route = &routes(1)[0];
        let entry = live.enter(route, &Origin::Public);
        entry.set_long();
        entry.set_long();
        assert_eq!((live.len(), live.long()), (1, 1));
        let waiting = async {
            poll_fn(|cx| entry.poll_cancelled(cx)).await;
            drop(entry);
        };
        let ((), (), ()) = tokio::join!(waiting, live.emptied(), async { live.cancel_all() });
        assert_eq!((live.len(), live.long()), (0, 0));
        let again = live.enter(route, &Origin::Public);
        assert!(!woken(&again), "a used place starts afresh");
        assert_eq!(live.slots.borrow().places.len(), 1);
    }
}
