//! Whether to believe a segment: RFC 9293 section 3.10.7.4 as hardened by RFC 5961, as one pure decision.

use crate::counters::Ignored;
use crate::segment::Segment;
use crate::send::Judgement;

/// How a segment of a synchronised connection stands to what is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// Its sequence number is exactly the next one.
    pub(crate) exact: bool,
    /// Its sequence number lies in the receive window.
    pub(crate) in_window: bool,
    /// Some of it lies in the receive window.
    pub(crate) acceptable: bool,
    /// What its acknowledgement number is, if it has one.
    pub(crate) ack: Option<Judgement>,
}

/// What to do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Act upon it; this is its acknowledgement.
    Take(u64),
    /// The peer has reset the connection.
    Reset,
    /// Ignore it and say where we stand: a peer that meant it will come back with something better.
    Challenge(Ignored),
    /// Outside the window: say where we stand.
    Refuse,
    /// Ignore it.
    Drop(Ignored),
}

/// Decides.
pub(crate) fn admit(segment: &Segment<'_>, position: Position) -> Verdict {
    let header = &segment.header;
    if header.rst {
        return match (position.exact, position.in_window) {
            (true, _) => Verdict::Reset,
            (false, true) => Verdict::Challenge(Ignored::BlindReset),
            (false, false) => Verdict::Drop(Ignored::BlindReset),
        };
    }
    if header.syn && header.fin {
        return Verdict::Drop(Ignored::BadFlags);
    }
    // Before the window is looked at: a SYN below it is challenged too, for a peer that has restarted sends just that.
    if header.syn {
        return Verdict::Challenge(Ignored::UnexpectedSyn);
    }
    if !position.acceptable {
        return Verdict::Refuse;
    }
    match position.ack {
        None => Verdict::Drop(Ignored::NoAck),
        Some(Judgement::Unsent) => Verdict::Challenge(Ignored::AckOfUnsent),
        Some(Judgement::TooOld) => Verdict::Challenge(Ignored::AckTooOld),
        Some(Judgement::Good(ack)) => Verdict::Take(ack),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::Header;

    const EXACT: Position = Position { exact: true, in_window: true, acceptable: true, ack: Some(Judgement::Good(5)) };
    const INSIDE: Position = Position { exact: false, ..EXACT };
    const OUTSIDE: Position = Position { in_window: false, acceptable: false, ..INSIDE };

    fn verdict(header: Header, position: Position) -> Verdict {
        admit(&Segment::new(header, b""), position)
    }

    /// RFC 5961 section 3.2.
    #[test]
    fn a_reset_must_hit_the_next_number() {
        let reset = Header { rst: true, ..Header::default() };
        assert_eq!(verdict(reset, EXACT), Verdict::Reset);
        assert_eq!(verdict(reset, INSIDE), Verdict::Challenge(Ignored::BlindReset));
        assert_eq!(verdict(reset, OUTSIDE), Verdict::Drop(Ignored::BlindReset));
    }

    /// RFC 5961 section 4.2.
    #[test]
    fn a_syn_is_challenged_wherever_it_lies() {
        let syn = Header { syn: true, ..Header::default() };
        for position in [EXACT, INSIDE, OUTSIDE] {
            assert_eq!(verdict(syn, position), Verdict::Challenge(Ignored::UnexpectedSyn));
        }
        let nonsense = Header { fin: true, ..syn };
        assert_eq!(verdict(nonsense, EXACT), Verdict::Drop(Ignored::BadFlags));
    }

    /// RFC 5961 section 5.2.
    #[test]
    fn an_acknowledgement_must_be_of_something_sent_within_a_window() {
        let data = Header::default();
        let with = |ack| Position { ack, ..INSIDE };
        assert_eq!(verdict(data, with(Some(Judgement::Good(5)))), Verdict::Take(5));
        assert_eq!(verdict(data, with(Some(Judgement::Unsent))), Verdict::Challenge(Ignored::AckOfUnsent));
        assert_eq!(verdict(data, with(Some(Judgement::TooOld))), Verdict::Challenge(Ignored::AckTooOld));
        assert_eq!(verdict(data, with(None)), Verdict::Drop(Ignored::NoAck));
        assert_eq!(verdict(data, OUTSIDE), Verdict::Refuse);
    }
}
