//! The window that the peer grants.

/// How far the peer lets us go (RFC 9293 sections 3.8.6 and 3.10.7.4).
#[derive(Debug)]
pub(crate) struct PeerWindow {
    /// The first offset that may not be sent.
    edge: u64,
    /// The largest window ever granted.
    most: u64,
    scale: u8,
    /// The segment that granted it: the peer's sequence offset (SND.WL1) and its acknowledgement (SND.WL2).
    granted_by: (i64, u64),
}

impl PeerWindow {
    /// Before the handshake: the SYN may be sent.
    pub(crate) fn closed() -> Self {
        Self { edge: 1, most: 0, scale: 0, granted_by: (0, 0) }
    }

    /// The handshake is through. `scale` is the peer's shift count, 14 at most (RFC 7323 section 2.3).
    pub(crate) fn open(&mut self, scale: u8) {
        self.scale = scale.min(14);
    }

    pub(crate) fn edge(&self) -> u64 {
        self.edge
    }

    pub(crate) fn most(&self) -> u64 {
        self.most
    }

    /// Takes the window field of a segment at `seq` that acknowledges `ack`, unless a newer one has been taken. Returns
    /// whether the edge has moved.
    pub(crate) fn update(&mut self, field: u16, syn: bool, seq: i64, ack: u64) -> bool {
        if (seq, ack) < self.granted_by && ack <= self.granted_by.1 {
            return false;
        }
        self.granted_by = (seq, ack);
        let window = u64::from(field) << if syn { 0 } else { self.scale };
        let before = std::mem::replace(&mut self.edge, ack + window);
        self.most = self.most.max(window);
        self.edge != before
    }
}
