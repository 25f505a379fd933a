//! What a caller hears, and the handles it speaks of.

use std::net::SocketAddr;
use std::time::Instant;

use crate::peer::PeerIdentity;

/// A TCP connection inside the tunnel, from [`accept`](crate::Netstack::accept) or [`connect`](crate::Netstack::connect) until
/// [`close`](crate::Netstack::close). Never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId {
    pub(crate) index: u32,
    pub(crate) epoch: u32,
}

impl StreamId {
    /// A small number that no other stream has at the same time.
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// A port that is listened on. Never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerId {
    pub(crate) port: u16,
    pub(crate) epoch: u64,
}

/// What has happened. Each is said once and not again before the caller has acted upon it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// Connections wait: [`accept`](crate::Netstack::accept) until it returns `None`.
    Incoming(ListenerId),
    /// The peer has answered a [`connect`](crate::Netstack::connect).
    Connected(StreamId),
    /// There are bytes, or the end: [`read`](crate::Netstack::read) until it says `Pending`.
    Readable(StreamId),
    /// There is room again after a [`write`](crate::Netstack::write) of nothing.
    Writable(StreamId),
    /// The connection is over; reading (after what has arrived before) and writing tell how. Nothing follows.
    Closed(StreamId),
}

/// A connection that a peer has opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Its handle.
    pub stream: StreamId,
    /// Whose key decrypted it.
    pub peer: PeerIdentity,
    /// The peer's end: an address among its allowed IPs.
    pub remote: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many bytes, at least one.
    Bytes(usize),
    /// The peer has ended its direction, and everything before that has been read.
    End,
    /// Nothing yet: [`Event::Readable`] tells when.
    Pending,
}

/// When to call [`handle_timeout`](crate::Netstack::handle_timeout), and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// When.
    pub at: Instant,
    /// What is due first.
    pub reason: Reason,
}

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Segments that arrived wait for more to be merged with: due at once.
    Merge,
    /// WireGuard: a handshake again, a keep-alive, a key that expires.
    WireGuard,
    /// TCP: a repetition, a delayed acknowledgement, pacing, a keep-alive, giving up.
    Flow,
}

/// Why a stream cannot be read or written any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// A reset answered our SYN.
    #[error("the peer refused the connection")]
    Refused,
    /// A reset.
    #[error("the peer reset the connection")]
    Reset,
    /// Silence, while connecting or later.
    #[error("the peer has not answered for too long")]
    TimedOut,
    /// The peer was removed or has another identity, or our own address is another.
    #[error("the peer or the address of this connection is no longer part of the network")]
    Ended,
    /// Ended on this side: shut down, closed, or a handle that is not known.
    #[error("the connection is closed on this side")]
    Closed,
}

/// Why a port cannot be listened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens on it.
    #[error("port {0} of the tunnel is already listened on: stop the other listener or choose another port")]
    InUse(u16),
    /// Port 0 is none.
    #[error("port 0 cannot be listened on: choose one from 1 to 65535")]
    Zero,
}

/// Why a connection cannot even be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Nobody's allowed IPs contain the address.
    #[error("no peer of the tunnel has this address")]
    NoPeer,
    /// The tunnel has no address of the same family.
    #[error("the tunnel has no address of this address family")]
    NoAddress,
    /// As many flows as there may be, with this peer or in all.
    #[error("too many connections are open in the tunnel: close some")]
    TooMany,
    /// Every local port towards this address and port is in use or was until a moment ago.
    #[error("no local port is free for this address: close connections to it or wait a minute")]
    NoPort,
}
