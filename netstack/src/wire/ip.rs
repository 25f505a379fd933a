//! IP headers (RFC 791, RFC 8200), read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use crate::counters::Drop;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP_V6: u8 = 58;

const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// More extension headers than anybody sends.
const MOST_EXTENSIONS: usize = 4;

/// An IP packet, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inner {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    /// Of what is inside.
    pub(crate) protocol: u8,
    /// Where that lies in the packet; what follows is padding.
    pub(crate) payload: Range<usize>,
}

/// Reads an IP packet. Checksums are not looked at: what comes out of the tunnel has been proved.
pub(crate) fn parse(packet: &[u8]) -> Result<Inner, Drop> {
    match packet.first().map(|first| first >> 4) {
        Some(4) => parse_v4(packet),
        Some(6) => parse_v6(packet),
        Some(_) | None => Err(Drop::InnerMalformed),
    }
}

/// Reads the beginning of a packet of ours that came back in an ICMP message: its end may be missing.
pub(crate) fn parse_quoted(packet: &[u8]) -> Option<Inner> {
    let (from, to, protocol, start) = match packet.first()? >> 4 {
        4 => {
            let header: &[u8; 20] = packet.first_chunk()?;
            let (from, to) = v4_addresses(header);
            (from, to, header[9], usize::from(header[0] & 15) * 4)
        }
        6 => {
            let header: &[u8; 40] = packet.first_chunk()?;
            let (from, to) = v6_addresses(header);
            (from, to, header[6], 40)
        }
        _ => return None,
    };
    Some(Inner { from, to, protocol, payload: start..packet.len().max(start) })
}

fn parse_v4(packet: &[u8]) -> Result<Inner, Drop> {
    let header: &[u8; 20] = packet.first_chunk().ok_or(Drop::InnerMalformed)?;
    let start = usize::from(header[0] & 15) * 4;
    let end = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if start < 20 || end < start || end > packet.len() {
        return Err(Drop::InnerMalformed);
    }
    // More fragments, or not the first.
    if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
        return Err(Drop::Fragment);
    }
    let (from, to) = v4_addresses(header);
    Ok(Inner { from, to, protocol: header[9], payload: start..end })
}

fn parse_v6(packet: &[u8]) -> Result<Inner, Drop> {
    let header: &[u8; 40] = packet.first_chunk().ok_or(Drop::InnerMalformed)?;
    let end = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if end > packet.len() {
        return Err(Drop::InnerMalformed);
    }
    let (mut protocol, mut start) = (header[6], 40);
    for _ in 0..MOST_EXTENSIONS {
        match protocol {
            FRAGMENT => return Err(Drop::Fragment),
            HOP_BY_HOP | DESTINATION_OPTIONS => {
                let extension = packet[start..end].first_chunk::<2>().ok_or(Drop::InnerMalformed)?;
                protocol = extension[0];
                start += 8 + usize::from(extension[1]) * 8;
                if start > end {
                    return Err(Drop::InnerMalformed);
                }
            }
            _ => break,
        }
    }
    let (from, to) = v6_addresses(header);
    Ok(Inner { from, to, protocol, payload: start..end })
}

fn v4_addresses(header: &[u8; 20]) -> (IpAddr, IpAddr) {
    let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]).into();
    (address(12), address(16))
}

fn v6_addresses(header: &[u8; 40]) -> (IpAddr, IpAddr) {
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[at..at + 16]);
        Ipv6Addr::from(octets).into()
    };
    (address(8), address(24))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, payload: usize) -> Vec<u8> {
        let mut packet =
            vec![0x45, 0, 0, 20 + payload as u8, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.resize(20 + payload, 7);
        packet
    }

    #[test]
    fn padding_behind_a_packet_is_not_part_of_it() {
        let mut packet = v4(TCP, 5);
        packet.extend([0; 11]);
        let inner = parse(&packet).expect("a packet");
        assert_eq!((inner.protocol, inner.payload), (TCP, 20..25));
        assert_eq!((inner.from.to_string(), inner.to.to_string()), ("10.0.0.1".into(), "10.0.0.2".into()));
    }

    #[test]
    fn a_packet_that_is_cut_off_is_none() {
        let packet = v4(TCP, 5);
        for len in 0..packet.len() {
            assert_eq!(parse(&packet[..len]), Err(Drop::InnerMalformed));
        }
    }

    #[test]
    fn fragments_are_told_from_packets_that_must_not_be_fragmented() {
        for (field, fragment) in [(0x4000u16, false), (0x2000, true), (1, true), (0x8000, false)] {
            let mut packet = v4(UDP, 8);
            packet[6..8].copy_from_slice(&field.to_be_bytes());
            assert_eq!(parse(&packet).err(), fragment.then_some(Drop::Fragment), "{field:04x}");
        }
    }

    #[test]
    fn extension_headers_are_passed_over() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 18, HOP_BY_HOP, 64];
        packet.extend(Ipv6Addr::LOCALHOST.octets());
        packet.extend(Ipv6Addr::UNSPECIFIED.octets());
        packet.extend([DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0]);
        packet.extend([TCP, 0, 1, 4, 0, 0, 0, 0]);
        packet.extend([1, 2]);
        let inner = parse(&packet).expect("a packet");
        assert_eq!((inner.protocol, inner.payload), (TCP, 56..58));
        packet[48] = FRAGMENT;
        assert_eq!(parse(&packet), Err(Drop::Fragment));
        packet[41] = 200;
        assert_eq!(parse(&packet), Err(Drop::InnerMalformed));
    }
}
