use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use postern_model::{AccountId, HostName, ProxyId, ServiceId};
use postern_proto::convert::Hello;
use tokio::sync::{mpsc, oneshot};

use crate::catalog::{Catalog, Edit, Published, diff};

/// How many changes may wait for one proxy (NetBird's number). One that is further behind is sent a new snapshot.
const QUEUE: usize = 100;

/// What is published now, and the mapping streams that hear of its changes. A stream's snapshot and its first change meet
/// without gap or overlap, because both are taken under one lock.
#[derive(Debug, Default)]
pub(crate) struct Hub(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    catalog: Arc<Catalog>,
    revision: u64,
    streams: HashMap<(AccountId, ProxyId), Stream>,
    /// Who joined since somebody asked, gone again or not.
    arrivals: HashMap<(AccountId, ProxyId), Connected>,
    opened: u64,
    closed: bool,
}

#[derive(Debug)]
struct Stream {
    number: u64,
    connected: Connected,
    updates: mpsc::Sender<Arc<[Edit]>>,
    end: oneshot::Sender<End>,
}

/// A proxy with an open mapping stream.
#[derive(Clone, Debug)]
pub(crate) struct Connected {
    pub(crate) account: AccountId,
    pub(crate) hello: Hello,
    /// The name of its token.
    pub(crate) token: String,
    /// The connection that carries the stream, and by NetBird's rule every other call of the proxy.
    pub(crate) connection: u64,
    pub(crate) since: i64,
    /// It runs in this process.
    pub(crate) in_process: bool,
}

/// Why a mapping stream is ended from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The same proxy has opened another.
    Superseded,
    /// More changes than [`QUEUE`] wait for it.
    Behind,
    /// The server stops.
    Stopping,
}

/// A place in the hub; dropping it leaves.
#[derive(Debug)]
pub(crate) struct Seat {
    hub: Arc<Hub>,
    key: (AccountId, ProxyId),
    number: u64,
    pub(crate) snapshot: Arc<Catalog>,
    pub(crate) updates: mpsc::Receiver<Arc<[Edit]>>,
    pub(crate) end: oneshot::Receiver<End>,
}

impl Hub {
    /// What was published when the last run ended is unknown: it begins with nothing, at that run's revision.
    pub(crate) fn new(revision: u64) -> Self {
        Self(Mutex::new(Inner { revision, ..Inner::default() }))
    }

    /// Takes a place for a stream; an older stream of the same proxy ends.
    pub(crate) fn join(self: &Arc<Self>, connected: Connected) -> Result<Seat, End> {
        let mut inner = self.0.lock();
        if inner.closed {
            return Err(End::Stopping);
        }
        inner.opened += 1;
        let number = inner.opened;
        let key = (connected.account.clone(), connected.hello.proxy_id.clone());
        let (sender, updates) = mpsc::channel(QUEUE);
        let (end, ended) = oneshot::channel();
        inner.arrivals.insert(key.clone(), connected.clone());
        let stream = Stream { number, connected, updates: sender, end };
        if let Some(older) = inner.streams.insert(key.clone(), stream) {
            let _ = older.end.send(End::Superseded);
        }
        let snapshot = inner.catalog.clone();
        Ok(Seat { hub: self.clone(), key, number, snapshot, updates, end: ended })
    }

    /// What publishing this catalogue would change.
    pub(crate) fn compare(&self, catalog: &Catalog) -> Vec<Edit> {
        diff(&self.0.lock().catalog, catalog)
    }

    /// Puts a catalogue in force and tells every stream what is different.
    pub(crate) fn publish(&self, catalog: Catalog, revision: u64) {
        let mut inner = self.0.lock();
        let edits: Arc<[Edit]> = diff(&inner.catalog, &catalog).into();
        inner.catalog = Arc::new(catalog);
        inner.revision = revision;
        if edits.is_empty() {
            return;
        }
        let behind: Vec<_> = inner
            .streams
            .iter()
            .filter(|(_, stream)| stream.updates.try_send(edits.clone()).is_err())
            .map(|(key, _)| key.clone())
            .collect();
        for key in behind {
            if let Some(stream) = inner.streams.remove(&key) {
                let _ = stream.end.send(End::Behind);
            }
        }
    }

    pub(crate) fn find(&self, service: &ServiceId) -> Option<Arc<Published>> {
        self.0.lock().catalog.get(service).cloned()
    }

    /// The service that is published under a host.
    pub(crate) fn at(&self, host: &HostName) -> Option<Arc<Published>> {
        self.0.lock().catalog.values().find(|published| published.mapping.host == *host).cloned()
    }

    pub(crate) fn catalog(&self) -> (Arc<Catalog>, u64) {
        let inner = self.0.lock();
        (inner.catalog.clone(), inner.revision)
    }

    pub(crate) fn connected(&self) -> Vec<Connected> {
        self.0.lock().streams.values().map(|stream| stream.connected.clone()).collect()
    }

    /// Whether a proxy is connected that serves private services.
    pub(crate) fn serves_private(&self, account: &AccountId, proxy: &str) -> bool {
        let inner = self.0.lock();
        let mut of_account = inner.streams.values().filter(|stream| stream.connected.account == *account);
        of_account.any(|stream| {
            let hello = &stream.connected.hello;
            hello.proxy_id.as_str() == proxy && hello.capabilities.private_service
        })
    }

