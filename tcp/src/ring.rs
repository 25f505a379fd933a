//! A byte buffer addressed by stream offset, whose memory grows behind what it holds.

use std::fmt;

/// Bytes `start()..` of a stream. Memory is a power of two, so an offset's place is a mask away.
///
/// Who writes decides how far: the ring has no limit of its own, its owners (send buffer, receive window) do.
pub(crate) struct Ring {
    /// As long as it has been written once: memory that was never used is neither cleared nor touched.
    memory: Vec<u8>,
    /// Bytes of memory used, a power of two, or none.
    size: usize,
    /// The offset that lies at the beginning of the memory.
    origin: u64,
    start: u64,
}

/// Without what it holds: those are people's bytes.
impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("memory", &self.memory()).field("start", &self.start).finish()
    }
}

/// The first memory a ring takes: most requests and many answers fit.
const LEAST_MEMORY: usize = 1024;
/// The most that goes from one ring to the next.
pub(crate) const MOST_KEPT: usize = 8 << 10;

/// An empty ring, whose first byte will be at offset 1, after the SYN. Takes no memory yet.
impl Default for Ring {
    fn default() -> Self {
        Self { memory: Vec::new(), size: 0, origin: 1, start: 1 }
    }
}

impl Ring {
    /// The ring of the next stream. It is empty, but has what memory this one had, if that was little.
    pub(crate) fn take_memory(&mut self) -> Self {
        let mut memory = std::mem::take(&mut self.memory);
        if memory.capacity() > MOST_KEPT {
            return Self::default();
        }
        memory.clear();
        Self { memory, size: self.size, ..Self::default() }
    }

    /// The oldest offset that is still held.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Bytes of memory taken.
    pub(crate) fn memory(&self) -> usize {
        self.memory.capacity()
    }

    /// Stores bytes at a stream offset at or after `start`. `end` is the end of what the ring holds so far: growing keeps
    /// everything up to there.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8], end: u64) {
        debug_assert!(offset >= self.start, "what is released does not come back");
        if bytes.is_empty() {
            return;
        }
        let needed = (offset + bytes.len() as u64 - self.start) as usize;
        if needed > self.size {
            self.grow(needed, end);
        }
        let place = self.place(offset);
        if place == self.memory.len() && bytes.len() <= self.size - place {
            // The usual case of an exchange: the memory is written for the first time, in order.
            return self.memory.extend_from_slice(bytes);
        }
        if place < self.place(self.start) {
            // Beyond a hole that reaches over the end of the memory.
            self.fill(self.size);
        }
        if let Some(written) = self.memory.get_mut(place..place + bytes.len()) {
            written.copy_from_slice(bytes);
            return;
        }
        let (head, tail) = bytes.split_at(bytes.len().min(self.size - place));
        self.put(place, head);
        if !tail.is_empty() {
            self.put(0, tail);
        }
    }

    /// Bytes `from..to`, which have been written and not released.
    pub(crate) fn slices(&self, from: u64, to: u64) -> (&[u8], &[u8]) {
        let len = (to - from) as usize;
        debug_assert!(from >= self.start && to - self.start <= self.size as u64);
        if len == 0 {
            return (&[], &[]);
        }
        let place = self.place(from);
        let head = len.min(self.size - place);
        (&self.memory[place..place + head], &self.memory[..len - head])
    }

    /// Forgets everything before `offset`.
    pub(crate) fn release(&mut self, offset: u64) {
        debug_assert!(offset >= self.start);
        self.start = offset;
    }

    /// Gives the memory back; only for a ring that holds nothing.
    pub(crate) fn give_back(&mut self) {
        (self.memory, self.size) = (Vec::new(), 0);
    }

    fn place(&self, offset: u64) -> usize {
        (offset - self.origin) as usize & (self.size - 1)
    }

    fn grow(&mut self, needed: usize, end: u64) {
        let size = needed.next_power_of_two().max(LEAST_MEMORY);
        let grown = Self { memory: Vec::with_capacity(size), size, origin: self.start, start: self.start };
        let old = std::mem::replace(self, grown);
        let (head, tail) = old.slices(self.start, end.max(self.start));
        self.memory.extend_from_slice(head);
        self.memory.extend_from_slice(tail);
    }

    /// Writes at a place of the memory.
    fn put(&mut self, place: usize, bytes: &[u8]) {
        self.fill(place);
        let (again, first) = bytes.split_at(bytes.len().min(self.memory.len() - place));
        if !again.is_empty() {
            self.memory[place..place + again.len()].copy_from_slice(again);
        }
        self.memory.extend_from_slice(first);
    }

    /// Clears what has never been written before `place`: a hole that will be written later.
    fn fill(&mut self, place: usize) {
        if place > self.memory.len() {
            self.memory.resize(place, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_queue(start in 0..1u64 << 50, steps in prop::collection::vec((0..9000usize, 0..9000usize), 1..30)) {
            let mut ring = Ring { start, ..Ring::default() };
            let mut model: VecDeque<u8> = VecDeque::new();
            let mut end = start;
            for (written, read) in steps {
                let bytes: Vec<u8> = (0..written).map(|i| (i as u64 + end) as u8).collect();
                ring.write(end, &bytes, end);
                model.extend(&bytes);
                end += written as u64;

                let (head, tail) = ring.slices(ring.start(), end);
                prop_assert!(head.iter().chain(tail).eq(model.iter()));
                let read = read.min(model.len());
                model.drain(..read);
                ring.release(ring.start() + read as u64);
                if model.is_empty() {
                    ring.give_back();
                    prop_assert_eq!(ring.memory(), 0);
                }
            }
        }
    }

    proptest! {
            #[test]
            fn keeps_what_arrives_in_any_order(
                start in 0..1u64 << 50,
                rounds in prop::collection::vec((1..3000usize, prop::collection::vec((0..3000usize, 1..700usize), 0..12)), 1..8),
            ) {
                let byte = |offset: u64| (offset / 251 + offset) as u8;
                let (mut ring, mut end) = (Ring { start, ..Ring::default() }, start);
                for (len, writes) in rounds {
                    let from = ring.start();
                    let bytes = |left: usize, right: usize| -> Vec<u8> {
                        (left..right).map(|at| byte(from + at as u64)).collect()
                    };
                    let mut write = |left: usize, right: usize| {
                        if left == right {
     return;
     }
    ring.write(from + left as u64, &bytes(left, right), end);
                        end = end.max(from + right as u64);
                    };
                    // Pieces of a window, in any order; then all of it, as a peer does that fills the holes.
                    for (at, most) in writes {
                        write(at.min(len), (at + most).min(len));
                    }
                    write(0, len / 2);
                    write(len / 2, len);
                    let (head, tail) = ring.slices(from, from + len as u64);
                    prop_assert!(head.iter().chain(tail).eq(&bytes(0, len)));
                    ring.release(from + len as u64 * 3 / 4);
                }
            }
        }

    #[test]
    fn growing_keeps_what_lies_beyond_a_hole() {
        let mut ring = Ring::default();
        ring.write(1001, &[7; 100], 1);
        ring.write(1, &[5; 1000], 1101);
        ring.write(1101, &[9; 100_000], 1101);
        let (head, tail) = ring.slices(1, 101_101);
        let all: Vec<u8> = head.iter().chain(tail).copied().collect();
        assert_eq!((all[0], all[999], all[1000], all[1099], all[1100]), (5, 5, 7, 7, 9));
    }
}
