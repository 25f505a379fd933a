//! What management wants becomes what is served: a pure state machine.
//!
//! The table depends on the desired state alone, whatever the batches, repetitions and reconnects it came in. A service whose
//! mapping did not change is not compiled again and nobody notices.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use postern_model::{
    AccountId, Batch, Change, HostName, Mapping, Mode, Rejected, ServiceId, ServiceState, StatusUpdate, SyncEvent,
};

use crate::compile::{Predecessor, compile};
use crate::live::Revocation;
use crate::table::RoutingTable;

/// What is to be done, in this order: publish the table, retire what it no longer holds, report.
#[derive(Default)]
pub(crate) struct Plan {
    /// The new table; `None` where nothing changed.
    pub table: Option<Arc<RoutingTable>>,
    /// What must not go on.
    pub retire: Vec<Revocation>,
    /// The services whose state changed, or that a new snapshot mentioned: its server may not know their state.
    pub reports: Vec<StatusUpdate>,
    /// How many services were compiled for it.
    pub compiled: usize,
    /// The snapshot is whole.
    pub synced: bool,
}

/// Whether a certificate for a host is there: a fact that the reconciler is told.
pub(crate) type Covers<'a> = &'a dyn Fn(&HostName) -> bool;

/// The state machine.
#[derive(Default)]
pub(crate) struct Reconciler {
    wanted: BTreeMap<ServiceId, Wanted>,
    /// Who wants a host of the main listener. The lowest id has it, whether or not it can be served: what a host shows must not
    /// depend on whether somebody else's mapping is broken.
    claims: HashMap<HostName, BTreeSet<ServiceId>>,
    standing: BTreeMap<ServiceId, Standing>,
    table: Arc<RoutingTable>,
    snapshot: Option<Snapshot>,
    epoch: u64,
}

impl Reconciler {
    /// Takes in what the mapping stream brought.
    pub(crate) fn apply(&mut self, event: SyncEvent, covers: Covers<'_>) -> Plan {
        match event {
            SyncEvent::Opened => {
                self.snapshot = Some(Snapshot::default());
                Plan::default()
            }
            SyncEvent::Batch(batch) => self.batch(batch, covers),
            SyncEvent::Lost => {
                self.snapshot = None;
                Plan::default()
            }
        }
    }

    fn batch(&mut self, batch: Batch, covers: Covers<'_>) -> Plan {
        let mut dirty = BTreeSet::new();
        for change in batch.changes {
            let (id, wanted) = match change {
                Change::Upsert(mapping, _) => (mapping.id.clone(), Some(Wanted::Mapping(Arc::from(mapping)))),
                Change::Remove(id) => (id, None),
                Change::Rejected(rejected) => (rejected.service.clone(), Some(Wanted::Rejected(rejected))),
            };
            if let Some(snapshot) = &mut self.snapshot {
                snapshot.mentioned.insert(id.clone());
            }
            self.want(id, wanted, &mut dirty);
        }
        let finished = if batch.initial_sync_complete { self.snapshot.take() } else { None };
        if let Some(snapshot) = &finished {
            let gone: Vec<_> = self.wanted.keys().filter(|id| !snapshot.mentioned.contains(*id)).cloned().collect();
            for id in gone {
                self.want(id, None, &mut dirty);
            }
        }
        let mut plan = self.settle(dirty, covers);
        if let Some(snapshot) = finished {
            plan.synced = true;
            self.report_again(snapshot, covers, &mut plan.reports);
        }
        plan
    }

    /// Notes what is wanted of `id`, and in `dirty` whom that concerns.
    fn want(&mut self, id: ServiceId, wanted: Option<Wanted>, dirty: &mut BTreeSet<ServiceId>) {
        let earlier = self.wanted.get(&id);
        if earlier == wanted.as_ref() {
            return;
        }
        let released = earlier.and_then(Wanted::claim).cloned();
        let claimed = wanted.as_ref().and_then(Wanted::claim).cloned();
        if released != claimed {
            if let Some(host) = released {
                let claimants = self.claims.entry(host.clone()).or_default();
                claimants.remove(&id);
                dirty.extend(claimants.iter().cloned());
                if claimants.is_empty() {
                    self.claims.remove(&host);
                }
            }
            if let Some(host) = claimed {
                let claimants = self.claims.entry(host).or_default();
                claimants.insert(id.clone());
                dirty.extend(claimants.iter().cloned());
            }
        }
        match wanted {
            Some(wanted) => self.wanted.insert(id.clone(), wanted),
            None => self.wanted.remove(&id),
        };
        dirty.insert(id);
    }

    /// Brings the standing of the `dirty` in line with what is wanted.
    fn settle(&mut self, dirty: BTreeSet<ServiceId>, covers: Covers<'_>) -> Plan {
        let mut plan = Plan::default();
        let mut table = None;
        for id in dirty {
            let earlier = self.standing.remove(&id);
            let served = earlier.as_ref().and_then(Standing::served);
            let outcome = self.outcome(&id, served, &mut plan.compiled);
            let serves = outcome.as_ref().and_then(Outcome::served);
            plan.retire.extend(retired(&id, served, serves));
            replace(&mut table, &self.table, served, serves);
            let Some((wanted, outcome)) = self.wanted.get(&id).zip(outcome) else { continue };
            let report = report(&id, wanted, &outcome, covers);
            if earlier.is_none_or(|earlier| earlier.reported != report) {
                if let Some(snapshot) = &mut self.snapshot {
                    snapshot.reported.insert(id.clone());
                }
                plan.reports.push(report.clone());
            }
            self.standing.insert(id, Standing { outcome, reported: report });
        }
        plan.table = table.map(|table| {
            self.table = Arc::new(table);
            Arc::clone(&self.table)
        });
        plan
    }

