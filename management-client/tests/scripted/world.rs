use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use postern_management_client::{Client, Config, Events, InMemory, Roots, Transport, start};
use postern_model::{
    AccessLogLine, AccountId, AuthMechanism, Capabilities, Delivery, MappingEvents, ProxyId, RequestId, Secret,
    ServiceId, ServiceState, StatusUpdate,
};
use postern_proto::management::proxy_service_server::{ProxyService, ProxyServiceServer};
use postern_proto::management::*;
use postern_proto::postern::v1::proxy_server::{Proxy, ProxyServer};
use postern_proto::postern::v1::{AccessLogAck, AccessLogBatch, PeerMap, WatchPeersRequest};
use prost::Message;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnboundedReceiverStream};
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming};

pub(crate) const TOKEN: &str = "nbx_scripted";

/// What the servers of a test share: their behaviour, and what they have seen.
#[derive(Clone)]
pub(crate) struct World(Arc<State>);

pub(crate) struct State {
    /// By call: what the next ones are answered with instead of the usual.
    failures: Mutex<BTreeMap<&'static str, Vec<Status>>>,
    /// By call: what all are answered with.
    broken: Mutex<BTreeMap<&'static str, Status>>,
    /// Each call that came, and when.
    calls: Mutex<Vec<(&'static str, Instant)>>,
    streams: mpsc::UnboundedSender<Mapped>,
    statuses: Mutex<Vec<SendStatusUpdateRequest>>,
    /// By `log_id`: how often it came.
    lines: Mutex<BTreeMap<String, u32>>,
    silent: Mutex<bool>,
    peers: Mutex<Vec<CreateProxyPeerRequest>>,
    visits: Mutex<Vec<ValidateTunnelPeerRequest>>,
    watches: Mutex<Vec<Watched>>,
}

/// The server's end of a stream of peer maps. Dropped, it ends the stream cleanly.
pub(crate) struct Watched {
    pub(crate) request: WatchPeersRequest,
    maps: mpsc::UnboundedSender<Result<PeerMap, Status>>,
}

impl Watched {
    pub(crate) fn send(&self, map: PeerMap) {
        let _ = self.maps.send(Ok(map));
    }

    pub(crate) fn fail(&self, status: Status) {
        let _ = self.maps.send(Err(status));
    }
}

/// The server's end of a mapping stream. Dropped, it ends the stream cleanly.
pub(crate) struct Mapped {
    pub(crate) init: SyncMappingsInit,
    /// `None` for a legacy stream.
    pub(crate) requests: Option<Streaming<SyncMappingsRequest>>,
    responses: mpsc::UnboundedSender<Result<SyncMappingsResponse, Status>>,
}

impl Mapped {
    pub(crate) fn send(&self, mapping: Vec<ProxyMapping>, initial_sync_complete: bool) {
        let _ = self.responses.send(Ok(SyncMappingsResponse { mapping, initial_sync_complete }));
    }

    pub(crate) fn fail(&self, status: Status) {
        let _ = self.responses.send(Err(status));
    }

    pub(crate) async fn acknowledged(&mut self) {
        let requests = self.requests.as_mut().expect("a SyncMappings stream");
        let request = soon(requests.message()).await.expect("the stream goes on").expect("the stream goes on");
        assert!(matches!(request.msg, Some(sync_mappings_request::Msg::Ack(_))), "{request:?}");
    }
}

impl World {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Mapped>) {
        let (streams, opened) = mpsc::unbounded_channel();
        let state = State {
            failures: Mutex::default(),
            broken: Mutex::default(),
            calls: Mutex::default(),
            streams,
            statuses: Mutex::default(),
            lines: Mutex::default(),
            silent: Mutex::default(),
            peers: Mutex::default(),
            visits: Mutex::default(),
            watches: Mutex::default(),
        };
        (Self(Arc::new(state)), opened)
    }

    pub(crate) fn next_fails(&self, call: &'static str, status: Status) {
        self.0.failures.lock().entry(call).or_default().push(status);
    }

    pub(crate) fn always_fails(&self, call: &'static str, status: Status) {
        self.0.broken.lock().insert(call, status);
    }

    pub(crate) fn works_again(&self, call: &'static str) {
        self.0.broken.lock().remove(call);
    }

