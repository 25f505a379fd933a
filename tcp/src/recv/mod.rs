//! The receiving half: reassembly straight into the ring, SACK blocks, and the window.

mod pieces;

use crate::counters::{Counters, Ignored};
use crate::ring::Ring;
use crate::segment::SackBlocks;
use crate::seq::Numbering;
use pieces::Pieces;

/// The peer's stream: what has arrived, what is missing, and how far the peer may go.
///
/// Offsets count from the peer's SYN, which is 0. `ring.start()` is where the application reads, `next` the first byte that
/// is missing; between and beyond them bytes lie in the ring at their final place.
#[derive(Debug)]
pub(crate) struct Receiver {
    numbering: Numbering,
    ring: Ring,
    next: u64,
    pieces: Pieces,
    fin: Option<u64>,
    /// What arrived twice and the peer has not been told about (RFC 2883).
    repeated: Option<(u64, u64)>,
    window: Window,
}

/// What a segment was to the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Nothing: no payload, no FIN, or none that counts.
    Nothing,
    /// The next bytes, and no hole behind them.
    InOrder,
    /// Something the peer should hear about at once: a hole opened, narrowed or closed, a repetition, the FIN.
    Notable,
}

impl Receiver {
    /// A receiver that knows nothing of the peer yet; what it offers meanwhile counts from the peer's SYN.
    #[inline(always)]
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            numbering: Numbering::new(0),
            ring: Ring::default(),
            next: 1,
            pieces: Pieces::default(),
            fin: None,
            repeated: None,
            window: Window::new(limit),
        }
    }

    /// The memory of a stream that is over, without what it held.
    pub(crate) fn take_memory(&mut self) -> Ring {
        self.ring.take_memory()
    }

    /// Goes on in the memory of a stream that is over; for one that has not begun.
    pub(crate) fn use_memory(&mut self, memory: Ring) {
        self.ring = memory;
    }

    /// The peer's SYN has arrived. `scaled` is whether both sides scale windows.
    pub(crate) fn begin(&mut self, initial: u32, scaled: bool) {
        self.numbering = Numbering::new(initial);
        if !scaled {
            self.window.scale = 0;
        }
    }

    /// The shift count for windows (RFC 7323 section 2.3): the least with which the largest window ever can be written.
    pub(crate) fn scale(&self) -> u8 {
        self.window.scale
    }

    /// The next offset expected; one past the FIN once that has arrived in order.
    pub(crate) fn next(&self) -> u64 {
        self.next + u64::from(self.finished())
    }

    /// The next number expected, as the acknowledgement number of the wire (RCV.NXT).
    pub(crate) fn ack(&self) -> u32 {
        self.numbering.wire(self.next())
    }

    /// The offset of a sequence number; negative before the peer's SYN.
    pub(crate) fn offset(&self, seq: u32) -> i64 {
        self.numbering.offset(seq, self.next())
    }

    /// Whether any of `length` numbers from `offset` is acceptable (RFC 9293 section 3.10.7.4, the table of four cases).
    pub(crate) fn accepts(&self, offset: i64, length: u32) -> bool {
        let (next, edge) = (self.next() as i64, self.window.edge.max(self.next()) as i64);
        let end = offset + i64::from(length);
        match (length, edge > next) {
            // The table leaves the edge out. But that is where a peer that has used up the window acknowledges from, and two that
            // have would never hear each other.
            (0, true) => (next..=edge).contains(&offset),
            (_, true) => offset < edge && end > next,
            // The window is closed: what a peer sends that asks whether it still is may bring an acknowledgement.
            (_, false) => offset == next,
        }
    }

    /// Whether `offset` lies within the window (for resets: RFC 5961 section 3).
    pub(crate) fn in_window(&self, offset: i64) -> bool {
        (self.next() as i64..=self.window.edge.max(self.next()) as i64).contains(&offset)
    }

    /// Counts a segment that is not acceptable. Returns whether it only repeats what has arrived; a DSACK will say so.
    pub(crate) fn refuse(&mut self, offset: i64, length: u32, counters: &mut Counters) -> bool {
        let end = offset + i64::from(length);
        if length > 0 && end <= self.next() as i64 {
            counters.ignore(Ignored::Duplicate);
            self.repeat(offset, end);
            return true;
        }
        counters.ignore(Ignored::OutsideWindow);
        false
    }

    /// Takes payload and FIN of an acceptable segment. Bytes already held, beyond the window or beyond the FIN are cut off.
    pub(crate) fn receive(&mut self, offset: i64, payload: &[u8], fin: bool, counters: &mut Counters) -> Arrival {
        let end = offset + payload.len() as i64;
        let expected = offset == self.next as i64 && end <= self.window.edge as i64 && !payload.is_empty();
        if expected && !fin && self.fin.is_none() && self.pieces.is_empty() {
            self.ring.write(self.next, payload, self.next);
            self.next = end as u64;
            return Arrival::InOrder;
        }
        if payload.is_empty() && !fin {
            return Arrival::Nothing;
        }
        let fin_moved = fin && !self.place_fin(end);
        if fin_moved {
            counters.ignore(Ignored::FinMoved);
        }
        let arrival = self.store(offset, payload, counters);
        if fin && !fin_moved { Arrival::Notable } else { arrival }
    }

    /// Whether the peer's FIN and everything before it has arrived.
    pub(crate) fn finished(&self) -> bool {
        self.fin == Some(self.next)
    }

    /// Whether `finished` and everything has been read.
    pub(crate) fn drained(&self) -> bool {
        self.finished() && self.readable() == 0
    }

    /// How many bytes can be read now.
    pub(crate) fn readable(&self) -> usize {
        (self.next - self.ring.start()) as usize
    }

    /// The bytes that can be read now.
    pub(crate) fn peek(&self) -> (&[u8], &[u8]) {
        self.ring.slices(self.ring.start(), self.next)
    }

    /// Forgets the first `n` readable bytes. Returns whether the window has grown so much that the peer should know at once:
    /// it has doubled, or was closed.
    pub(crate) fn consume(&mut self, n: usize) -> bool {
        let n = n.min(self.readable()) as u64;
        self.ring.release(self.ring.start() + n);
        self.window.follow(self.ring.start(), self.next);
        let offered = self.window.offered.saturating_sub(self.next);
        self.fin.is_none() && self.window.edge.saturating_sub(self.next) >= 2 * offered.max(1)
    }

    /// The window field of the next segment: unscaled on a SYN. What is written is a promise, so it is remembered.
    pub(crate) fn offer(&mut self, syn: bool) -> u16 {
        self.window.follow(self.ring.start(), self.next);
        let scale = if syn { 0 } else { self.window.scale };
        let field = (self.window.edge.saturating_sub(self.next) >> scale).min(u64::from(u16::MAX));
        self.window.offered = self.window.offered.max(self.next + (field << scale));
        field as u16
    }

    /// Whether the peer has something to learn from SACK blocks.
    pub(crate) fn has_sack(&self) -> bool {
        self.repeated.is_some() || !self.pieces.is_empty()
    }

    /// The SACK blocks of the next acknowledgement: a repetition first (RFC 2883), then the newest pieces (RFC 2018).
    pub(crate) fn take_sack(&mut self) -> SackBlocks {
        let repeated = self.repeated.take();
        let blocks = repeated.into_iter().chain(self.pieces.newest());
        blocks.map(|(left, right)| (self.numbering.wire(left), self.numbering.wire(right))).collect()
    }

    /// Bounds the window from now on. What has been offered stays offered.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.window.set_limit(limit);
    }

    /// Bytes of memory taken by the ring.
    pub(crate) fn memory(&self) -> usize {
        self.ring.memory()
    }

    /// Gives the ring back if nothing lies in it.
    pub(crate) fn release_idle_memory(&mut self) {
        if self.readable() == 0 && self.pieces.is_empty() {
            self.ring.give_back();
        }
    }

    /// Remembers where the FIN is; false if it contradicts what is known.
    fn place_fin(&mut self, at: i64) -> bool {
        let seen = self.pieces.end().unwrap_or(self.next).max(self.next);
        match self.fin {
            Some(fin) => fin as i64 == at,
            None if at < seen as i64 => false,
            None => {
                self.fin = Some(at as u64);
                true
            }
        }
    }

    fn store(&mut self, offset: i64, payload: &[u8], counters: &mut Counters) -> Arrival {
        if payload.is_empty() {
            return Arrival::Nothing;
        }
        let next = self.next as i64;
        let end = offset + payload.len() as i64;
        let limit = self.fin.map_or(i64::MAX, |fin| fin as i64);
        if end > limit {
            counters.ignore(Ignored::BeyondFin);
        }
        let from = offset.max(next);
        let to = end.min(limit).min(self.window.edge as i64);
        if from >= to {
            if end <= next {
                counters.ignore(Ignored::Duplicate);
                self.repeat(offset, end);
            } else if end <= limit {
                counters.ignore(Ignored::OutsideWindow);
            }
            return Arrival::Notable;
        }
        let bytes = &payload[(from - offset) as usize..(to - offset) as usize];
        self.keep(from as u64, to as u64, bytes, counters)
    }

    fn repeat(&mut self, from: i64, to: i64) {
        let (from, to) = (from.max(1) as u64, to.max(1) as u64);
        self.repeated = (from < to).then_some((from, to));
    }

    /// Writes bytes that lie between `next` and the window's edge.
    fn keep(&mut self, from: u64, to: u64, bytes: &[u8], counters: &mut Counters) -> Arrival {
        let held = self.pieces.end().unwrap_or(self.next);
        if from > self.next {
            if self.pieces.contain(from, to) {
                counters.ignore(Ignored::Duplicate);
                self.repeated = Some((from, to));
            } else if self.pieces.len() >= self.window.most_pieces() {
                counters.ignore(Ignored::TooManyHoles);
            } else {
                self.ring.write(from, bytes, held);
                self.pieces.insert(from, to);
            }
            return Arrival::Notable;
        }
        self.ring.write(from, bytes, held);
        self.next = to;
        if self.pieces.is_empty() {
            return Arrival::InOrder;
        }
        self.next = self.pieces.advance(to);
        self.window.freed = true;
        Arrival::Notable
    }
}

