//! What the fuzz targets run, and an ordinary test on their corpora: bytes of an attacker's choice. Nothing panics, and the
//! bounds hold. No part of the interface.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use postern_tcp::{Header, Segment};

use crate::batch::Batch;
use crate::config::{Config, Limits};
use crate::engine::{Engine, PeerIndex, Sealed};
use crate::event::{Event, Read};
use crate::inlet;
use crate::key::PrivateKey;
use crate::merge::Merge;
use crate::netstack::Netstack;
use crate::path::Path;
use crate::peer::Peer;
use crate::stack::Stack;
use crate::tuple::FourTuple;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(100, 72, 0, 1));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
const REMOTE: IpAddr = IpAddr::V4(Ipv4Addr::new(100, 72, 0, 2));
const PORT: u16 = 443;
const SEED: [u8; 32] = [7; 32];
const FEW: u32 = 4;

fn limits() -> Limits {
    Limits {
        flows_per_peer: FEW,
        // So many that an eighth of what is left is no fewer.
        flows: 16 * FEW,
        embryonic_per_peer: FEW,
        backlog: 16 * FEW,
        memory: 1 << 20,
        time_waits: FEW as usize,
        ..Limits::default()
    }
}

/// Reads `bytes` as packets that one of two peers sends: a byte whose lowest bit is the peer and whose others are
/// milliseconds that pass before, two bytes of length, the packet. An application accepts and reads everything. There is a
/// connection of the first peer from 100.72.0.2 port 9 to 100.72.0.1 port 443, whose next number is 1001 and whose
/// acknowledgement is [`acknowledgement`]. `true` where something could be read or was opened.
///
/// # Panics
/// If a bound does not hold: that is what fuzzing looks for.
#[must_use]
pub fn ip_ingress(mut bytes: &[u8]) -> bool {
    let mut now = Instant::now();
    let mut stack = Stack::new(limits(), vec![V4, V6], 1420, &SEED, now);
    let mut merge = Merge::new();
    let listener = stack.listeners.add(PORT).expect("nobody listens");
    let _ = stack.connect(PeerIndex(0), SocketAddr::from(([100, 72, 0, 2], 80)), Duration::from_secs(60), now);
    establish(&mut stack, now);
    let mut some = false;
    while let Some((head, rest)) = bytes.split_first_chunk::<3>() {
        let length = usize::from(u16::from_le_bytes([head[1], head[2]])).min(rest.len());
        let (packet, rest) = rest.split_at(length);
        bytes = rest;
        now += Duration::from_millis(u64::from(head[0] >> 1));
        if !merge.has_room(length) {
            inlet::flush(&mut merge, &mut stack, now);
        }
        merge.space()[..length].copy_from_slice(packet);
        inlet::handle_packet(&mut merge, &mut stack, PeerIndex(u32::from(head[0] & 1)), length, now);
        // Time passes only between what arrives together.
        if head[0] > 1 {
            inlet::flush(&mut merge, &mut stack, now);
            stack.handle_timeout(now);
            some |= use_everything(&mut stack, listener, now);
        }
        assert!(stack.flows.len() <= 2 * FEW as usize, "too many flows");
        assert!(stack.counters.memory <= 2 << 20, "too much memory");
    }
    inlet::flush(&mut merge, &mut stack, now);
    some | use_everything(&mut stack, listener, now)
}

/// What acknowledges everything that the connection of [`ip_ingress`] has sent at first.
#[must_use]
pub fn acknowledgement() -> u32 {
    let now = Instant::now();
    let mut stack = Stack::new(limits(), vec![V4, V6], 1420, &SEED, now);
    let _ = stack.listeners.add(PORT);
    establish(&mut stack, now)
}

fn establish(stack: &mut Stack, now: Instant) -> u32 {
    let tuple = FourTuple { remote: REMOTE, local: V4, remote_port: 9, local_port: PORT };
    let syn = Header { seq: 1000, syn: true, window: 60_000, mss: Some(1380), ..Header::default() };
    stack.handle_segment(PeerIndex(0), &tuple, &Segment::new(syn, b""), now);
    let slot = stack.flows.find(&tuple).and_then(|index| stack.flows.get_mut(index)).expect("a flow");
    let answer = slot.flow.poll_transmit(now, 1000).expect("a SYN").header;
    let ack = answer.seq.wrapping_add(1);
    let header = Header { seq: 1001, ack: Some(ack), window: 60_000, ..Header::default() };
    stack.handle_segment(PeerIndex(0), &tuple, &Segment::new(header, b""), now);
    ack
}

