//! Certificates: a local authority of our own, or a pair of files that is followed as it changes.
//!
//! [`Certificates`] answers which certificate a host gets and with which TLS configuration. [`LocalCa`] issues
//! certificates on the spot, for those who have none; [`StaticPair`] serves one pair of PEM files to every host, as
//! NetBird's static mode does, and takes up a new pair within a second of its appearing.

mod ca;
mod error;
mod files;
mod names;
mod pair;
mod store;
mod tls;
mod watch;

pub use ca::{IssuedPem, LocalCa};
pub use error::Error;
pub use pair::StaticPair;
pub use rustls::sign::CertifiedKey;
pub use store::Certificates;
pub use tls::{ALPN_H2, ALPN_HTTP1, server_config};
