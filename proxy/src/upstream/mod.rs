//! The way to upstreams: connections, and those that are kept for the next request.

mod connect;
mod pool;
mod wire;

pub(crate) use connect::Connector;
pub(crate) use pool::{Lease, Pool, Used};
pub(crate) use wire::Wire;
