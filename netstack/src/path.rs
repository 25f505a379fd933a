//! Where a peer's datagrams come from and go to.

use std::fmt;
use std::net::SocketAddr;

/// The way to a peer: what WireGuard calls its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// Datagrams of UDP.
    Udp(SocketAddr),
    /// Datagrams inside a stream that the driver knows by this number.
    Stream(u64),
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => address.fmt(f),
            Self::Stream(id) => write!(f, "stream {id}"),
        }
    }
}
