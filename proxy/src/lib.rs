//! The data plane: listeners, acceptor, routing table, reconciler, HTTP pipeline and upstreams.
//!
//! It knows management only through [`postern_model::Management`] and [`postern_model::MappingEvents`].

mod acceptor;
mod compile;
mod config;
mod controller;
mod error;
mod health;
mod http;
mod listener;
mod live;
mod metrics;
mod reconcile;
mod restrict;
mod table;
mod upstream;
mod worker;
