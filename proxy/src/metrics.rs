//! What is counted, under NetBird's names where it has one.
//!
//! Each worker counts in atomics of its own, so that a request takes no lock and shares no cache line; the shares are added up
//! when somebody asks.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use postern_model::Management;
use postern_tunnel::Status;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::directory::Directory;
use crate::table::RoutingTable;

/// The media type of [`Metrics::text`].
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The default buckets of OpenTelemetry, in milliseconds.
const REQUEST_BUCKETS: &[u64] = &[0, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10_000];

/// NetBird's buckets for mapping batches and snapshots, in milliseconds.
const SYNC_BUCKETS: &[u64] = &[100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 120_000, 300_000];

/// NetBird's buckets for becoming a peer of a tunnel, in milliseconds.
const PEER_BUCKETS: &[u64] = &[10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000];

/// All that is counted in one proxy.
pub(crate) struct Metrics {
    registry: Registry,
    totals: Arc<Totals>,
}

impl Metrics {
    /// Everything at zero.
    pub(crate) fn new(management: Arc<dyn Management>, tunnels: Directory) -> Arc<Self> {
        let totals = Arc::new(Totals {
            management,
            tunnels,
            peer_added: Histogram::new(PEER_BUCKETS),
            peer_refused: Histogram::new(PEER_BUCKETS),
            workers: ArcSwap::default(),
            hosts: AtomicU64::new(0),
            paths: AtomicU64::new(0),
            compiled: AtomicU64::new(0),
            batch: Histogram::new(SYNC_BUCKETS),
            snapshot: Histogram::new(SYNC_BUCKETS),
        });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(&totals)));
        Arc::new(Self { registry, totals })
    }

    /// The share of a new worker. It is counted for ever, so a worker asks once.
    pub(crate) fn worker(&self) -> Arc<WorkerMetrics> {
        let worker = Arc::new(WorkerMetrics::default());
        self.totals.workers.rcu(|workers| {
            let mut workers = Vec::clone(workers);
            workers.push(Arc::clone(&worker));
            workers
        });
        worker
    }

    /// A new table is in force, for which `compiled` services were compiled.
    pub(crate) fn table(&self, table: &RoutingTable, compiled: usize) {
        self.totals.hosts.store(table.host_count() as u64, Ordering::Relaxed);
        self.totals.paths.store(table.route_count() as u64, Ordering::Relaxed);
        self.totals.compiled.fetch_add(compiled as u64, Ordering::Relaxed);
    }

    /// A batch of a snapshot was applied.
    pub(crate) fn batch(&self, took: Duration) {
        self.totals.batch.observe(took);
    }

    /// A snapshot is whole, `took` after its stream was opened.
    pub(crate) fn snapshot(&self, took: Duration) {
        self.totals.snapshot.observe(took);
    }

    /// Management has made this proxy a peer of a tunnel, or has not.
    pub(crate) fn peer_added(&self, took: Duration, success: bool) {
        let histogram = if success { &self.totals.peer_added } else { &self.totals.peer_refused };
        histogram.observe(took);
    }

    /// Everything in the text format of OpenMetrics 1.0.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("a String takes any text");
        text
    }
}

/// What one worker counts.
pub(crate) struct WorkerMetrics {
    started: AtomicU64,
    requests: Histogram,
    backend: Histogram,
    refused: Words,
    tls_refused: Words,
    opened: AtomicU64,
    closed: AtomicU64,
}

impl Default for WorkerMetrics {
    fn default() -> Self {
        Self {
            started: AtomicU64::new(0),
            requests: Histogram::new(REQUEST_BUCKETS),
            backend: Histogram::new(REQUEST_BUCKETS),
            refused: Words::default(),
            tls_refused: Words::default(),
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
        }
    }
}

impl WorkerMetrics {
    /// A request has come.
    pub(crate) fn request_started(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    /// The last byte of its answer is sent, or it was given up.
    pub(crate) fn request_ended(&self, took: Duration) {
        self.requests.observe(took);
    }

    /// An upstream has sent the head of its answer, or failed to.
    pub(crate) fn backend(&self, took: Duration) {
        self.backend.observe(took);
    }

    /// We answered a request ourselves, for this reason.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.count(reason);
    }

    /// A TLS connection was refused, for this reason.
    pub(crate) fn tls_refused(&self, reason: &'static str) {
        self.tls_refused.count(reason);
    }

    /// A connection was accepted.
    pub(crate) fn connection_opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection has ended.
    pub(crate) fn connection_closed(&self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }
}

struct Totals {
    management: Arc<dyn Management>,
    tunnels: Directory,
    peer_added: Histogram,
    peer_refused: Histogram,
    workers: ArcSwap<Vec<Arc<WorkerMetrics>>>,
    hosts: AtomicU64,
    paths: AtomicU64,
    compiled: AtomicU64,
    batch: Histogram,
    snapshot: Histogram,
}

impl Collector for Totals {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let workers = self.workers.load();
        let sum = |count: fn(&WorkerMetrics) -> u64| workers.iter().map(|worker| count(worker)).sum::<u64>();
        let each = |part: fn(&WorkerMetrics) -> &Histogram| workers.iter().map(move |worker| part(worker));

