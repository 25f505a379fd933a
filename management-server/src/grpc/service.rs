use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, TryStreamExt};
use postern_model::{AccountId, HostName, TunnelVerdict};
use postern_proto::convert::{
    Hello, Invalid, authenticate_from_wire, authenticated_to_wire, create_proxy_peer_from_wire,
    peer_question_from_wire, status_from_wire, tunnel_verdict_to_wire, watch_peers_from_wire,
};
use postern_proto::management::proxy_service_server::ProxyService;
use postern_proto::management::{self as wire, sync_mappings_request::Msg};
use postern_proto::postern::v1::proxy_server::Proxy as PosternProxy;
use postern_proto::postern::v1::{AccessLogAck, AccessLogBatch, PeerMap, WatchPeersRequest};
use prost::Message;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::access_log::AccessLogs;
use crate::admission::{Admission, OtherAccount};
use crate::clock::unix_now;
use crate::hub::{Connected, Hub};
use crate::listener::ConnectionInfo;
use crate::logins::{LoginError, Logins};
use crate::one_time::OneTimeTokens;
use crate::peer::Proxy;
use crate::peer_error::PeerError;
use crate::peers::Peers;
use crate::reports::plain;
use crate::statuses::Statuses;
use crate::tokens::Bearer;

use super::logs::{LogStream, own};
use super::mappings::{Mappings, status_of};
use super::peers::PeerMaps;

/// How long a stream may take to say who opens it.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// What answers the calls of proxies. Each call has passed the token check.
#[derive(Clone, Debug)]
pub(crate) struct Rpc {
    pub(crate) hub: Arc<Hub>,
    pub(crate) logins: Arc<Logins>,
    pub(crate) statuses: Arc<Statuses>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) one_time: Arc<OneTimeTokens>,
    pub(crate) logs: Arc<AccessLogs>,
    pub(crate) stop: CancellationToken,
}

type Reply<T> = Result<Response<T>, Status>;
type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Rpc {
    /// Takes the proxy's place in the hub.
    fn join(
        &self,
        mut hello: Hello,
        caller: &Caller,
        acks: Option<Streaming<wire::SyncMappingsRequest>>,
    ) -> Result<Mappings, Status> {
        address(&hello.address)?;
        hello.version = plain(hello.version);
        let capabilities = hello.capabilities;
        tracing::info!(proxy = %hello.proxy_id, version = %hello.version, "proxy connected");
        let connected = Connected {
            account: caller.bearer.account.clone(),
            hello,
            token: caller.bearer.name.clone(),
            connection: caller.connection.id,
            since: unix_now(),
            in_process: caller.bearer.internal,
        };
        let seat = self.hub.join(connected).map_err(status_of)?;
        Ok(Mappings::new(seat, caller.bearer.clone(), capabilities, self.one_time.clone(), acks))
    }
}

#[tonic::async_trait]
impl ProxyService for Rpc {
    type GetMappingUpdateStream = Replies<wire::GetMappingUpdateResponse>;
    type SyncMappingsStream = Replies<wire::SyncMappingsResponse>;

    async fn sync_mappings(
        &self,
        request: Request<Streaming<wire::SyncMappingsRequest>>,
    ) -> Reply<Self::SyncMappingsStream> {
        let caller = Caller::of(&request)?;
        let mut messages = request.into_inner();
        let first = timeout(INTRODUCTION, messages.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("the first message did not come"))??;
        let Some(Msg::Init(init)) = first.and_then(|first| first.msg) else {
            return Err(Status::invalid_argument("the first message must be init"));
        };
        let mappings = self.join(Hello::from_init(init).map_err(|error| invalid(&error))?, &caller, Some(messages))?;
        let replies = mappings.into_stream().map_ok(|message| wire::SyncMappingsResponse {
            mapping: message.mapping,
            initial_sync_complete: message.initial_sync_complete,
        });
        Ok(Response::new(Box::pin(replies)))
    }

    async fn get_mapping_update(
        &self,
        request: Request<wire::GetMappingUpdateRequest>,
    ) -> Reply<Self::GetMappingUpdateStream> {
        let caller = Caller::of(&request)?;
        let hello = Hello::from_legacy(request.into_inner()).map_err(|error| invalid(&error))?;
        let replies = self.join(hello, &caller, None)?.into_stream().map_ok(|message| wire::GetMappingUpdateResponse {
            mapping: message.mapping,
            initial_sync_complete: message.initial_sync_complete,
        });
        Ok(Response::new(Box::pin(replies)))
    }

