//! Who may enter: the access decision, sessions, and what guards weak credentials.
//!
//! What is protected sits in a [`Protected`]; a [`Permit`], made by [`decide`] alone, is the only way to it. `decide` is
//! pure and asks for what it cannot see; the [`Gate`] answers, from memory where it can and from management where it
//! must, and what nobody can answer lets nobody in. Being a tunnel peer is a fact of the connection ([`Origin`]); whether
//! management lets that peer in is remembered for a while. [`session`], [`cookie`] and [`basic`] are the formats on the
//! wire. [`password`] and [`attempts`] serve whoever verifies credentials, the management server.

mod access;
pub mod attempts;
pub mod basic;
mod cache;
mod clock;
pub mod cookie;
mod decide;
mod facts;
mod gate;
mod origin;
pub mod password;
mod peer_cache;
mod peers;
mod refusal;
pub mod session;

pub use access::{Access, Door, HeaderScheme, Rule, Scheme, Sessions};
pub use clock::{Clock, SystemClock};
pub use decide::{Answer, Answers, Permit, Proof, Protected, Question, Verdict, decide};
pub use facts::{Facts, Origin};
pub use gate::{Gate, PEER_TTL};
pub use refusal::{DenyReason, Refusal};
