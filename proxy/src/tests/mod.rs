//! Worlds: the whole proxy in process, with a management and upstreams of the test's own on loopback.

mod access;
mod failures;
mod flows;
mod lifecycle;
mod limits;
mod serving;
mod upstream;
mod world;
