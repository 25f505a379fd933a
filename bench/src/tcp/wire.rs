//! What both sides of the suite share: packets as bytes.

use std::collections::VecDeque;

use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Address, Ipv4Packet, TcpPacket, TcpSeqNumber};

/// Ports and addresses of a connection, seen from one end.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub(super) from: (Ipv4Address, u16),
    pub(super) to: (Ipv4Address, u16),
}

pub(super) const ENDS: Ends =
    Ends { from: (Ipv4Address::new(10, 0, 0, 1), 40_000), to: (Ipv4Address::new(10, 0, 0, 2), 443) };

impl Ends {
    pub(super) fn reversed(self) -> Self {
        Self { from: self.to, to: self.from }
    }
}

/// Packets on the way, and their memory on the way back.
#[derive(Default)]
pub(super) struct Wire {
    pub(super) packets: VecDeque<Vec<u8>>,
    free: Vec<Vec<u8>>,
}

impl Wire {
    /// Memory for a packet of `len` bytes; what it holds is of no meaning.
    pub(super) fn take(&mut self, len: usize) -> Vec<u8> {
        let mut packet = self.free.pop().unwrap_or_default();
        packet.resize(len, 0);
        packet
    }

    pub(super) fn give_back(&mut self, packet: Vec<u8>) {
        self.free.push(packet);
    }
}

/// Bytes of an IPv4 header without options.
pub(super) const IP: usize = 20;
/// Bytes of a TCP header without options.
pub(super) const TCP: usize = 20;

/// Prints a header and two slices of payload as an IPv4 packet, checksums included.
pub(super) fn print(packet: &mut [u8], ends: Ends, header: &postern_tcp::Header, payload: (&[u8], &[u8])) {
    let options = header.options_len();
    let total = packet.len();
    let mut ip = Ipv4Packet::new_unchecked(&mut *packet);
    ip.set_version(4);
    ip.set_header_len(IP as u8);
    ip.set_dscp(0);
    ip.set_ecn(0);
    ip.set_total_len(total as u16);
    ip.set_ident(0);
    ip.clear_flags();
    ip.set_more_frags(false);
    ip.set_dont_frag(true);
    ip.set_frag_offset(0);
    ip.set_hop_limit(64);
    ip.set_next_header(IpProtocol::Tcp);
    ip.set_src_addr(ends.from.0);
    ip.set_dst_addr(ends.to.0);
    ip.fill_checksum();
    let mut tcp = TcpPacket::new_unchecked(&mut packet[IP..]);
    tcp.set_src_port(ends.from.1);
    tcp.set_dst_port(ends.to.1);
    tcp.set_seq_number(TcpSeqNumber(header.seq as i32));
    tcp.set_ack_number(TcpSeqNumber(header.ack.unwrap_or(0) as i32));
    tcp.set_header_len((TCP + options) as u8);
    tcp.clear_flags();
    tcp.set_ack(header.ack.is_some());
    tcp.set_syn(header.syn);
    tcp.set_fin(header.fin);
    tcp.set_rst(header.rst);
    tcp.set_psh(header.psh);
    tcp.set_window_len(header.window);
    tcp.set_urgent_at(0);
    print_options(tcp.options_mut(), header);
    let body = tcp.payload_mut();
    body[..payload.0.len()].copy_from_slice(payload.0);
    body[payload.0.len()..].copy_from_slice(payload.1);
    tcp.fill_checksum(&IpAddress::Ipv4(ends.from.0), &IpAddress::Ipv4(ends.to.0));
}

fn print_options(mut options: &mut [u8], header: &postern_tcp::Header) {
    let mut put = |bytes: &[u8]| {
        let (head, rest) = std::mem::take(&mut options).split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        options = rest;
    };
    if let Some(mss) = header.mss {
        put(&[2, 4, (mss >> 8) as u8, mss as u8]);
    }
    if let Some(scale) = header.window_scale {
        put(&[3, 3, scale]);
    }
    if header.sack_permitted {
        put(&[4, 2]);
    }
    if !header.sack.is_empty() {
        put(&[5, 2 + 8 * header.sack.len() as u8]);
        for (left, right) in header.sack.iter() {
            put(&left.to_be_bytes());
            put(&right.to_be_bytes());
        }
    }
    options.fill(1);
}

/// Reads a packet that [`print`] has printed; the payload is `packet[offset..]`.
pub(super) fn read(packet: &[u8]) -> (postern_tcp::Header, usize) {
    let tcp = TcpPacket::new_unchecked(&packet[IP..]);
    let mut header = postern_tcp::Header {
        seq: tcp.seq_number().0 as u32,
        ack: tcp.ack().then(|| tcp.ack_number().0 as u32),
        window: tcp.window_len(),
        syn: tcp.syn(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        psh: tcp.psh(),
        ..postern_tcp::Header::default()
    };
    let offset = IP + usize::from(tcp.header_len());
    let mut options = tcp.options();
    while let Ok((rest, option)) = smoltcp::wire::TcpOption::parse(options) {
        use smoltcp::wire::TcpOption;
        match option {
            TcpOption::MaxSegmentSize(mss) => header.mss = Some(mss),
            TcpOption::WindowScale(scale) => header.window_scale = Some(scale),
            TcpOption::SackPermitted => header.sack_permitted = true,
            TcpOption::SackRange(ranges) => header.sack = ranges.into_iter().flatten().collect(),
            TcpOption::EndOfList | TcpOption::NoOperation | TcpOption::TimeStamp { .. } | TcpOption::Unknown { .. } => {
            }
        }
        if rest.is_empty() {
            break;
        }
        options = rest;
    }
    (header, offset)
}