    pub(crate) fn is_connected(&self, proxy: &str) -> bool {
        self.0.lock().streams.keys().any(|(_, id)| id.as_str() == proxy)
    }

    /// Who joined since the last call, whether still here or not.
    pub(crate) fn take_arrivals(&self) -> Vec<Connected> {
        std::mem::take(&mut self.0.lock().arrivals).into_values().collect()
    }

    /// The proxy whose stream a connection carries.
    pub(crate) fn proxy_on(&self, connection: u64) -> Option<ProxyId> {
        let inner = self.0.lock();
        let mut streams = inner.streams.values();
        streams.find(|stream| stream.connected.connection == connection).map(|s| s.connected.hello.proxy_id.clone())
    }

    /// Ends every stream and opens no more.
    pub(crate) fn close(&self) {
        let mut inner = self.0.lock();
        inner.closed = true;
        for (_, stream) in inner.streams.drain() {
            let _ = stream.end.send(End::Stopping);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.hub.0.lock();
        // A newer stream of the same proxy sits there now.
        if inner.streams.get(&self.key).is_some_and(|stream| stream.number == self.number) {
            inner.streams.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{no_peers, publish};
    use crate::clock::unix_now;
    use postern_proto::management::SyncMappingsInit;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn catalog(services: &BTreeMap<u8, u8>) -> Catalog {
        let mut text = String::from("# services\n");
        for (id, port) in services {
            text += &format!("[service.s{id}]\nhost='s{id}.x'\nupstream='http://x:{}'\naccess='open'\n", port + 1);
        }
        let desired = crate::file::parse(&text, std::path::Path::new("")).expect("good");
        publish(&account(), &desired, &BTreeMap::new(), &BTreeMap::new(), &no_peers).catalog
    }

    fn account() -> AccountId {
        AccountId::parse("default").expect("id")
    }

    fn connected(id: &str) -> Connected {
        let init = SyncMappingsInit { proxy_id: id.into(), address: "x".into(), ..SyncMappingsInit::default() };
        let hello = Hello::from_init(init).expect("good");
        Connected {
            account: account(),
            hello,
            token: String::new(),
            connection: 0,
            since: unix_now(),
            in_process: false,
        }
    }

    #[test]
    fn who_falls_behind_must_come_again() {
        let hub = Arc::new(Hub::new(0));
        let mut slow = hub.join(connected("slow")).expect("open");
        let mut quick = hub.join(connected("quick")).expect("open");
        for n in 0..=QUEUE {
            hub.publish(catalog(&[(0, u8::try_from(n).expect("small"))].into()), n as u64);
            quick.updates.try_recv().expect("told");
        }
        assert_eq!(slow.end.try_recv(), Ok(End::Behind));
        quick.end.try_recv().expect_err("still here");
        drop(slow);
        let again = hub.join(connected("slow")).expect("open");
        assert_eq!(again.snapshot.len(), 1);
        assert_eq!(hub.connected().len(), 2);
        drop((again, quick));
        assert_eq!(hub.connected().len(), 0, "who leaves is gone");
    }

    #[test]
    fn a_superseded_seat_leaves_nobody_elses_place() {
        let hub = Arc::new(Hub::new(0));
        let mut old = hub.join(connected("p")).expect("open");
        let new = hub.join(connected("p")).expect("open");
        assert_eq!(old.end.try_recv(), Ok(End::Superseded));
        drop(old);
        assert_eq!(hub.connected().len(), 1);
        drop(new);
        hub.close();
        assert_eq!(hub.join(connected("p")).err(), Some(End::Stopping));
    }

    proptest! {
        /// Whenever a proxy joins, its snapshot and the changes after it come to what is published.
        #[test]
        fn snapshot_and_changes_meet(
            steps in prop::collection::vec(prop::collection::btree_map(0u8..5, 0u8..3, 0..5), 1..12),
            join_at in 0usize..12,
        ) {
            let hub = Arc::new(Hub::new(0));
            let mut seat = None;
            for (n, step) in steps.iter().enumerate() {
                if n == join_at {
                    seat = hub.join(connected("p")).ok();
                }
                hub.publish(catalog(step), n as u64);
            }
            let mut seat = seat.unwrap_or_else(|| hub.join(connected("p")).expect("open"));
            let mut view: BTreeMap<ServiceId, _> =
                seat.snapshot.iter().map(|(id, published)| (id.clone(), published.mapping.clone())).collect();
            while let Ok(edits) = seat.updates.try_recv() {
                for edit in edits.iter() {
                    let mapping = edit.published().mapping.clone();
                    let known = view.contains_key(&mapping.id);
                    match edit {
                        Edit::Created(_) => prop_assert!(!known),
                        Edit::Modified(_) => prop_assert!(known && view[&mapping.id] != mapping),
                        Edit::Removed(_) => prop_assert!(known),
                    }
                    match edit {
                        Edit::Created(_) | Edit::Modified(_) => drop(view.insert(mapping.id.clone(), mapping)),
                        Edit::Removed(_) => drop(view.remove(&mapping.id)),
                    }
                }
            }
            let published: BTreeMap<ServiceId, _> =
                hub.catalog().0.iter().map(|(id, published)| (id.clone(), published.mapping.clone())).collect();
            prop_assert_eq!(view, published);
        }
    }
}
