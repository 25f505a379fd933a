//! What both sides of the suite share: packets as bytes.

use postern_tcp::{Header, Segment};
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

/// Packets on the way. They stay where they are and their memory is used again: what was cleared once is not cleared again.
#[derive(Default)]
pub(super) struct Wire {
    slots: Vec<Slot>,
    /// The first packet on the way, and where the next one goes.
    first: usize,
    next: usize,
}

/// A packet of `len` bytes, in memory that may be larger.
#[derive(Default)]
struct Slot {
    memory: Vec<u8>,
    len: usize,
}

impl Wire {
    /// How many packets are on the way.
    pub(super) fn len(&self) -> usize {
        self.next - self.first
    }

    /// Puts a packet of `len` bytes on the wire, to be written; what it holds is of no meaning.
    #[inline(always)]
    pub(super) fn put(&mut self, len: usize) -> &mut [u8] {
        if self.next == self.slots.len() {
            self.slots.push(Slot::default());
        }
        let slot = &mut self.slots[self.next];
        self.next += 1;
        if slot.memory.len() < len {
            slot.memory.resize(len, 0);
        }
        slot.len = len;
        &mut slot.memory[..len]
    }

    /// The first packet on the way.
    #[inline(always)]
    pub(super) fn front(&self) -> Option<&[u8]> {
        let slot = self.slots[..self.next].get(self.first)?;
        Some(&slot.memory[..slot.len])
    }

    /// Takes the first packet off the wire.
    #[inline(always)]
    pub(super) fn pop(&mut self) {
        self.first += 1;
        if self.first == self.next {
            (self.first, self.next) = (0, 0);
        }
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
#[inline(always)]
pub(super) fn print(packet: &mut [u8], ends: &Ends, header: &Header, payload: (&[u8], &[u8])) {
    let total = packet.len() as u16;
    let (ip, tcp) = packet.split_first_chunk_mut::<IP>().expect("room for an IP header");
    print_ip(ip, ends, total);
    let (fixed, rest) = tcp.split_first_chunk_mut::<TCP>().expect("room for a TCP header");
    let (options, body) = rest.split_at_mut(header.options_len());
    print_tcp(fixed, ends, header, TCP + options.len());
    if !options.is_empty() {
        print_options(options, header);
    }
    // After the headers, which the checksum reads in larger pieces than they were written in: they have reached the cache by
    // then.
    let (head, tail) = body.split_at_mut(payload.0.len());
    if !head.is_empty() {
        head.copy_from_slice(payload.0);
    }
    if !tail.is_empty() {
        tail.copy_from_slice(payload.1);
    }
    TcpPacket::new_unchecked(tcp).fill_checksum(&ends.from.0.into(), &ends.to.0.into());
}

fn print_ip(ip: &mut [u8; IP], ends: &Ends, total: u16) {
    // Version and length, no service, no fragments, 64 hops, TCP.
    ip[..2].copy_from_slice(&[0x45, 0]);
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[4..12].copy_from_slice(&[0, 0, 0x40, 0, 64, 6, 0, 0]);
    ip[12..16].copy_from_slice(&ends.from.0.octets());
    ip[16..].copy_from_slice(&ends.to.0.octets());
    Ipv4Packet::new_unchecked(ip).fill_checksum();
}

/// Prints the part of a TCP header that every packet has; `start` is where the payload begins.
fn print_tcp(tcp: &mut [u8; TCP], ends: &Ends, header: &Header, start: usize) {
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    let flags = flag(header.fin, FIN)
        | flag(header.syn, SYN)
        | flag(header.rst, RST)
        | flag(header.psh, PSH)
        | flag(header.ack.is_some(), ACK);
    tcp[..2].copy_from_slice(&ends.from.1.to_be_bytes());
    tcp[2..4].copy_from_slice(&ends.to.1.to_be_bytes());
    tcp[4..8].copy_from_slice(&header.seq.to_be_bytes());
    tcp[8..12].copy_from_slice(&header.ack.unwrap_or(0).to_be_bytes());
    tcp[12..14].copy_from_slice(&[(start as u8 / 4) << 4, flags]);
    tcp[14..16].copy_from_slice(&header.window.to_be_bytes());
    // No checksum yet, and no urgent pointer.
    tcp[16..].fill(0);
}

#[inline(never)]
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
pub(super) fn is_for(packet: &[u8], ends: &Ends) -> bool {
    let Some((ip, tcp)) = packet.split_first_chunk::<IP>() else { return false };
    ip[0] == 0x45
        && ip[9] == 6
        && usize::from(u16::from_be_bytes([ip[2], ip[3]])) == packet.len()
        && ip[12..16] == ends.to.0.octets()
        && ip[16..] == ends.from.0.octets()
        && tcp[..2] == ends.to.1.to_be_bytes()
        && tcp[2..4] == ends.from.1.to_be_bytes()
}

/// Reads a packet without options in its IP header, and hands the segment on: by reference, for what was written in small
/// pieces a moment ago is expensive to copy in large ones.
#[inline(always)]
pub(super) fn read<T>(packet: &[u8], take: impl FnOnce(&Segment<'_>) -> T) -> T {
    let (head, rest) = packet[IP..].split_first_chunk::<TCP>().expect("a TCP header");
    let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let flags = head[13];
    let header = Header {
        seq: word(4),
        ack: (flags & ACK != 0).then(|| word(8)),
        window: u16::from_be_bytes([head[14], head[15]]),
        syn: flags & SYN != 0,
        fin: flags & FIN != 0,
        rst: flags & RST != 0,
        psh: flags & PSH != 0,
        ..Header::default()
    };
    let (options, payload) = rest.split_at((usize::from(head[12] >> 4) * 4).saturating_sub(TCP));
    let mut segment = Segment::new(header, payload);
    if !options.is_empty() {
        read_options(options, &mut segment.header);
    }
    take(&segment)
}

#[inline(never)]
fn read_options(mut options: &[u8], header: &mut Header) {
    loop {
        options = match options {
            // No operation is one byte; everything else tells its length. The end of the list is not used.
            [1, rest @ ..] => rest,
            [2, 4, high, low, rest @ ..] => {
                header.mss = Some(u16::from_be_bytes([*high, *low]));
                rest
            }
            [3, 3, shift, rest @ ..] => {
                header.window_scale = Some(*shift);
                rest
            }
            [4, 2, rest @ ..] => {
                header.sack_permitted = true;
                rest
            }
            [5, len, rest @ ..] => {
                let Some((edges, rest)) = rest.split_at_checked(usize::from(*len).saturating_sub(2)) else { return };
                header.sack = edges.as_chunks::<8>().0.iter().map(sack_block).collect();
                rest
            }
            [_, len, rest @ ..] => rest.get(usize::from(*len).saturating_sub(2)..).unwrap_or_default(),
            [] | [_] => return,
        };
    }
}

fn sack_block(&[a, b, c, d, e, f, g, h]: &[u8; 8]) -> (u32, u32) {
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}
