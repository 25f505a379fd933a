//! A mapping update, from the stream to the table: one task, the only writer of the table.

use std::sync::Arc;
use std::time::Instant;

use postern_model::{HostName, Management, MappingEvents, SyncEvent};
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::metrics::Metrics;
use crate::orders::Workers;
use crate::reconcile::{Plan, Reconciler};
use crate::table::Router;

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
    /// Told of the stream and of the first whole snapshot.
    pub health: Arc<Health>,
    /// Told of batches and tables.
    pub metrics: Arc<Metrics>,
}

impl Controller {
    /// Runs until `shutdown`, or until there will be no more events. What is published stays.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut reconciler = Reconciler::default();
        let mut opened = None;
        loop {
            let delivery = tokio::select! {
                () = shutdown.cancelled() => return,
                delivery = self.events.next() => delivery,
            };
            let Some(delivery) = delivery else { return };
            let begun = Instant::now();
            match &delivery.event {
                SyncEvent::Opened => {
                    opened = Some(begun);
                    self.health.set_connected(true);
                }
                SyncEvent::Batch(_) => {}
                SyncEvent::Lost => {
                    opened = None;
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
    }

    /// Nothing is retired before nobody can find it any more.
    fn carry_out(&self, plan: Plan) {
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
