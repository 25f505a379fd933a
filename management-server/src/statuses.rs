use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use postern_model::{ServiceId, StatusUpdate};
use tokio::sync::watch;

use crate::clock::unix_now;
use crate::store::StoredStatus;

/// What proxies last said of each service: in memory, and handed to the store by whoever asks for what is new.
#[derive(Debug, Default)]
pub(crate) struct Statuses {
    inner: Mutex<Inner>,
    reported: watch::Sender<()>,
}

/// A service, and the proxy that speaks of it.
pub(crate) type Of = (ServiceId, String);

/// A status is in one of the last two or in neither, never in both.
#[derive(Debug, Default)]
struct Inner {
    by_service: BTreeMap<ServiceId, BTreeMap<String, StoredStatus>>,
    unwritten: BTreeSet<Of>,
    gone: BTreeSet<Of>,
    /// Said since this process has started, by proxies as they are now.
    current: BTreeSet<Of>,
}

impl Statuses {
    pub(crate) fn new(stored: Vec<StoredStatus>) -> Self {
        let mut inner = Inner::default();
        for status in stored {
            let of_service = inner.by_service.entry(status.status.service.clone()).or_default();
            of_service.insert(status.proxy.clone(), status);
        }
        Self { inner: Mutex::new(inner), reported: watch::Sender::default() }
    }

    pub(crate) fn report(&self, proxy: &str, status: StatusUpdate) {
        let mut inner = self.inner.lock();
        let of = (status.service.clone(), proxy.to_owned());
        let news = inner.current.insert(of.clone());
        let of_service = inner.by_service.entry(status.service.clone()).or_default();
        if of_service.get(proxy).is_none_or(|before| before.status != status) {
            let stored = StoredStatus { proxy: proxy.to_owned(), status, reported: unix_now() };
            of_service.insert(proxy.to_owned(), stored);
            inner.gone.remove(&of);
            inner.unwritten.insert(of);
        } else if !news {
            return;
        }
        drop(inner);
        self.reported.send_replace(());
    }

