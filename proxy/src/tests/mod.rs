//! Worlds: the whole proxy in process, with a management and upstreams of the test's own on loopback.

mod access;
mod answers;
mod basics;
mod device;
mod failures;
mod flows;
mod lifecycle;
mod limits;
mod peers;
mod private;
mod revoked;
mod serving;
mod tunnels;
mod upstream;
mod world;

pub(crate) use basics::end_turn;