    async fn send_access_log(
        &self,
        request: Request<wire::SendAccessLogRequest>,
    ) -> Reply<wire::SendAccessLogResponse> {
        let caller = Caller::of(&request)?;
        let line = request.into_inner().log.ok_or_else(|| Status::invalid_argument("there is no log in the call"))?;
        own(line.account_id.as_bytes(), &caller.bearer.account)?;
        self.logs.store([(line.log_id.as_bytes(), line.encode_to_vec().as_slice())]);
        Ok(Response::new(wire::SendAccessLogResponse::default()))
    }

    async fn authenticate(&self, request: Request<wire::AuthenticateRequest>) -> Reply<wire::AuthenticateResponse> {
        let caller = Caller::of(&request)?;
        let ask = request.into_inner();
        scope(&ask.account_id, &caller.bearer.account)?;
        if let Some(wire::authenticate_request::Request::Password(_) | wire::authenticate_request::Request::Pin(_)) =
            ask.request
        {
            return Err(Status::failed_precondition("services of this server have no shared passwords or PINs"));
        }
        let ask = authenticate_from_wire(ask, caller.connection.peer).map_err(|error| invalid(&error))?;
        let verdict = self.logins.verify(&caller.bearer.account, ask).await.map_err(|error| match error {
            LoginError::NoService(_) | LoginError::NoLogin(_) => Status::failed_precondition(error.to_string()),
            LoginError::Password(_) => Status::unavailable(error.to_string()),
        })?;
        Ok(Response::new(authenticated_to_wire(&verdict)?))
    }

    async fn send_status_update(
        &self,
        request: Request<wire::SendStatusUpdateRequest>,
    ) -> Reply<wire::SendStatusUpdateResponse> {
        let caller = Caller::of(&request)?;
        let mut update = status_from_wire(request.into_inner()).map_err(|error| invalid(&error))?;
        scope(update.account.as_str(), &caller.bearer.account)?;
        let known = self.hub.find(&update.service).filter(|published| published.mapping.account == update.account);
        if known.is_none() {
            return Err(Status::not_found(format!("there is no service {} here", update.service)));
        }
        update.error = update.error.map(plain);
        // The call does not say whose it is, but a proxy has one connection for everything.
        let proxy = self.hub.proxy_on(caller.connection.id);
        self.statuses.report(proxy.as_ref().map_or(&caller.bearer.name, |id| id.as_str()), update);
        Ok(Response::new(wire::SendStatusUpdateResponse::default()))
    }

    async fn create_proxy_peer(
        &self,
        request: Request<wire::CreateProxyPeerRequest>,
    ) -> Reply<wire::CreateProxyPeerResponse> {
        let caller = Caller::of(&request)?;
        let ask = request.into_inner();
        scope(&ask.account_id, &caller.bearer.account)?;
        let ask = match create_proxy_peer_from_wire(ask) {
            Ok(ask) => ask,
            // NetBird answers what is missing so.
            Err(error) => return Ok(Response::new(not_created(&error))),
        };
        if !self.one_time.redeem(ask.token.0.expose(), &ask.account, &ask.service, Instant::now()) {
            return Err(Status::unauthenticated("token validation: invalid token"));
        }
        let name = self.hub.proxy_on(caller.connection.id);
        let proxy = Proxy {
            name: plain(name.map_or_else(|| caller.bearer.name.clone(), |id| id.to_string())),
            cluster: plain(ask.cluster),
            in_process: caller.bearer.internal,
            port: ask.port,
            last_seen: unix_now(),
        };
        // A caller that hangs up before has used its token: it may be a peer by then.
        let Err(error) = self.peers.register(&ask.account, ask.key, proxy).await else {
            return Ok(Response::new(wire::CreateProxyPeerResponse { success: true, error_message: None }));
        };
        self.one_time.give_back(ask.token.0.expose());
        match error {
            error @ PeerError::Store(_) => Err(Status::internal(error.to_string())),
            error @ PeerError::Stopping => Err(Status::unavailable(error.to_string())),
            error => Ok(Response::new(not_created(&error))),
        }
    }

