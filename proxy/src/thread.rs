//! A worker's thread: one single-threaded runtime with a listener, an upstream pool and a live registry of its own.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::acceptor;
use crate::inbound::carry;
use crate::listener;
use crate::live::Live;
use crate::metrics::WorkerMetrics;
use crate::orders::Order;
use crate::upstream::{Connector, Pool};
use crate::worker::{Shared, Worker};

/// What a thread starts with.
pub(crate) struct Start {
    pub(crate) number: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) metrics: Arc<WorkerMetrics>,
    pub(crate) connector: Arc<Connector>,
    pub(crate) listener: std::net::TcpListener,
    pub(crate) orders: mpsc::UnboundedReceiver<Order>,
}

/// What becomes of a worker. A sender that is gone is as good as one that was used.
pub(crate) struct Fate {
    /// None of its requests is left.
    pub(crate) drained: oneshot::Receiver<()>,
    /// It has ended.
    pub(crate) ended: oneshot::Receiver<()>,
}

/// Starts a worker.
///
/// # Errors
/// The system gives no thread.
pub(crate) fn spawn(start: Start) -> io::Result<Fate> {
    let (drain, drained) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    std::thread::Builder::new().name(format!("worker-{}", start.number)).spawn(move || {
        if let Err(error) = run(start, drain) {
            tracing::error!(%error, "a worker could not start");
        }
        let _nobody_waits = end.send(());
    })?;
    Ok(Fate { drained, ended })
}

fn run(start: Start, drained: oneshot::Sender<()>) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_io_events_per_tick(EVENTS)
        .build_local(LocalOptions::default())?;
    let outcome = runtime.block_on(work(start, drained));
    // A name being resolved cannot be interrupted; nobody waits for it.
    runtime.shutdown_background();
    outcome
}

/// Sockets that are looked at in one go. A tunnel's answers leave when all that is ready has been worked on: with more, the
/// peers of a busy worker would wait for all of them, and the worker then for all the peers.
const EVENTS: usize = 32;

async fn work(start: Start, drained: oneshot::Sender<()>) -> io::Result<()> {
    let Start { shared, metrics, connector, listener, mut orders, number: _ } = start;
    let listener = TcpListener::from_std(listener)?;
    let pool = Pool::new(connector, shared.config.upstream.clone());
    let places = Arc::new(Semaphore::new(shared.config.limits.connections));
    let (draining, tasks) = (CancellationToken::new(), TaskTracker::new());
    let worker = Rc::new(Worker { shared, live: Live::new(), pool, metrics, draining, tasks });

    let accepting = tokio::task::spawn_local({
        let worker = Rc::clone(&worker);
        async move {
            let draining = worker.draining.clone();
            let serve = |accepted| {
                worker.tasks.spawn_local(acceptor::serve(Rc::clone(&worker), accepted));
            };
            listener::run(listener, places, draining, serve).await;
        }
    });
    let first = obey(&worker, &mut orders).await;
    worker.draining.cancel();
    let deadline = match first {
        Last::Drain { deadline } => deadline,
        Last::Stop => Instant::now(),
    };
    let finish = async {
        let _panicked = accepting.await;
        finish(&worker).await;
    };
    let mut last = tokio::select! {
        outcome = timeout_at(deadline, finish) => {
            if outcome.is_err() {
                tracing::info!(left = worker.live.len(), "the time for draining is over: cutting what is left");
            }
            first
        }
        sooner = obey(&worker, &mut orders) => sooner,
    };
    worker.live.cancel_all();
    // What was cut still writes its log lines.
    let _still_busy = timeout_at(Instant::now() + CUT, worker.live.emptied()).await;
    let _nobody_waits = drained.send(());
    while matches!(last, Last::Drain { .. }) {
        last = obey(&worker, &mut orders).await;
    }
    Ok(())
}

/// How long requests that were cut have to notice it.
const CUT: Duration = Duration::from_millis(500);

/// The order that [`obey`] leaves to its caller.
enum Last {
    Drain { deadline: Instant },
    Stop,
}

/// Does as told, until it is told to drain or stop. A worker without a master has to stop.
async fn obey(worker: &Rc<Worker>, orders: &mut mpsc::UnboundedReceiver<Order>) -> Last {
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Revoke(revocations)) => worker.live.revoke(&revocations),
                Some(Order::Carry(load)) => carry(worker, load),
                Some(Order::Drain { deadline }) => return Last::Drain { deadline },
                Some(Order::Stop) | None => return Last::Stop,
            },
            _tick = sweep.tick() => worker.pool.sweep(),
        }
    }
}

const SWEEP: Duration = Duration::from_secs(10);

/// Waits for requests to end. Flows that have no end of their own, WebSockets and event streams, are cut once they alone are left:
/// their clients come back, and waiting longer helps none of them.
async fn finish(worker: &Worker) {
    let mut look = interval(Duration::from_millis(50));
    while worker.live.len() > worker.live.long() {
        look.tick().await;
    }
    worker.live.cancel_all();
    worker.tasks.close();
    worker.tasks.wait().await;
}
