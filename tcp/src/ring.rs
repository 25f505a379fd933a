//! A byte buffer addressed by stream offset, whose memory grows behind what it holds.

use std::fmt;

/// Bytes `start()..` of a stream. Memory is a power of two, so an offset's place is a mask away.
///
/// Who writes decides how far: the ring has no limit of its own, its owners (send buffer, receive window) do.
pub(crate) struct Ring {
    memory: Box<[u8]>,
    start: u64,
}

/// Without what it holds: those are people's bytes.
impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("memory", &self.memory.len()).field("start", &self.start).finish()
    }
}

/// The first memory a ring takes: most requests and many answers fit, and clearing more costs a short connection time.
const LEAST_MEMORY: usize = 2048;

impl Ring {
    /// An empty ring whose first byte will be at stream offset `start`. Takes no memory yet.
    pub(crate) fn new(start: u64) -> Self {
        Self { memory: Box::default(), start }
    }

    /// The oldest offset that is still held.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Bytes of memory taken.
    pub(crate) fn memory(&self) -> usize {
        self.memory.len()
    }

    /// Stores bytes at a stream offset at or after `start`. `end` is the end of what the ring holds so far: growing keeps
    /// everything up to there.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8], end: u64) {
        debug_assert!(offset >= self.start, "what is released does not come back");
        if bytes.is_empty() {
            return;
        }
        let needed = (offset + bytes.len() as u64 - self.start) as usize;
        if needed > self.memory.len() {
            self.grow(needed, end);
        }
        let place = self.place(offset);
        let head = bytes.len().min(self.memory.len() - place);
        self.memory[place..place + head].copy_from_slice(&bytes[..head]);
        self.memory[..bytes.len() - head].copy_from_slice(&bytes[head..]);
    }

    /// Bytes `from..to`, which have been written and not released.
    pub(crate) fn slices(&self, from: u64, to: u64) -> (&[u8], &[u8]) {
        let len = (to - from) as usize;
        debug_assert!(from >= self.start && to - self.start <= self.memory.len() as u64);
        if len == 0 {
            return (&[], &[]);
        }
        let place = self.place(from);
        let head = len.min(self.memory.len() - place);
        (&self.memory[place..place + head], &self.memory[..len - head])
    }

    /// Forgets everything before `offset`.
    pub(crate) fn release(&mut self, offset: u64) {
        debug_assert!(offset >= self.start);
        self.start = offset;
    }

    /// Gives the memory back; only for a ring that holds nothing.
    pub(crate) fn give_back(&mut self) {
        self.memory = Box::default();
    }

    fn place(&self, offset: u64) -> usize {
        offset as usize & (self.memory.len() - 1)
    }

    fn grow(&mut self, needed: usize, end: u64) {
        let memory = vec![0; needed.next_power_of_two().max(LEAST_MEMORY)].into_boxed_slice();
        let old = Self { memory: std::mem::replace(&mut self.memory, memory), start: self.start };
        let (head, tail) = old.slices(self.start, end.max(self.start));
        self.write(self.start, head, self.start);
        self.write(self.start + head.len() as u64, tail, self.start);
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
            let mut ring = Ring::new(start);
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

    #[test]
    fn growing_keeps_what_lies_beyond_a_hole() {
        let mut ring = Ring::new(1);
        ring.write(1001, &[7; 100], 1);
        ring.write(1, &[5; 1000], 1101);
        ring.write(1101, &[9; 100_000], 1101);
        let (head, tail) = ring.slices(1, 101_101);
        let all: Vec<u8> = head.iter().chain(tail).copied().collect();
        assert_eq!((all[0], all[999], all[1000], all[1099], all[1100]), (5, 5, 7, 7, 9));
    }
}
