//! TIME-WAIT (RFC 9293 section 3.6.1), without a flow: 24 bytes that answer.

use std::time::Instant;

use crate::segment::{Header, Segment};

/// What is left of a flow that ended in order, until stragglers of it can no longer be on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeWait {
    until: Instant,
    /// Our next sequence number, behind our FIN.
    seq: u32,
    /// The next one expected, behind the peer's FIN.
    ack: u32,
}

/// What a segment for a flow in TIME-WAIT leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Straggler {
    /// Nothing is to be sent.
    Nothing,
    /// This is to be sent.
    Answer(Header),
    /// A SYN beyond what was received: the peer opens the same pair of ports again. Accept it, with an initial sequence number
    /// above this one (RFC 9293 section 3.10.7.4, RFC 6191).
    Reopen {
        /// The least initial sequence number that no straggler of ours can be taken for.
        above: u32,
    },
}

impl TimeWait {
    pub(crate) fn new(seq: u32, ack: u32, until: Instant) -> Self {
        Self { until, seq, ack }
    }

    /// When to forget it.
    pub fn until(&self) -> Instant {
        self.until
    }

    /// Takes a segment of the pair of ports.
    pub fn handle_segment(&self, segment: &Segment<'_>) -> Straggler {
        let header = &segment.header;
        // A reset does not shorten the wait (RFC 1337).
        if header.rst {
            return Straggler::Nothing;
        }
        let ahead = header.seq.wrapping_sub(self.ack) as i32;
        if header.syn && header.ack.is_none() && !header.fin && ahead > 0 {
            return Straggler::Reopen { above: self.seq };
        }
        // A bare acknowledgement of what we know: answering it could go on for ever.
        if !header.syn && segment.length() == 0 && header.seq == self.ack {
            return Straggler::Nothing;
        }
        Straggler::Answer(Header { seq: self.seq, ack: Some(self.ack), ..Header::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait() -> TimeWait {
        TimeWait::new(1000, u32::MAX - 9, Instant::now())
    }

    #[test]
    fn is_24_bytes() {
        assert_eq!(size_of::<TimeWait>(), 24);
    }

    #[test]
    fn answers_a_repeated_fin_and_not_an_acknowledgement() {
        let fin = Header { seq: u32::MAX - 10, ack: Some(1000), fin: true, ..Header::default() };
        let answer = Header { seq: 1000, ack: Some(u32::MAX - 9), ..Header::default() };
        assert_eq!(wait().handle_segment(&Segment::new(fin, b"")), Straggler::Answer(answer));
        let ack = Header { seq: u32::MAX - 9, fin: false, ..fin };
        assert_eq!(wait().handle_segment(&Segment::new(ack, b"")), Straggler::Nothing);
    }

    #[test]
    fn a_reset_changes_nothing() {
        let reset = Header { seq: u32::MAX - 9, rst: true, ..Header::default() };
        assert_eq!(wait().handle_segment(&Segment::new(reset, b"")), Straggler::Nothing);
    }

    #[test]
    fn a_newer_syn_reopens_and_an_older_one_is_answered() {
        let syn = Header { seq: 5, syn: true, ..Header::default() };
        assert_eq!(wait().handle_segment(&Segment::new(syn, b"")), Straggler::Reopen { above: 1000 });
        let old = Header { seq: u32::MAX - 20, ..syn };
        assert!(matches!(wait().handle_segment(&Segment::new(old, b"")), Straggler::Answer(_)));
    }
}
