use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use parking_lot::Mutex;
use postern_model::AccountId;
use serde::Deserialize;
use tokio::net::{UnixListener, UnixSocket};

use crate::access_log::AccessLogs;
use crate::enrolment::Enrolment;
use crate::hub::Hub;
use crate::peer_error::PeerError;
use crate::peer_reports::{AddPeer, NewPeer, PeerChanges, PeerStatus};
use crate::problems::Problems;
use crate::reports::{AccessLogStatus, FileStatus, LogLine, NewToken, ProxyStatus, Status, TokenStatus};
use crate::statuses::Statuses;
use crate::store::{Store, StoreError};
use crate::tokens::{TokenError, Tokens};

use super::summary::{self, Here};
use super::wire::{AddToken, OfUser, Problem};

/// What administration looks at and changes.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) account: AccountId,
    pub(crate) started: i64,
    pub(crate) listener: Option<SocketAddr>,
    pub(crate) file: Arc<Mutex<Option<FileStatus>>>,
    pub(crate) enrolment: Enrolment,
    pub(crate) hub: Arc<Hub>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) statuses: Arc<Statuses>,
    pub(crate) logs: Arc<AccessLogs>,
    pub(crate) problems: Arc<Problems>,
    pub(crate) store: Store,
}

/// Listens on a socket that only this user can open. A socket that is there already is left over: the data folder is locked.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    // Before it listens, so that nobody else gets in between.
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    socket.listen(64)
}

pub(crate) fn router(admin: Admin) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/tokens", get(list_tokens).post(add_token))
        .route("/v1/tokens/{name}", delete(remove_token))
        .route("/v1/peers", get(list_peers).post(add_peer).delete(remove_peers_of))
        .route("/v1/peers/{name}", get(show_peer).patch(set_peer).delete(remove_peer))
        .route("/v1/access-log", get(access_log))
        .with_state(admin)
}

async fn status(State(admin): State<Admin>) -> Result<Json<Status>, Refused> {
    let (catalog, revision) = admin.hub.catalog();
    let mut proxies: BTreeMap<String, ProxyStatus> = BTreeMap::new();
    for proxy in admin.store.proxies().await?.into_iter().filter(|proxy| proxy.account == admin.account) {
        let id = proxy.id.to_string();
        let status = ProxyStatus {
            id: id.clone(),
            address: proxy.address,
            version: proxy.version,
            token: proxy.token,
            connected: false,
            since: proxy.last_seen,
        };
        proxies.insert(id, status);
    }
    let mut connected = Vec::new();
    for proxy in admin.hub.connected().into_iter().filter(|proxy| proxy.account == admin.account) {
        let id = proxy.hello.proxy_id.to_string();
        connected.push(Here { id: id.clone(), private: proxy.hello.capabilities.private_service });
        let status = ProxyStatus {
            id: id.clone(),
            address: proxy.hello.address,
            version: proxy.hello.version,
            token: proxy.token,
            connected: true,
            since: proxy.since,
        };
        proxies.insert(id, status);
    }
    let services = catalog.values().filter(|published| published.mapping.account == admin.account);
    let services =
        services.map(|published| summary::service(published, &admin.statuses.of(&published.mapping.id), &connected));
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: admin.started,
        revision,
        listener: admin.listener,
        problems: admin.problems.list(),
        file: admin.file.lock().clone(),
        services: services.collect(),
        proxies: proxies.into_values().collect(),
        tunnel: admin.enrolment.tunnel(),
        access_log: AccessLogStatus { total: admin.logs.total() },
    }))
}

async fn list_tokens(State(admin): State<Admin>) -> Json<Vec<TokenStatus>> {
    let tokens = admin.tokens.list().into_iter().filter(|bearer| bearer.account == admin.account);
    Json(
        tokens
            .map(|bearer| TokenStatus {
                name: bearer.name.clone(),
                created: bearer.created,
                last_used: bearer.last_used(),
            })
            .collect(),
    )
}