    /// Access-log batches are stored, but never acknowledged.
    pub(crate) fn silent(&self, silent: bool) {
        *self.0.silent.lock() = silent;
    }

    pub(crate) fn calls(&self, call: &str) -> Vec<Instant> {
        self.0.calls.lock().iter().filter(|(name, _)| *name == call).map(|(_, at)| *at).collect()
    }

    pub(crate) fn statuses(&self) -> Vec<SendStatusUpdateRequest> {
        self.0.statuses.lock().clone()
    }

    pub(crate) fn peers(&self) -> Vec<CreateProxyPeerRequest> {
        self.0.peers.lock().clone()
    }

    pub(crate) fn visits(&self) -> Vec<ValidateTunnelPeerRequest> {
        self.0.visits.lock().clone()
    }

    /// The next stream of peer maps that was opened.
    pub(crate) async fn watched(&self) -> Watched {
        until(|| !self.0.watches.lock().is_empty()).await;
        self.0.watches.lock().remove(0)
    }

    /// Different lines that came.
    pub(crate) fn lines(&self) -> usize {
        self.0.lines.lock().len()
    }

    pub(crate) fn line_ids(&self) -> Vec<String> {
        self.0.lines.lock().keys().cloned().collect()
    }

    pub(crate) fn lines_repeated(&self) -> usize {
        self.0.lines.lock().values().filter(|count| **count > 1).count()
    }

    fn router(&self, mut server: Server) -> Router {
        server.add_service(ProxyServiceServer::new(self.clone())).add_service(ProxyServer::new(self.clone()))
    }

    /// A server in the present runtime.
    pub(crate) fn in_memory(&self) -> Transport {
        let (accept, connections) = mpsc::channel(1);
        let connections = ReceiverStream::new(connections).map(Ok::<_, io::Error>);
        tokio::spawn(self.router(Server::builder()).serve_with_incoming(connections));
        Transport::InMemory(InMemory::new(accept))
    }

    /// A server that can be killed; port 0 is any.
    pub(crate) fn on_loopback(&self, port: u16) -> Loopback {
        self.serve(Server::builder(), port)
    }

    pub(crate) fn serve(&self, server: Server, port: u16) -> Loopback {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let listener = listener.expect("the port is free");
        listener.set_nonblocking(true).expect("non-blocking");
        let addr = listener.local_addr().expect("address");
        let router = self.router(server);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("listener");
            router.serve_with_incoming(TcpListenerStream::new(listener)).await
        });
        Loopback { addr, runtime: Some(runtime) }
    }

    fn called<T>(&self, call: &'static str, request: &Request<T>) -> Result<(), Status> {
        self.0.calls.lock().push((call, Instant::now()));
        let token = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if token != Some(&format!("Bearer {TOKEN}")) {
            return Err(Status::unauthenticated("invalid token"));
        }
        if let Some(status) = self.0.broken.lock().get(call) {
            return Err(Status::new(status.code(), status.message()));
        }
        let mut failures = self.0.failures.lock();
        let next = failures.get_mut(call).filter(|failures| !failures.is_empty());
        next.map_or(Ok(()), |failures| Err(failures.remove(0)))
    }

    fn open(
        &self,
        init: SyncMappingsInit,
        requests: Option<Streaming<SyncMappingsRequest>>,
    ) -> UnboundedReceiverStream<Result<SyncMappingsResponse, Status>> {
        let (responses, outgoing) = mpsc::unbounded_channel();
        let _ = self.0.streams.send(Mapped { init, requests, responses });
        UnboundedReceiverStream::new(outgoing)
    }

    fn store(&self, line: AccessLog) {
        *self.0.lines.lock().entry(line.log_id).or_default() += 1;
    }
}

/// A server on loopback, killed when dropped: its connections break in the middle of whatever they were doing.
pub(crate) struct Loopback {
    pub(crate) addr: SocketAddr,
    runtime: Option<Runtime>,
}

