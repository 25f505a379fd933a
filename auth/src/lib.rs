//! Who may enter: the access decision, sessions, and what guards weak credentials.
//!
//! What is protected sits in a [`Protected`]; a [`Permit`], made by [`decide`] alone, is the only way to it. `decide` is
//! pure and asks for what it cannot see; the [`Gate`] answers, from memory where it can and from management where it
//! must, and what nobody can answer lets nobody in. [`session`], [`cookie`] and [`basic`] are the formats on the wire.
//! [`password`] and [`attempts`] serve whoever verifies credentials, the management server.

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
pub mod session;

pub use access::{Access, Door, HeaderScheme, Rule, Scheme, Sessions};
pub use clock::{Clock, SystemClock};
pub use decide::{Answer, Answers, DenyReason, Permit, Proof, Protected, Question, Refusal, Verdict, decide};
pub use facts::Facts;
pub use gate::Gate;