async fn add_token(State(admin): State<Admin>, Json(ask): Json<AddToken>) -> Result<Json<NewToken>, Refused> {
    let token = admin.tokens.add(&ask.name, &admin.account).await?;
    tracing::info!(name = %ask.name, "token added");
    Ok(Json(NewToken { name: ask.name, token: token.expose().to_owned() }))
}

async fn remove_token(State(admin): State<Admin>, UrlPath(name): UrlPath<String>) -> Result<StatusCode, Refused> {
    admin.tokens.remove(&name).await?;
    tracing::info!(%name, "token removed");
    Ok(StatusCode::NO_CONTENT)
}

async fn list_peers(State(admin): State<Admin>) -> Json<Vec<PeerStatus>> {
    Json(admin.enrolment.list())
}

async fn add_peer(State(admin): State<Admin>, Json(ask): Json<AddPeer>) -> Result<Json<NewPeer>, Refused> {
    Ok(Json(admin.enrolment.add(ask).await?))
}

#[derive(Debug, Deserialize)]
struct Shown {
    endpoint: Option<String>,
}

async fn show_peer(
    State(admin): State<Admin>,
    UrlPath(name): UrlPath<String>,
    Query(ask): Query<Shown>,
) -> Result<Json<NewPeer>, Refused> {
    Ok(Json(admin.enrolment.show(&name, ask.endpoint.as_deref())?))
}

async fn set_peer(
    State(admin): State<Admin>,
    UrlPath(name): UrlPath<String>,
    Json(changes): Json<PeerChanges>,
) -> Result<Json<PeerStatus>, Refused> {
    Ok(Json(admin.enrolment.set(&name, &changes).await?))
}

async fn remove_peer(State(admin): State<Admin>, UrlPath(name): UrlPath<String>) -> Result<StatusCode, Refused> {
    admin.enrolment.remove(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove_peers_of(State(admin): State<Admin>, Query(of): Query<OfUser>) -> Result<Json<Vec<String>>, Refused> {
    Ok(Json(admin.enrolment.remove_of(&of.user).await?))
}

#[derive(Debug, Deserialize)]
struct Newest {
    limit: Option<usize>,
}

async fn access_log(State(admin): State<Admin>, Query(ask): Query<Newest>) -> Json<Vec<LogLine>> {
    Json(admin.logs.newest(ask.limit.unwrap_or(100)))
}

struct Refused(StatusCode, String);

impl From<TokenError> for Refused {
    fn from(error: TokenError) -> Self {
        let status = match &error {
            TokenError::Name => StatusCode::UNPROCESSABLE_ENTITY,
            TokenError::Taken(_) => StatusCode::CONFLICT,
            TokenError::Unknown(_) => StatusCode::NOT_FOUND,
            TokenError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, error.to_string())
    }
}

impl From<PeerError> for Refused {
    fn from(error: PeerError) -> Self {
        let status = match &error {
            PeerError::Unknown(_) | PeerError::NoneOf(_) => StatusCode::NOT_FOUND,
            PeerError::Taken(_)
            | PeerError::KeyTaken(_)
            | PeerError::RangeTaken { .. }
            | PeerError::RangeOfTunnel { .. }
            | PeerError::Full(_)
            | PeerError::TooManyProxies(_) => StatusCode::CONFLICT,
            PeerError::Name
            | PeerError::User
            | PeerError::Group
            | PeerError::Key
            | PeerError::SiteOfUser
            | PeerError::RangeBits { .. }
            | PeerError::RangeUnusable(_)
            | PeerError::RangeTwice(_)
            | PeerError::Expired
            | PeerError::Endpoint(_)
            | PeerError::Network(_)
            | PeerError::NetworkTooSmall { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            PeerError::Randomness | PeerError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
            PeerError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self(status, error.to_string())
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(Problem { message: self.1 })).into_response()
    }
}
