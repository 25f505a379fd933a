use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use postern_model::{Ack, Delivery, SyncEvent};
use postern_proto::convert::{self, Hello};
use postern_proto::management::sync_mappings_request::Msg;
use postern_proto::management::{
    GetMappingUpdateResponse, ProxyMapping, SyncMappingsAck, SyncMappingsRequest, SyncMappingsResponse,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::failure::describe;
use crate::resume::{End, Method, Resume, Step};
use crate::rpc::Rpc;

/// So long a stream may bring nothing before somebody is told.
const SILENCE: Duration = Duration::from_secs(30);

/// A snapshot can be large: so long after a stream was opened, no other is opened because somebody asks for one.
const RESYNC_EVERY: Duration = Duration::from_secs(30);

/// How the client stands with its server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// A mapping stream is open, and the server has answered on it.
    pub connected: bool,
    /// A whole snapshot has been applied once. Stays true when the server is lost.
    pub synced: bool,
}

/// The task that follows the mapping stream.
pub(crate) struct Mappings {
    pub(crate) rpc: Rpc,
    pub(crate) hello: Hello,
    pub(crate) events: mpsc::Sender<Delivery>,
    pub(crate) health: watch::Sender<Health>,
    /// Changes when somebody asks for a snapshot. Never closed before the end of this task.
    pub(crate) resyncs: watch::Receiver<()>,
}

/// Nobody wants events any more.
struct Unwanted;