        // Ends are read before beginnings: what is active never shows as negative.
        let ended = sum(|worker| worker.requests.total());
        let started = sum(|worker| load(&worker.started));
        let closed = sum(|worker| load(&worker.closed));
        let opened = sum(|worker| load(&worker.opened));
        page.counter("proxy_http_request_counter", "Requests received", started)?;
        page.gauge("proxy_http_active_requests", "Requests being served", started.saturating_sub(ended))?;
        page.gauge("proxy_domains_count", "Hosts published", load(&self.hosts))?;
        page.gauge("proxy_paths_count", "Paths published", load(&self.paths))?;
        let name = "proxy_http_request_duration_ms_milliseconds";
        page.histogram(name, "From a request's head to the last byte of its answer", each(|worker| &worker.requests))?;
        let name = "proxy_backend_duration_ms_milliseconds";
        page.histogram(name, "From sending a request to the head of the upstream's answer", each(|w| &w.backend))?;
        let name = "proxy_sync_snapshot_duration_ms_milliseconds";
        page.histogram(name, "From opening a mapping stream to its whole snapshot", [&self.snapshot])?;
        let name = "proxy_sync_batch_duration_ms_milliseconds";
        page.histogram(name, "Applying one batch of a snapshot", [&self.batch])?;
        self.tunnels(&mut page)?;

        page.counter("postern_connections", "Connections accepted", opened)?;
        page.gauge("postern_active_connections", "Connections open", opened.saturating_sub(closed))?;
        page.words("postern_refused_requests", "Requests that we answered ourselves", &workers, |w| &w.refused)?;
        page.words("postern_refused_tls", "TLS connections refused", &workers, |w| &w.tls_refused)?;
        page.counter("postern_services_compiled", "Services compiled from mappings", load(&self.compiled))?;
        let lost = self.management.lines_dropped();
        page.counter("postern_access_log_dropped_lines", "Access-log lines dropped because their queue was full", lost)
    }
}

impl Totals {
    fn tunnels(&self, page: &mut Page<'_>) -> fmt::Result {
        let results = [("success", &self.peer_added), ("error", &self.peer_refused)];
        page.results("proxy_peer_add_duration_ms_milliseconds", "Becoming a peer of a tunnel", results)?;
        let tunnels: Vec<_> =
            self.tunnels.all_up().into_iter().map(|(account, tunnel)| (account, tunnel.status())).collect();
        page.gauge("postern_tunnels", "Tunnels that are up", tunnels.len() as u64)?;
        let known = tunnels.iter().map(|(account, status)| (account.as_str(), "", status.peers.len() as u64));
        page.labelled("postern_tunnel_peers", "Peers on a tunnel's map", MetricType::Gauge, known)?;
        let live = |status: &Status| {
            let recent = |at: &Instant| at.elapsed() < SESSION;
            status.peers.iter().filter(|peer| peer.last_handshake.as_ref().is_some_and(recent)).count() as u64
        };
        let connected = tunnels.iter().map(|(account, status)| (account.as_str(), "", live(status)));
        page.labelled("postern_tunnel_connected_peers", "Peers with a session", MetricType::Gauge, connected)?;
        let events = tunnels.iter().flat_map(|(account, status)| {
            status.counters.iter().map(|(event, count)| (account.as_str(), *event, *count))
        });
        let help = "What happened in tunnels: packets dropped, by reason, and totals";
        page.labelled("postern_tunnel_events", help, MetricType::Counter, events)
    }
}

/// How long a WireGuard session can last.
const SESSION: Duration = Duration::from_secs(180);

impl fmt::Debug for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Totals")
    }
}