impl Loopback {
    pub(crate) fn transport(&self) -> Transport {
        let url = format!("http://{}", self.addr).parse().expect("URL");
        Transport::Network { url, roots: Roots::System, allow_plaintext: true }
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not in the background: the port must be free afterwards.
            let kill = std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(10)));
            kill.join().expect("the server is gone");
        }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ProxyService for World {
    type GetMappingUpdateStream = Answers<GetMappingUpdateResponse>;
    type SyncMappingsStream = Answers<SyncMappingsResponse>;

    async fn get_mapping_update(
        &self,
        request: Request<GetMappingUpdateRequest>,
    ) -> Result<Response<Self::GetMappingUpdateStream>, Status> {
        self.called("GetMappingUpdate", &request)?;
        let GetMappingUpdateRequest { proxy_id, version, started_at, address, capabilities } = request.into_inner();
        let init = SyncMappingsInit { proxy_id, version, started_at, address, capabilities };
        let responses = self.open(init, None).map(|response| {
            let SyncMappingsResponse { mapping, initial_sync_complete } = response?;
            Ok(GetMappingUpdateResponse { mapping, initial_sync_complete })
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn sync_mappings(
        &self,
        request: Request<Streaming<SyncMappingsRequest>>,
    ) -> Result<Response<Self::SyncMappingsStream>, Status> {
        self.called("SyncMappings", &request)?;
        let mut requests = request.into_inner();
        let Some(SyncMappingsRequest { msg: Some(sync_mappings_request::Msg::Init(init)) }) =
            requests.message().await?
        else {
            return Err(Status::invalid_argument("the first message is no init"));
        };
        Ok(Response::new(Box::pin(self.open(init, Some(requests)))))
    }

    async fn send_access_log(
        &self,
        request: Request<SendAccessLogRequest>,
    ) -> Result<Response<SendAccessLogResponse>, Status> {
        self.called("SendAccessLog", &request)?;
        self.store(request.into_inner().log.expect("a line"));
        Ok(Response::new(SendAccessLogResponse {}))
    }

    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        self.called("Authenticate", &request)?;
        let Some(authenticate_request::Request::HeaderAuth(header)) = request.into_inner().request else {
            return Err(Status::invalid_argument("no header"));
        };
        match &*header.header_value {
            "never" => std::future::pending().await,
            "hollow" => Ok(Response::new(AuthenticateResponse { success: true, session_token: String::new() })),
            "right" => Ok(Response::new(AuthenticateResponse { success: true, session_token: "jwt".into() })),
            _ => Ok(Response::new(AuthenticateResponse::default())),
        }
    }

    async fn send_status_update(
        &self,
        request: Request<SendStatusUpdateRequest>,
    ) -> Result<Response<SendStatusUpdateResponse>, Status> {
        self.called("SendStatusUpdate", &request)?;
        self.0.statuses.lock().push(request.into_inner());
        Ok(Response::new(SendStatusUpdateResponse {}))
    }

    async fn create_proxy_peer(
        &self,
        request: Request<CreateProxyPeerRequest>,
    ) -> Result<Response<CreateProxyPeerResponse>, Status> {
        self.called("CreateProxyPeer", &request)?;
        let request = request.into_inner();
        let (success, error_message) = match &*request.token {
            "never" => std::future::pending().await,
            "full" => (false, Some("the network is full".to_owned())),
            "mute" => (false, None),
            _ => (true, None),
        };
        self.0.peers.lock().push(request);
        Ok(Response::new(CreateProxyPeerResponse { success, error_message }))
    }

    async fn get_oidcurl(&self, _: Request<GetOidcurlRequest>) -> Result<Response<GetOidcurlResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn validate_session(
        &self,
        _: Request<ValidateSessionRequest>,
    ) -> Result<Response<ValidateSessionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn validate_tunnel_peer(
        &self,
        request: Request<ValidateTunnelPeerRequest>,
    ) -> Result<Response<ValidateTunnelPeerResponse>, Status> {
        self.called("ValidateTunnelPeer", &request)?;
        let request = request.into_inner();
        let user_id = "user:alice".to_owned();
        let answer = match &*request.domain {
            "never.example.com" => std::future::pending().await,
            "hollow.example.com" => ValidateTunnelPeerResponse { valid: true, user_id, ..Default::default() },
            "open.example.com" => {
                ValidateTunnelPeerResponse { valid: true, user_id, session_token: "jwt".into(), ..Default::default() }
            }
            _ => ValidateTunnelPeerResponse { denied_reason: "not_in_group".into(), ..Default::default() },
        };
        self.0.visits.lock().push(request);
        Ok(Response::new(answer))
    }

    async fn check_llm_policy_limits(
        &self,
        _: Request<CheckLlmPolicyLimitsRequest>,
    ) -> Result<Response<CheckLlmPolicyLimitsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn record_llm_usage(
        &self,
        _: Request<RecordLlmUsageRequest>,
    ) -> Result<Response<RecordLlmUsageResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl Proxy for World {
    type StreamAccessLogsStream = Answers<AccessLogAck>;
    type WatchPeersStream = Answers<PeerMap>;

    async fn watch_peers(
        &self,
        request: Request<WatchPeersRequest>,
    ) -> Result<Response<Self::WatchPeersStream>, Status> {
        self.called("WatchPeers", &request)?;
        let (maps, outgoing) = mpsc::unbounded_channel();
        self.0.watches.lock().push(Watched { request: request.into_inner(), maps });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(outgoing))))
    }

    async fn stream_access_logs(
        &self,
        request: Request<Streaming<AccessLogBatch>>,
    ) -> Result<Response<Self::StreamAccessLogsStream>, Status> {
        self.called("StreamAccessLogs", &request)?;
        let world = self.clone();
        let acks = request.into_inner().filter_map(move |batch| {
            let ack = batch.map(|batch| {
                batch.lines.into_iter().for_each(|line| world.store(AccessLog::decode(line).expect("a line")));
                (!*world.0.silent.lock()).then_some(AccessLogAck { sequence: batch.sequence })
            });
            std::future::ready(ack.transpose())
        });
        Ok(Response::new(Box::pin(acks)))
    }
}

