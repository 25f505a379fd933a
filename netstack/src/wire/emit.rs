//! Whole packets, written.

use std::net::IpAddr;

use postern_tcp::Header;

use super::checksum::Sum;
use super::{ip, tcp};
use crate::tuple::FourTuple;

/// Most bytes that the headers of a TCP packet take.
pub(crate) const MOST_HEADERS: usize = 40 + 60;

/// Writes a TCP packet of a flow into `out`, which has room for it; returns its length.
pub(crate) fn segment(out: &mut [u8], tuple: &FourTuple, header: &Header, payload: (&[u8], &[u8])) -> usize {
    let start = ip_length(tuple.local);
    let options = tcp::write(&mut out[start..], tuple.local_port, tuple.remote_port, header);
    let data = start + options;
    let middle = data + payload.0.len();
    let end = middle + payload.1.len();
    out[data..middle].copy_from_slice(payload.0);
    out[middle..end].copy_from_slice(payload.1);
    ip_header(out, tuple.local, tuple.remote, ip::TCP, end);
    let sum = Sum::pseudo(tuple.local, tuple.remote, ip::TCP, end - start).add(&out[start..end]).finish();
    out[start + 16..start + 18].copy_from_slice(&sum);
    end
}

/// Length of the IP header before what `from` sends.
pub(crate) fn ip_length(from: IpAddr) -> usize {
    match from {
        IpAddr::V4(_) => 20,
        IpAddr::V6(_) => 40,
    }
}

/// Writes the IP header of a packet of `length` bytes. IPv4: never to be fragmented, so without identification (RFC 6864).
pub(crate) fn ip_header(out: &mut [u8], from: IpAddr, to: IpAddr, protocol: u8, length: usize) {
    const HOPS: u8 = 64;
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [high, low] = (length as u16).to_be_bytes();
            out[..12].copy_from_slice(&[0x45, 0, high, low, 0, 0, 0x40, 0, HOPS, protocol, 0, 0]);
            out[12..16].copy_from_slice(&from.octets());
            out[16..20].copy_from_slice(&to.octets());
            let sum = Sum::default().add(&out[..20]).finish();
            out[10..12].copy_from_slice(&sum);
        }
        (from, to) => {
            let [high, low] = ((length - 40) as u16).to_be_bytes();
            out[..8].copy_from_slice(&[0x60, 0, 0, 0, high, low, protocol, HOPS]);
            out[8..24].copy_from_slice(&v6(from));
            out[24..40].copy_from_slice(&v6(to));
        }
    }
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, TcpPacket, TcpRepr};

    use super::*;

    fn tuple(v6: bool) -> FourTuple {
        let address = |last: u8| -> IpAddr {
            if v6 { format!("fd00::{last}").parse() } else { format!("10.9.8.{last}").parse() }.expect("an address")
        };
        FourTuple { remote: address(2), local: address(1), remote_port: 40_000, local_port: 443 }
    }

    proptest! {
        /// smoltcp checks every length and checksum.
        #[test]
        fn smoltcp_reads_what_we_write(
            v6: bool,
            seq: u32,
            ack: u32,
            payload in prop::collection::vec(any::<u8>(), 0..1400),
            cut: prop::sample::Index,
        ) {
            let tuple = tuple(v6);
            let header = Header { seq, ack: Some(ack), window: 77, psh: true, ..Header::default() };
            let cut = if payload.is_empty() { 0 } else { cut.index(payload.len()) };
            let mut out = vec![0xaa; 2000];
            let length = segment(&mut out, &tuple, &header, payload.split_at(cut));
            let checks = ChecksumCapabilities::default();
            let (from, to, start) = if v6 {
                let repr = Ipv6Repr::parse(&Ipv6Packet::new_checked(&out[..length]).expect("lengths")).expect("a header");
                (repr.src_addr.into(), repr.dst_addr.into(), 40)
            } else {
                let packet = Ipv4Packet::new_checked(&out[..length]).expect("lengths");
                let repr = Ipv4Repr::parse(&packet, &checks).expect("a header");
                (repr.src_addr.into(), repr.dst_addr.into(), 20)
            };
            let packet = TcpPacket::new_checked(&out[start..length]).expect("lengths");
            let repr = TcpRepr::parse(&packet, &from, &to, &checks).expect("a segment");
            prop_assert_eq!(repr.payload, &payload[..]);
            prop_assert_eq!((repr.src_port, repr.dst_port, repr.window_len), (443, 40_000, 77));
            prop_assert_eq!((repr.seq_number.0 as u32, repr.ack_number.map(|ack| ack.0 as u32)), (seq, Some(ack)));
        }
    }
}
