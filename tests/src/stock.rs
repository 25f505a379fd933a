//! A management server as NetBird's: it sends what a test tells it and remembers what came. Of our own additions it has peer
//! maps alone, and only if it is given some.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use postern_proto::management::proxy_service_server::{ProxyService, ProxyServiceServer};
use postern_proto::management::{
    AccessLog, AuthenticateRequest, AuthenticateResponse, Authentication, CheckLlmPolicyLimitsRequest,
    CheckLlmPolicyLimitsResponse, CreateProxyPeerRequest, CreateProxyPeerResponse, GetMappingUpdateRequest,
    GetMappingUpdateResponse, GetOidcurlRequest, GetOidcurlResponse, PathMapping, PathTargetOptions, ProxyMapping,
    RecordLlmUsageRequest, RecordLlmUsageResponse, SendAccessLogRequest, SendAccessLogResponse,
    SendStatusUpdateRequest, SendStatusUpdateResponse, SyncMappingsRequest, SyncMappingsResponse,
    ValidateSessionRequest, ValidateSessionResponse, ValidateTunnelPeerRequest, ValidateTunnelPeerResponse,
};
use postern_proto::postern::v1::proxy_server::{Proxy, ProxyServer};
use postern_proto::postern::v1::{AccessLogAck, AccessLogBatch, PeerMap, WatchPeersRequest};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// What a server sends and what it received. It outlives the server, as a database does.
#[derive(Default)]
pub struct State {
    /// Sent as the snapshot of each new stream.
    pub snapshot: Vec<ProxyMapping>,
    /// Refuse `SyncMappings`, as an older server does.
    pub legacy: bool,
    /// The header value that `Authenticate` takes, and the session token that it answers with.
    pub header: Option<(String, String)>,
    /// The tunnels' peers by account; `None` makes a stock server, which does not know the call.
    pub maps: Option<BTreeMap<String, PeerMap>>,
    /// What `ValidateTunnelPeer` is answered with.
    pub doorkeeper: Option<Box<Doorkeeper>>,
    /// The proxies that became peers of a tunnel.
    pub registered: Vec<CreateProxyPeerRequest>,
    /// The peers that asked to enter.
    pub visits: Vec<ValidateTunnelPeerRequest>,
    /// The status updates received.
    pub statuses: Vec<SendStatusUpdateRequest>,
    /// The access-log lines received.
    pub lines: Vec<AccessLog>,
    /// How many acks came.
    pub acks: usize,
    /// How many streams were opened.
    pub streams: usize,
    /// How often `Authenticate` was asked.
    pub authenticated: usize,
    /// The `authorization` metadata of every call.
    pub tokens: Vec<String>,
    /// The streams that are open.
    pub open: Vec<mpsc::UnboundedSender<Result<SyncMappingsResponse, Status>>>,
    /// The streams of peer maps that are open, by account.
    pub watching: Vec<(String, mpsc::UnboundedSender<Result<PeerMap, Status>>)>,
}

/// Decides about a tunnel peer.
pub type Doorkeeper = dyn Fn(&ValidateTunnelPeerRequest) -> ValidateTunnelPeerResponse + Send;

/// A running server. Dropping it ends every connection, as a crash does.
pub struct Stock {
    /// Where it listens, in plaintext.
    pub addr: SocketAddr,
    /// What it sends and received.
    pub state: Arc<Mutex<State>>,
    // Connections are tasks that tonic spawns: a runtime of the server's own ends them with it.
    runtime: Option<Runtime>,
}

impl Stock {
    /// Starts on a free port.
    pub async fn start(state: State) -> Self {
        Self::serve("127.0.0.1:0".parse().expect("an address"), Arc::new(Mutex::new(state))).await
    }

    /// Ends every connection at once and starts again on the same port with the same state.
    pub async fn restart(self) -> Self {
        let (addr, state) = (self.addr, Arc::clone(&self.state));
        drop(self);
        Self::again(addr, state).await
    }

    /// Starts on the port and with the state of one that is gone.
    pub async fn again(addr: SocketAddr, state: Arc<Mutex<State>>) -> Self {
        Self::serve(addr, state).await
    }

