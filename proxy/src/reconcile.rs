//! What management wants becomes what is served: a pure state machine.
//!
//! The table depends on the desired state alone, whatever the batches, repetitions and reconnects it came in. A service whose
//! mapping did not change is not compiled again and nobody notices.
//!
//! A service is in the table whether or not its account's tunnel is up: its access is in force at once, and what has to be dialled
//! through the tunnel waits for it there. An upstream that moves into the tunnel leaves the host's network in that moment, as
//! neither may stand in for the other. Tunnels therefore only decide what is reported.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use postern_model::{
    AccountId, Batch, Change, HostName, Mapping, Mode, Rejected, ServiceId, ServiceState, StatusUpdate, SyncEvent,
};

use crate::compile::{Predecessor, compile};
use crate::directory::TunnelEvent;
use crate::live::Revocation;
use crate::table::RoutingTable;
use crate::tunnels::{Need, Ticket};

/// What is to be done, in this order: open tunnels, publish the table, retire what it no longer holds, report.
#[derive(Default)]
pub(crate) struct Plan {
    /// The accounts that need a tunnel from here on.
    pub open: Vec<AccountId>,
    /// What came with the mappings of accounts that need one.
    pub tickets: Vec<Ticket>,
    /// The new table; `None` where nothing changed.
    pub table: Option<Arc<RoutingTable>>,
    /// What must not go on.
    pub retire: Vec<Revocation>,
    /// The accounts of which nothing that is served needs a tunnel any more.
    pub close: Vec<AccountId>,
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
    need: Need,
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
            SyncEvent::Lost => Plan::default(),
        }
    }

    /// Takes in what became of a tunnel.
    pub(crate) fn observe(&mut self, event: TunnelEvent, covers: Covers<'_>) -> Plan {
        let mut plan = Plan::default();
        let account = event.account.clone();
        self.need.observe(event);
        self.review(&account, covers, &mut plan.reports);
        plan
    }

    fn batch(&mut self, batch: Batch, covers: Covers<'_>) -> Plan {
        let (mut dirty, mut tickets) = (BTreeSet::new(), Vec::new());
        for change in batch.changes {
            let (id, wanted) = match change {
                Change::Upsert(mapping, token) => {
                    let (account, service) = (mapping.account.clone(), mapping.id.clone());
                    tickets.push(Ticket { account, service: service.clone(), token });
                    (service, Some(Wanted::Mapping(Arc::from(mapping))))
                }
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
        tickets.retain(|ticket| self.need.has(&ticket.account));
        plan.tickets = tickets;
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
            if self.need.change(&id, mapping(served), mapping(serves)) {
                plan.open.extend(mapping(serves).map(|mapping| mapping.account.clone()));
            }
            let Some((wanted, outcome)) = self.wanted.get(&id).zip(outcome) else { continue };
            let report = report(&id, wanted, &outcome, &self.need, covers);
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
        self.close_unneeded(&mut plan, covers);
        plan
    }

    /// Lets go of the tunnels that nobody needs once all changes are in.
    fn close_unneeded(&mut self, plan: &mut Plan, covers: Covers<'_>) {
        for account in self.need.take_unneeded() {
            self.review(&account, covers, &mut plan.reports);
            match plan.open.iter().position(|opened| *opened == account) {
                Some(never_opened) => drop(plan.open.swap_remove(never_opened)),
                None => plan.close.push(account),
            }
        }
    }

    /// Reports the services of an account whose state is another than they were reported with.
    fn review(&mut self, account: &AccountId, covers: Covers<'_>, reports: &mut Vec<StatusUpdate>) {
        for (id, standing) in &mut self.standing {
            let Some(wanted) = self.wanted.get(id).filter(|wanted| wanted.account() == account) else { continue };
            let report = report(id, wanted, &standing.outcome, &self.need, covers);
            if standing.reported != report {
                if let Some(snapshot) = &mut self.snapshot {
                    snapshot.reported.insert(id.clone());
                }
                standing.reported = report.clone();
                reports.retain(|earlier| earlier.service != *id);
                reports.push(report);
            }
        }
    }

    /// What becomes of a service; `None` where it is not wanted.
    fn outcome(&mut self, id: &ServiceId, served: Option<&Predecessor>, compiled: &mut usize) -> Option<Outcome> {
        let wanted = self.wanted.get(id)?;
        let mapping = match wanted {
            Wanted::Mapping(mapping) => mapping,
            Wanted::Rejected(rejected) => return Some(Outcome::Refused(rejected.reason.clone())),
        };
        let holder = wanted.claim().and_then(|host| self.claims.get(host)?.first());
        if let Some(holder) = holder.filter(|holder| *holder != id) {
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
                standing.reported = report(id, wanted, &standing.outcome, &self.need, covers);
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

    /// The host it wants on the main listener.
    fn claim(&self) -> Option<&HostName> {
        match self {
            Self::Mapping(mapping) => (mapping.mode == Mode::Http && mapping.listen_port == 0).then_some(&mapping.host),
            Self::Rejected(_) => None,
        }
    }
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

fn mapping(served: Option<&Predecessor>) -> Option<&Mapping> {
    served.map(|served| &*served.mapping)
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

fn report(id: &ServiceId, wanted: &Wanted, outcome: &Outcome, need: &Need, covers: Covers<'_>) -> StatusUpdate {
    let account = wanted.account().clone();
    let service = id.clone();
    match outcome {
        Outcome::Served(served) => {
            let (state, error) = need.met(&served.mapping);
            let certificate_issued = covers(&served.mapping.host);
            StatusUpdate { service, state, certificate_issued, error, inbound: need.inbound(&account), account }
        }
        Outcome::Refused(reason) => StatusUpdate {
            service,
            account,
            state: ServiceState::Error,
            certificate_issued: false,
            error: Some(reason.clone()),
            inbound: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::task::Poll;
    use std::time::Duration;

    use futures_util::FutureExt;
    use http::{HeaderMap, HeaderName};
    use ipnet::IpNet;
    use postern_auth::{Access, Answers, Facts, Origin, Verdict, decide};
    use postern_model::{InboundListener, OneTimeToken, Secret};
    use proptest::prelude::*;

    use super::*;
    use crate::compile::samples;
    use crate::directory::TunnelState;
    use crate::http::path::Prefix;
    use crate::live::{Entry, Live};
    use crate::table::{Route, Via};

    fn id(text: &str) -> ServiceId {
        ServiceId::parse(text).expect("an id")
    }

    fn sample(id: &str, host: &str) -> Mapping {
        samples::mapping(id, host, "http://10.0.0.1:3000")
    }

    /// The token is a fresh one each time, as in a snapshot.
    fn upsert(mapping: Mapping) -> Change {
        Change::Upsert(Box::new(mapping), OneTimeToken(Secret::from(rand::random::<u64>().to_string().as_str())))
    }

    fn batch(changes: Vec<Change>) -> SyncEvent {
        SyncEvent::Batch(Batch { changes, initial_sync_complete: false })
    }

    fn last_batch(changes: Vec<Change>) -> SyncEvent {
        SyncEvent::Batch(Batch { changes, initial_sync_complete: true })
    }

    fn apply(reconciler: &mut Reconciler, event: SyncEvent) -> Plan {
        reconciler.apply(event, &|_| true)
    }

    fn snapshot(reconciler: &mut Reconciler, mappings: impl IntoIterator<Item = Mapping>) -> Plan {
        apply(reconciler, SyncEvent::Opened);
        apply(reconciler, last_batch(mappings.into_iter().map(upsert).collect()))
    }

    fn hosts(reconciler: &Reconciler) -> Vec<&str> {
        let mut hosts: Vec<_> = reconciler.table.services().map(|served| served.service().host.as_str()).collect();
        hosts.sort_unstable();
        hosts
    }

    fn states(plan: &Plan) -> Vec<(&str, ServiceState)> {
        plan.reports.iter().map(|report| (report.service.as_str(), report.state)).collect()
    }

    fn is_quiet(plan: &Plan) -> bool {
        plan.table.is_none() && plan.retire.is_empty() && plan.compiled == 0
    }

    #[test]
    fn one_changed_mapping_of_ten_thousand_compiles_one_and_a_repetition_none() {
        let mappings = || (0..10_000).map(|n| sample(&format!("svc-{n:05}"), &format!("app-{n}.example")));
        let mut reconciler = Reconciler::default();
        assert_eq!(snapshot(&mut reconciler, mappings()).compiled, 10_000);

        let again = snapshot(&mut reconciler, mappings());
        assert!(is_quiet(&again));
        assert_eq!(again.reports.len(), 10_000, "the server may be another one and not know the states");

        let before: HashMap<_, _> =
            reconciler.table.services().map(|served| (served.service().id.clone(), served.clone())).collect();
        let mut changed = sample("svc-04711", "app-4711.example");
        changed.pass_host_header = true;
        let plan = apply(&mut reconciler, batch(vec![upsert(changed)]));
        assert_eq!((plan.compiled, plan.retire.len(), plan.reports.len()), (1, 0, 0));
        let new: Vec<_> = reconciler.table.services().filter(|now| !now.is(&before[&now.service().id])).collect();
        assert_eq!(new.len(), 1);
        assert_eq!(new[0].service().id, id("svc-04711"));
    }

    #[test]
    fn what_a_whole_snapshot_does_not_mention_goes_and_not_before() {
        let mut reconciler = Reconciler::default();
        snapshot(&mut reconciler, [sample("a", "a.example"), sample("b", "b.example")]);
        assert!(is_quiet(&apply(&mut reconciler, SyncEvent::Lost)));
        apply(&mut reconciler, SyncEvent::Opened);
        assert!(is_quiet(&apply(&mut reconciler, batch(vec![upsert(sample("b", "b.example"))]))));
        assert_eq!(hosts(&reconciler), ["a.example", "b.example"]);

        // That stream dies; what the next one says counts alone.
        apply(&mut reconciler, SyncEvent::Lost);
        apply(&mut reconciler, SyncEvent::Opened);
        apply(&mut reconciler, batch(vec![upsert(sample("c", "c.example"))]));
        assert_eq!(hosts(&reconciler), ["a.example", "b.example", "c.example"]);
        let plan = apply(&mut reconciler, last_batch(vec![upsert(sample("a", "a.example"))]));
        assert!(plan.synced);
        assert_eq!(hosts(&reconciler), ["a.example", "c.example"]);
        assert_eq!(plan.retire, [Revocation::Service { service: id("b"), before: 3 }]);

        let late = apply(&mut reconciler, last_batch(vec![]));
        assert!(is_quiet(&late) && !late.synced, "a second flag on one stream says nothing");
        snapshot(&mut reconciler, []);
        assert!(hosts(&reconciler).is_empty());
    }

    #[test]
    fn the_lower_id_has_the_host_until_it_goes() {
        let mut reconciler = Reconciler::default();
        let plan = apply(&mut reconciler, batch(vec![upsert(sample("b", "app.example"))]));
        assert_eq!(states(&plan), [("b", ServiceState::Active)]);
        let plan = apply(&mut reconciler, batch(vec![upsert(sample("a", "app.example"))]));
        assert_eq!(states(&plan), [("a", ServiceState::Active), ("b", ServiceState::Error)]);
        assert!(
            plan.reports[1].error.as_deref().is_some_and(|error| error.contains("service a")),
            "{:?}",
            plan.reports
        );
        assert!(
            matches!(&*plan.retire, [Revocation::Service { service, .. }] if *service == id("b")),
            "{:?}",
            plan.retire
        );
        assert_eq!(plan.compiled, 1);

        let mut broken = sample("a", "app.example");
        broken.paths.clear();
        let plan = apply(&mut reconciler, batch(vec![upsert(broken)]));
        assert_eq!(states(&plan), [("a", ServiceState::Error)]);
        assert!(hosts(&reconciler).is_empty(), "an unservable holder does not open its host to another service");

        let plan = apply(&mut reconciler, batch(vec![Change::Remove(id("a"))]));
        assert_eq!(states(&plan), [("b", ServiceState::Active)]);
        assert_eq!(hosts(&reconciler), ["app.example"]);
    }

    #[test]
    fn a_rejected_change_ends_the_service_and_is_reported() {
        let mut reconciler = Reconciler::default();
        snapshot(&mut reconciler, [sample("a", "a.example"), sample("b", "b.example")]);
        let account = AccountId::parse("account").expect("an id");
        let rejected = Rejected { service: id("a"), account, reason: "paths[0].target: no scheme".to_owned() };
        let plan = apply(&mut reconciler, batch(vec![Change::Rejected(rejected.clone())]));
        assert_eq!(hosts(&reconciler), ["b.example"]);
        assert_eq!(plan.retire.len(), 1);
        assert_eq!(states(&plan), [("a", ServiceState::Error)]);
        assert_eq!(plan.reports[0].error.as_deref(), Some("paths[0].target: no scheme"));
        let again = apply(&mut reconciler, batch(vec![Change::Rejected(rejected)]));
        assert!(is_quiet(&again) && again.reports.is_empty());
        let plan = apply(&mut reconciler, batch(vec![upsert(sample("a", "a.example"))]));
        assert_eq!(states(&plan), [("a", ServiceState::Active)]);
    }

    #[test]
    fn a_report_says_whether_there_is_a_certificate() {
        let mut reconciler = Reconciler::default();
        let covered = |host: &HostName| host.as_str() == "a.example";
        let changes = vec![upsert(sample("a", "a.example")), upsert(sample("b", "b.example"))];
        let plan = reconciler.apply(batch(changes), &covered);
        let issued: Vec<_> = plan.reports.iter().map(|report| report.certificate_issued).collect();
        assert_eq!(issued, [true, false]);
        assert_eq!(states(&plan), [("a", ServiceState::Active), ("b", ServiceState::Active)]);
    }

    #[test]
    fn a_snapshot_reports_each_service_once_however_many_batches_it_takes() {
        let mut reconciler = Reconciler::default();
        snapshot(&mut reconciler, [sample("a", "a.example")]);
        apply(&mut reconciler, SyncEvent::Opened);
        let first =
            apply(&mut reconciler, batch(vec![upsert(sample("a", "a.example")), upsert(sample("b", "b.example"))]));
        assert_eq!(states(&first), [("b", ServiceState::Active)]);
        let last = apply(&mut reconciler, last_batch(vec![upsert(sample("c", "c.example"))]));
        assert_eq!(states(&last), [("c", ServiceState::Active), ("a", ServiceState::Active)]);
    }

    fn private(name: &str) -> Mapping {
        let mut mapping = sample(name, &format!("{name}.example"));
        mapping.private = true;
        mapping
    }

    fn stands(reconciler: &mut Reconciler, state: TunnelState) -> Plan {
        reconciler.observe(TunnelEvent { account: account(false), state }, &|_| true)
    }

    #[test]
    fn a_tunnel_lives_as_long_as_a_service_needs_it() {
        let mut reconciler = Reconciler::default();
        let plan = snapshot(&mut reconciler, [sample("a", "a.example"), private("b"), private("c")]);
        assert_eq!((plan.open.as_slice(), plan.close.len()), (&[account(false)][..], 0));
        assert_eq!(plan.tickets.len(), 3, "each mapping's token will do");
        let plan = apply(&mut reconciler, batch(vec![Change::Remove(id("b"))]));
        assert!(plan.open.is_empty() && plan.close.is_empty() && plan.tickets.is_empty());

        stands(&mut reconciler, TunnelState::Up { inbound: Some(inbound(1)) });
        let swapped = vec![Change::Remove(id("c")), upsert(private("b"))];
        let plan = apply(&mut reconciler, batch(swapped));
        assert!(plan.open.is_empty() && plan.close.is_empty(), "handed on within one batch");

        let plan = apply(&mut reconciler, batch(vec![upsert(sample("b", "b.example"))]));
        assert_eq!(plan.close, [account(false)]);
        let told: Vec<_> = plan.reports.iter().map(|report| (report.service.as_str(), report.inbound)).collect();
        assert_eq!(told, [("a", None), ("b", None)], "nobody is reached through it any more");
        assert!(stands(&mut reconciler, TunnelState::Coming).reports.is_empty(), "word from a tunnel that is closed");

        let plan = apply(&mut reconciler, batch(vec![upsert(private("d")), Change::Remove(id("d"))]));
        assert!(plan.open.is_empty() && plan.close.is_empty() && plan.tickets.is_empty());
    }

    #[test]
    fn what_becomes_of_a_tunnel_is_reported_for_all_services_of_its_account() {
        let mut reconciler = Reconciler::default();
        let mut foreign = sample("x", "x.example");
        foreign.account = account(true);
        let mut upstream = sample("u", "u.example");
        upstream.paths[0].options.direct_upstream = false;
        let plan = snapshot(&mut reconciler, [sample("a", "a.example"), private("p"), upstream, foreign]);
        let (active, pending) = (ServiceState::Active, ServiceState::Pending);
        assert_eq!(states(&plan), [("a", active), ("p", pending), ("u", pending), ("x", active)]);
        assert_eq!(hosts(&reconciler).len(), 4, "all are in the table at once");

        let failed = ServiceState::TunnelNotCreated;
        let plan = stands(&mut reconciler, TunnelState::Down { reason: "no peer maps".to_owned() });
        assert_eq!(states(&plan), [("p", failed), ("u", failed)]);
        assert_eq!(plan.reports[0].error.as_deref(), Some("no peer maps"));

        let plan = stands(&mut reconciler, TunnelState::Up { inbound: Some(inbound(1)) });
        assert_eq!(states(&plan), [("a", active), ("p", active), ("u", active)]);
        assert!(plan.reports.iter().all(|report| report.inbound == Some(inbound(1)) && report.error.is_none()));
        assert!(stands(&mut reconciler, TunnelState::Up { inbound: Some(inbound(1)) }).reports.is_empty());

        let plan = stands(&mut reconciler, TunnelState::Up { inbound: None });
        assert_eq!(states(&plan), [("a", active), ("p", failed), ("u", active)]);
        assert!(plan.reports[1].error.as_deref().is_some_and(|error| error.contains("--private")));
    }

    #[test]
    fn access_is_in_force_and_the_way_out_is_left_while_a_tunnel_comes_up() {
        let mut reconciler = Reconciler::default();
        snapshot(&mut reconciler, [sample("a", "a.example")]);
        let mut changed = sample("a", "a.example");
        changed.authentication = samples::basic("1");
        changed.paths[0].options.direct_upstream = false;
        let plan = apply(&mut reconciler, batch(vec![upsert(changed)]));
        assert_eq!(states(&plan), [("a", ServiceState::Pending)]);
        assert_eq!(plan.retire, [Revocation::Service { service: id("a"), before: 2 }]);
        let table = plan.table.expect("a new table");
        let service = table.services().next().expect("it is served");
        assert_ne!(service.routes()[0].door.door().access, Access::Open);
    }

    #[test]
    fn a_service_with_a_port_of_its_own_does_not_hold_the_host() {
        let mut reconciler = Reconciler::default();
        let [mut tcp, http] = ["a", "b"].map(|id| sample(id, "app.example"));
        tcp.mode = Mode::Tcp;
        let plan = apply(&mut reconciler, batch(vec![upsert(tcp.clone()), upsert(http)]));
        assert_eq!(states(&plan), [("a", ServiceState::Error), ("b", ServiceState::Active)]);
        tcp.id = id("c");
        let plan = apply(&mut reconciler, batch(vec![upsert(tcp)]));
        assert!(plan.reports[0].error.as_deref().is_some_and(|error| error.contains("mode tcp")), "{:?}", plan.reports);
    }

    #[test]
    fn there_and_back_in_one_batch_is_no_change() {
        let mut reconciler = Reconciler::default();
        snapshot(&mut reconciler, [sample("a", "a.example")]);
        let changes =
            vec![Change::Remove(id("a")), upsert(sample("a", "other.example")), upsert(sample("a", "a.example"))];
        let plan = apply(&mut reconciler, batch(changes));
        assert!(is_quiet(&plan) && plan.reports.is_empty());
    }

    // --- against a smaller model

    const IDS: [&str; 4] = ["a", "b", "c", "d"];
    const HOSTS: [&str; 3] = ["one.example", "two.example", "three.example"];
    const PATHS: [&str; 3] = ["/", "/x", "/x/y"];

    /// A mapping, reduced to what the model distinguishes.
    #[derive(Clone, Debug, PartialEq)]
    struct Shape {
        access: ShapeAccess,
        tcp: bool,
        /// By path: the upstream, or none; and whether it is in the tunnel.
        upstreams: [Option<(u8, bool)>; 3],
        custom_header: bool,
        timeout: bool,
    }

    #[derive(Clone, Debug, PartialEq)]
    struct ShapeAccess {
        host: usize,
        account: bool,
        password: u8,
        blocked: bool,
        private: bool,
    }

    impl Shape {
        fn mapping(&self, id: &str) -> Mapping {
            let mut mapping = sample(id, HOSTS[self.access.host]);
            if self.access.account {
                mapping.account = AccountId::parse("other").expect("an id");
            }
            if self.access.password > 0 {
                mapping.authentication = samples::basic(&self.access.password.to_string());
            }
            if self.access.blocked {
                mapping.restrictions.blocked_cidrs = vec!["10.0.0.0/8".parse::<IpNet>().expect("a network")];
            }
            mapping.private = self.access.private;
            mapping.mode = if self.tcp { Mode::Tcp } else { Mode::Http };
            mapping.paths.clear();
            for (path, upstream) in PATHS.iter().zip(self.upstreams) {
                let Some((upstream, tunnel)) = upstream else { continue };
                let mut path = samples::path(path, &format!("http://10.0.0.{upstream}"));
                path.options.direct_upstream = !tunnel;
                if self.custom_header {
                    path.options.custom_headers = vec![(HeaderName::from_static("x-a"), Secret::from("1"))];
                }
                path.options.request_timeout = self.timeout.then_some(Duration::from_secs(5));
                mapping.paths.push(path);
            }
            mapping
        }
    }

    impl Shape {
        fn account(&self) -> AccountId {
            account(self.access.account)
        }

        fn needs_tunnel(&self) -> bool {
            self.access.private || self.upstreams.iter().flatten().any(|(_, tunnel)| *tunnel)
        }
    }

    fn account(other: bool) -> AccountId {
        AccountId::parse(if other { "other" } else { "account" }).expect("an id")
    }

    #[derive(Clone, Debug)]
    enum Step {
        Tunnel(bool, TunnelState),
        Upsert(usize, Shape),
        Remove(usize),
        Reject(usize),
        Send,
        Complete,
        Reopen,
    }

    fn step() -> impl Strategy<Value = Step> {
        let rarely = || prop::bool::weighted(0.2);
        let access = (0..HOSTS.len(), rarely(), 0..3_u8, rarely(), rarely()).prop_map(
            |(host, account, password, blocked, private)| ShapeAccess { host, account, password, blocked, private },
        );
        let upstream = move || prop::option::of((1..3_u8, rarely()));
        let state = prop_oneof![
            Just(TunnelState::Coming),
            Just(TunnelState::Down { reason: "why".to_owned() }),
            Just(TunnelState::Up { inbound: None }),
            (1..3_u8).prop_map(|last| TunnelState::Up { inbound: Some(inbound(last)) }),
        ];
        let shape =
            (access, prop::bool::weighted(0.1), [upstream(), upstream(), upstream()], any::<bool>(), any::<bool>())
                .prop_map(|(access, tcp, upstreams, custom_header, timeout)| Shape {
                    access,
                    tcp,
                    upstreams,
                    custom_header,
                    timeout,
                });
        prop_oneof![
            8 => (0..IDS.len(), shape).prop_map(|(id, shape)| Step::Upsert(id, shape)),
            2 => (0..IDS.len()).prop_map(Step::Remove),
            1 => (0..IDS.len()).prop_map(Step::Reject),
            6 => Just(Step::Send),
            2 => Just(Step::Complete),
            1 => Just(Step::Reopen),
            3 => (rarely(), state).prop_map(|(other, state)| Step::Tunnel(other, state)),
        ]
    }

    fn inbound(last: u8) -> InboundListener {
        InboundListener { address: [100, 64, 0, last].into(), https: 443, http: 80 }
    }

    /// Last write wins, the lowest id has the host; `None` is a rejected change.
    #[derive(Default)]
    struct Model {
        wanted: BTreeMap<usize, Option<Shape>>,
        mentioned: Option<BTreeSet<usize>>,
    }

    impl Model {
        fn write(&mut self, id: usize, shape: Option<Option<Shape>>) {
            self.mentioned.as_mut().map(|mentioned| mentioned.insert(id));
            match shape {
                Some(shape) => self.wanted.insert(id, shape),
                None => self.wanted.remove(&id),
            };
        }

        fn served(&self) -> BTreeMap<usize, Shape> {
            let mut taken = BTreeSet::new();
            let claims = self.wanted.iter().filter_map(|(id, shape)| Some((*id, shape.as_ref().filter(|s| !s.tcp)?)));
            let winners = claims.filter(|(_, shape)| taken.insert(shape.access.host));
            let servable = |shape: &Shape| shape.upstreams.iter().any(Option::is_some);
            winners.filter(|(_, shape)| servable(shape)).map(|(id, shape)| (id, shape.clone())).collect()
        }
    }

    /// What must be retired, as (service, path); no path stands for the whole service.
    fn expected_retirements(before: &BTreeMap<usize, Shape>, after: &BTreeMap<usize, Shape>) -> BTreeSet<Retired> {
        let mut retired = BTreeSet::new();
        for (id, old) in before {
            match after.get(id).filter(|new| new.access == old.access) {
                None => {
                    retired.insert((IDS[*id], None));
                }
                Some(new) => {
                    let paths = PATHS.iter().zip(old.upstreams.iter().zip(&new.upstreams));
                    let gone = paths.filter(|(_, (old, new))| old.is_some() && old != new);
                    retired.extend(gone.map(|(path, _)| (IDS[*id], Some(*path))));
                }
            }
        }
        retired
    }

    type Retired = (&'static str, Option<&'static str>);

    fn name(revocation: &Revocation) -> Retired {
        let id = |id: &ServiceId| IDS.into_iter().find(|known| *known == id.as_str()).expect("a known id");
        match revocation {
            Revocation::Service { service, .. } => (id(service), None),
            Revocation::Path { service, prefix, .. } => {
                let is = |path: &&str| Prefix::parse(path).as_ref() == Ok(prefix);
                (id(service), PATHS.into_iter().find(is))
            }
            Revocation::Peers { .. } => panic!("mappings say nothing of peers: {revocation:?}"),
        }
    }

    /// Where an open route leads.
    fn upstream(route: &Route) -> Option<(String, Via)> {
        let headers = HeaderMap::new();
        let facts = Facts {
            source: [127, 0, 0, 1].into(),
            origin: &Origin::Public,
            tls: true,
            headers: &headers,
            upgrade: false,
            host: &route.service.host,
            port: None,
        };
        match decide(&route.door, &facts, &Answers::default()) {
            Verdict::Permit(permit) => {
                let key = permit.redeem().key.clone();
                Some((key.host.to_string(), key.via))
            }
            Verdict::Ask(_) | Verdict::Refuse(_) => None,
        }
    }

    fn check_table(table: &RoutingTable, served: &BTreeMap<usize, Shape>) -> Result<(), TestCaseError> {
        prop_assert_eq!(table.host_count(), served.len());
        for compiled in table.services() {
            let service = compiled.service();
            let index = IDS.iter().position(|id| *id == service.id.as_str()).expect("a known id");
            let shape = served.get(&index);
            prop_assert!(shape.is_some(), "{} is served", service.id);
            let shape = shape.expect("just asserted");
            let mapping = shape.mapping(IDS[index]);
            prop_assert_eq!(&service.host, &mapping.host);
            prop_assert_eq!(&service.account, &mapping.account);
            prop_assert_eq!(&service.restrictions, &mapping.restrictions);
            prop_assert_eq!(service.private, shape.access.private);
            let expected = PATHS.iter().zip(shape.upstreams).filter_map(|(path, upstream)| Some((*path, upstream?)));
            let expected: BTreeMap<_, _> =
                expected.map(|(path, upstream)| (Prefix::parse(path).expect("a prefix"), upstream)).collect();
            prop_assert_eq!(compiled.routes().len(), expected.len());
            for route in compiled.routes() {
                let door = route.door.door();
                prop_assert_eq!(door.epoch, service.access_epoch);
                let open = shape.access.password == 0 && !shape.access.private;
                prop_assert_eq!(door.access == Access::Open, open);
                let (target, tunnel) = expected[&route.prefix];
                let via = if tunnel { Via::Tunnel(shape.account()) } else { Via::Direct };
                prop_assert_eq!(upstream(route), open.then(|| (format!("10.0.0.{target}"), via)));
            }
        }
        Ok(())
    }

    /// A flow in a worker, and how it was admitted.
    struct Flow {
        entry: Entry,
        long: bool,
    }

    impl Flow {
        fn enter(live: &Rc<Live>, route: &Arc<Route>, long: bool) -> Self {
            let entry = live.enter(route, &Origin::Public);
            if long {
                entry.set_long();
            }
            Self { entry, long }
        }

        fn concerned(&self, retired: &BTreeSet<Retired>) -> bool {
            let route = self.entry.route();
            retired.iter().any(|(id, path)| {
                route.service.id.as_str() == *id
                    && path.is_none_or(|path| self.long && Prefix::parse(path).as_ref() == Ok(&route.prefix))
            })
        }

        fn ended(&self) -> bool {
            std::future::poll_fn(|cx| match self.entry.poll_cancelled(cx) {
                Poll::Ready(()) => Poll::Ready(true),
                Poll::Pending => Poll::Ready(false),
            })
            .now_or_never()
            .expect("ready at once")
        }
    }

    /// The reconciler, the model, and a worker that follows.
    #[derive(Default)]
    struct World {
        reconciler: Reconciler,
        model: Model,
        served: BTreeMap<usize, Shape>,
        told: BTreeMap<ServiceId, StatusUpdate>,
        epochs: HashMap<(ServiceId, u64), ShapeAccess>,
        live: Rc<Live>,
        flows: Vec<Flow>,
        pending: Vec<Change>,
        tunnels: BTreeMap<AccountId, TunnelState>,
    }

    impl World {
        fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
            match step {
                Step::Upsert(index, shape) => {
                    self.pending.push(upsert(shape.mapping(IDS[index])));
                    self.model.write(index, Some(Some(shape)));
                    Ok(())
                }
                Step::Remove(index) => {
                    self.pending.push(Change::Remove(id(IDS[index])));
                    self.model.write(index, None);
                    Ok(())
                }
                Step::Reject(index) => {
                    let account = AccountId::parse("account").expect("an id");
                    let rejected = Rejected { service: id(IDS[index]), account, reason: "bad".to_owned() };
                    self.pending.push(Change::Rejected(rejected));
                    self.model.write(index, Some(None));
                    Ok(())
                }
                Step::Tunnel(other, state) => {
                    self.send(false)?;
                    let account = account(other);
                    if let Some(tunnel) = self.tunnels.get_mut(&account) {
                        *tunnel = state.clone();
                    }
                    let plan = self.reconciler.observe(TunnelEvent { account, state }, &|_| true);
                    prop_assert!(is_quiet(&plan) && plan.open.is_empty() && plan.close.is_empty());
                    self.check_reports(plan.reports, None)
                }
                Step::Send => self.send(false),
                Step::Complete => self.send(true),
                Step::Reopen => {
                    self.send(false)?;
                    for event in [SyncEvent::Lost, SyncEvent::Opened] {
                        prop_assert!(is_quiet(&apply(&mut self.reconciler, event)));
                    }
                    self.model.mentioned = Some(BTreeSet::new());
                    Ok(())
                }
            }
        }

        fn send(&mut self, complete: bool) -> Result<(), TestCaseError> {
            let changes = std::mem::take(&mut self.pending);
            let plan = if complete {
                apply(&mut self.reconciler, last_batch(changes))
            } else {
                apply(&mut self.reconciler, batch(changes))
            };
            let mentioned = if complete { self.model.mentioned.take() } else { None };
            prop_assert_eq!(plan.synced, mentioned.is_some());
            if let Some(mentioned) = &mentioned {
                self.model.wanted.retain(|id, _| mentioned.contains(id));
            }
            let served = self.model.served();
            let retired = expected_retirements(&self.served, &served);
            prop_assert_eq!(&plan.retire.iter().map(name).collect::<BTreeSet<_>>(), &retired);
            prop_assert_eq!(plan.table.is_some(), served != self.served);
            self.served = served;
            for account in plan.open {
                prop_assert!(self.tunnels.insert(account, TunnelState::Coming).is_none(), "opened twice");
            }
            for account in plan.close {
                prop_assert!(self.tunnels.remove(&account).is_some(), "closed twice");
            }
            let needed = self.served.values().filter(|shape| shape.needs_tunnel()).map(Shape::account);
            prop_assert_eq!(self.tunnels.keys().cloned().collect::<BTreeSet<_>>(), needed.collect::<BTreeSet<_>>());
            prop_assert!(plan.tickets.iter().all(|ticket| self.tunnels.contains_key(&ticket.account)));
            check_table(&self.reconciler.table, &self.served)?;
            self.check_epochs()?;
            self.check_flows(&plan.retire, &retired)?;
            self.check_reports(plan.reports, mentioned)
        }

        /// An access epoch means one access for ever.
        fn check_epochs(&mut self) -> Result<(), TestCaseError> {
            for compiled in self.reconciler.table.services() {
                let service = compiled.service();
                let index = IDS.iter().position(|id| *id == service.id.as_str()).expect("a known id");
                let access = self.served[&index].access.clone();
                let known = self.epochs.entry((service.id.clone(), service.access_epoch)).or_insert(access.clone());
                prop_assert_eq!(&*known, &access);
            }
            Ok(())
        }

        /// A worker may admit by the new table before it hears of the revocations: that must not end.
        fn check_flows(&mut self, revoked: &[Revocation], retired: &BTreeSet<Retired>) -> Result<(), TestCaseError> {
            let routes = self.reconciler.table.services().flat_map(|compiled| compiled.routes());
            let new: Vec<Flow> =
                routes.flat_map(|route| [true, false].map(|long| Flow::enter(&self.live, route, long))).collect();
            self.live.revoke(revoked);
            for flow in &self.flows {
                prop_assert_eq!(flow.ended(), flow.concerned(retired));
            }
            self.flows.retain(|flow| !flow.ended());
            prop_assert!(new.iter().all(|flow| !flow.ended()));
            self.flows.extend(new);
            Ok(())
        }

        fn check_reports(
            &mut self,
            reports: Vec<StatusUpdate>,
            mentioned: Option<BTreeSet<usize>>,
        ) -> Result<(), TestCaseError> {
            let mentioned = mentioned.unwrap_or_default();
            let mentioned = |id: &ServiceId| mentioned.iter().any(|index| IDS[*index] == id.as_str());
            let wanted = |id: &ServiceId| self.model.wanted.keys().any(|index| IDS[*index] == id.as_str());
            self.told.retain(|id, _| wanted(id));
            let mut seen = BTreeSet::new();
            for report in reports {
                prop_assert!(seen.insert(report.service.clone()), "reported twice: {:?}", report);
                let earlier = self.told.insert(report.service.clone(), report.clone());
                prop_assert!(mentioned(&report.service) || earlier.as_ref() != Some(&report), "again: {:?}", report);
            }
            for index in self.model.wanted.keys() {
                let told = self.told.get(&id(IDS[*index])).map(|report| (report.state, report.inbound));
                prop_assert_eq!(told, Some(self.expected_report(*index)));
            }
            Ok(())
        }

        fn expected_report(&self, index: usize) -> (ServiceState, Option<InboundListener>) {
            let Some(shape) = self.served.get(&index) else { return (ServiceState::Error, None) };
            let (up, inbound) = match self.tunnels.get(&shape.account()) {
                Some(TunnelState::Up { inbound }) if inbound.is_some() || !shape.access.private => {
                    (ServiceState::Active, *inbound)
                }
                Some(TunnelState::Up { .. } | TunnelState::Down { .. }) => (ServiceState::TunnelNotCreated, None),
                Some(TunnelState::Coming) | None => (ServiceState::Pending, None),
            };
            (if shape.needs_tunnel() { up } else { ServiceState::Active }, inbound)
        }
    }

    proptest! {
        #[test]
        fn the_table_depends_on_the_desired_state_alone(steps in prop::collection::vec(step(), 1..60)) {
            let mut world = World::default();
            for step in steps {
                world.step(step)?;
            }
            world.step(Step::Complete)?;
        }
    }
}
