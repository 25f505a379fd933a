use std::fmt;
use std::future::Future;
use std::pin::Pin;

use http::HeaderName;

use crate::{
    AccessLogLine, AccountId, CreateProxyPeer, Mapping, OneTimeToken, PeerMap, PublicKey, Secret, ServiceId,
    StatusUpdate, TunnelVerdict, ValidateTunnelPeer,
};

/// A future behind a pointer, for the methods of a port.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The proxy's view of whoever steers it. `management-client` implements it over gRPC.
pub trait Management: Send + Sync + 'static {
    /// Asks management to verify a credential for a service (NetBird: `Authenticate`). Bounded in time by the
    /// implementation.
    ///
    /// # Errors
    /// [`ManagementError`] when there is no verdict; that never means yes.
    fn authenticate(&self, request: Authenticate) -> BoxFuture<'_, Result<Authenticated, ManagementError>>;

    /// Queues a status for delivery and returns at once. For one service the newest wins.
    fn report(&self, status: StatusUpdate);

    /// Queues an access-log line for delivery and returns at once. A full queue drops the line and counts it.
    fn log(&self, line: AccessLogLine);

    /// How many access-log lines a full queue has dropped since the start.
    fn lines_dropped(&self) -> u64;

    /// Asks for a snapshot of all mappings from the beginning, which brings new one-time tokens, and returns at once. However
    /// often it is asked for, it comes rarely.
    fn resync(&self) {}

    /// Makes this proxy a peer of an account's tunnel (NetBird: `CreateProxyPeer`). The same key again is the same peer.
    /// Bounded in time by the implementation.
    ///
    /// # Errors
    /// [`ManagementError::Refused`] for a token that is used or too old, among others.
    fn create_proxy_peer(&self, request: CreateProxyPeer) -> BoxFuture<'_, Result<(), ManagementError>> {
        drop(request);
        no_tunnel()
    }

    /// Opens the stream of peer maps for our key in an account's tunnel (`postern.v1`).
    ///
    /// # Errors
    /// [`ManagementError::Refused`] where management sends no peer maps, as a stock server; [`ManagementError::Unknown`] where
    /// it does not know the key.
    fn peer_maps(
        &self,
        account: &AccountId,
        key: PublicKey,
    ) -> BoxFuture<'_, Result<Box<dyn PeerMaps>, ManagementError>> {
        let _ = (account, key);
        no_tunnel()
    }

    /// Asks whether a tunnel peer may enter a service (NetBird: `ValidateTunnelPeer`). Bounded in time by the
    /// implementation.
    ///
    /// # Errors
    /// [`ManagementError`] when there is no verdict; that never means yes.
    fn validate_tunnel_peer(
        &self,
        request: ValidateTunnelPeer,
    ) -> BoxFuture<'_, Result<TunnelVerdict, ManagementError>> {
        drop(request);
        no_tunnel()
    }
}

/// What a management without tunnels answers.
fn no_tunnel<T>() -> BoxFuture<'static, Result<T, ManagementError>>
where
    T: Send + 'static,
{
    Box::pin(async { Err(ManagementError::Refused("it has no tunnels".to_owned())) })
}

/// The peer maps of one account's tunnel, in order; each is whole.
pub trait PeerMaps: Send + 'static {
    /// The next map; `None` once the stream has ended. What was in force stays in force.
    fn next(&mut self) -> BoxFuture<'_, Option<PeerMap>>;
}

/// The mapping stream, across reconnects. There is one consumer.
pub trait MappingEvents: Send + 'static {
    /// The next event; `None` once the client has been shut down.
    fn next(&mut self) -> BoxFuture<'_, Option<Delivery>>;
}

/// An event and the acknowledgement that management waits for.
#[derive(Debug)]
pub struct Delivery {
    /// What happened.
    pub event: SyncEvent,
    /// To be given once the event is applied.
    pub ack: Ack,
}

/// What a mapping stream brings.
#[derive(Clone, Debug)]
pub enum SyncEvent {
    /// A stream was opened: what follows, up to `initial_sync_complete`, is a snapshot from the beginning.
    Opened,
    /// Changes, in order.
    Batch(Batch),
    /// The stream ended. What is in force stays in force.
    Lost,
}

/// The changes of one message (NetBird: `SyncMappingsResponse`).
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// In the order sent.
    pub changes: Vec<Change>,
    /// The snapshot is whole: what it did not mention is gone.
    pub initial_sync_complete: bool,
}

/// One change of the desired state.
#[derive(Clone, Debug)]
pub enum Change {
    /// The service shall be so (NetBird: `CREATED` and `MODIFIED`, which both carry the whole mapping).
    Upsert(Box<Mapping>, OneTimeToken),
    /// The service shall not be (NetBird: `REMOVED`).
    Remove(ServiceId),
    /// The mapping cannot be understood. The service is not served, whatever it was before: what it was meant to
    /// become is unknown, so nothing may be open.
    Rejected(Rejected),
}

/// A mapping that could not be converted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The service.
    pub service: ServiceId,
    /// Its account.
    pub account: AccountId,
    /// One sentence that names the field.
    pub reason: String,
}

/// The acknowledgement of a delivery. Dropping it acknowledges nothing.
pub struct Ack(Option<Box<dyn FnOnce() + Send>>);

impl Ack {
    /// Runs `acknowledge` when the delivery is acknowledged.
    pub fn new(acknowledge: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(acknowledge)))
    }

    /// For events that nobody waits for.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Tells management that the delivery has been applied.
    pub fn ack(self) {
        if let Some(acknowledge) = self.0 {
            acknowledge();
        }
    }
}

impl fmt::Debug for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ack")
    }
}

/// A credential to be verified (NetBird: `AuthenticateRequest`).
#[derive(Clone, Debug)]
pub struct Authenticate {
    /// The service it is meant for.
    pub service: ServiceId,
    /// Its account.
    pub account: AccountId,
    /// What was presented.
    pub credential: Credential,
    /// The client's address: wrong tries are counted per service and source prefix (`postern.v1`).
    pub source: std::net::IpAddr,
}

/// What somebody presents.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A header and its first value.
    Header {
        /// The header.
        name: HeaderName,
        /// Its value.
        value: Secret,
    },
}

/// Management's verdict on a credential.
#[derive(Clone, Debug)]
pub enum Authenticated {
    /// It is right; the session token says for whom.
    Yes {
        /// A JWT signed with the service's session key.
        session_token: Secret,
    },
    /// It is wrong.
    No,
    /// Too many wrong tries: not even looked at (gRPC `RESOURCE_EXHAUSTED`).
    TooMany,
}

/// Why management gave no verdict.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManagementError {
    /// It refused or misunderstood the question.
    #[error("management refused: {0}")]
    Refused(String),
    /// It knows nothing of what the question is about.
    #[error("management does not know it: {0}")]
    Unknown(String),
    /// It cannot be reached, or did not answer in time.
    #[error("management does not answer: {0}")]
    Unavailable(String),
}

/// What a proxy says of itself when it opens a mapping stream (NetBird: `ProxyCapabilities`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// `--supports-custom-ports`.
    pub custom_ports: bool,
    /// `--require-subdomain`.
    pub require_subdomain: bool,
    /// A CrowdSec bouncer is there.
    pub crowdsec: bool,
    /// `--private`.
    pub private: bool,
    /// Private services are understood.
    pub private_service: bool,
}