    async fn serve(addr: SocketAddr, state: Arc<Mutex<State>>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let bind = || async { runtime.spawn(TcpListener::bind(addr)).await.expect("it does not panic").ok() };
        let listener = crate::eventually("the port to be free", bind).await;
        let addr = listener.local_addr().expect("bound");
        let service = ProxyServiceServer::new(Service(Arc::clone(&state)));
        let ours = state.lock().maps.is_some().then(|| ProxyServer::new(Service(Arc::clone(&state))));
        runtime.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let _ = tonic::transport::Server::builder()
                .add_service(service)
                .add_optional_service(ours)
                .serve_with_incoming(incoming)
                .await;
        });
        Self { addr, state, runtime: Some(runtime) }
    }

    /// Sends an update to every open stream, and keeps it for later snapshots.
    pub fn update(&self, mapping: ProxyMapping) {
        let mut state = self.state.lock();
        state.snapshot.retain(|known| known.id != mapping.id);
        if mapping.r#type != REMOVED {
            state.snapshot.push(mapping.clone());
        }
        let message = SyncMappingsResponse { mapping: vec![mapping], initial_sync_complete: false };
        state.open.retain(|stream| stream.send(Ok(message.clone())).is_ok());
    }

    /// Gives `account` another peer map, and sends it to whoever watches.
    ///
    /// # Panics
    /// On a stock server.
    pub fn map(&self, account: &str, map: &PeerMap) {
        let mut state = self.state.lock();
        state.maps.as_mut().expect("a server with peer maps").insert(account.to_owned(), map.clone());
        state.watching.retain(|(of, stream)| of != account || stream.send(Ok(map.clone())).is_ok());
    }

    /// How the proxy became a peer of the tunnel of `account`, once it has.
    pub async fn registered(&self, account: &str) -> CreateProxyPeerRequest {
        let newest = || async {
            self.state.lock().registered.iter().rev().find(|request| request.account_id == account).cloned()
        };
        crate::eventually(&format!("the proxy to be a peer of {account}"), newest).await
    }

    /// The newest status of a service, as (status number, error text).
    #[must_use]
    pub fn status(&self, service: &str) -> Option<(i32, String)> {
        let state = self.state.lock();
        let newest = state.statuses.iter().rev().find(|update| update.service_id == service)?;
        Some((newest.status, newest.error_message.clone().unwrap_or_default()))
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        let mut state = self.state.lock();
        state.open.clear();
        state.watching.clear();
    }
}

/// `ProxyMappingUpdateType` `MODIFIED`.
pub const MODIFIED: i32 = 1;
/// `ProxyMappingUpdateType` `REMOVED`.
pub const REMOVED: i32 = 2;
/// `ProxyStatus` `ACTIVE`.
pub const ACTIVE: i32 = 1;
/// `ProxyStatus` `TUNNEL_NOT_CREATED`.
pub const TUNNEL_NOT_CREATED: i32 = 2;
/// `ProxyStatus` `ERROR`.
pub const ERROR: i32 = 5;

/// A mapping of `host` to `upstream` over the host's network, open to everybody.
#[must_use]
pub fn mapping(id: &str, host: &str, upstream: &str) -> ProxyMapping {
    let options = PathTargetOptions { direct_upstream: true, ..Default::default() };
    ProxyMapping {
        id: id.to_owned(),
        account_id: "account".to_owned(),
        domain: host.to_owned(),
        path: vec![PathMapping { path: "/".to_owned(), target: upstream.to_owned(), options: Some(options) }],
        auth_token: "one-time".to_owned(),
        auth: Some(Authentication::default()),
        ..Default::default()
    }
}

struct Service(Arc<Mutex<State>>);

impl Service {
    fn seen<T>(&self, request: &Request<T>) {
        let token = request.metadata().get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
        self.0.lock().tokens.push(token.to_owned());
    }

    fn open(&self) -> UnboundedReceiverStream<Result<SyncMappingsResponse, Status>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.0.lock();
        state.streams += 1;
        let snapshot = SyncMappingsResponse { mapping: state.snapshot.clone(), initial_sync_complete: true };
        let _ = sender.send(Ok(snapshot));
        state.open.push(sender);
        UnboundedReceiverStream::new(receiver)
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ProxyService for Service {
    type SyncMappingsStream = Answers<SyncMappingsResponse>;
    type GetMappingUpdateStream = Answers<GetMappingUpdateResponse>;

    async fn sync_mappings(
        &self,
        request: Request<Streaming<SyncMappingsRequest>>,
    ) -> Result<Response<Self::SyncMappingsStream>, Status> {
        self.seen(&request);
        if self.0.lock().legacy {
            return Err(Status::unimplemented("unknown method SyncMappings"));
        }
        let mut requests = request.into_inner();
        let state = Arc::clone(&self.0);
        tokio::spawn(async move {
            let mut first = true;
            while let Some(Ok(_)) = requests.next().await {
                state.lock().acks += usize::from(!first);
                first = false;
            }
        });
        Ok(Response::new(Box::pin(self.open())))
    }

    async fn get_mapping_update(
        &self,
        request: Request<GetMappingUpdateRequest>,
    ) -> Result<Response<Self::GetMappingUpdateStream>, Status> {
        self.seen(&request);
        let same = |message: Result<SyncMappingsResponse, Status>| {
            message.map(|m| GetMappingUpdateResponse {
                mapping: m.mapping,
                initial_sync_complete: m.initial_sync_complete,
            })
        };
        Ok(Response::new(Box::pin(self.open().map(same))))
    }

    async fn send_access_log(
        &self,
        request: Request<SendAccessLogRequest>,
    ) -> Result<Response<SendAccessLogResponse>, Status> {
        self.seen(&request);
        self.0.lock().lines.extend(request.into_inner().log);
        Ok(Response::new(SendAccessLogResponse::default()))
    }

    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        use postern_proto::management::authenticate_request::Request as Credential;
        self.seen(&request);
        let mut state = self.0.lock();
        state.authenticated += 1;
        let value = match request.into_inner().request {
            Some(Credential::HeaderAuth(header)) => header.header_value,
            _ => return Err(Status::invalid_argument("only headers here")),
        };
        let token = state.header.as_ref().filter(|(right, _)| *right == value).map(|(_, token)| token.clone());
        let success = token.is_some();
        Ok(Response::new(AuthenticateResponse { success, session_token: token.unwrap_or_default() }))
    }

