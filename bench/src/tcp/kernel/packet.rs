//! The packets of a measurement: IPv4 without options, TCP.

use crate::tcp::wire::IP;

/// Where answers come from.
pub(super) const PORT: u16 = 443;
/// A WireGuard tunnel's usual packet.
pub(super) const MTU: u16 = 1420;

/// Zero for what is too short to have one.
pub(super) fn source_port(packet: &[u8]) -> u16 {
    packet.get(IP..IP + 2).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]))
}

/// Whether there is a payload.
pub(super) fn carries_data(packet: &[u8]) -> bool {
    packet.get(IP + 12).is_some_and(|words| packet.len() > IP + usize::from(words >> 4) * 4)
}

/// Checksums are sums, which do not care about order: they stay right.
pub(super) fn swap_addresses(mut packet: Vec<u8>) -> Vec<u8> {
    let (head, tail) = packet.split_at_mut(16);
    head[12..16].swap_with_slice(&mut tail[..4]);
    packet
}