/// Accepts, reads, answers, sends into the void. Whether something was read or opened.
fn use_everything(stack: &mut Stack, listener: crate::ListenerId, now: Instant) -> bool {
    let mut buffer = [0; 4096];
    let mut some = false;
    while let Some((stream, _, [remote, _])) = stack.accept(listener, now) {
        let _ = stack.write(stream, &[IoSlice::new(b"hello")], now);
        some |= remote.port() != 9;
    }
    while let Some(event) = stack.next_event() {
        match event {
            Event::Incoming(_) | Event::Connected(_) | Event::Writable(_) => {}
            Event::Readable(stream) => {
                while let Ok(Read::Bytes(_)) = stack.read(stream, &mut buffer, now) {
                    some = true;
                }
                stack.shutdown(stream, now);
            }
            Event::Closed(stream) => stack.close(stream, now),
        }
    }
    while let Some(peer) = stack.outbox.next() {
        while let Some(answer) = stack.outbox.pop_answer(peer) {
            assert!(answer.len() <= 1 << 16, "larger than what it answers");
        }
        while let Some(index) = stack.outbox.pop_flow(peer).and_then(|id| stack.flows.index(id)) {
            let Some(slot) = stack.flows.get_mut(index) else { continue };
            while slot.flow.poll_transmit(now, 60_000).is_some() {}
            slot.dirty = false;
            stack.settle(index, now);
        }
    }
    some
}

/// Reads `bytes` as datagrams from one address: two bytes of length, of which the highest bit means that what follows is a
/// packet which a peer seals, and the one below that one bit of it is damaged on the way; then the bytes. A sealed datagram
/// comes twice. `true` where something was sent back.
///
/// # Panics
/// If more bytes are sent back than came, or a flow exists: that is what fuzzing looks for.
#[must_use]
pub fn datagram(mut bytes: &[u8]) -> bool {
    let mut world = Strangers::new();
    let mut some = false;
    while let Some((head, rest)) = bytes.split_first_chunk::<2>() {
        let head = u16::from_le_bytes(*head);
        let (datagram, rest) = rest.split_at(usize::from(head & 0x3fff).min(rest.len()));
        bytes = rest;
        let Some(mut sealed) = (head & 0x8000 != 0).then(|| world.seal(datagram)) else {
            some |= world.give(datagram);
            continue;
        };
        if head & 0x4000 != 0 {
            let at = usize::from(datagram.first().copied().unwrap_or(0)) % sealed.len();
            sealed[at] ^= 1;
        }
        some |= world.give(&sealed);
        some |= world.give(&sealed);
    }
    some
}

/// Who has no flows with us: a netstack, a peer of it, and whoever can show the peer's address.
struct Strangers {
    net: Netstack,
    peer: Engine,
    /// What we are to the peer; there is a session once it has sealed something.
    index: Option<PeerIndex>,
    came: usize,
    sent: usize,
    now: Instant,
    batch: Batch,
}