    async fn send_status_update(
        &self,
        request: Request<SendStatusUpdateRequest>,
    ) -> Result<Response<SendStatusUpdateResponse>, Status> {
        self.seen(&request);
        self.0.lock().statuses.push(request.into_inner());
        Ok(Response::new(SendStatusUpdateResponse::default()))
    }

    async fn create_proxy_peer(
        &self,
        request: Request<CreateProxyPeerRequest>,
    ) -> Result<Response<CreateProxyPeerResponse>, Status> {
        self.seen(&request);
        let request = request.into_inner();
        let mut state = self.0.lock();
        let sent = |mapping: &ProxyMapping| {
            let of = (&mapping.id, &mapping.account_id, &mapping.auth_token);
            of == (&request.service_id, &request.account_id, &request.token)
        };
        if !state.snapshot.iter().any(sent) {
            return Err(Status::unauthenticated("no mapping came with this token"));
        }
        state.registered.push(request);
        Ok(Response::new(CreateProxyPeerResponse { success: true, error_message: None }))
    }

    async fn get_oidcurl(&self, _: Request<GetOidcurlRequest>) -> Result<Response<GetOidcurlResponse>, Status> {
        Err(Status::unimplemented("not in this script"))
    }

    async fn validate_session(
        &self,
        _: Request<ValidateSessionRequest>,
    ) -> Result<Response<ValidateSessionResponse>, Status> {
        Err(Status::unimplemented("not in this script"))
    }

    async fn validate_tunnel_peer(
        &self,
        request: Request<ValidateTunnelPeerRequest>,
    ) -> Result<Response<ValidateTunnelPeerResponse>, Status> {
        self.seen(&request);
        let request = request.into_inner();
        let mut state = self.0.lock();
        let verdict = state.doorkeeper.as_ref().map(|decide| decide(&request));
        state.visits.push(request);
        verdict.map(Response::new).ok_or_else(|| Status::unimplemented("not in this script"))
    }

    async fn check_llm_policy_limits(
        &self,
        _: Request<CheckLlmPolicyLimitsRequest>,
    ) -> Result<Response<CheckLlmPolicyLimitsResponse>, Status> {
        Err(Status::unimplemented("not in this script"))
    }

    async fn record_llm_usage(
        &self,
        _: Request<RecordLlmUsageRequest>,
    ) -> Result<Response<RecordLlmUsageResponse>, Status> {
        Err(Status::unimplemented("not in this script"))
    }
}

#[tonic::async_trait]
impl Proxy for Service {
    type StreamAccessLogsStream = Answers<AccessLogAck>;
    type WatchPeersStream = Answers<PeerMap>;

    async fn stream_access_logs(
        &self,
        _: Request<Streaming<AccessLogBatch>>,
    ) -> Result<Response<Self::StreamAccessLogsStream>, Status> {
        Err(Status::unimplemented("not in this script"))
    }

    async fn watch_peers(
        &self,
        request: Request<WatchPeersRequest>,
    ) -> Result<Response<Self::WatchPeersStream>, Status> {
        self.seen(&request);
        let WatchPeersRequest { account_id, public_key } = request.into_inner();
        let mut state = self.0.lock();
        let ours = |peer: &CreateProxyPeerRequest| {
            (&peer.account_id, &peer.wireguard_public_key) == (&account_id, &public_key)
        };
        if !state.registered.iter().any(ours) {
            return Err(Status::not_found("nobody has this key"));
        }
        let map = state.maps.as_ref().and_then(|maps| maps.get(&account_id)).cloned();
        let map = map.ok_or_else(|| Status::not_found("the account has no tunnel"))?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let _ = sender.send(Ok(map));
        state.watching.push((account_id, sender));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }
}
