//! Wire to model and back.
//!
//! From the wire nothing is taken on trust: a value that cannot be understood is an [`Invalid`] that names its field, and
//! never a default. Fields that are not known are skipped; values of an enumeration that are not known are refused, since
//! what they ask for is unknown.

mod access;
mod batch;
mod calls;
mod invalid;
mod line;
mod mapping;
mod network;
mod path;
mod tunnel;

pub use batch::{Received, batch};
pub use calls::{
    Hello, authenticate_from_wire, authenticate_to_wire, authenticated_from_wire, authenticated_to_wire,
    status_from_wire, status_to_wire,
};
pub use invalid::Invalid;
pub use line::{LineKeys, access_log_keys, access_log_line_to_wire, access_log_message, access_log_to_wire};
pub use mapping::mapping_to_wire;
pub use tunnel::{
    Claim, PeerQuestion, Watch, create_proxy_peer_from_wire, create_proxy_peer_to_wire, peer_map_from_wire,
    peer_map_to_wire, peer_question_from_wire, tunnel_verdict_from_wire, tunnel_verdict_to_wire,
    validate_tunnel_peer_to_wire, watch_peers_from_wire, watch_peers_to_wire,
};
