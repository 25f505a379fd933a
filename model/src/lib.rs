//! The nouns every crate of Postern shares, and the [`Management`] port.
//!
//! Nothing here does IO, reads a clock or knows a wire format. A value of one of these types is already checked:
//! a [`HostName`] is normalised, a [`Target`] has a scheme, a host and a port, a [`HeaderAuth`] names a real header.
//! `proto` turns wire messages into these types and back; `proxy` and `auth` work on them alone.

mod access_log;
mod framing;
mod host;
mod id;
mod management;
mod mapping;
mod principal;
mod secret;
mod status;
mod tunnel;

pub use access_log::{AccessLogLine, AuthMechanism};
pub use framing::is_framing;
pub use host::{HostName, InvalidHost};
pub use id::{AccountId, InvalidId, ProxyId, RequestId, ServiceId};
pub use management::{
    Ack, Authenticate, Authenticated, Batch, BoxFuture, Capabilities, Change, Credential, Delivery, Management,
    ManagementError, MappingEvents, PeerMaps, Rejected, SyncEvent,
};
pub use mapping::{
    Authentication, Challenge, HeaderAuth, InvalidTarget, Mapping, Mode, Needs, OneTimeToken, PathMapping, PathRewrite,
    Restrictions, Scheme, SessionKey, Target, TargetOptions,
};
pub use principal::{Group, Principal};
pub use secret::Secret;
pub use status::{InboundListener, ServiceState, StatusUpdate};
pub use tunnel::{
    CreateProxyPeer, Generation, InvalidKey, MappedPeer, PeerKind, PeerMap, PublicKey, TunnelPeer, TunnelVerdict,
    ValidateTunnelPeer,
};
