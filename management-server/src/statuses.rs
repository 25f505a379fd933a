use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use postern_model::{ServiceId, StatusUpdate};

use crate::clock::unix_now;
use crate::store::StoredStatus;

/// What proxies last said of each service: in memory, and handed to the store by whoever asks for what is new.
#[derive(Debug, Default)]
pub(crate) struct Statuses(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    by_service: BTreeMap<ServiceId, BTreeMap<String, StoredStatus>>,
    unwritten: BTreeSet<(ServiceId, String)>,
    gone: BTreeSet<ServiceId>,
}

impl Statuses {
    pub(crate) fn new(stored: Vec<StoredStatus>) -> Self {
        let mut inner = Inner::default();
        for status in stored {
            let of_service = inner.by_service.entry(status.status.service.clone()).or_default();
            of_service.insert(status.proxy.clone(), status);
        }
        Self(Mutex::new(inner))
    }

    pub(crate) fn report(&self, proxy: &str, status: StatusUpdate) {
        let mut inner = self.0.lock();
        let service = status.service.clone();
        let of_service = inner.by_service.entry(service.clone()).or_default();
        if of_service.get(proxy).is_some_and(|before| before.status == status) {
            return;
        }
        let stored = StoredStatus { proxy: proxy.to_owned(), status, reported: unix_now() };
        of_service.insert(proxy.to_owned(), stored);
        inner.unwritten.insert((service, proxy.to_owned()));
    }

    /// Forgets services that are no more.
    pub(crate) fn retain(&self, mut stays: impl FnMut(&ServiceId) -> bool) {
        let mut inner = self.0.lock();
        let gone: Vec<_> = inner.by_service.keys().filter(|id| !stays(id)).cloned().collect();
        for service in gone {
            inner.by_service.remove(&service);
            inner.unwritten.retain(|(id, _)| *id != service);
            inner.gone.insert(service);
        }
    }

    /// What was said of a service, by proxy.
    pub(crate) fn of(&self, service: &ServiceId) -> Vec<StoredStatus> {
        self.0.lock().by_service.get(service).map(|all| all.values().cloned().collect()).unwrap_or_default()
    }

    /// What the store does not know yet: services gone, and statuses since.
    pub(crate) fn take_unwritten(&self) -> (Vec<ServiceId>, Vec<StoredStatus>) {
        let mut inner = self.0.lock();
        let gone = std::mem::take(&mut inner.gone);
        let unwritten = std::mem::take(&mut inner.unwritten);
        let status = |(service, proxy): &(ServiceId, String)| inner.by_service.get(service)?.get(proxy).cloned();
        (gone.into_iter().collect(), unwritten.iter().filter_map(status).collect())
    }
}
