//! The client side of a tunnel: a peer in userspace, for people without root.
//!
//! [`conf`] reads the wg-quick file that `postern peer add` prints, [`start`] becomes that peer and opens a SOCKS5 proxy
//! (RFC 1928) on this machine through which everything that the file names is reached.

pub mod conf;
mod connect;
mod relay;
mod socks;
mod watch;

pub use conf::Conf;
pub use connect::{Connected, DIAL, StartError, start};
pub use watch::News;
