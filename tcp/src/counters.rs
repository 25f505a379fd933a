//! What a flow counts.

/// Why a segment, or a part of one, was not acted upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// A flow that is closed hears nothing.
    Closed,
    /// Flags that exclude each other, such as SYN with FIN.
    BadFlags,
    /// Nothing in it lies within the receive window (RFC 9293 section 3.10.7.4, first).
    OutsideWindow,
    /// Payload that had all arrived before.
    Duplicate,
    /// A reset whose number is not the next one expected (RFC 5961 section 3).
    BlindReset,
    /// A SYN in an open connection (RFC 5961 section 4).
    UnexpectedSyn,
    /// No ACK bit where there must be one.
    NoAck,
    /// An acknowledgement of what was never sent (RFC 5961 section 5).
    AckOfUnsent,
    /// An acknowledgement older than any window (RFC 5961 section 5).
    AckTooOld,
    /// A SACK block outside what is in flight, or with its edges swapped; or one too many for the memory allowed.
    BadSack,
    /// Payload beyond the peer's FIN.
    BeyondFin,
    /// A FIN at another place than the first one, or before bytes already seen.
    FinMoved,
    /// Payload in so many pieces that remembering them would cost more than the window.
    TooManyHoles,
}

impl Ignored {
    /// Every reason.
    pub const ALL: [Self; 13] = [
        Self::Closed,
        Self::BadFlags,
        Self::OutsideWindow,
        Self::Duplicate,
        Self::BlindReset,
        Self::UnexpectedSyn,
        Self::NoAck,
        Self::AckOfUnsent,
        Self::AckTooOld,
        Self::BadSack,
        Self::BeyondFin,
        Self::FinMoved,
        Self::TooManyHoles,
    ];
}

/// How often each thing has happened, saturating.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    ignored: [u32; Ignored::ALL.len()],
}

impl Counters {
    /// How many segments were ignored for a reason.
    pub fn ignored(&self, reason: Ignored) -> u32 {
        self.ignored[reason as usize]
    }

    pub(crate) fn ignore(&mut self, reason: Ignored) {
        let counter = &mut self.ignored[reason as usize];
        *counter = counter.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_of_its_own() {
        let mut counters = Counters::default();
        for (index, reason) in Ignored::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            counters.ignore(reason);
        }
        assert!(Ignored::ALL.iter().all(|reason| counters.ignored(*reason) == 1));
    }
}
