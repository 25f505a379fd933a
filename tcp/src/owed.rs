//! What we owe the peer: acknowledgements, answers to what cannot be right, questions, a reset.

use crate::clock::{Duration, Instant};
use crate::segment::Header;

/// What has to be sent besides data.
#[derive(Debug)]
pub(crate) struct Owed {
    /// An acknowledgement, at once.
    ack: bool,
    /// An acknowledgement, then, unless data takes it along before.
    ack_at: Instant,
    /// Packets that arrived in order since the last acknowledgement.
    packets: u32,
    question: bool,
    /// A reset, with these sequence and acknowledgement numbers.
    reset: Option<(u32, Option<u32>)>,
    challenges: Challenges,
}

/// How long the acknowledgement of a single segment waits for data to ride on: below the 40 ms of Linux, so that a peer's tail
/// loss probe rests, and the half of a frame at 20 Hz.
const ACK_DELAY: Duration = Duration::from_millis(25);
/// RFC 9293 section 3.8.6.3: at least every second full segment.
const PACKETS_PER_ACK: u32 = 2;

impl Owed {
    /// Nothing is owed.
    pub(crate) fn nothing() -> Self {
        Self {
            ack: false,
            ack_at: Instant::NEVER,
            packets: 0,
            question: false,
            reset: None,
            challenges: Challenges::default(),
        }
    }

    /// An acknowledgement is due at once.
    pub(crate) fn ack_now(&mut self) {
        self.ack = true;
    }

    /// `packets` arrived in order: an acknowledgement is due soon, or now if there were enough.
    pub(crate) fn ack_soon(&mut self, packets: u16, now: Instant) {
        self.packets += u32::from(packets);
        if self.packets >= PACKETS_PER_ACK {
            self.ack = true;
        } else {
            self.ack_at = self.ack_at.min(now + ACK_DELAY);
        }
    }

    /// An answer to a segment that cannot be right is due, if this second's are not used up.
    pub(crate) fn challenge(&mut self, now: Instant) {
        self.ack |= self.challenges.take(now);
    }

    /// Whether one more answer may be given this second; if so it counts as given.
    pub(crate) fn may_answer(&mut self, now: Instant) -> bool {
        self.challenges.take(now)
    }

    /// A segment is due that the peer must answer.
    pub(crate) fn ask(&mut self) {
        self.question = true;
    }

    /// A reset is due, and nothing else any more.
    pub(crate) fn reset(&mut self, seq: u32, ack: Option<u32>) {
        *self = Self { reset: Some((seq, ack)), ..Self::nothing() };
    }

    /// Nothing is due any more, except a reset.
    pub(crate) fn clear(&mut self) {
        *self = Self { reset: self.reset, ..Self::nothing() };
    }

    pub(crate) fn take_reset(&mut self) -> Option<Header> {
        let (seq, ack) = self.reset?;
        self.reset = None;
        Some(Header { seq, ack, rst: true, ..Header::default() })
    }

    pub(crate) fn take_question(&mut self) -> bool {
        std::mem::take(&mut self.question)
    }

    /// Whether an acknowledgement is due at once.
    pub(crate) fn acks_now(&self) -> bool {
        self.ack
    }

    /// An acknowledgement has been sent.
    pub(crate) fn acked(&mut self) {
        (self.ack, self.ack_at, self.packets) = (false, Instant::NEVER, 0);
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.ack_at
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.ack_at <= now {
            self.ack = true;
            self.ack_at = Instant::NEVER;
        }
    }
}

/// RFC 5961 section 7: bounds the answers that a stranger can cause. Per flow, so that a flow's answers tell nothing about
/// another's.
#[derive(Debug, Default)]
struct Challenges {
    since: Option<Instant>,
    given: u8,
}

const CHALLENGES_PER_SECOND: u8 = 10;

impl Challenges {
    fn take(&mut self, now: Instant) -> bool {
        let fresh = self.since.is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1));
        if fresh {
            *self = Self { since: Some(now), given: 0 };
        }
        let may = self.given < CHALLENGES_PER_SECOND;
        self.given += u8::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_challenges_a_second() {
        let start = Instant::START;
        let mut owed = Owed::nothing();
        let mut given = 0;
        for ms in 0..3000 {
            owed.challenge(start + Duration::from_millis(ms));
            given += u32::from(owed.acks_now());
            owed.acked();
        }
        assert_eq!(given, 30);
    }

    #[test]
    fn one_packet_waits_and_two_do_not_and_a_merged_one_counts_as_many() {
        let start = Instant::START;
        let mut owed = Owed::nothing();
        owed.ack_soon(1, start);
        assert!(!owed.acks_now());
        assert_eq!(owed.deadline(), start + ACK_DELAY);
        owed.handle_timeout(start + ACK_DELAY);
        assert!(owed.acks_now());
        owed.acked();
        owed.ack_soon(1, start);
        owed.ack_soon(1, start);
        assert!(owed.acks_now());
        owed.acked();
        owed.ack_soon(44, start);
        assert!(owed.acks_now());
    }
}
