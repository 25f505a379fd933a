//! The tunnels of the accounts: opened when the first service needs one, kept alive, closed after the last.
//!
//! The reconciler decides which accounts need one, [`Tunnels`] has one supervisor for each, the supervisor's next step is decided
//! in `course.rs`, and an account's home worker carries the tunnel and what its listeners accept (`inbound.rs`). How a tunnel
//! stands is written into `directory.rs`, below everybody who asks.

mod course;
mod need;
mod set;
mod supervisor;
mod ticket;

pub(crate) use need::Need;
pub(crate) use set::Tunnels;
pub(crate) use supervisor::Parts;
pub(crate) use ticket::Ticket;
