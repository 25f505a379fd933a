//! WireGuard peers and the IP and TCP flows inside, as one state machine: no IO, no clock of its own, no `unsafe`.
//!
//! A [`Netstack`] takes datagrams, deadlines and what the application does, and hands out batches of datagrams, events and
//! when to come back. TCP is `postern-tcp`'s; WireGuard's cryptography and handshake are boringtun's.
//!
//! # Where things are
//!
//! Files depend on each other one way, downwards in this list:
//!
//! | file | what it owns |
//! |---|---|
//! | `netstack` | what a caller sees |
//! | `inlet`, `egress` | a packet's way in: read, merged, given to its flow; its way out: cut from a flow, sealed into the batch |
//! | `ingress`, `streams` | what packets, and what the application, do to flows |
//! | `stack` | flows and the rules by which they live and end: roles, events, deadlines, memory |
//! | `engine` | WireGuard: sessions, paths, who may send from where, handshakes |
//! | `flows`, `listeners`, `outbox`, `ended` | tables: flows; what waits to be accepted; what waits to be sent; TIME-WAIT |
//! | `merge` | segments that follow each other, made one |
//! | `wheel`, `numbers`, `wire`, `batch`, `hash`, `tuple` | deadlines; ISNs and ports; headers; what leaves at once; leaves |
//! | `config`, `counters`, `event`, `key`, `path`, `peer` | leaves that callers see |
//!
//! # Words
//!
//! A *datagram* is WireGuard's, outside; a *packet* is IP, inside; a *segment* is TCP, in a packet or merged from several. A
//! *peer* is a WireGuard key; a *path* is where its datagrams go. A flow is *dirty* while it may have something to send.
//!
//! # What it costs
//!
//! A packet's cost does not depend on how many flows, peers or listeners there are: flows are found in a hash table, only those
//! that something happened to are asked what to send, deadlines lie in a wheel. Nothing is allocated for
//! a packet of an open connection, beyond the connection's own buffers; answers of our own (RST, ICMP), handshakes and what
//! waits for one are allocated one by one, and bounded. Checksums are
//! not verified on the way in, for the AEAD has proved the packet, and are right on the way out.

mod batch;
mod config;
mod counters;
mod egress;
mod ended;
mod engine;
mod event;
mod flows;
#[doc(hidden)]
pub mod fuzz;
mod hash;
mod ingress;
mod inlet;
mod key;
mod listeners;
mod merge;
mod netstack;
mod numbers;
mod outbox;
mod path;
mod peer;
mod stack;
mod streams;
#[cfg(test)]
mod tests;
mod tuple;
mod wheel;
mod wire;

pub use batch::Batch;
pub use config::{Config, Limits};
pub use counters::{Counters, Drop};
pub use event::{
    Accepted, ConnectError, Deadline, Event, ListenError, ListenerId, Read, Reason, StreamError, StreamId,
};
pub use key::PrivateKey;
pub use netstack::Netstack;
pub use path::Path;
pub use peer::{Peer, PeerIdentity, PeerStatus};