    /// What becomes of a service; `None` where it is not wanted.
    fn outcome(&mut self, id: &ServiceId, served: Option<&Predecessor>, compiled: &mut usize) -> Option<Outcome> {
        let mapping = match self.wanted.get(id)? {
            Wanted::Mapping(mapping) => mapping,
            Wanted::Rejected(rejected) => return Some(Outcome::Refused(rejected.reason.clone())),
        };
        let holder = self.claims.get(&mapping.host).and_then(BTreeSet::first);
        if let Some(holder) = holder.filter(|holder| *holder != id && claims(mapping)) {
            let host = &mapping.host;
            return Some(Outcome::Refused(format!(
                "the host {host} already belongs to the service {holder}; give one of them another host"
            )));
        }
        if let Some(served) = served.filter(|served| served.mapping == *mapping) {
            return Some(Outcome::Served(served.clone()));
        }
        self.epoch += 1;
        *compiled += 1;
        Some(match compile(mapping, served, self.epoch) {
            Ok(compiled) => Outcome::Served(Predecessor { mapping: Arc::clone(mapping), compiled }),
            Err(reason) => Outcome::Refused(reason),
        })
    }

    /// Reports what a finished snapshot mentioned and nobody has reported since it began.
    fn report_again(&mut self, mut snapshot: Snapshot, covers: Covers<'_>, reports: &mut Vec<StatusUpdate>) {
        snapshot.reported.extend(reports.iter().map(|report| report.service.clone()));
        for id in snapshot.mentioned.difference(&snapshot.reported) {
            if let Some((standing, wanted)) = self.standing.get_mut(id).zip(self.wanted.get(id)) {
                standing.reported = report(id, wanted, &standing.outcome, covers);
                reports.push(standing.reported.clone());
            }
        }
    }
}

/// What management wants of a service.
#[derive(PartialEq)]
enum Wanted {
    Mapping(Arc<Mapping>),
    /// Something that cannot be understood.
    Rejected(Rejected),
}

impl Wanted {
    fn account(&self) -> &AccountId {
        match self {
            Self::Mapping(mapping) => &mapping.account,
            Self::Rejected(rejected) => &rejected.account,
        }
    }

    fn claim(&self) -> Option<&HostName> {
        match self {
            Self::Mapping(mapping) => claims(mapping).then_some(&mapping.host),
            Self::Rejected(_) => None,
        }
    }
}

/// Whether a mapping wants its host on the main listener.
fn claims(mapping: &Mapping) -> bool {
    mapping.mode == Mode::Http && mapping.listen_port == 0
}

/// How a service stands.
struct Standing {
    outcome: Outcome,
    /// What management was told of it last.
    reported: StatusUpdate,
}

impl Standing {
    fn served(&self) -> Option<&Predecessor> {
        self.outcome.served()
    }
}

enum Outcome {
    Served(Predecessor),
    /// One sentence.
    Refused(String),
}

impl Outcome {
    fn served(&self) -> Option<&Predecessor> {
        match self {
            Self::Served(served) => Some(served),
            Self::Refused(_) => None,
        }
    }
}

/// A snapshot that is coming in.
#[derive(Default)]
struct Snapshot {
    mentioned: BTreeSet<ServiceId>,
    reported: BTreeSet<ServiceId>,
}

/// What `before` had and `after` has not. The epochs of whatever comes later are higher than those named here.
fn retired(id: &ServiceId, before: Option<&Predecessor>, after: Option<&Predecessor>) -> Vec<Revocation> {
    let Some(before) = before.map(|served| &served.compiled) else { return Vec::new() };
    let access_epoch = before.service().access_epoch;
    let Some(after) = after.map(|served| &served.compiled).filter(|after| after.service().access_epoch == access_epoch)
    else {
        return vec![Revocation::Service { service: id.clone(), before: access_epoch + 1 }];
    };
    let epochs: HashMap<_, _> = after.routes().iter().map(|route| (&route.prefix, route.upstream_epoch)).collect();
    let replaced = before.routes().iter().filter(|route| epochs.get(&route.prefix) != Some(&route.upstream_epoch));
    replaced
        .map(|route| Revocation::Path {
            service: id.clone(),
            prefix: route.prefix.clone(),
            before: route.upstream_epoch + 1,
        })
        .collect()
}

/// Puts `after` into the table in place of `before`; the table is copied when the first difference shows.
fn replace(
    table: &mut Option<RoutingTable>,
    current: &RoutingTable,
    before: Option<&Predecessor>,
    after: Option<&Predecessor>,
) {
    let before = before.map(|served| &served.compiled);
    let after = after.map(|served| &served.compiled);
    let same = match (before, after) {
        (Some(before), Some(after)) => before.is(after),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    if same {
        return;
    }
    let table = table.get_or_insert_with(|| current.clone());
    if let Some(before) = before {
        table.remove(&before.service().host, &before.service().id);
    }
    if let Some(after) = after {
        table.insert(after.clone());
    }
}

fn report(id: &ServiceId, wanted: &Wanted, outcome: &Outcome, covers: Covers<'_>) -> StatusUpdate {
    let (state, certificate_issued, error) = match outcome {
        Outcome::Served(served) => (ServiceState::Active, covers(&served.mapping.host), None),
        Outcome::Refused(reason) => (ServiceState::Error, false, Some(reason.clone())),
    };
    StatusUpdate { service: id.clone(), account: wanted.account().clone(), state, certificate_issued, error }
}
