//! One TCP connection as a state machine: no IO, no clock, no randomness, no `unsafe`, no dependency.
//!
//! A [`Flow`] takes parsed [`Segment`]s, deadlines and what the application does, and hands out what to send
//! ([`Transmit`]) and when to come back. It is made for a tunnel's inside but sends as if over the open Internet: SACK and
//! RACK-TLP (RFC 2018, 8985), BBR or CUBIC, pacing, spurious losses undone, buffers that grow with the path. Both address
//! families; IP, ports and checksums belong to the caller.
//!
//! # Where things are
//!
//! Files depend on each other one way, downwards in this list:
//!
//! | file | what it owns |
//! |---|---|
//! | `flow` | what a caller sees |
//! | `connection` | the state machine: handshake, who is believed, how it ends |
//! | `admission`, `alive`, `owed`, `terms`, `time_wait` | its decisions, each alone: RFC 5961, keep-alive, acknowledgements due, what two SYNs agree on, what remains after the end |
//! | `send` | what leaves next: a repair, a probe, new data, the FIN; the peer's window |
//! | `send::flight` | what is on its way: joins scoreboard, loss detection, rate samples and controller |
//! | `send::{scoreboard, rack, recovery, delivery, pacer, timer}` | which bytes are where; which are lost; whether they really were; how fast they arrive; when the next may leave; when to act if nothing comes back |
//! | `control` | BBR and CUBIC: from what an acknowledgement taught to a window and a rate |
//! | `recv` | reassembly straight into the ring, SACK blocks, the window we grant |
//! | `ring`, `rtt`, `seq`, `clock`, `segment`, `config`, `state`, `counters`, `figures` | leaves |
//!
//! # Words
//!
//! An *offset* counts bytes of one direction from its SYN, which is 0, and never wraps; sequence numbers exist only at the
//! border (`seq`). A *piece* is what leaves at once, perhaps a *super-segment* that the caller cuts into *packets*. What was
//! *resent* was sent more than once; what is *lost* was taken for lost and not yet resent.

mod admission;
mod alive;
mod clock;
mod config;
mod connection;
mod control;
mod counters;
mod figures;
mod flow;
mod owed;
mod recv;
mod ring;
mod rtt;
mod segment;
mod send;
mod seq;
mod state;
mod terms;
mod time_wait;
#[cfg(feature = "world")]
pub mod world;

pub use config::{Buffers, Config, Congestion, Family, KeepAlive};
pub use counters::{Counters, Ignored};
pub use figures::Figures;
pub use flow::Flow;
pub use segment::{Header, SackBlocks, Segment, Transmit};
pub use state::{Error, Phase};
pub use time_wait::{Straggler, TimeWait};
