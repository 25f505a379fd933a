//! Receive offload: segments of one flow that follow each other become one before the flow sees them.

use std::ops::Range;
use std::time::Instant;

use postern_tcp::{Header, Segment};

use crate::engine::PeerIndex;
use crate::tuple::FourTuple;

/// Where datagrams are opened, one behind the other, so that merging moves a payload over its own header and nothing else.
pub(crate) struct Merge {
    bytes: Box<[u8]>,
    held: Option<Held>,
}

/// Segments that arrived and wait for more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub(crate) peer: PeerIndex,
    pub(crate) tuple: FourTuple,
    pub(crate) arrived: Instant,
    header: Header,
    start: usize,
    end: usize,
    packets: u16,
}

/// Most payload that is merged: what fits into one IP packet, so that a flow never sees more than it could without.
const MOST_MERGED: usize = 64 << 10;
/// Twice that, and the largest datagram.
const BUFFER: usize = 2 * MOST_MERGED + LARGEST_DATAGRAM + ROOM;
const LARGEST_DATAGRAM: usize = 64 << 10;
/// What opening wants beyond the datagram's length.
const ROOM: usize = 256;

impl Merge {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; BUFFER].into_boxed_slice(), held: None }
    }

    /// Where the next datagram can be opened: behind what is held.
    pub(crate) fn next(&self) -> usize {
        self.held.map_or(0, |held| held.end)
    }

    /// Whether a datagram of `length` bytes can be opened there.
    pub(crate) fn has_room(&self, length: usize) -> bool {
        self.bytes.len() - self.next() >= length + ROOM
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn space(&mut self) -> &mut [u8] {
        let next = self.next();
        &mut self.bytes[next..]
    }

    /// Since when something is held.
    pub(crate) fn held_since(&self) -> Option<Instant> {
        self.held.map(|held| held.arrived)
    }

    /// Whether what is held is of this flow.
    pub(crate) fn holds(&self, peer: PeerIndex, tuple: &FourTuple) -> bool {
        self.held.is_some_and(|held| held.peer == peer && held.tuple == *tuple)
    }

    /// Merges a segment, whose payload lies behind what is held, with that. Returns whether it follows.
    pub(crate) fn append(
        &mut self,
        peer: PeerIndex,
        tuple: &FourTuple,
        header: &Header,
        payload: Range<usize>,
    ) -> bool {
        let Some(held) = &mut self.held else { return false };
        let length = held.end - held.start;
        let follows = held.peer == peer
            && held.tuple == *tuple
            && header.seq == held.header.seq.wrapping_add(length as u32)
            && alike(&held.header, header)
            && length + payload.len() < MOST_MERGED;
        if follows {
            self.bytes.copy_within(payload.clone(), held.end);
            held.end += payload.len();
            held.packets += 1;
            held.header.psh |= header.psh;
        }
        follows
    }

    /// Holds a segment. Nothing else is held.
    pub(crate) fn hold(
        &mut self,
        peer: PeerIndex,
        tuple: FourTuple,
        header: Header,
        payload: Range<usize>,
        arrived: Instant,
    ) {
        debug_assert!(self.held.is_none());
        self.held = Some(Held { peer, tuple, arrived, header, start: payload.start, end: payload.end, packets: 1 });
    }

    /// Gives up what is held.
    pub(crate) fn take(&mut self) -> Option<(Held, Segment<'_>)> {
        let held = self.held.take()?;
        let payload = &self.bytes[held.start..held.end];
        Some((held, Segment { header: held.header, payload, packets: held.packets }))
    }
}

/// Whether a segment can be held for others to follow: data, and nothing that anybody should hear about at once.
pub(crate) fn is_mergeable(header: &Header, payload: usize) -> bool {
    payload > 0 && !header.syn && !header.fin && !header.rst && header.ack.is_some() && header.sack.is_empty()
}

/// Whether two headers differ in nothing but their place in the stream.
fn alike(one: &Header, other: &Header) -> bool {
    one.ack == other.ack && one.window == other.window && is_mergeable(other, 1)
}
