//! What is going on in one worker right now, so that a revocation reaches it.
//!
//! Every request registers itself before its upstream is dialled and stays registered to the last byte of its answer or upgrade.
//! The registry belongs to its worker's thread; entering and leaving cost the same however many there are.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::mem::replace;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use postern_model::ServiceId;

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
}

impl Revocation {
    pub(crate) fn service(&self) -> &ServiceId {
        match self {
            Self::Service { service, .. } | Self::Path { service, .. } => service,
        }
    }
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
    pub(crate) fn enter(self: &Rc<Self>, route: &Arc<Route>) -> Entry {
        let record = Record { route: Arc::clone(route), long: false, fate: Fate::Lives, waker: None };
        let slot = self.slots.borrow_mut().insert(record);
        Entry { live: Rc::clone(self), slot, route: Arc::clone(route) }
    }

    /// Cancels what `revocations` are about.
    pub(crate) fn revoke(&self, revocations: &[Revocation]) {
        let mut by_service: HashMap<&ServiceId, Vec<&Revocation>> = HashMap::with_capacity(revocations.len());
        for revocation in revocations {
            by_service.entry(revocation.service()).or_default().push(revocation);
        }
        self.wake_cancelled(|record| {
            for revocation in by_service.get(&record.route.service.id).into_iter().flatten() {
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
        let old = live.enter(&routes(1)[0]);
        let new = live.enter(&routes(2)[0]);
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
        let [flow, request, late, elsewhere] = [ws, ws, ws, root].map(|route| live.enter(route));
        flow.set_long();
        elsewhere.set_long();
        live.revoke(&[path("/ws", 2)]);
        assert!(woken(&flow));
        assert!(!woken(&request) && !woken(&late) && !woken(&elsewhere));
        late.set_long();
        assert!(woken(&late));
        let newer = live.enter(&self::routes(2)[0]);
        newer.set_long();
        assert!(!woken(&newer));
    }

    #[tokio::test]
    async fn a_waiting_task_is_woken_and_leaving_is_counted() {
        let live = Live::new();
        let route = &routes(1)[0];
        let entry = live.enter(route);
        entry.set_long();
        entry.set_long();
        assert_eq!((live.len(), live.long()), (1, 1));
        let waiting = async {
            poll_fn(|cx| entry.poll_cancelled(cx)).await;
            drop(entry);
        };
        let ((), (), ()) = tokio::join!(waiting, live.emptied(), async { live.cancel_all() });
        assert_eq!((live.len(), live.long()), (0, 0));
        let again = live.enter(route);
        assert!(!woken(&again), "a used place starts afresh");
        assert_eq!(live.slots.borrow().places.len(), 1);
    }
}