/// How far the peer may send.
///
/// The right edge never moves back (RFC 9293 section 3.8.6). It moves on in steps of a quarter of the window or 64 KiB, so
/// that a slow reader does not make the peer send slivers (section 3.8.6.2.2). The window grows fourfold when the peer has used up
/// half of it and the application has kept up, if only after reading what a repaired loss set free: a peer in slow start sends
/// twice as much in the next round trip, and as much again while a loss in it is repaired. Memory is only taken as bytes arrive.
#[derive(Debug)]
struct Window {
    /// The first offset that the peer may not send.
    edge: u64,
    /// The edge as the peer knows it.
    offered: u64,
    /// Most bytes between reading place and edge.
    size: u64,
    limit: u64,
    /// The next growth is considered when the peer has come this far.
    review: u64,
    /// The repair of a loss has set much free at once: the application may need several readings to keep up.
    freed: bool,
    scale: u8,
}

/// What a peer may send before it has shown anything; also what fits into a window field without scale.
const FIRST_WINDOW: u64 = 65_535;

impl Window {
    fn new(limit: usize) -> Self {
        let limit = limit as u64;
        let size = FIRST_WINDOW.min(limit);
        let bits = u64::BITS - limit.leading_zeros();
        let scale = bits.saturating_sub(u16::BITS).min(14) as u8;
        Self { edge: 1 + size, offered: 1, size, limit, review: 1 + size / 2, freed: false, scale }
    }