impl Strangers {
    const FROM: Path = Path::Udp(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 9), 9)));

    fn new() -> Self {
        let now = Instant::now();
        let keys = [1, 2].map(|key| PrivateKey::from_bytes([key; 32]));
        let peer = |key: &PrivateKey, address: IpAddr| Peer {
            key: key.public(),
            generation: 1,
            allowed_ips: vec![IpNet::from(address)],
            path: None,
            keep_alive: None,
        };
        let (ours, theirs) = (Peer { path: Some(Self::FROM), ..peer(&keys[0], V4) }, peer(&keys[1], REMOTE));
        let [key, other] = keys;
        let config = Config { key, addresses: vec![V4, V6], mtu: 1420, limits: limits(), seed: SEED };
        let mut net = Netstack::new(config, now);
        net.set_peers(&[theirs], now);
        let mut peer = Engine::new(other, SEED, u32::MAX, now);
        peer.set_peers(&[ours], now);
        Self { net, peer, index: None, came: 0, sent: 0, now, batch: Batch::new() }
    }

    /// What the peer makes of a packet. The first time they shake hands before.
    fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut out = vec![0; packet.len() + 148];
        let index = self.index.unwrap_or_else(|| {
            let index = self.peer.route(V4).expect("our address");
            let _ = self.peer.seal(index, &[], &mut out, self.now);
            self.shake_hands();
            index
        });
        self.index = Some(index);
        match self.peer.seal(index, packet, &mut out, self.now) {
            Sealed::Sealed(length) => out.truncate(length),
            // A stranger's handshakes had used up all that are answered.
            Sealed::Queued | Sealed::NoPath | Sealed::Dropped(_) => {}
        }
        out
    }

    fn shake_hands(&mut self) {
        let mut opened = [0; 256];
        for _ in 0..2 {
            let mut datagram = Vec::new();
            while self.peer.poll_control(&mut datagram).is_some() {
                self.net.handle_datagram(Self::FROM, &datagram, self.now);
                self.came += datagram.len();
                datagram.clear();
            }
            while self.net.poll_transmit(self.now, &mut self.batch) {
                self.sent += self.batch.bytes().len();
                for datagram in self.batch.datagrams() {
                    let _ = self.peer.open(Self::FROM, datagram, &mut opened, self.now);
                }
            }
        }
    }

    /// A datagram arrives. Whether something is sent back.
    fn give(&mut self, datagram: &[u8]) -> bool {
        self.net.handle_datagram(Self::FROM, datagram, self.now);
        self.net.handle_timeout(self.now);
        self.came += datagram.len();
        let before = self.sent;
        while self.net.poll_transmit(self.now, &mut self.batch) {
            assert_eq!(self.batch.path(), Some(Self::FROM));
            self.sent += self.batch.bytes().len();
        }
        assert!(self.sent <= self.came, "{} bytes answer {}", self.sent, self.came);
        assert_eq!((self.net.poll_event(), self.net.counters().flows), (None, 0));
        self.sent > before
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::emit;

    fn wire(tuple: &FourTuple, header: &Header, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 2000];
        let length = emit::segment(&mut packet, tuple, header, (payload, &[]));
        packet.truncate(length);
        packet
    }

    fn step(head: u8, packet: &[u8]) -> Vec<u8> {
        let [low, high] = (packet.len() as u16).to_le_bytes();
        [&[head, low, high], packet].concat()
    }

    /// Packets that nearly make sense, some of them damaged.
    fn packets() -> impl Strategy<Value = Vec<u8>> {
        let numbers = (0..3000u32, prop::option::of(any::<u32>()), any::<u16>());
        let one = (any::<[bool; 5]>(), numbers, 0..400usize, 0..4u16, any::<(u8, bool)>(), any::<Option<(u16, u8)>>());
        let one =
            one.prop_map(|([v6, syn, fin, rst, to_open], (seq, ack, window), len, port, (head, known), damage)| {
                let (local, remote) = if v6 { (V6, "fd00::2".parse()) } else { (V4, "100.72.0.2".parse()) };
                let local_port = if known { PORT } else { 32_768 };
                let tuple = FourTuple {
                    remote: local,
                    local: remote.expect("an address"),
                    remote_port: local_port,
                    local_port: if to_open { 80 } else { port },
                };
                let header = Header { seq, ack, window, syn, fin, rst, ..Header::default() };
                let mut packet = wire(&tuple, &header, &vec![7; len]);
                if let Some((at, bits)) = damage {
                    let at = usize::from(at) % packet.len();
                    packet[at] ^= bits;
                }
                step(head, &packet)
            });
        prop::collection::vec(one, 1..60).prop_map(|packets| packets.concat())
    }

    proptest! {
        #[test]
        fn packets_that_nearly_make_sense_do_no_harm(bytes in packets()) {
            let _ = ip_ingress(&bytes);
        }

        #[test]
        fn packets_that_a_peer_seals_are_answered_with_no_more_than_they_are(bytes in packets()) {
            // The same packets, each with a head that has it sealed, and some of them damaged.
            let (mut rest, mut sealed) = (&bytes[..], Vec::new());
            while let Some((head, after)) = rest.split_first_chunk::<3>() {
                let length = u16::from_le_bytes([head[1], head[2]]);
                let (packet, after) = after.split_at(length.into());
                sealed.extend_from_slice(&(length | 0x8000 | u16::from(head[0] & 8 == 0) << 14).to_le_bytes());
                sealed.extend_from_slice(packet);
                rest = after;
            }
            let _ = datagram(&sealed);
        }

        #[test]
        fn bytes_without_sense_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _ = (ip_ingress(&bytes), datagram(&bytes));
        }
    }

    #[test]
    fn data_of_the_connection_is_read_and_other_data_is_not() {
        let tuple = FourTuple { remote: V4, local: REMOTE, remote_port: PORT, local_port: 9 };
        let ack = Some(acknowledgement());
        let header = Header { seq: 1001, ack, window: 9000, ..Header::default() };
        assert!(ip_ingress(&step(2, &wire(&tuple, &header, b"hi"))));
        assert!(!ip_ingress(&step(3, &wire(&tuple, &header, b"hi"))), "of the other peer");
        let header = Header { seq: 99, ..header };
        assert!(!ip_ingress(&step(2, &wire(&tuple, &header, b"hi"))));
    }

    #[test]
    fn what_a_peer_has_sealed_is_opened_and_answered_and_what_is_damaged_is_not() {
        let tuple = FourTuple { remote: V4, local: REMOTE, remote_port: 80, local_port: 9 };
        let packet = wire(&tuple, &Header { seq: 1, syn: true, ..Header::default() }, b"");
        let sealed = |flags: u16| [&(packet.len() as u16 | flags).to_le_bytes()[..], &packet].concat();
        assert!(datagram(&sealed(0x8000)), "a reset");
        assert!(!datagram(&sealed(0xc000)) && !datagram(&sealed(0)));
    }
}
