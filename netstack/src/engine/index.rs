//! The number of a peer.

/// Names a peer for as long as its key is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PeerIndex(pub(crate) u32);

impl PeerIndex {
    /// WireGuard's receiver index has 32 bits, and boringtun keeps the lowest 8 of them for itself.
    pub(crate) const COUNT: usize = 1 << 24;

    /// The peer that a datagram with this receiver index is meant for.
    pub(crate) fn of_receiver(receiver: u32) -> Self {
        Self(receiver >> 8)
    }

    /// Its place in a table.
    pub(crate) fn slot(self) -> usize {
        self.0 as usize
    }
}
