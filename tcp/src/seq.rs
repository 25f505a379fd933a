//! Sequence numbers, only at the border.
//!
//! Inside a [`Flow`](crate::Flow) each direction counts in *stream offsets*: `u64`, the SYN is 0, the first byte 1, the
//! FIN one past the last byte. They never wrap, so inside there is no modular comparison to get wrong. This file is the
//! only one that knows the 32 bits of the wire.

/// One direction's mapping between stream offsets and sequence numbers, fixed by its initial sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numbering {
    initial: u32,
}

impl Numbering {
    pub(crate) fn new(initial: u32) -> Self {
        Self { initial }
    }

    /// The sequence number of a stream offset.
    pub(crate) fn wire(self, offset: u64) -> u32 {
        self.initial.wrapping_add(offset as u32)
    }

    /// The stream offset that `wire` means for somebody who stands at offset `near`: the closest one, at most 2^31 away.
    /// Negative for what lies before the SYN.
    pub(crate) fn offset(self, wire: u32, near: u64) -> i64 {
        let distance = wire.wrapping_sub(self.wire(near)) as i32;
        near as i64 + i64::from(distance)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_offset_comes_back_from_the_wire(initial: u32, near in 0..1u64 << 60, distance in -(1i64 << 31)..1 << 31) {
            let numbering = Numbering::new(initial);
            let offset = near as i64 + distance;
            prop_assert_eq!(numbering.offset(numbering.wire(offset as u64), near), offset);
        }

        /// Why there are no timestamps and no PAWS (RFC 7323 section 5): WireGuard drops a datagram that is more than
        /// 8192 behind the newest (its replay window), so what reaches a flow is at most 8192 datagrams of 65,535 bytes
        /// late. Over that distance a sequence number is unambiguous: what is old is never taken for new.
        #[test]
        fn what_the_replay_window_lets_through_is_never_taken_for_new(
            initial: u32,
            next in 1u64 << 40..1 << 60,
            late in 1..=8192u64 * 65_535,
        ) {
            let numbering = Numbering::new(initial);
            prop_assert_eq!(numbering.offset(numbering.wire(next - late), next), (next - late) as i64);
        }
    }

    #[test]
    fn a_sequence_space_later_an_old_number_would_look_new() {
        let numbering = Numbering::new(7);
        let next = 5_000_000_000;
        assert_eq!(numbering.offset(numbering.wire(next - (1 << 32) + 10), next), next as i64 + 10);
    }
}