pub(crate) fn connect(transport: Transport) -> (Client, Events) {
    connect_with(transport, TOKEN)
}

pub(crate) fn connect_with(transport: Transport, token: &str) -> (Client, Events) {
    start(config(transport, token)).expect("a sound configuration")
}

pub(crate) fn config(transport: Transport, token: &str) -> Config {
    Config {
        transport,
        token: Secret::from(token),
        proxy_id: ProxyId::parse("proxy-1").expect("id"),
        version: "1.2.3".into(),
        address: "proxy.example.com".into(),
        capabilities: Capabilities { private_service: true, ..Capabilities::default() },
    }
}

/// Nothing here takes long; what never comes fails the test instead of hanging it.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), future).await.expect("it happens")
}

/// Waits until a condition holds.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    let mut clock = tokio::time::interval(Duration::from_millis(5));
    soon(async {
        while !holds() {
            clock.tick().await;
        }
    })
    .await;
}

pub(crate) async fn next(events: &mut Events) -> Delivery {
    soon(events.next()).await.expect("an event")
}

pub(crate) async fn opened(streams: &mut mpsc::UnboundedReceiver<Mapped>) -> Mapped {
    soon(streams.recv()).await.expect("a stream")
}

pub(crate) fn mapping(id: &str) -> ProxyMapping {
    ProxyMapping {
        id: id.into(),
        account_id: "acc-1".into(),
        domain: format!("{id}.example.com"),
        path: vec![PathMapping { target: "http://10.0.0.7:3000/".into(), ..PathMapping::default() }],
        ..ProxyMapping::default()
    }
}

pub(crate) fn status(service: &str, state: ServiceState) -> StatusUpdate {
    StatusUpdate {
        service: ServiceId::parse(service).expect("id"),
        account: AccountId::parse("acc-1").expect("id"),
        state,
        certificate_issued: false,
        error: None,
        inbound: None,
    }
}

pub(crate) fn line(number: usize) -> AccessLogLine {
    AccessLogLine {
        timestamp: SystemTime::UNIX_EPOCH,
        id: RequestId::new(0, number as u64),
        account: None,
        service: None,
        host: postern_model::HostName::parse("app.example.com").ok(),
        path: "/".into(),
        duration: Duration::from_millis(1),
        method: http::Method::GET,
        status: 200,
        source: IpAddr::V4(Ipv4Addr::LOCALHOST),
        mechanism: AuthMechanism::None,
        user_id: String::new(),
        auth_success: true,
        bytes_upload: 0,
        bytes_download: 0,
        reason: "",
    }
}