/// Writes one family after the other.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// A value for each account and event; without an event where that is empty.
    fn labelled<'v>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        values: impl IntoIterator<Item = (&'v str, &'static str, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (account, event, value) in values {
            let labels = [("account", account), ("event", event)];
            let labels = if event.is_empty() { &labels[..1] } else { &labels[..] };
            let mut metric = family.encode_family(&labels)?;
            match kind {
                MetricType::Counter => metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?,
                _ => metric.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))?,
            }
        }
        Ok(())
    }

    fn results(&mut self, name: &str, help: &str, parts: [(&'static str, &Histogram); 2]) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (result, part) in parts {
            let buckets: Vec<_> = part.buckets().collect();
            let labels = [("result", result)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(part.sum_ms(), part.total(), &buckets, None)?;
        }
        Ok(())
    }

    fn histogram<'h>(&mut self, name: &str, help: &str, parts: impl IntoIterator<Item = &'h Histogram>) -> fmt::Result {
        let mut sum = 0.0;
        let mut buckets: Vec<(f64, u64)> = Vec::new();
        for part in parts {
            sum += part.sum_ms();
            for (index, bucket) in part.buckets().enumerate() {
                match buckets.get_mut(index) {
                    Some(total) => total.1 += bucket.1,
                    None => buckets.push(bucket),
                }
            }
        }
        let count = buckets.iter().map(|bucket| bucket.1).sum();
        self.0
            .encode_descriptor(name, help, None, MetricType::Histogram)?
            .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn words(
        &mut self,
        name: &str,
        help: &str,
        workers: &[Arc<WorkerMetrics>],
        part: fn(&WorkerMetrics) -> &Words,
    ) -> fmt::Result {
        let mut totals = std::collections::BTreeMap::new();
        for (word, count) in workers.iter().flat_map(|worker| part(worker).iter()) {
            *totals.entry(word).or_insert(0) += count;
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (word, count) in totals {
            family.encode_family(&[("reason", word)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }
}

/// How long things took.
struct Histogram {
    /// Upper bounds in milliseconds, rising.
    bounds: &'static [u64],
    /// One per bound and one above.
    counts: Box<[AtomicU64]>,
    sum_us: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum_us: AtomicU64::new(0) }
    }

    fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = self.bounds.partition_point(|bound| bound * 1000 < us);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    fn total(&self) -> u64 {
        self.counts.iter().map(load).sum()
    }

    fn sum_ms(&self) -> f64 {
        load(&self.sum_us) as f64 / 1000.0
    }

    fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.bounds.iter().map(|&bound| bound as f64).chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().map(load))
    }
}

/// Counts per word. The words are constants of this program, of which there are fewer than places.
struct Words([(OnceLock<&'static str>, AtomicU64); 64]);

impl Default for Words {
    fn default() -> Self {
        Self(std::array::from_fn(|_| (OnceLock::new(), AtomicU64::new(0))))
    }
}

impl Words {
    fn count(&self, word: &'static str) {
        if let Some((_, count)) = self.0.iter().find(|(place, _)| *place.get_or_init(|| word) == word) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().filter_map(|(place, count)| Some((*place.get()?, load(count))))
    }
}

fn load(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

#[cfg(test)]
pub(crate) mod tests {
    use postern_model::{AccessLogLine, Authenticate, Authenticated, BoxFuture, ManagementError, StatusUpdate};

    use super::*;
    use crate::compile::{compile, samples};

    /// Has dropped seven lines.
    pub(crate) struct Lossy;

    impl Management for Lossy {
        fn authenticate(&self, _: Authenticate) -> BoxFuture<'_, Result<Authenticated, ManagementError>> {
            Box::pin(async { Ok(Authenticated::No) })
        }

        fn report(&self, _: StatusUpdate) {}

        fn log(&self, _: AccessLogLine) {}

        fn lines_dropped(&self) -> u64 {
            7
        }
    }

    #[test]
    fn the_shares_of_all_workers_are_added_up() {
        let metrics = Metrics::new(Arc::new(Lossy), Directory::default());
        let [one, two] = [metrics.worker(), metrics.worker()];
        for worker in [&one, &one, &two] {
            worker.request_started();
        }
        one.request_ended(Duration::from_millis(5));
        two.request_ended(Duration::from_millis(20_000));
        two.backend(Duration::from_micros(1500));
        one.refused("no_route");
        two.refused("no_route");
        two.refused("restricted");
        one.tls_refused("unknown_name");
        metrics.snapshot(Duration::from_millis(99));
        metrics.peer_added(Duration::from_millis(3), true);
        let mut table = RoutingTable::default();
        table.insert(compile(&samples::mapping("svc", "app.example", "http://10.0.0.1"), None, 1).expect("compiles"));
        metrics.table(&table, 1);
        let text = metrics.text();
        for line in [
            "# TYPE proxy_http_request_counter counter",
            "proxy_http_request_counter_total 3",
            "proxy_http_active_requests 1",
            "proxy_domains_count 1",
            "proxy_paths_count 1",
            "proxy_http_request_duration_ms_milliseconds_sum 20005.0",
            "proxy_http_request_duration_ms_milliseconds_count 2",
            "proxy_http_request_duration_ms_milliseconds_bucket{le=\"5.0\"} 1",
            "proxy_http_request_duration_ms_milliseconds_bucket{le=\"10000.0\"} 1",
            "proxy_http_request_duration_ms_milliseconds_bucket{le=\"+Inf\"} 2",
            "proxy_backend_duration_ms_milliseconds_sum 1.5",
            "proxy_sync_snapshot_duration_ms_milliseconds_bucket{le=\"100.0\"} 1",
            "proxy_sync_batch_duration_ms_milliseconds_count 0",
            "proxy_peer_add_duration_ms_milliseconds_count{result=\"success\"} 1",
            "proxy_peer_add_duration_ms_milliseconds_count{result=\"error\"} 0",
            "postern_tunnels 0",
            "postern_refused_requests_total{reason=\"no_route\"} 2",
            "postern_refused_requests_total{reason=\"restricted\"} 1",
            "postern_refused_tls_total{reason=\"unknown_name\"} 1",
            "postern_services_compiled_total 1",
            "postern_access_log_dropped_lines_total 7",
        ] {
            assert!(text.lines().any(|has| has == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_histogram_has_buckets_before_anybody_counts() {
        let text = Metrics::new(Arc::new(Lossy), Directory::default()).text();
        assert!(text.contains("proxy_http_request_counter_total 0\n"), "{text}");
    }
}
