//! The data plane: listeners, acceptor, routing table, reconciler, HTTP pipeline and upstreams.
//!
//! It knows management only through [`postern_model::Management`] and [`postern_model::MappingEvents`]. [`start`] brings it up:
//! one single-threaded worker per core serves requests, each with a listener, a pool of upstream connections and a registry of
//! what is live; the controller, the tunnels' supervisors and the health endpoint run on the caller's runtime. A request's way is
//! told in `http/pipeline.rs`, a mapping's in `controller.rs`, a tunnel's in `tunnels/`.

mod acceptor;
mod compile;
mod config;
mod connection;
mod controller;
mod directory;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod health;
mod http;
mod http1;
mod inbound;
mod listener;
mod live;
mod metrics;
mod orders;
mod places;
mod reconcile;
mod restrict;
mod running;
mod table;
#[cfg(test)]
mod tests;
mod thread;
mod tunnels;
mod upstream;
mod worker;

pub use config::{Config, ForwardedProto, Limits, TunnelConfig, UpstreamLimits};
pub use postern_auth::PEER_TTL;
pub use running::{Running, StartError, start};
