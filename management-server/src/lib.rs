//! The embedded management server: what is to be published, who may enter, and the proxies that serve it.
//!
//! What somebody wants ([`Desired`], usually from a `postern.toml` by way of [`file`]) is put in force by one task, the
//! steward: credentials to the store first, then the catalogue to the hub, which tells every mapping stream what changed.
//! Proxies call [`management.ProxyService`](postern_proto::management) with a token, over the network or, from the same
//! process, over memory: one code path. People administer over a Unix socket ([`admin`]).

mod access_log;
pub mod admin;
mod catalog;
mod clock;
mod data_dir;
pub mod desired;
pub mod file;
mod grpc;
mod housekeeping;
mod hub;
mod listener;
mod logins;
mod problems;
mod reports;
mod seal;
mod server;
mod states;
mod statuses;
mod steward;
mod store;
#[cfg(test)]
mod tests;
mod token;
mod tokens;
mod watch;

pub use data_dir::DataDirError;
pub use desired::Desired;
pub use listener::Tls;
pub use server::{Config, DEFAULT_ACCOUNT, Listener, Running, Source, StartError, start};
pub use steward::ApplyError;
pub use store::StoreError;
