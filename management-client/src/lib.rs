//! The [`Management`](postern_model::Management) port over gRPC, for any server of `management.ProxyService`.
//!
//! [`start`] opens nothing by itself and returns at once; behind it three tasks share one connection:
//!
//! - **mappings** follows the mapping stream over reconnects and hands its batches to [`Events`], each acknowledged to the
//!   server when the consumer has applied it;
//! - **statuses** delivers the newest status of each service, again and again until the server has answered;
//! - **lines** delivers the access log: in batches over `postern.v1` where the server has it, else line by line. A batch is
//!   kept until the server has accepted it.
//!
//! What a tunnel needs are calls of its owner's: to be made a peer, the stream of peer maps, whether a peer may enter.
//!
//! A server that is away costs nobody anything but time: the tasks try again, less and less often. They end with the last
//! [`Client`]; [`Client::shutdown`] delivers what waits first.

mod backoff;
mod client;
mod config;
mod counters;
mod failure;
mod lines;
mod mappings;
mod queue;
mod resume;
mod rpc;
mod statuses;
mod tunnel;
mod window;

pub use client::{Client, Events, start};
pub use config::{Config, ConfigError, InMemory, Roots, Transport};
pub use counters::LineCounts;
pub use mappings::Health;
pub use queue::CAPACITY;
