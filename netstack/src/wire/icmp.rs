//! ICMP (RFC 792, RFC 4443): echo, what is unreachable, and what is too big.

use std::net::IpAddr;

use super::checksum::Sum;
use super::emit::{ip_header, ip_length};
use super::ip::{self, Inner};

/// What an ICMP message is to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// To be sent back as it is.
    EchoRequest,
    /// A packet of ours, whose beginning is quoted, is larger than a link on its way carries.
    TooBig {
        /// What the link carries, in bytes; 0 from routers older than RFC 1191.
        mtu: u32,
        quoted: &'a [u8],
    },
}

/// Reads a message. `None` for all that says nothing to us.
pub(crate) fn parse(protocol: u8, message: &[u8]) -> Option<Message<'_>> {
    let header: &[u8; 8] = message.first_chunk()?;
    let quoted = &message[8..];
    let low = u32::from(u16::from_be_bytes([header[6], header[7]]));
    let word = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    match (protocol, header[0], header[1]) {
        (ip::ICMP, 8, 0) | (ip::ICMP_V6, 128, 0) => Some(Message::EchoRequest),
        (ip::ICMP, 3, 4) => Some(Message::TooBig { mtu: low, quoted }),
        (ip::ICMP_V6, 2, 0) => Some(Message::TooBig { mtu: word, quoted }),
        _ => None,
    }
}

/// The answer to an echo request, just as large.
pub(crate) fn echo_reply(request: &Inner, message: &[u8]) -> Vec<u8> {
    let kind = if request.from.is_ipv4() { 0 } else { 129 };
    let mut body = message.to_vec();
    body[0] = kind;
    reply(request, body)
}

/// The answer to a UDP packet: nobody listens on its port. It quotes as little as may be.
pub(crate) fn port_unreachable(request: &Inner, packet: &[u8]) -> Vec<u8> {
    let (kind, code) = if request.from.is_ipv4() { (3, 3) } else { (1, 4) };
    let quoted = &packet[..packet.len().min(request.payload.start + 8)];
    let mut body = vec![kind, code, 0, 0, 0, 0, 0, 0];
    body.extend_from_slice(quoted);
    reply(request, body)
}

/// A message back to where `request` came from.
fn reply(request: &Inner, mut body: Vec<u8>) -> Vec<u8> {
    let (from, to) = (request.to, request.from);
    let sum = match from {
        IpAddr::V4(_) => Sum::default(),
        IpAddr::V6(_) => Sum::pseudo(from, to, ip::ICMP_V6, body.len()),
    };
    body[2..4].fill(0);
    let checksum = sum.add(&body).finish();
    body[2..4].copy_from_slice(&checksum);
    let start = ip_length(from);
    let mut packet = vec![0; start];
    packet.append(&mut body);
    let length = packet.len();
    let protocol = if from.is_ipv4() { ip::ICMP } else { ip::ICMP_V6 };
    ip_header(&mut packet, from, to, protocol, length);
    packet
}

#[cfg(test)]
mod tests {
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr};

    use super::*;

    fn inner(v6: bool, protocol: u8, payload: std::ops::Range<usize>) -> Inner {
        let (from, to) = if v6 { ("fd00::2", "fd00::1") } else { ("10.0.0.2", "10.0.0.1") };
        Inner { from: from.parse().expect("an address"), to: to.parse().expect("an address"), protocol, payload }
    }

    #[test]
    fn an_echo_comes_back_with_its_bytes_and_a_checksum() {
        let checks = ChecksumCapabilities::default();
        let request = [8, 0, 1, 2, 0, 7, 0, 9, b'h', b'i', b'!'];
        let packet = echo_reply(&inner(false, ip::ICMP, 20..31), &request);
        let repr = Icmpv4Repr::parse(&Icmpv4Packet::new_checked(&packet[20..]).expect("lengths"), &checks);
        assert_eq!(repr, Ok(Icmpv4Repr::EchoReply { ident: 7, seq_no: 9, data: b"hi!" }));

        let request = [128, 0, 1, 2, 0, 7, 0, 9, b'h', b'i', b'!'];
        let inner = inner(true, ip::ICMP_V6, 40..51);
        let packet = echo_reply(&inner, &request);
        let (IpAddr::V6(from), IpAddr::V6(to)) = (inner.to, inner.from) else { panic!("both are IPv6") };
        let message = Icmpv6Packet::new_checked(&packet[40..]).expect("lengths");
        let repr = Icmpv6Repr::parse(&from, &to, &message, &checks);
        assert_eq!(repr, Ok(Icmpv6Repr::EchoReply { ident: 7, seq_no: 9, data: b"hi!" }));
    }

    #[test]
    fn what_is_too_big_is_read_and_the_rest_is_not() {
        let message = [3, 4, 0, 0, 0, 0, 5, 0, 0x45];
        assert_eq!(parse(ip::ICMP, &message), Some(Message::TooBig { mtu: 1280, quoted: &[0x45] }));
        let message = [2, 0, 0, 0, 0, 0, 5, 0, 0x60];
        assert_eq!(parse(ip::ICMP_V6, &message), Some(Message::TooBig { mtu: 1280, quoted: &[0x60] }));
        assert_eq!(parse(ip::ICMP, &message), None);
        for len in 0..8 {
            assert_eq!(parse(ip::ICMP_V6, &message[..len]), None);
        }
    }
}
