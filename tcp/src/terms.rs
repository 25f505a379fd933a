//! What two SYNs agree upon (RFC 9293 section 3.7.1, RFC 7323 section 2, RFC 2018 section 2).

use crate::config::{Family, LEAST_MSS};
use crate::segment::Header;

/// How the peer wants to be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Most payload in a packet that the peer takes, in bytes.
    pub(crate) mss: usize,
    /// Shift count of the peer's windows; `None` if windows are not scaled, in either direction.
    pub(crate) scale: Option<u8>,
    /// Whether SACK blocks may be sent, in either direction.
    pub(crate) sack: bool,
}

impl Terms {
    /// Reads the peer's SYN.
    pub(crate) fn of(syn: &Header, family: Family) -> Self {
        // RFC 9293 section 3.7.1: what everybody takes.
        let default = match family {
            Family::V4 => 536,
            Family::V6 => 1220,
        };
        let mss = syn.mss.map_or(default, usize::from).max(LEAST_MSS);
        Self { mss, scale: syn.window_scale, sack: syn.sack_permitted }
    }
}

/// The options of our SYN, for packets of at most `mss` bytes of payload; `answered` are the peer's, if we answer one: nothing is
/// offered that it did not.
pub(crate) fn offer(mss: usize, scale: u8, answered: Option<Terms>) -> Header {
    Header {
        syn: true,
        mss: Some(mss.min(usize::from(u16::MAX)) as u16),
        window_scale: answered.is_none_or(|terms| terms.scale.is_some()).then_some(scale),
        sack_permitted: answered.is_none_or(|terms| terms.sack),
        ..Header::default()
    }
}
