//! A mapping update, from the stream to the table: one task, the only writer of the table and the owner of the tunnels.

use std::sync::Arc;
use std::time::Instant;

use postern_model::{Delivery, HostName, Management, MappingEvents, SyncEvent};
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::metrics::Metrics;
use crate::orders::Workers;
use crate::reconcile::{Plan, Reconciler};
use crate::table::Router;
use crate::tunnels::Tunnels;

/// Carries out what the reconciler plans.
pub(crate) struct Controller {
    /// What management wants, event by event.
    pub events: Box<dyn MappingEvents>,
    /// Who hears how services stand.
    pub management: Arc<dyn Management>,
    /// Whether there is a certificate for a host.
    pub covers: Box<dyn Fn(&HostName) -> bool + Send>,
    /// Where the table is published.
    pub router: Router,
    /// Who ends what is revoked.
    pub workers: Workers,
    /// What leads into the accounts' tunnels.
    pub tunnels: Tunnels,
    /// Told of the stream and of the first whole snapshot.
    pub health: Arc<Health>,
    /// Told of batches and tables.
    pub metrics: Arc<Metrics>,
}

impl Controller {
    /// Runs until `shutdown`. What is published stays; the tunnels close, as they go through us.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut reconciler = Reconciler::default();
        let (mut opened, mut streaming) = (None, true);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                delivery = self.events.next(), if streaming => match delivery {
                    Some(delivery) => self.deliver(&mut reconciler, delivery, &mut opened),
                    None => streaming = false,
                },
                event = self.tunnels.next() => {
                    let plan = reconciler.observe(event, &self.covers);
                    self.carry_out(plan);
                }
            }
        }
        self.tunnels.shutdown().await;
    }

    /// Does what the mapping stream asks for, and says that it is done. `opened` is when the stream of this snapshot was.
    fn deliver(&mut self, reconciler: &mut Reconciler, delivery: Delivery, opened: &mut Option<Instant>) {
        let begun = Instant::now();
        match &delivery.event {
            SyncEvent::Opened => {
                *opened = Some(begun);
                self.health.set_connected(true);
            }
            SyncEvent::Batch(_) => {}
            SyncEvent::Lost => {
                *opened = None;
                self.health.set_connected(false);
            }
        }
        let in_snapshot = matches!(delivery.event, SyncEvent::Batch(_)) && opened.is_some();
        let plan = reconciler.apply(delivery.event, &self.covers);
        let synced = plan.synced;
        self.carry_out(plan);
        delivery.ack.ack();
        if in_snapshot {
            self.metrics.batch(begun.elapsed());
        }
        if let Some(opened) = opened.take_if(|_| synced) {
            self.metrics.snapshot(opened.elapsed());
        }
    }

    /// What is needed is begun before anybody can ask for it, and nothing is retired before nobody can find it any more.
    fn carry_out(&mut self, plan: Plan) {
        for account in &plan.open {
            self.tunnels.open(account);
        }
        for ticket in plan.tickets {
            self.tunnels.offer(ticket);
        }
        if let Some(table) = plan.table {
            tracing::info!(
                hosts = table.host_count(),
                compiled = plan.compiled,
                retired = plan.retire.len(),
                "the routing table has changed"
            );
            self.metrics.table(&table, plan.compiled);
            self.router.store(table);
        }
        if !plan.retire.is_empty() {
            self.workers.revoke(&Arc::from(plan.retire));
        }
        for account in &plan.close {
            self.tunnels.close(account);
        }
        if plan.synced {
            self.health.set_synced();
        }
        for report in plan.reports {
            if let Some(error) = &report.error {
                tracing::warn!(service = %report.service, error, "a service is not served");
            }
            self.management.report(report);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arc_swap::ArcSwap;
    use parking_lot::Mutex;
    use postern_model::{
        AccessLogLine, Ack, Authenticate, Authenticated, Batch, BoxFuture, Change, ManagementError, Mapping,
        OneTimeToken, Secret, ServiceId, ServiceState, StatusUpdate,
    };
    use tokio::sync::{mpsc, oneshot};
    use tokio::time::timeout;

    use super::*;
    use crate::compile::samples;
    use crate::directory::Directory;
    use crate::live::Revocation;
    use crate::orders::Order;

    struct Script(mpsc::UnboundedReceiver<Delivery>);

    impl MappingEvents for Script {
        fn next(&mut self) -> BoxFuture<'_, Option<Delivery>> {
            Box::pin(self.0.recv())
        }
    }

    #[derive(Default)]
    struct Listener(Mutex<Vec<StatusUpdate>>);

    impl Management for Listener {
        fn authenticate(&self, _: Authenticate) -> BoxFuture<'_, Result<Authenticated, ManagementError>> {
            Box::pin(async { Ok(Authenticated::No) })
        }

        fn report(&self, status: StatusUpdate) {
            self.0.lock().push(status);
        }

        fn log(&self, _: AccessLogLine) {}

        fn lines_dropped(&self) -> u64 {
            0
        }
    }

    struct World {
        events: mpsc::UnboundedSender<Delivery>,
        orders: mpsc::UnboundedReceiver<Order>,
        management: Arc<Listener>,
        router: Router,
        health: Arc<Health>,
        shutdown: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    fn world() -> World {
        let (events, script) = mpsc::unbounded_channel();
        let (order, orders) = mpsc::unbounded_channel();
        let management = Arc::new(Listener::default());
        let router: Router = Arc::new(ArcSwap::default());
        let health = Health::new();
        let shutdown = CancellationToken::new();
        let controller = Controller {
            events: Box::new(Script(script)),
            management: Arc::clone(&management) as _,
            covers: Box::new(|_| true),
            router: Arc::clone(&router),
            workers: Workers::new(vec![order]),
            tunnels: Tunnels::new(None, Directory::default()),
            health: Arc::clone(&health),
            metrics: Metrics::new(Arc::clone(&management) as _, Directory::default()),
        };
        let task = tokio::spawn(controller.run(shutdown.clone()));
        World { events, orders, management, router, health, shutdown, task }
    }

    impl World {
        /// Delivers an event and waits for its acknowledgement.
        async fn deliver(&self, event: SyncEvent) {
            let (acked, ack) = oneshot::channel();
            let ack_it = Ack::new(move || acked.send(()).expect("somebody waits"));
            self.events.send(Delivery { event, ack: ack_it }).expect("the controller runs");
            timeout(Duration::from_secs(5), ack).await.expect("acknowledged in time").expect("acknowledged");
        }

        async fn batch(&self, changes: Vec<Change>, complete: bool) {
            self.deliver(SyncEvent::Batch(Batch { changes, initial_sync_complete: complete })).await;
        }
    }

    fn upsert(mapping: Mapping) -> Change {
        Change::Upsert(Box::new(mapping), OneTimeToken(Secret::from("once")))
    }

    #[tokio::test]
    async fn an_acknowledged_batch_is_in_force() {
        let mut world = world();
        world.health.set_bound();
        world.deliver(SyncEvent::Opened).await;
        let mapping = samples::mapping("svc", "app.example", "http://10.0.0.1");
        world.batch(vec![upsert(mapping.clone())], false).await;
        assert_eq!(world.router.load().host_count(), 1);
        assert_eq!(world.management.0.lock().last().map(|report| report.state), Some(ServiceState::Active));

        world.batch(Vec::new(), true).await;
        timeout(Duration::from_secs(5), world.health.ready()).await.expect("ready after the snapshot");
        let table = world.router.load_full();
        world.deliver(SyncEvent::Lost).await;
        world.deliver(SyncEvent::Opened).await;
        world.batch(vec![upsert(mapping)], true).await;
        assert!(Arc::ptr_eq(&table, &world.router.load_full()), "a repetition changes nothing");
        assert!(world.orders.try_recv().is_err());

        world.batch(vec![Change::Remove(ServiceId::parse("svc").expect("an id"))], false).await;
        assert_eq!(world.router.load().host_count(), 0);
        match world.orders.try_recv() {
            Ok(Order::Revoke(list)) => assert!(matches!(&*list, [Revocation::Service { .. }]), "{list:?}"),
            other => panic!("{other:?}"),
        }
        world.shutdown.cancel();
        timeout(Duration::from_secs(5), world.task).await.expect("ends").expect("does not panic");
    }

    #[tokio::test]
    async fn what_is_published_outlives_the_stream() {
        let World { events, router, task, shutdown, .. } = {
            let world = world();
            world.deliver(SyncEvent::Opened).await;
            world.batch(vec![upsert(samples::mapping("svc", "app.example", "http://10.0.0.1"))], true).await;
            world
        };
        drop(events);
        shutdown.cancel();
        timeout(Duration::from_secs(5), task).await.expect("ends").expect("does not panic");
        assert_eq!(router.load().host_count(), 1);
    }
}