    /// Tells of every report that says something else.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.reported.subscribe()
    }

    /// Forgets services that are no more.
    pub(crate) fn retain_services(&self, mut stays: impl FnMut(&ServiceId) -> bool) {
        self.retain(|service, _| stays(service));
    }

    /// Forgets what proxies said that are gone; one that comes back says everything anew. `here` is asked while nobody
    /// can report, so that a proxy which has reported already is not taken for one that has yet to come.
    pub(crate) fn retain_proxies(&self, mut here: impl FnMut(&str) -> bool) {
        self.retain(|_, proxy| here(proxy));
    }

    fn retain(&self, mut stays: impl FnMut(&ServiceId, &str) -> bool) {
        let mut inner = self.inner.lock();
        let Inner { by_service, unwritten, gone, current } = &mut *inner;
        by_service.retain(|service, of_service| {
            of_service.retain(|proxy, _| {
                let stays = stays(service, proxy);
                if !stays {
                    let of = (service.clone(), proxy.clone());
                    unwritten.remove(&of);
                    current.remove(&of);
                    gone.insert(of);
                }
                stays
            });
            !of_service.is_empty()
        });
    }

    /// What was said of a service, by proxy.
    pub(crate) fn of(&self, service: &ServiceId) -> Vec<StoredStatus> {
        self.inner.lock().by_service.get(service).map(|all| all.values().cloned().collect()).unwrap_or_default()
    }

    /// What a proxy has said of a service in this run.
    pub(crate) fn current(&self, service: &ServiceId, proxy: &str) -> Option<StatusUpdate> {
        let inner = self.inner.lock();
        let said = inner.current.contains(&(service.clone(), proxy.to_owned()));
        Some(inner.by_service.get(service).filter(|_| said)?.get(proxy)?.status.clone())
    }

    /// What the store does not know yet: statuses gone, and statuses since.
    pub(crate) fn take_unwritten(&self) -> (Vec<Of>, Vec<StoredStatus>) {
        let mut inner = self.inner.lock();
        let gone = std::mem::take(&mut inner.gone);
        let unwritten = std::mem::take(&mut inner.unwritten);
        let status = |(service, proxy): &Of| inner.by_service.get(service)?.get(proxy).cloned();
        (gone.into_iter().collect(), unwritten.iter().filter_map(status).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_model::{AccountId, ServiceState};
    use proptest::prelude::*;

    fn service(n: u8) -> ServiceId {
        ServiceId::parse(&format!("s{n}")).expect("id")
    }

    fn status(service: ServiceId, active: bool) -> StatusUpdate {
        let account = AccountId::parse("default").expect("id");
        let state = if active { ServiceState::Active } else { ServiceState::Error };
        StatusUpdate { service, account, state, certificate_issued: active, error: None, inbound: None }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Report(u8, u8, bool),
        ServiceGoes(u8),
        ProxyGoes(u8),
        Write,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3_u8, 0..3_u8, any::<bool>()).prop_map(|(s, p, active)| Step::Report(s, p, active)),
            1 => (0..3_u8).prop_map(Step::ServiceGoes),
            1 => (0..3_u8).prop_map(Step::ProxyGoes),
            1 => Just(Step::Write),
        ]
    }

    #[test]
    fn what_was_said_in_an_earlier_run_is_not_current() {
        let (before, app) = (Statuses::default(), service(0));
        before.report("p", status(app.clone(), false));
        let statuses = Statuses::new(before.of(&app));
        let mut reports = statuses.watch();
        assert_eq!((statuses.of(&app).len(), statuses.current(&app, "p")), (1, None));
        statuses.report("p", status(app.clone(), false));
        assert!(reports.has_changed().expect("there"), "the same, but of now");
        reports.mark_unchanged();
        assert_eq!(statuses.current(&app, "p"), Some(status(app.clone(), false)));
        assert_eq!(statuses.take_unwritten().1.len(), 0, "it is written down already");
        statuses.report("p", status(app.clone(), false));
        assert!(!reports.has_changed().expect("there"));
        statuses.report("p", status(app.clone(), true));
        assert!(reports.has_changed().expect("there"));
        statuses.retain_proxies(|_| false);
        assert!(statuses.current(&app, "p").is_none() && statuses.inner.lock().current.is_empty());
    }

    proptest! {
        /// The reference is one map. What is handed to a store, in whichever of the two orders it writes, comes to the same.
        #[test]
        fn memory_and_store_agree(steps in prop::collection::vec(step(), 0..60), gone_first: bool) {
            let statuses = Statuses::default();
            let (mut expected, mut store) = (BTreeMap::<Of, bool>::new(), BTreeMap::<Of, bool>::new());
            for step in steps.into_iter().chain([Step::Write]) {
                match step {
                    Step::Report(s, p, active) => {
                        statuses.report(&p.to_string(), status(service(s), active));
                        expected.insert((service(s), p.to_string()), active);
                    }
                    Step::ServiceGoes(s) => {
                        statuses.retain_services(|id| *id != service(s));
                        expected.retain(|(id, _), _| *id != service(s));
                    }
                    Step::ProxyGoes(p) => {
                        statuses.retain_proxies(|proxy| proxy != p.to_string());
                        expected.retain(|(_, proxy), _| *proxy != p.to_string());
                    }
                    Step::Write => {
                        let (gone, written) = statuses.take_unwritten();
                        let insert =
                            written.into_iter().map(|s| ((s.status.service, s.proxy), s.status.certificate_issued));
                        if gone_first {
                            store.retain(|of, _| !gone.contains(of));
                            store.extend(insert);
                        } else {
                            store.extend(insert);
                            store.retain(|of, _| !gone.contains(of));
                        }
                        prop_assert_eq!(&store, &expected);
                    }
                }
                for n in 0..3 {
                    let said = statuses.of(&service(n)).into_iter().map(|s| (s.proxy, s.status.certificate_issued));
                    let meant = expected.iter().filter(|((id, _), _)| *id == service(n)).map(|((_, p), a)| (p.clone(), *a));
                    prop_assert_eq!(said.collect::<Vec<_>>(), meant.collect::<Vec<_>>());
                }
            }
            let held = statuses.inner.lock();
            prop_assert!(held.by_service.values().all(|of_service| !of_service.is_empty()), "nothing is left behind");
        }
    }
}
