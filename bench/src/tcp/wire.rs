//! What both sides of the suite share: packets as bytes.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};

use postern_tcp::Header;
use smoltcp::wire::{Ipv4Address, Ipv4Packet, TcpPacket};

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
    pub(super) packets: VecDeque<Packet>,
    free: Vec<Packet>,
}

/// A packet in memory that may be larger: what was cleared once is not cleared again.
#[derive(Default)]
pub(super) struct Packet {
    memory: Vec<u8>,
    len: usize,
}

impl Wire {
    /// Memory for a packet of `len` bytes; what it holds is of no meaning.
    pub(super) fn take(&mut self, len: usize) -> Packet {
        let mut packet = self.free.pop().unwrap_or_default();
        if packet.memory.len() < len {
            packet.memory.resize(len, 0);
        }
        packet.len = len;
        packet
    }

    pub(super) fn give_back(&mut self, packet: Packet) {
        self.free.push(packet);
    }
}

impl Deref for Packet {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl DerefMut for Packet {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }
}

/// Bytes of an IPv4 header without options.
pub(super) const IP: usize = 20;
/// Bytes of a TCP header without options.
pub(super) const TCP: usize = 20;

/// The bits of the TCP header's flags.
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// Prints a header and two slices of payload as an IPv4 packet, checksums included.
pub(super) fn print(packet: &mut [u8], ends: Ends, header: &Header, payload: (&[u8], &[u8])) {
    let total = packet.len() as u16;
    let (ip, tcp) = packet.split_at_mut(IP);
    // The payload first: by the time that its checksum is taken it has reached the cache.
    let start = TCP + header.options_len();
    let (head, body) = tcp.split_at_mut(start);
    if !payload.0.is_empty() {
        body[..payload.0.len()].copy_from_slice(payload.0);
    }
    if !payload.1.is_empty() {
        body[payload.0.len()..].copy_from_slice(payload.1);
    }

    // Version and length, no service, no fragments, 64 hops, TCP.
    ip[..2].copy_from_slice(&[0x45, 0]);
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[4..12].copy_from_slice(&[0, 0, 0x40, 0, 64, 6, 0, 0]);
    ip[12..16].copy_from_slice(&ends.from.0.octets());
    ip[16..].copy_from_slice(&ends.to.0.octets());
    Ipv4Packet::new_unchecked(ip).fill_checksum();

    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    let flags = flag(header.fin, FIN)
        | flag(header.syn, SYN)
        | flag(header.rst, RST)
        | flag(header.psh, PSH)
        | flag(header.ack.is_some(), ACK);
    let (fixed, options) = head.split_at_mut(TCP);
    fixed[..2].copy_from_slice(&ends.from.1.to_be_bytes());
    fixed[2..4].copy_from_slice(&ends.to.1.to_be_bytes());
    fixed[4..8].copy_from_slice(&header.seq.to_be_bytes());
    fixed[8..12].copy_from_slice(&header.ack.unwrap_or(0).to_be_bytes());
    fixed[12..14].copy_from_slice(&[(start as u8 / 4) << 4, flags]);
    fixed[14..16].copy_from_slice(&header.window.to_be_bytes());
    // No checksum yet, and no urgent pointer.
    fixed[16..].fill(0);
    if !options.is_empty() {
        print_options(options, header);
    }
    TcpPacket::new_unchecked(tcp).fill_checksum(&ends.from.0.into(), &ends.to.0.into());
}

fn print_options(mut options: &mut [u8], header: &Header) {
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

/// Whether a packet goes to the flow at `ends`: smoltcp looks at lengths, addresses and ports too.
pub(super) fn is_for(packet: &[u8], ends: Ends) -> bool {
    let Some((ip, tcp)) = packet.split_first_chunk::<IP>() else { return false };
    ip[0] == 0x45
        && ip[9] == 6
        && usize::from(u16::from_be_bytes([ip[2], ip[3]])) == packet.len()
        && ip[12..16] == ends.to.0.octets()
        && ip[16..] == ends.from.0.octets()
        && tcp[..2] == ends.to.1.to_be_bytes()
        && tcp[2..4] == ends.from.1.to_be_bytes()
}

/// Reads a packet without options in its IP header; the payload is `packet[offset..]`.
#[inline(always)]
pub(super) fn read(packet: &[u8]) -> (Header, usize) {
    let (head, rest) = packet[IP..].split_first_chunk::<TCP>().expect("a TCP header");
    let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let flags = head[13];
    let mut header = Header {
        seq: word(4),
        ack: (flags & ACK != 0).then(|| word(8)),
        window: u16::from_be_bytes([head[14], head[15]]),
        syn: flags & SYN != 0,
        fin: flags & FIN != 0,
        rst: flags & RST != 0,
        psh: flags & PSH != 0,
        ..Header::default()
    };
    let start = usize::from(head[12] >> 4) * 4;
    if start > TCP {
        read_options(&rest[..start - TCP], &mut header);
    }
    (header, IP + start)
}

fn read_options(mut options: &[u8], header: &mut Header) {
    // No operation is one byte; everything else tells its length. The end of the list is not used.
    while let [kind, rest @ ..] = options {
        if *kind == 1 {
            options = rest;
            continue;
        }
        let Some((value, rest)) =
            rest.first().and_then(|len| options[2..].split_at_checked(usize::from(*len).saturating_sub(2)))
        else {
            return;
        };
        match (kind, value) {
            (2, &[high, low]) => header.mss = Some(u16::from_be_bytes([high, low])),
            (3, &[shift]) => header.window_scale = Some(shift),
            (4, &[]) => header.sack_permitted = true,
            (5, edges) => header.sack = edges.as_chunks::<8>().0.iter().map(sack_block).collect(),
            _ => {}
        }
        options = rest;
    }
}

fn sack_block(&[a, b, c, d, e, f, g, h]: &[u8; 8]) -> (u32, u32) {
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}
