//! HTTP/1.1 as a client speaks it, without IO: a request as bytes, an answer out of bytes.
//!
//! What an upstream says decides where its answer ends and the next one on that connection begins. Whatever could be read in
//! two ways is therefore refused, and a connection that said it is never used again.

mod chunked;
mod content;
mod framing;
mod head;
mod lines;
mod malformed;
mod outgoing;
mod piece;
pub(crate) mod replay;
#[cfg(test)]
mod tests;

pub(crate) use content::Content;
pub(crate) use head::{Answer, Head, Heads};
pub(crate) use malformed::Malformed;
pub(crate) use outgoing::{Outgoing, Unsendable};
pub(crate) use piece::Piece;