    fn set_limit(&mut self, limit: usize) {
        self.limit = limit as u64;
        self.size = self.size.min(self.limit);
    }

    /// Moves the edge after the application has read up to `read` and the peer has sent up to `next`.
    fn follow(&mut self, read: u64, next: u64) {
        if next >= self.review {
            let kept_up = next - read <= self.size / 4;
            if kept_up {
                self.size = (self.size * 4).min(self.limit);
            }
            if kept_up || !self.freed {
                self.review = next + self.size / 2;
                self.freed = false;
            }
        }
        let edge = read + self.size;
        if edge >= self.edge + (self.size / 4).min(FIRST_WINDOW) {
            self.edge = edge;
        }
    }

    /// How many pieces may wait beyond holes: as many as full segments of the smallest size fit into the window twice over.
    /// A bound that does not grow with the window would throw away what was received well.
    fn most_pieces(&self) -> usize {
        64 + (self.limit / 44) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_when_what_a_hole_held_back_has_been_read() {
        let mut window = Window::new(1 << 20);
        window.freed = true;
        // A burst of half a window, read in two steps.
        window.follow(1, FIRST_WINDOW / 2 + 10);
        assert_eq!(window.size, FIRST_WINDOW);
        window.follow(FIRST_WINDOW / 2, FIRST_WINDOW / 2 + 10);
        assert_eq!(window.size, 4 * FIRST_WINDOW);
    }
}
