use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use postern_model::{
    AccessLogLine, AccountId, Authenticate, Authenticated, BoxFuture, CreateProxyPeer, Delivery, Management,
    ManagementError, MappingEvents, PeerMaps, PublicKey, StatusUpdate, TunnelVerdict, ValidateTunnelPeer,
};
use postern_proto::convert::{Hello, Watch, access_log_line_to_wire, authenticate_to_wire, authenticated_from_wire};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::config::{Config, ConfigError};
use crate::counters::{Counters, LineCounts};
use crate::failure::{call, is_from_server, to_error};
use crate::lines::Lines;
use crate::mappings::{Health, Mappings};
use crate::queue::{Encoded, Queue};
use crate::rpc::Rpc;
use crate::statuses::{Board, Statuses};
use crate::tunnel;

const AUTHENTICATE_DEADLINE: Duration = Duration::from_secs(10);

/// Checks the configuration and starts the client's tasks in the present runtime, which must outlive them; calls of
/// [`Management`] may come from others. Returns at once: the server may be away.
///
/// # Errors
/// [`ConfigError`] for a configuration that can never work.
pub fn start(config: Config) -> Result<(Client, Events), ConfigError> {
    let rpc = Rpc::new(config.transport, &config.token)?;
    let hello = Hello {
        proxy_id: config.proxy_id,
        version: config.version,
        started_at: SystemTime::now(),
        address: config.address,
        capabilities: config.capabilities,
    };
    let closing = CancellationToken::new();
    let counters = Arc::<Counters>::default();
    let board = Arc::<Board>::default();
    let (lines, queue) = Queue::new(closing.clone());
    let (events, deliveries) = mpsc::channel(1);
    let (health, watched) = watch::channel(Health::default());
    let (resync, resyncs) = watch::channel(());

    let mut tasks = JoinSet::new();
    let mappings = Mappings { rpc: rpc.clone(), hello, events, health, resyncs };
    let stop = closing.clone();
    tasks.spawn(async move { stop.run_until_cancelled(mappings.run()).await.unwrap_or_default() });
    let statuses = Statuses { rpc: rpc.clone(), board: Arc::clone(&board), closing: closing.clone() };
    tasks.spawn(statuses.run());
    tasks.spawn(Lines::new(rpc.clone(), queue, Arc::clone(&counters), closing.clone()).run());

    let shared = Shared { rpc, board, lines, counters, health: watched, resync, closing, tasks: Mutex::new(tasks) };
    Ok((Client(Arc::new(shared)), Events(deliveries)))
}

/// The port to management. Clones are the same client; its tasks end with the last of them.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    rpc: Rpc,
    board: Arc<Board>,
    lines: mpsc::Sender<Encoded>,
    counters: Arc<Counters>,
    health: watch::Receiver<Health>,
    resync: watch::Sender<()>,
    closing: CancellationToken,
    /// Aborted when dropped.
    tasks: Mutex<JoinSet<()>>,
}

impl Client {
    /// Ends the mapping stream, delivers what waits of statuses and access log, and ends. What is not delivered after
    /// `grace` counts as dropped. Streams of peer maps end too. Calls of `authenticate` still work; what is logged from now
    /// on is dropped.
    pub async fn shutdown(&self, grace: Duration) {
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock());
        self.0.closing.cancel();
        let ended = tokio::time::timeout(grace, async {
            while let Some(ended) = tasks.join_next().await {
                if let Err(error) = ended {
                    tracing::error!("a task of the management client failed: {error}");
                }
            }
        });
        if ended.await.is_err() {
            tasks.shutdown().await;
        }
        let waiting = self.0.counters.get().waiting;
        if waiting > 0 {
            self.0.counters.dropped(waiting);
            tracing::warn!(lines = waiting, "access-log lines were lost: management did not take them before the end");
        }
    }

    /// How the client stands with the server, now and whenever it changes.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.0.health.clone()
    }

    /// What became of the access-log lines.
    #[must_use]
    pub fn lines(&self) -> LineCounts {
        self.0.counters.get()
    }
}

impl Management for Client {
    fn authenticate(&self, request: Authenticate) -> BoxFuture<'_, Result<Authenticated, ManagementError>> {
        Box::pin(async move {
            let mut management = self.0.rpc.management();
            match call(AUTHENTICATE_DEADLINE, management.authenticate(authenticate_to_wire(&request))).await {
                Ok(answer) => authenticated_from_wire(answer).map_err(|e| ManagementError::Refused(e.to_string())),
                Err(status) => no_verdict(&status),
            }
        })
    }

    fn report(&self, status: StatusUpdate) {
        self.0.board.put(status);
    }

    fn log(&self, line: AccessLogLine) {
        self.0.counters.logged();
        if self.0.lines.try_send(access_log_line_to_wire(&line)).is_err() {
            self.0.counters.dropped(1);
        }
    }

    fn lines_dropped(&self) -> u64 {
        self.0.counters.get().dropped
    }

    fn resync(&self) {
        self.0.resync.send_replace(());
    }

    fn create_proxy_peer(&self, request: CreateProxyPeer) -> BoxFuture<'_, Result<(), ManagementError>> {
        Box::pin(tunnel::create_proxy_peer(&self.0.rpc, request))
    }

    fn peer_maps(
        &self,
        account: &AccountId,
        key: PublicKey,
    ) -> BoxFuture<'_, Result<Box<dyn PeerMaps>, ManagementError>> {
        let watch = Watch { account: account.clone(), key };
        Box::pin(async move {
            let maps = tunnel::Maps::open(&self.0.rpc, &watch, self.0.closing.clone()).await?;
            Ok(Box::new(maps) as Box<dyn PeerMaps>)
        })
    }

    fn validate_tunnel_peer(
        &self,
        request: ValidateTunnelPeer,
    ) -> BoxFuture<'_, Result<TunnelVerdict, ManagementError>> {
        Box::pin(tunnel::validate_tunnel_peer(&self.0.rpc, request))
    }
}

fn no_verdict(status: &Status) -> Result<Authenticated, ManagementError> {
    if is_from_server(status) && status.code() == Code::ResourceExhausted {
        return Ok(Authenticated::TooMany);
    }
    Err(to_error(status))
}

/// The mapping stream's events.
pub struct Events(mpsc::Receiver<Delivery>);

impl MappingEvents for Events {
    fn next(&mut self) -> BoxFuture<'_, Option<Delivery>> {
        Box::pin(self.0.recv())
    }
}
