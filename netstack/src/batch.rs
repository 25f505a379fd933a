//! What leaves at once.

use std::fmt;

use crate::path::Path;

/// Most datagrams that leave with one system call (UDP_MAX_SEGMENTS of Linux before 6.9).
pub(crate) const MOST_DATAGRAMS: usize = 64;
/// Most bytes that leave with one system call: below the 65,507 that UDP over IPv4 allows.
pub(crate) const MOST_BYTES: usize = 65_000;
/// What is kept free behind the last datagram: sealing wants room for a handshake of 148 bytes.
const SLACK: usize = 2048;

/// Datagrams in a row for one path: all of [`segment_size`](Self::segment_size) bytes but the last, which may be shorter. Made
/// once and filled again and again.
pub struct Batch {
    bytes: Box<[u8]>,
    end: usize,
    count: usize,
    segment: usize,
    path: Option<Path>,
    /// A shorter datagram was the last.
    closed: bool,
}

impl Batch {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        let bytes = vec![0; MOST_BYTES + SLACK].into_boxed_slice();
        Self { bytes, end: 0, count: 0, segment: 0, path: None, closed: false }
    }

    /// Where it goes; `None` while it is empty.
    #[must_use]
    pub fn path(&self) -> Option<Path> {
        self.path
    }

    /// The datagrams, one behind the other.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.end]
    }

    /// Length in bytes of every datagram but the last.
    #[must_use]
    pub fn segment_size(&self) -> usize {
        self.segment
    }

    /// The datagrams, one by one.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes().chunks(self.segment.max(1))
    }

    /// How many datagrams there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn clear(&mut self) {
        (self.end, self.count, self.segment, self.path, self.closed) = (0, 0, 0, None, false);
    }

    /// How many datagrams of `size` bytes there is room for.
    pub(crate) fn room(&self, size: usize) -> usize {
        if self.count > 0 && (self.closed || size > self.segment) {
            return 0;
        }
        let size = size.max(self.segment).max(1);
        (MOST_DATAGRAMS - self.count).min((MOST_BYTES - self.end) / size)
    }

    /// Where the next datagram is to be written.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// A datagram of `size` bytes, for which there is [`room`](Self::room), has been written.
    pub(crate) fn push(&mut self, path: Path, size: usize) {
        debug_assert!(self.room(size) > 0);
        if self.count == 0 {
            self.segment = size;
        }
        self.path = Some(path);
        self.closed = size < self.segment;
        self.end += size;
        self.count += 1;
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("path", &self.path)
            .field("datagrams", &self.count)
            .field("segment_size", &self.segment)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_datagram_is_the_last_and_a_longer_one_never_comes() {
        let path = Path::Stream(1);
        let mut batch = Batch::new();
        assert_eq!(batch.room(1452), 44);
        batch.push(path, 1452);
        assert_eq!((batch.room(1452), batch.room(1453)), (43, 0));
        batch.push(path, 1452);
        batch.push(path, 100);
        assert_eq!((batch.room(100), batch.len(), batch.bytes().len()), (0, 3, 3004));
        assert_eq!(batch.datagrams().map(<[u8]>::len).collect::<Vec<_>>(), [1452, 1452, 100]);
        batch.clear();
        assert_eq!(batch.room(80), 64);
    }
}
