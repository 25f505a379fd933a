//! Administration over a Unix socket in the data folder, whose file permissions are the credential.

mod client;
mod router;
mod summary;
mod wire;

pub use crate::peer_reports::{
    AddPeer, NewPeer, PeerChanges, PeerState, PeerStatus, TunnelProxy, TunnelStatus, Update,
};
pub use crate::reports::{
    AccessKind, AccessLogStatus, FileStatus, InboundStatus, LogLine, NewToken, ProxyStatus, ServiceStatus, Status,
    TokenStatus,
};
pub use client::{AdminError, Client};
pub use wire::socket_path;

pub(crate) use router::{Admin, bind, router};