impl Mappings {
    /// Runs until nobody wants events any more.
    pub(crate) async fn run(mut self) {
        let mut resume = Resume::new(rand::random());
        loop {
            match resume.step(Instant::now().into_std()) {
                Step::Wait(until) => sleep_until(until.into()).await,
                Step::Connect(method) => {
                    let Ok(end) = self.follow(method, &mut resume).await else { return };
                    if self.ended(end, method, &mut resume).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// One stream, from its opening to its end: `None` if it ended because a snapshot was asked for. One batch after the other:
    /// the next is read once the one before is applied.
    async fn follow(&mut self, method: Method, resume: &mut Resume) -> Result<Option<Status>, Unwanted> {
        let resync_from = Instant::now() + RESYNC_EVERY;
        // What was asked for before comes with this stream.
        self.resyncs.mark_unchanged();
        let begin = async {
            let mut stream = Stream::open(&self.rpc, &self.hello, method).await?;
            let first = stream.next().await?;
            Ok((stream, first))
        };
        let (mut stream, mut message) = match patiently(begin).await {
            Ok(begun) => begun,
            Err(status) => return Ok(Some(status)),
        };
        let mut whole = false;
        loop {
            let Some((mappings, complete)) = message else {
                return Ok(Some(Status::unavailable("the server closed the stream")));
            };
            if let Some(opened) = resume.received() {
                tracing::info!("connected to management");
                self.health.send_modify(|health| health.connected = true);
                self.deliver(opened, Ack::none()).await?;
            }
            if !self.apply(mappings, complete).await? {
                return Ok(Some(Status::aborted("a batch was not applied")));
            }
            stream.acknowledge().await;
            whole |= complete;
            let next = tokio::select! {
                next = stream.next() => next,
                () = asked(&mut self.resyncs, resync_from), if whole => return Ok(None),
            };
            message = match next {
                Ok(message) => message,
                Err(status) => return Ok(Some(status)),
            };
        }
    }

    /// Whether the consumer acknowledged the batch.
    async fn apply(&self, mappings: Vec<ProxyMapping>, complete: bool) -> Result<bool, Unwanted> {
        let received = convert::batch(mappings, complete);
        for invalid in received.unidentified {
            tracing::warn!("management sent a mapping that belongs to nobody: {invalid}");
        }
        let (applied, acknowledged) = oneshot::channel();
        let ack = Ack::new(move || {
            let _ = applied.send(());
        });
        self.deliver(SyncEvent::Batch(received.batch), ack).await?;
        let applied = acknowledged.await.is_ok();
        if applied && complete {
            self.health.send_modify(|health| health.synced = true);
        }
        Ok(applied)
    }

    async fn ended(&self, status: Option<Status>, method: Method, resume: &mut Resume) -> Result<(), Unwanted> {
        let unimplemented = status.as_ref().is_some_and(|status| status.code() == Code::Unimplemented);
        let end = if unimplemented { End::Unimplemented } else { End::Lost };
        let lost = resume.ended(end, Instant::now().into_std());
        self.health.send_modify(|health| health.connected = false);
        match (&status, &lost, resume.step(Instant::now().into_std())) {
            (None, ..) => tracing::info!("asking management for all mappings anew"),
            (Some(status), None, Step::Connect(_)) => {
                tracing::debug!("management has no {method:?} stream: {}", describe(status));
            }
            (Some(status), Some(_), _) => {
                tracing::warn!("lost management, services go on as they are: {}", describe(status));
            }
            (Some(status), None, Step::Wait(_)) => tracing::warn!("no connection to management: {}", describe(status)),
        }
        match lost {
            Some(event) => self.deliver(event, Ack::none()).await,
            None => Ok(()),
        }
    }

    async fn deliver(&self, event: SyncEvent, ack: Ack) -> Result<(), Unwanted> {
        self.events.send(Delivery { event, ack }).await.map_err(|_| Unwanted)
    }
}

/// Waits until a snapshot is asked for, not before `earliest`. Nothing is lost if it is given up.
async fn asked(resyncs: &mut watch::Receiver<()>, earliest: Instant) {
    sleep_until(earliest).await;
    if resyncs.changed().await.is_err() {
        pending::<()>().await;
    }
}

/// Waits for as long as it takes: a large snapshot may. But what stands in between may keep the answer for itself, and
/// that nobody would notice.
async fn patiently<T>(answer: impl Future<Output = T>) -> T {
    let mut answer = pin!(answer);
    if let Ok(answer) = timeout(SILENCE, answer.as_mut()).await {
        return answer;
    }
    tracing::warn!(
        "management can be reached, but has not answered the call for mappings for {} s, and nothing new is served until \
         it does; if a gateway stands before it, let that pass gRPC streams through without buffering, otherwise look \
         into the log of management",
        SILENCE.as_secs()
    );
    answer.await
}

/// An open mapping stream of either kind.
enum Stream {
    Sync { responses: Streaming<SyncMappingsResponse>, requests: mpsc::Sender<SyncMappingsRequest> },
    Legacy(Streaming<GetMappingUpdateResponse>),
}

impl Stream {
    async fn open(rpc: &Rpc, hello: &Hello, method: Method) -> Result<Self, Status> {
        match method {
            Method::Sync => {
                let (requests, outgoing) = mpsc::channel(1);
                let _ = requests.try_send(SyncMappingsRequest { msg: Some(Msg::Init(hello.to_init())) });
                let responses = rpc.management().sync_mappings(ReceiverStream::new(outgoing)).await?.into_inner();
                Ok(Self::Sync { responses, requests })
            }
            Method::Legacy => {
                Ok(Self::Legacy(rpc.management().get_mapping_update(hello.to_legacy()).await?.into_inner()))
            }
        }
    }

    async fn next(&mut self) -> Result<Option<(Vec<ProxyMapping>, bool)>, Status> {
        match self {
            Self::Sync { responses, .. } => {
                Ok(responses.message().await?.map(|message| (message.mapping, message.initial_sync_complete)))
            }
            Self::Legacy(responses) => {
                Ok(responses.message().await?.map(|message| (message.mapping, message.initial_sync_complete)))
            }
        }
    }

    /// A server that does not take it any more says why with the next message.
    async fn acknowledge(&self) {
        match self {
            Self::Sync { requests, .. } => {
                let _ = requests.send(SyncMappingsRequest { msg: Some(Msg::Ack(SyncMappingsAck {})) }).await;
            }
            Self::Legacy(_) => {}
        }
    }
}
