//! The embedded management server: what is to be published, who may enter, and the proxies that serve it.
//!
//! What somebody wants ([`Desired`], usually from a `postern.toml` by way of [`file`]) is put in force by one task, the
//! steward: credentials to the store first, then the catalogue to the hub, which tells every mapping stream what changed.
//! Proxies call [`management.ProxyService`](postern_proto::management) with a token, over the network or, from the same
//! process, over memory: one code path. People administer over a Unix socket ([`admin`]).
//!
//! WireGuard peers are a machine of their own, the roster of an account: who has which address, key and groups, and which
//! identity (generation) of the key that is. Each change is computed on a copy, written down as a difference, and only then
//! published to whoever watches: the peer maps of proxies, and the steward, whose services may lead to a peer.

mod absence;
mod access_log;
pub mod admin;
mod admission;
mod catalog;
mod clock;
mod closest;
mod data_dir;
pub mod desired;
mod endpoint;
mod enrolment;
pub mod file;
mod grpc;
mod housekeeping;
mod hub;
mod keypair;
mod listener;
mod logins;
mod network;
mod one_time;
mod peer;
mod peer_error;
mod peer_reports;
mod peer_rows;
mod peer_warnings;
mod peers;
mod problems;
mod reports;
mod roster;
mod seal;
mod server;
mod shared;
mod states;
mod statuses;
mod steward;
mod store;
#[cfg(test)]
mod tests;
mod token;
mod tokens;
mod watch;
mod wg_quick;
mod words;

pub use data_dir::DataDirError;
pub use desired::Desired;
pub use listener::Tls;
pub use peer_error::PeerError;
pub use server::{Config, DEFAULT_ACCOUNT, Listener, Running, Source, StartError, start};
pub use steward::ApplyError;
pub use store::StoreError;
