//! What a segment says about our stream.

use crate::segment::SackBlocks;
use crate::seq::Numbering;

/// What an acknowledgement number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Between what is acknowledged and what was sent, or a little older.
    Good(u64),
    /// Of what was never sent.
    Unsent,
    /// Older than any window that the peer has granted.
    TooOld,
}

/// What the acknowledgement field, the window field and the SACK option of a segment say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report<'a> {
    /// The acknowledgement number as an offset.
    pub(crate) ack: u64,
    /// Where the segment stands in the peer's stream.
    pub(crate) seq: i64,
    pub(crate) window: u16,
    pub(crate) syn: bool,
    /// Whether the segment carries nothing else.
    pub(crate) pure: bool,
    pub(crate) sack: &'a SackBlocks,
}

/// What a SACK option means for what is on its way.
#[derive(Debug, Default)]
pub(crate) struct Sacked {
    blocks: [(u64, u64); SackBlocks::MOST],
    len: usize,
    /// Bytes that a DSACK reports as repeated.
    pub(crate) repeated: u64,
    /// Blocks that cannot be right.
    pub(crate) bad: usize,
}

impl Sacked {
    /// Reads the SACK blocks of a report. `ack` is where what is on its way begins and `end` where it ends; a DSACK may lie up
    /// to a window of `most` bytes before it (RFC 2883 section 4).
    pub(crate) fn read(report: &Report<'_>, numbering: Numbering, ack: u64, end: u64, most: u64) -> Self {
        let mut sacked = Self::default();
        let offsets = |(left, right): (u32, u32)| (numbering.offset(left, ack), numbering.offset(right, ack));
        let second = report.sack.iter().nth(1).map(offsets);
        for (index, block) in report.sack.iter().enumerate() {
            let (left, right) = offsets(block);
            let inside = second.is_some_and(|(from, to)| from <= left && right <= to);
            let recent = left >= ack as i64 - most as i64;
            if left >= right || right > end as i64 || left < 0 {
                sacked.bad += 1;
            } else if index == 0 && recent && (right <= ack as i64 || inside) {
                sacked.repeated = (right - left) as u64;
            } else if left > ack as i64 {
                sacked.blocks[sacked.len] = (left as u64, right as u64);
                sacked.len += 1;
            }
        }
        // The peer names the newest first. What one acknowledgement reports says nothing about the order of arrival.
        sacked.blocks[..sacked.len].sort_unstable();
        sacked
    }

    /// A SACK option that is not looked at.
    pub(crate) fn refused() -> Self {
        Self { bad: 1, ..Self::default() }
    }

    /// The blocks beyond what is acknowledged.
    pub(crate) fn blocks(&self) -> &[(u64, u64)] {
        &self.blocks[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_in_the_order_of_the_stream() {
        let sack: SackBlocks = [(300, 400), (100, 200)].into_iter().collect();
        let report = Report { ack: 50, seq: 0, window: 0, syn: false, pure: true, sack: &sack };
        let sacked = Sacked::read(&report, Numbering::new(0), 50, 1000, 1000);
        assert_eq!(sacked.blocks(), [(100, 200), (300, 400)]);
    }
}
