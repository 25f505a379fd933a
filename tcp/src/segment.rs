//! What crosses the border: [`Segment`] in, [`Transmit`] out, both with the same [`Header`].
//!
//! Nothing here parses or prints bytes: the caller has a wire format at hand and a checksum to compute.

/// The fields of a TCP header (RFC 9293 section 3.1) that a flow reads and writes. Ports belong to the caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// Sequence number of the SYN if there is one, else of the first byte.
    pub seq: u32,
    /// Acknowledgement number; `None` if the ACK bit is not set.
    pub ack: Option<u32>,
    /// The window field as on the wire, not yet scaled.
    pub window: u16,
    /// Synchronise: opens a direction.
    pub syn: bool,
    /// No more data from the sender.
    pub fin: bool,
    /// Reset.
    pub rst: bool,
    /// Push: nothing follows for now. Written, never read.
    pub psh: bool,
    /// Maximum segment size option in bytes of payload (only on a SYN, RFC 9293 section 3.7.1).
    pub mss: Option<u16>,
    /// Window scale option as a shift count (only on a SYN, RFC 7323 section 2).
    pub window_scale: Option<u8>,
    /// SACK-permitted option (only on a SYN, RFC 2018 section 2).
    pub sack_permitted: bool,
    /// Blocks of the SACK option (RFC 2018 section 3).
    pub sack: SackBlocks,
}

impl Header {
    /// The reset that answers `segment` where no flow exists (RFC 9293 section 3.10.7.1); `None` for a reset.
    pub fn reset_for(segment: &Segment<'_>) -> Option<Self> {
        let header = &segment.header;
        if header.rst {
            return None;
        }
        Some(match header.ack {
            Some(ack) => Self { seq: ack, rst: true, ..Self::default() },
            None => Self { ack: Some(header.seq.wrapping_add(segment.length())), rst: true, ..Self::default() },
        })
    }

    /// Length of the options in bytes, padded to whole words as on the wire.
    pub fn options_len(&self) -> usize {
        let mss = if self.mss.is_some() { 4 } else { 0 };
        let scale = if self.window_scale.is_some() { 3 } else { 0 };
        let permitted = if self.sack_permitted { 2 } else { 0 };
        let sack = if self.sack.is_empty() { 0 } else { 2 + 8 * self.sack.len() };
        (mss + scale + permitted + sack + 3) & !3
    }
}

/// Up to four SACK blocks, each `(left edge, right edge)` in sequence numbers, the right one exclusive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SackBlocks {
    blocks: [(u32, u32); Self::MOST],
    len: u8,
}

impl SackBlocks {
    /// As many as fit into 40 bytes of options.
    pub const MOST: usize = 4;

    /// Adds a block; one too many is dropped.
    pub fn push(&mut self, left: u32, right: u32) {
        if self.len() < Self::MOST {
            self.blocks[self.len()] = (left, right);
            self.len += 1;
        }
    }

    /// The blocks in the order in which they stand in the option: the newest, or a DSACK, first.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.blocks[..self.len()].iter().copied()
    }

    /// How many blocks there are.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether there is no block.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl FromIterator<(u32, u32)> for SackBlocks {
    fn from_iter<I: IntoIterator<Item = (u32, u32)>>(blocks: I) -> Self {
        let mut all = Self::default();
        for (left, right) in blocks {
            all.push(left, right);
        }
        all
    }
}

/// A segment that arrived, parsed, its checksum (or an AEAD around it) verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Its header; of the last one, but with the first one's `seq`, if several were merged.
    pub header: Header,
    /// The payload.
    pub payload: &'a [u8],
    /// How many packets of the wire were merged into this one: 1 if none.
    pub packets: u16,
}

impl<'a> Segment<'a> {
    /// A segment of one packet.
    pub fn new(header: Header, payload: &'a [u8]) -> Self {
        Self { header, payload, packets: 1 }
    }

    /// How much sequence space it takes: its payload, its SYN and its FIN (SEG.LEN of RFC 9293).
    pub(crate) fn length(&self) -> u32 {
        self.payload.len() as u32 + u32::from(self.header.syn) + u32::from(self.header.fin)
    }
}

/// A segment to send, possibly a super-segment: one header and more payload than fits into a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit<'a> {
    /// Header of the whole.
    pub header: Header,
    /// Payload in order: two slices, because the send buffer is a ring.
    pub payload: (&'a [u8], &'a [u8]),
    /// Most bytes of payload in a packet: what to cut by.
    pub mss: usize,
    /// Whether there may be more to send now. If not, asking once more brings nothing.
    pub more: bool,
}

impl<'a> Transmit<'a> {
    /// Length of the payload in bytes.
    pub fn len(&self) -> usize {
        self.payload.0.len() + self.payload.1.len()
    }

    /// Whether there is no payload.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The packets to put on the wire: at least one, each with at most [`mss`](Self::mss) bytes of payload, in order.
    /// FIN and PSH are on the last one only.
    pub fn packets(self) -> impl Iterator<Item = (Header, (&'a [u8], &'a [u8]))> {
        let mut next = Some(0);
        std::iter::from_fn(move || {
            let from = next?;
            let to = (from + self.mss).min(self.len());
            let last = to == self.len();
            next = (!last).then_some(to);
            let header = Header {
                seq: self.header.seq.wrapping_add(from as u32),
                fin: self.header.fin && last,
                psh: self.header.psh && last,
                ..self.header
            };
            Some((header, cut(self.payload, from, to)))
        })
    }
}

/// Bytes `from..to` of two slices in a row.
fn cut<'a>((first, second): (&'a [u8], &'a [u8]), from: usize, to: usize) -> (&'a [u8], &'a [u8]) {
    let middle = first.len();
    let head = &first[from.min(middle)..to.min(middle)];
    let tail = &second[from.max(middle) - middle..to.max(middle) - middle];
    (head, tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_carry_every_byte_once_and_the_fin_last() {
        let bytes: Vec<u8> = (0..100).collect();
        for middle in 0..=100 {
            for mss in [1, 7, 33, 50, 100, 200] {
                let header = Header { seq: u32::MAX - 20, fin: true, psh: true, ..Header::default() };
                let whole = Transmit { header, payload: bytes.split_at(middle), mss, more: false };
                let mut seen = Vec::new();
                for (packet, (head, tail)) in whole.packets() {
                    assert_eq!(packet.seq, header.seq.wrapping_add(seen.len() as u32));
                    seen.extend_from_slice(head);
                    seen.extend_from_slice(tail);
                    assert!(head.len() + tail.len() <= mss);
                    assert_eq!((packet.fin, packet.psh), (seen.len() == 100, seen.len() == 100));
                }
                assert_eq!(seen, bytes);
            }
        }
    }

    #[test]
    fn an_empty_one_is_one_packet() {
        let ack = Transmit { header: Header::default(), payload: (&[], &[]), mss: 1000, more: false };
        assert_eq!(ack.packets().count(), 1);
    }

    #[test]
    fn a_reset_is_never_answered_and_anything_else_is() {
        let header = Header { seq: 9, syn: true, ..Header::default() };
        let reset = Header::reset_for(&Segment::new(header, b"ab")).expect("a SYN is answered");
        assert_eq!((reset.rst, reset.ack), (true, Some(12)));
        let header = Header { seq: 9, ack: Some(77), ..Header::default() };
        let reset = Header::reset_for(&Segment::new(header, b"ab")).expect("an ACK is answered");
        assert_eq!((reset.seq, reset.ack), (77, None));
        let header = Header { rst: true, ..Header::default() };
        assert_eq!(Header::reset_for(&Segment::new(header, b"")), None);
    }
}