    async fn get_oidcurl(&self, _request: Request<wire::GetOidcurlRequest>) -> Reply<wire::GetOidcurlResponse> {
        Err(missing("logins at an identity provider"))
    }

    async fn validate_session(
        &self,
        _request: Request<wire::ValidateSessionRequest>,
    ) -> Reply<wire::ValidateSessionResponse> {
        Err(missing("logins at an identity provider"))
    }

    async fn validate_tunnel_peer(
        &self,
        request: Request<wire::ValidateTunnelPeerRequest>,
    ) -> Reply<wire::ValidateTunnelPeerResponse> {
        let caller = Caller::of(&request)?;
        let verdict = match peer_question_from_wire(request.get_ref()) {
            Ok(question) => self
                .admission
                .verdict(&caller.bearer.account, &question)
                .map_err(|OtherAccount| Status::permission_denied("the token is of another account"))?,
            Err(error) => TunnelVerdict::Denied(match error.field() {
                "tunnel_ip" => "invalid_tunnel_ip".to_owned(),
                "domain" => "service_not_found".to_owned(),
                _ => error.to_string(),
            }),
        };
        Ok(Response::new(tunnel_verdict_to_wire(verdict)))
    }

    async fn check_llm_policy_limits(
        &self,
        _request: Request<wire::CheckLlmPolicyLimitsRequest>,
    ) -> Reply<wire::CheckLlmPolicyLimitsResponse> {
        Err(missing("budgets for language models"))
    }

    async fn record_llm_usage(
        &self,
        _request: Request<wire::RecordLlmUsageRequest>,
    ) -> Reply<wire::RecordLlmUsageResponse> {
        Err(missing("budgets for language models"))
    }
}

#[tonic::async_trait]
impl PosternProxy for Rpc {
    type StreamAccessLogsStream = Replies<AccessLogAck>;
    type WatchPeersStream = Replies<PeerMap>;

    async fn stream_access_logs(
        &self,
        request: Request<Streaming<AccessLogBatch>>,
    ) -> Reply<Self::StreamAccessLogsStream> {
        let bearer = Caller::of(&request)?.bearer;
        let (logs, stop) = (self.logs.clone(), self.stop.clone());
        let stream = LogStream { batches: request.into_inner(), logs, bearer, stop };
        Ok(Response::new(Box::pin(stream.into_stream())))
    }

    async fn watch_peers(&self, request: Request<WatchPeersRequest>) -> Reply<Self::WatchPeersStream> {
        let bearer = Caller::of(&request)?.bearer;
        let watch = watch_peers_from_wire(request.get_ref()).map_err(|error| invalid(&error))?;
        scope(watch.account.as_str(), &bearer.account)?;
        let maps = PeerMaps::new(&self.peers, watch, bearer, self.stop.clone())?;
        Ok(Response::new(Box::pin(maps.into_stream())))
    }
}

/// By which token and over which connection a call came.
struct Caller {
    bearer: Arc<Bearer>,
    connection: ConnectionInfo,
}

impl Caller {
    fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let extensions = request.extensions();
        match (extensions.get::<Arc<Bearer>>(), extensions.get::<ConnectionInfo>()) {
            (Some(bearer), Some(connection)) => Ok(Self { bearer: bearer.clone(), connection: connection.clone() }),
            _ => Err(Status::unauthenticated("the call has passed no token check")),
        }
    }
}

/// NetBird's rule: a host name, with `*.` before it perhaps, or an address. It is only kept for people.
fn address(text: &str) -> Result<(), Status> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    if HostName::parse(name).is_ok() || text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(());
    }
    Err(Status::invalid_argument("the address of the proxy is neither a domain nor an IP address; set its --domain"))
}

fn scope(asked: &str, own: &AccountId) -> Result<(), Status> {
    if asked == own.as_str() { Ok(()) } else { Err(Status::permission_denied("the token is of another account")) }
}

fn invalid(error: &Invalid) -> Status {
    Status::invalid_argument(error.to_string())
}

fn not_created(error: &impl ToString) -> wire::CreateProxyPeerResponse {
    wire::CreateProxyPeerResponse { success: false, error_message: Some(error.to_string()) }
}

fn missing(what: &str) -> Status {
    Status::unimplemented(format!("this management server does not have {what} yet"))
}
