//! Engines that talk to each other in virtual time. With the feature `sim` boringtun's clock moves along.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::guard::{COOKIES, COOKIES_BEHIND};
use super::protocol::{COOKIE_LEN, INITIATION, REJECT_AFTER_MESSAGES};
use super::*;

/// Engines, each at a path of its own. What they send arrives at once, unless a test keeps it.
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) ends: Vec<End>,
}

pub(super) struct End {
    pub(super) engine: Engine,
    pub(super) key: [u8; 32],
    pub(super) path: Path,
    pub(super) address: IpAddr,
    /// Takes part in what happens.
    pub(super) up: bool,
}

/// A datagram on its way.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) from: usize,
    pub(super) to: Path,
    pub(super) bytes: Vec<u8>,
}

pub(super) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The path of the end with this number.
pub(super) fn at(end: usize) -> Path {
    Path::Udp(SocketAddr::from(([192, 0, 2, end as u8 + 1], 51820)))
}

/// The address inside the tunnel of the end with this number.
pub(super) fn inside(end: usize) -> IpAddr {
    IpAddr::from([100, 72, 0, end as u8 + 1])
}

/// A packet with nothing but addresses and a payload.
pub(super) fn packet(from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let mut packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let len = (20 + payload.len()) as u16;
            let mut header = vec![0x45, 0, (len >> 8) as u8, len as u8, 0, 0, 0, 0, 64, 17, 0, 0];
            header.extend(from.octets());
            header.extend(to.octets());
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let len = payload.len() as u16;
            let mut header = vec![0x60, 0, 0, 0, (len >> 8) as u8, len as u8, 17, 64];
            header.extend(from.octets());
            header.extend(to.octets());
            header
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => panic!("one family"),
    };
    packet.extend(payload);
    packet
}

impl World {
    pub(super) fn new(ends: usize) -> Self {
        Self::with_limit(ends, 1000)
    }

    pub(super) fn with_limit(ends: usize, handshakes_per_second: u32) -> Self {
        let now = Instant::now();
        let ends = (0..ends)
            .map(|end| {
                let key = PrivateKey::from_bytes([end as u8 + 1; 32]);
                End {
                    key: key.public(),
                    engine: Engine::new(key, [end as u8; 32], handshakes_per_second, now),
                    path: at(end),
                    address: inside(end),
                    up: true,
                }
            })
            .collect();
        Self { now, ends }
    }

    /// Two ends: 0 knows where 1 is, and 1 knows nothing but the key.
    pub(super) fn pair() -> Self {
        let mut world = Self::new(2);
        let (one, zero) = (world.peer(1, true, None), world.peer(0, false, None));
        world.set_peers(0, &[one]);
        world.set_peers(1, &[zero]);
        world
    }

    /// What others are told of an end.
    pub(super) fn peer(&self, end: usize, path: bool, keep_alive: Option<u64>) -> Peer {
        Peer {
            key: self.ends[end].key,
            generation: 1,
            allowed_ips: vec![IpNet::from(self.ends[end].address)],
            path: path.then_some(self.ends[end].path),
            keep_alive: keep_alive.map(secs),
        }
    }

    pub(super) fn set_peers(&mut self, end: usize, peers: &[Peer]) -> Vec<Change> {
        self.ends[end].engine.set_peers(peers, self.now)
    }

    pub(super) fn advance(&mut self, time: Duration) {
        self.now += time;
        #[cfg(feature = "sim")]
        mock_instant::MockClock::advance(time);
    }

    /// What an end has to say by itself.
    pub(super) fn control(&mut self, end: usize) -> Vec<Sent> {
        std::iter::from_fn(|| {
            let mut bytes = Vec::new();
            let to = self.ends[end].engine.poll_control(&mut bytes)?;
            Some(Sent { from: end, to, bytes })
        })
        .collect()
    }

    /// Hands a datagram to whoever is there: who that was, and what it held.
    pub(super) fn deliver(&mut self, sent: &Sent) -> Option<(usize, Opened, Vec<u8>)> {
        let to = self.ends.iter().position(|end| end.up && end.path == sent.to)?;
        let from = self.ends[sent.from].path;
        let (opened, packet) = self.give(to, from, &sent.bytes);
        Some((to, opened, packet))
    }

    /// Hands bytes to an end as if they came from a path.
    pub(super) fn give(&mut self, to: usize, from: Path, bytes: &[u8]) -> (Opened, Vec<u8>) {
        let mut out = vec![0; bytes.len() + 32];
        let opened = self.ends[to].engine.open(from, bytes, &mut out, self.now);
        out.truncate(if let Opened::Packet { len, .. } = opened { len } else { 0 });
        (opened, out)
    }

    /// Delivers until nobody says anything more: the packets that arrived, by the end they arrived at, and all that was said.
    pub(super) fn settle(&mut self) -> (Vec<(usize, Vec<u8>)>, Vec<Sent>) {
        let (mut packets, mut said) = (Vec::new(), Vec::new());
        loop {
            let sent: Vec<Sent> = (0..self.ends.len()).flat_map(|end| self.control(end)).collect();
            if sent.is_empty() {
                return (packets, said);
            }
            for sent in sent {
                if let Some((to, Opened::Packet { .. }, packet)) = self.deliver(&sent) {
                    packets.push((to, packet));
                }
                said.push(sent);
            }
            assert!(said.len() < 10_000, "they never stop");
        }
    }

    /// Wakes everybody when they want to be until `end`, delivering what they say: all that was said, and when.
    pub(super) fn run(&mut self, time: Duration) -> Vec<(Instant, Sent)> {
        let (end, mut said) = (self.now + time, Vec::new());
        loop {
            let (_, sent) = self.settle();
            said.extend(sent.into_iter().map(|sent| (self.now, sent)));
            let next = self.ends.iter().filter(|end| end.up).filter_map(|end| end.engine.poll_timeout()).min();
            let at = next.filter(|at| *at <= end).unwrap_or(end).max(self.now);
            self.advance(at - self.now);
            if next.is_none_or(|next| next > end) {
                return said;
            }
            for end in self.ends.iter_mut().filter(|end| end.up) {
                end.engine.handle_timeout(self.now);
            }
            assert!(said.len() < 100_000, "they never stop");
        }
    }

    pub(super) fn index(&self, end: usize, of: usize) -> PeerIndex {
        self.ends[end].engine.by_key[&self.ends[of].key]
    }

    /// Has an end send a packet to another: the datagram, if there was a session.
    pub(super) fn seal(&mut self, from: usize, to: usize, payload: &[u8]) -> Result<Sent, Sealed> {
        let packet = packet(self.ends[from].address, self.ends[to].address, payload);
        self.seal_packet(from, to, &packet)
    }

    pub(super) fn seal_packet(&mut self, from: usize, to: usize, packet: &[u8]) -> Result<Sent, Sealed> {
        let peer = self.index(from, to);
        let mut bytes = vec![0; packet.len() + 148];
        let path = self.ends[from].engine.can_seal(peer, self.now);
        match self.ends[from].engine.seal(peer, packet, &mut bytes, self.now) {
            Sealed::Sealed(len) => {
                bytes.truncate(len);
                Ok(Sent { from, to: path.expect("what is sealed has a path"), bytes })
            }
            other => {
                assert_eq!(path, None);
                Err(other)
            }
        }
    }

    /// Sends a packet over a session that must be there.
    pub(super) fn pass(&mut self, from: usize, to: usize) {
        let sent = self.seal(from, to, b"payload").expect("there is a session");
        let (end, opened, bytes) = self.deliver(&sent).expect("somebody is there");
        assert_eq!(end, to);
        assert!(matches!(opened, Opened::Packet { .. }), "{opened:?}");
        assert_eq!(bytes, packet(self.ends[from].address, self.ends[to].address, b"payload"));
    }

    /// A session, begun by 0.
    pub(super) fn connect(&mut self) {
        assert!(matches!(self.seal(0, 1, b"first"), Err(Sealed::Queued)));
        let (packets, _) = self.settle();
        assert_eq!(packets, [(1, packet(inside(0), inside(1), b"first"))]);
    }

    /// Has an end begin a handshake once more: what became of its initiation.
    fn call_again(&mut self, from: usize, to: usize) -> Opened {
        let peer = self.index(from, to);
        let engine = &mut self.ends[from].engine;
        engine.members[peer.slot()].as_mut().unwrap().initiate(&mut engine.shared, self.now);
        let initiation = self.control(from).remove(0);
        self.deliver(&initiation).unwrap().1
    }

    pub(super) fn drops(&mut self, end: usize) -> Vec<(Drop, u64)> {
        self.ends[end].engine.take_drops()
    }
}

pub(super) fn initiations(said: &[(Instant, Sent)], from: usize) -> Vec<Instant> {
    let is_one = |sent: &Sent| sent.from == from && sent.bytes[0] == INITIATION;
    said.iter().filter(|(_, sent)| is_one(sent)).map(|(at, _)| *at).collect()
}

#[test]
fn either_side_begins_and_what_waited_arrives() {
    let mut world = World::pair();
    assert!(matches!(world.seal(1, 0, b"too early"), Err(Sealed::NoPath)));
    world.connect();
    world.pass(0, 1);
    world.pass(1, 0);
    let ready: Vec<_> = (0..2).map(|end| world.ends[end].engine.take_ready()).collect();
    assert_eq!(ready, [Some(world.index(0, 1)), Some(world.index(1, 0))]);
    assert_eq!(world.ends[0].engine.take_ready(), None);

    // The keys are gone, and the one that was called knows where to call.
    world.run(secs(200));
    assert!(matches!(world.seal(1, 0, b"back"), Err(Sealed::Queued)));
    assert_eq!(world.settle().0, [(0, packet(inside(1), inside(0), b"back"))]);
    world.pass(0, 1);
}

#[test]
fn status_tells_where_and_how_much() {
    let mut world = World::pair();
    world.connect();
    let (zero, one) = (world.ends[0].engine.peers().next().unwrap(), world.ends[1].engine.peers().next().unwrap());
    assert_eq!((zero.key, zero.path), (world.ends[1].key, Some(at(1))));
    assert_eq!((one.path, one.last_handshake), (Some(at(0)), Some(world.now)));
    assert_eq!((zero.sent, zero.received), (one.received, one.sent));
    assert_eq!(zero.received, 92);
}

#[test]
fn a_peer_moves_only_when_it_proves_to_be_one() {
    let mut world = World::pair();
    world.connect();
    let elsewhere = Path::Udp("203.0.113.9:9".parse().unwrap());
    let peer = world.index(1, 0);
    let sent = world.seal(0, 1, b"moving").unwrap();
    let path = |world: &World| world.ends[1].engine.can_seal(peer, world.now);

    let mut forged = sent.bytes.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(world.give(1, elsewhere, &forged).0, Opened::Dropped(Drop::Unauthentic));
    assert_eq!(path(&world), Some(at(0)));

    assert!(matches!(world.give(1, elsewhere, &sent.bytes).0, Opened::Packet { .. }));
    assert_eq!(path(&world), Some(elsewhere));

    assert_eq!(world.give(1, at(0), &sent.bytes).0, Opened::Dropped(Drop::Replayed));
    assert_eq!(path(&world), Some(elsewhere));
    let stream = Path::Stream(7);
    let next = world.seal(0, 1, b"in a stream").unwrap();
    assert!(matches!(world.give(1, stream, &next.bytes).0, Opened::Packet { .. }));
    assert_eq!(path(&world), Some(stream));
}

#[test]
fn a_source_must_be_the_peers_own() {
    let mut world = World::new(3);
    let peers = [world.peer(0, true, None), world.peer(2, true, None)];
    world.set_peers(1, &peers);
    let one = world.peer(1, true, None);
    world.set_peers(0, &[one]);
    world.connect();
    for foreign in [inside(2), inside(1), inside(7)] {
        let spoofed = packet(foreign, inside(1), b"I am somebody else");
        let sent = world.seal_packet(0, 1, &spoofed).unwrap();
        assert_eq!(world.deliver(&sent).unwrap().1, Opened::Dropped(Drop::ForeignSource));
        world.pass(0, 1);
    }
}

#[test]
fn the_longest_prefix_says_whose_source_it_is() {
    let mut world = World::new(3);
    let mut site = world.peer(0, true, None);
    site.allowed_ips = vec!["100.72.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()];
    assert!(site.site());
    let device = world.peer(2, true, None);
    assert!(!device.site());
    world.set_peers(1, &[site, device]);
    let one = world.peer(1, true, None);
    world.set_peers(0, &[one]);
    world.connect();
    let v6 = |last: u16| IpAddr::from(Ipv6Addr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]));
    for (source, to, own) in [
        (inside(9), inside(1), true),
        (inside(2), inside(1), false),
        (v6(9), v6(1), true),
        (inside(8), inside(1), true),
    ] {
        let sent = world.seal_packet(0, 1, &packet(source, to, b"")).unwrap();
        assert_eq!(matches!(world.deliver(&sent).unwrap().1, Opened::Packet { .. }), own, "{source}");
    }
    let engine = &world.ends[1].engine;
    assert_eq!(engine.route(inside(2)), Some(world.index(1, 2)));
    assert_eq!(engine.route(inside(77)), Some(world.index(1, 0)));
    assert_eq!(engine.route(Ipv4Addr::LOCALHOST.into()), None);
}

#[test]
fn nothing_counts_twice() {
    let mut world = World::pair();
    world.seal(0, 1, b"x").unwrap_err();
    let initiation = world.control(0).remove(0);
    assert_eq!(world.deliver(&initiation).unwrap().1, Opened::Nothing);
    let response = world.control(1).remove(0);
    let elsewhere = Path::Udp("203.0.113.9:9".parse().unwrap());
    assert_eq!(world.give(1, elsewhere, &initiation.bytes).0, Opened::Dropped(Drop::Replayed));
    assert_eq!(world.deliver(&response).unwrap().1, Opened::Nothing);
    assert_eq!(world.give(0, elsewhere, &response.bytes).0, Opened::Dropped(Drop::UnknownIndex));
    let said = world.control(0);
    assert_eq!(said.len(), 2, "a keepalive and what waited");
    for sent in &said {
        assert!(!matches!(world.deliver(sent).unwrap().1, Opened::Dropped(_)));
        assert_eq!(world.give(1, elsewhere, &sent.bytes).0, Opened::Dropped(Drop::Replayed));
    }
    assert_eq!(world.control(1).len(), 0, "nothing of it was answered");
    assert_eq!(world.ends[1].engine.can_seal(world.index(1, 0), world.now), Some(at(0)));
}

#[test]
fn strangers_are_not_answered() {
    let mut world = World::new(3);
    let one = world.peer(1, true, None);
    world.set_peers(0, std::slice::from_ref(&one));
    world.set_peers(2, &[one]);
    let zero = world.peer(0, true, None);
    world.set_peers(1, &[zero]);
    world.seal(2, 1, b"hello").unwrap_err();
    let initiation = world.control(2).remove(0);
    assert_eq!(world.deliver(&initiation).unwrap().1, Opened::Dropped(Drop::UnknownPeer));
    // For somebody else's key.
    assert_eq!(world.give(0, at(2), &initiation.bytes).0, Opened::Dropped(Drop::BadMac));
    let mut data = vec![DATA, 0, 0, 0];
    data.extend([0xff; 60]);
    assert_eq!(world.give(1, at(2), &data).0, Opened::Dropped(Drop::UnknownIndex));
    data[4..8].copy_from_slice(&[1, 0, 0, 0]);
    assert_eq!(world.give(1, at(2), &data).0, Opened::Dropped(Drop::UnknownIndex));
    assert!(world.control(1).is_empty());
    world.connect();
}

#[test]
fn malformed_datagrams_are_dropped_and_never_answered() {
    let mut world = World::pair();
    world.seal(0, 1, b"x").unwrap_err();
    let initiation = world.control(0).remove(0);
    world.deliver(&initiation).unwrap();
    let response = world.control(1).remove(0);
    world.deliver(&response).unwrap();
    let mut real = vec![initiation.bytes, response.bytes];
    real.extend(world.control(0).into_iter().map(|sent| sent.bytes));
    real.push(world.seal(0, 1, b"a longer packet with some more").unwrap().bytes);

    let mut hostile: Vec<Vec<u8>> = Vec::new();
    for len in 0..=200 {
        for kind in 0..=5 {
            for fill in [0, 0xff] {
                let mut datagram = vec![fill; len];
                datagram.iter_mut().zip([kind, 0, 0, 0]).for_each(|(to, from)| *to = from);
                hostile.push(datagram);
            }
        }
    }
    for datagram in &real {
        hostile.extend((0..datagram.len()).map(|len| datagram[..len].to_vec()));
        hostile.extend((0..datagram.len()).map(|place| {
            let mut changed = datagram.clone();
            changed[place] ^= 0x80;
            changed
        }));
        hostile.push([datagram.as_slice(), &[0]].concat());
    }
    let elsewhere = Path::Udp("203.0.113.9:9".parse().unwrap());
    for datagram in hostile {
        for end in 0..2 {
            let (opened, _) = world.give(end, elsewhere, &datagram);
            assert!(matches!(opened, Opened::Dropped(_)), "{end} took {datagram:?}: {opened:?}");
            assert!(world.control(end).is_empty(), "{end} answered {datagram:?}");
        }
    }
    for bytes in &real[2..] {
        assert!(!matches!(world.give(1, at(0), bytes).0, Opened::Dropped(_)), "the real ones still count");
    }
    world.pass(0, 1);
    world.pass(1, 0);
}

#[test]
fn what_is_inside_must_be_ip() {
    let mut world = World::pair();
    world.connect();
    let mut too_long = packet(inside(0), inside(1), b"abc");
    too_long[3] += 1;
    for inner in [vec![0], vec![0x45; 19], vec![0x60; 39], vec![0x95; 60], too_long] {
        let sent = world.seal_packet(0, 1, &inner).unwrap();
        assert_eq!(world.deliver(&sent).unwrap().1, Opened::Dropped(Drop::InnerMalformed), "{inner:?}");
    }
    world.pass(0, 1);
    // Padding, as others send it, is cut off.
    let mut padded = packet(inside(0), inside(1), b"abc");
    padded.extend([0; 9]);
    let sent = world.seal_packet(0, 1, &padded).unwrap();
    assert_eq!(world.deliver(&sent).unwrap().2, padded[..23]);
}

#[test]
fn under_load_an_address_is_proved_by_a_cookie_first() {
    for (limit, cookies) in [(0, 1), (1000, 0)] {
        let mut world = World::with_limit(2, limit);
        let (one, zero) = (world.peer(1, true, None), world.peer(0, true, None));
        world.set_peers(0, &[one]);
        world.set_peers(1, &[zero]);
        world.ends[0].engine.guard = Guard::new(world.ends[0].key, 1000, world.now);
        world.seal(0, 1, b"x").unwrap_err();
        let initiation = world.control(0).remove(0);
        let (_, opened, _) = world.deliver(&initiation).unwrap();
        let reply = world.control(1).remove(0);
        assert!(reply.bytes.len() <= initiation.bytes.len());
        assert_eq!(reply.bytes.len() == COOKIE_LEN, cookies == 1);
        assert_eq!(opened, if cookies == 1 { Opened::Dropped(Drop::UnderLoad) } else { Opened::Nothing });
        world.deliver(&reply).unwrap();
        world.run(secs(7));
        world.pass(0, 1);
    }
}

#[test]
fn a_cookie_is_good_for_a_share_of_the_load() {
    let mut world = World::pair();
    world.seal(0, 1, b"x").unwrap_err();
    let initiation = world.control(0).remove(0).bytes;
    let mut guard = Guard::new(world.ends[1].key, 0, world.now);
    assert!(matches!(guard.check(at(0), &initiation, world.now), Verdict::Cookie(_)));
    // Another address gets other cookies, and each proves nothing about the other: none may pass without.
    for _ in 0..100 {
        assert!(matches!(guard.check(at(9), &initiation, world.now), Verdict::Cookie(_)));
    }
    world.ends[1].engine.guard = guard;
    world.give(1, at(0), &initiation);
    let cookie = world.control(1).remove(0);
    world.deliver(&cookie).unwrap();
    // With its cookie it may do some handshakes at once, and twenty in a second; and the next burst with the next second.
    let mut passed = 0;
    for _ in 0..100 {
        world.advance(Duration::from_millis(10));
        passed += u32::from(world.call_again(0, 1) == Opened::Nothing);
    }
    assert!((20..=31).contains(&passed), "{passed} of 100 in a second");
}

/// Ten that do not know each other come while strangers ask for so many handshakes in a second, each from an address of its
/// own: how many initiations each of the ten has sent when it has a session, and how many cookies were sent to them.
fn ten_come_during(flood: u32) -> (Vec<usize>, usize) {
    let mut world = World::with_limit(12, 100);
    let peers: Vec<_> = (1..=10).map(|end| world.peer(end, false, None)).collect();
    world.set_peers(0, &peers);
    let zero = world.peer(0, true, None);
    for end in 1..12 {
        world.set_peers(end, std::slice::from_ref(&zero));
    }
    world.seal(11, 0, b"x").unwrap_err();
    let mut proofs = [world.control(11).remove(0).bytes, Vec::new()];
    proofs[1] = proofs[0].clone();
    *proofs[1].last_mut().unwrap() = 1;
    world.ends[11].up = false;

    let (mut calls, mut cookies, mut source) = (vec![0; 11], 0, 0u32);
    for millisecond in 0..20_000 {
        world.advance(Duration::from_millis(1));
        for _ in 0..flood / 1000 {
            // Every address comes by once, in no order.
            source = source.wrapping_add(0x9e37_79b9);
            let from = Path::Udp(SocketAddr::from((source.to_be_bytes(), 9)));
            world.give(0, from, &proofs[source as usize % 2]);
        }
        if (500..510).contains(&millisecond) {
            world.seal(millisecond - 499, 0, b"x").unwrap_err();
        }
        for end in &mut world.ends[1..11] {
            end.engine.handle_timeout(world.now);
        }
        for sent in world.settle().1 {
            calls[sent.from] += usize::from(sent.bytes[0] == INITIATION);
            cookies += usize::from(sent.bytes.len() == COOKIE_LEN && world.ends.iter().any(|end| end.path == sent.to));
        }
        let has_session = |end: usize| world.ends[end].engine.can_seal(world.index(end, 0), world.now).is_some();
        if millisecond > 510 && (1..11).all(has_session) {
            break;
        }
    }
    for end in 1..11 {
        world.pass(end, 0);
    }
    (calls.split_off(1), cookies)
}

#[test]
fn a_flood_from_everywhere_keeps_nobody_out() {
    assert_eq!(ten_come_during(0), (vec![1; 10], 0));
    let (calls, cookies) = ten_come_during(60_000);
    assert!(calls.iter().all(|calls| (2..=3).contains(calls)), "{calls:?}");
    assert!(cookies >= 10, "{cookies}");
}

#[test]
fn who_proves_an_address_has_a_share_that_another_cannot_use_up() {
    let mut world = World::with_limit(3, 0);
    let peers = [0, 2].map(|end| world.peer(end, false, None));
    world.set_peers(1, &peers);
    let one = world.peer(1, true, None);
    for end in [0, 2] {
        world.set_peers(end, std::slice::from_ref(&one));
        world.ends[end].engine.guard = Guard::new(world.ends[end].key, 1000, world.now);
        world.seal(end, 1, b"x").unwrap_err();
        let (_, said) = world.settle();
        assert_eq!(said.iter().filter(|sent| sent.bytes.len() == COOKIE_LEN).count(), 1);
    }
    // Should both be in one bucket, they are not in the next second.
    let first = (1..=3).find(|_| {
        let passed = (0..100).filter(|_| world.call_again(0, 1) == Opened::Nothing).count();
        assert!((1..=5).contains(&passed), "{passed} at once");
        let other = world.call_again(2, 1);
        world.advance(secs(1));
        other == Opened::Nothing
    });
    assert!(first.is_some());
}

#[test]
fn floods_are_bounded_and_never_amplified() {
    const SPAN: Duration = Duration::from_millis(100);
    for (behind, rate) in [(false, COOKIES), (true, COOKIES_BEHIND)] {
        let mut world = World::with_limit(2, 10);
        let (one, zero) = (world.peer(1, true, None), world.peer(0, false, None));
        world.set_peers(0, &[one]);
        world.set_peers(1, &[zero]);
        world.ends[1].engine.set_behind(behind);
        world.seal(0, 1, b"x").unwrap_err();
        let initiation = world.control(0).remove(0);
        let (mut came, mut went, mut cookies) = (0, 0, 0);
        for source in 0..60_000u32 {
            let from = Path::Udp(SocketAddr::from((source.to_be_bytes(), 9)));
            world.give(1, from, &initiation.bytes);
            came += initiation.bytes.len();
            world.advance(SPAN / 60_000);
            let said = world.control(1);
            went += said.iter().map(|sent| sent.bytes.len()).sum::<usize>();
            cookies += said.iter().filter(|sent| sent.bytes.len() == COOKIE_LEN).count();
        }
        assert!(went < came / 6, "{went} bytes answer {came}");
        let most = rate.most(SPAN) as usize;
        assert!((most * 9 / 10..=most).contains(&cookies), "{cookies} cookies");
        // What is damaged costs no cookie.
        let mut damaged = initiation.bytes.clone();
        damaged[60] ^= 1;
        *damaged.last_mut().unwrap() = 1;
        assert_eq!(world.give(1, at(7), &damaged).0, Opened::Dropped(Drop::BadMac));
    }
}

#[test]
fn a_counter_beyond_the_last_is_refused_and_what_answers_nothing_of_ours_too() {
    let mut world = World::pair();
    world.connect();
    let sent = world.seal(0, 1, b"x").unwrap();
    let mut last = sent.clone();
    for (counter, drop) in [
        (u64::MAX, Drop::KeyExpired),
        (REJECT_AFTER_MESSAGES, Drop::KeyExpired),
        (REJECT_AFTER_MESSAGES - 1, Drop::Unauthentic),
    ] {
        last.bytes[8..16].copy_from_slice(&counter.to_le_bytes());
        assert_eq!(world.deliver(&last).unwrap().1, Opened::Dropped(drop));
    }
    assert!(matches!(world.deliver(&sent).unwrap().1, Opened::Packet { .. }));
    let mut cookie = vec![0; COOKIE_LEN];
    cookie[0] = COOKIE;
    cookie[4] = 99;
    assert_eq!(world.give(0, at(1), &cookie).0, Opened::Dropped(Drop::UnknownIndex));
}

#[test]
fn our_own_addresses_are_nobodys() {
    let mut world = World::pair();
    let (mut one, mut zero) = (world.peer(1, true, None), world.peer(0, false, None));
    one.allowed_ips = vec!["100.72.0.0/24".parse().unwrap()];
    zero.allowed_ips = vec!["100.72.0.0/24".parse().unwrap()];
    world.set_peers(0, &[one]);
    world.set_peers(1, &[zero]);
    world.connect();
    let ours = world.ends[1].address;
    let spoofed = packet(ours, ours, b"x");
    for own in [true, false] {
        world.ends[1].engine.set_addresses(if own { vec![ours] } else { Vec::new() });
        let sent = world.seal_packet(0, 1, &spoofed).unwrap();
        let opened = world.deliver(&sent).unwrap().1;
        assert_eq!(opened == Opened::Dropped(Drop::ForeignSource), own, "{opened:?}");
        assert_eq!(world.ends[1].engine.route(ours).is_none(), own);
    }
}

#[test]
fn what_waits_for_one_identity_does_not_reach_the_next() {
    for generation in [1, 2] {
        let mut world = World::pair();
        world.seal(0, 1, b"for the first").unwrap_err();
        let mut one = world.peer(1, true, None);
        one.generation = generation;
        world.set_peers(0, &[one]);
        let (packets, _) = world.settle();
        assert_eq!(packets.len(), usize::from(generation == 1));
    }
}

#[test]
fn few_packets_wait_and_not_for_ever() {
    let mut world = World::pair();
    world.ends[1].up = false;
    for packet in 0..40 {
        let waits = if packet < 32 { Sealed::Queued } else { Sealed::Dropped(Drop::QueueFull) };
        assert_eq!(world.seal(0, 1, b"x").unwrap_err(), waits);
    }
    assert_eq!(world.control(0).len(), 1, "one handshake for all");
    let said = world.run(secs(85));
    assert_eq!(said.len(), 16);
    assert_eq!(world.drops(0), []);
    let said = world.run(secs(3600));
    assert!(said.len() <= 2, "nobody waits any more");
    assert_eq!(world.drops(0), [(Drop::Stale, 32)]);
    assert_eq!(world.ends[0].engine.poll_timeout(), None);

    world.ends[1].up = true;
    world.connect();
    world.pass(1, 0);
}

#[test]
fn packets_that_wait_are_bounded_over_all_peers() {
    let mut world = World::new(1);
    let peers: Vec<Peer> = (0..200u8)
        .map(|n| Peer { key: [n; 32], path: Some(at(1)), allowed_ips: vec![], generation: 0, keep_alive: None })
        .collect();
    world.set_peers(0, &peers);
    let mut queued = 0;
    for peer in 0..200 {
        for _ in 0..32 {
            let sealed = world.ends[0].engine.seal(PeerIndex(peer), &[0; 40], &mut [0; 200], world.now);
            queued += u32::from(sealed == Sealed::Queued);
        }
    }
    assert_eq!(queued, 4096);
    world.set_peers(0, &[]);
    assert_eq!(world.drops(0), [(Drop::Stale, 4096)]);
    world.set_peers(0, &peers[..1]);
    let peer = world.ends[0].engine.by_key[&[0; 32]];
    let sealed = world.ends[0].engine.seal(peer, &[0; 40], &mut [0; 200], world.now);
    assert_eq!(sealed, Sealed::Queued, "there is room again");
}

#[test]
fn a_peer_that_is_to_be_kept_is_called_for_ever() {
    let mut world = World::pair();
    let one = world.peer(1, true, Some(25));
    world.set_peers(0, &[one]);
    world.ends[1].up = false;
    let begin = world.now;
    let said = world.run(secs(3600));
    let calls = initiations(&said, 0);
    assert_eq!(calls[0], begin);
    let gaps: Vec<_> = calls.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| *gap >= secs(5) && *gap <= secs(64)), "{gaps:?}");
    let (steady, grown) = gaps.split_at(17);
    assert!(steady.iter().all(|gap| *gap < secs(6)) && grown[4..].iter().all(|gap| *gap >= secs(60)), "{gaps:?}");

    world.ends[1].up = true;
    world.run(secs(65));
    world.pass(0, 1);
}

#[test]
fn silence_ends_by_itself_when_the_peer_is_back() {
    for (keeps, silent) in [(0, 1), (1, 0)] {
        for silence in [90, 170, 200, 1200] {
            let mut world = World::pair();
            world.connect();
            let mut peer = world.peer(silent, true, Some(25));
            peer.path = peer.path.filter(|_| keeps == 0);
            world.set_peers(keeps, &[peer]);
            world.run(secs(60));
            world.ends[silent].up = false;
            world.run(secs(silence));
            world.ends[silent].up = true;
            world.run(secs(65));
            world.pass(keeps, silent);
            world.pass(silent, keeps);
        }
    }
}

#[test]
fn a_peer_that_lost_its_memory_is_greeted_again() {
    let mut world = World::pair();
    let one = world.peer(1, true, Some(25));
    world.set_peers(0, &[one]);
    world.connect();
    let key = PrivateKey::from_bytes([2; 32]);
    world.ends[1].engine = Engine::new(key, [9; 32], 1000, world.now);
    let zero = world.peer(0, false, None);
    world.set_peers(1, &[zero]);
    let sent = world.seal(0, 1, b"who are you").unwrap();
    assert_eq!(world.deliver(&sent).unwrap().1, Opened::Dropped(Drop::UnknownIndex));
    let said = world.run(secs(16));
    assert_eq!(initiations(&said, 0).len(), 1, "no answer for 15 s");
    world.pass(0, 1);
    world.pass(1, 0);
}

#[test]
fn a_busy_session_is_renewed_in_time_and_its_old_keys_die() {
    for busy in [0, 1] {
        let mut world = World::pair();
        world.connect();
        let captured = world.seal(busy, 1 - busy, b"late").unwrap();
        let begin = world.now;
        let mut said = Vec::new();
        for _ in 0..600 {
            said.extend(world.run(secs(1)));
            world.pass(busy, 1 - busy);
        }
        assert_eq!(initiations(&said, 1), [], "only the side that began begins anew");
        let calls = initiations(&said, 0);
        assert!((3..=4).contains(&calls.len()), "{}", calls.len());
        let most = if busy == 0 { 124 } else { 166 };
        assert!(calls[0] - begin <= secs(most), "{:?}", calls[0] - begin);
        assert_eq!(world.drops(0), []);
        let late = world.deliver(&captured).unwrap().1;
        assert!(matches!(late, Opened::Dropped(Drop::KeyExpired | Drop::UnknownIndex)), "{late:?}");
    }
}

#[test]
fn keys_are_not_used_after_three_minutes() {
    let mut world = World::pair();
    world.connect();
    let captured = world.seal(0, 1, b"late").unwrap();
    let again = world.seal(0, 1, b"in time").unwrap();
    world.advance(secs(179));
    assert!(matches!(world.deliver(&again).unwrap().1, Opened::Packet { .. }));
    world.advance(secs(1));
    assert_eq!(world.deliver(&captured).unwrap().1, Opened::Dropped(Drop::KeyExpired));
    assert!(matches!(world.seal(0, 1, b"x"), Err(Sealed::Queued)));
    assert!(matches!(world.seal(1, 0, b"x"), Err(Sealed::Queued)));
}

#[test]
fn idle_peers_sleep() {
    let mut world = World::pair();
    world.connect();
    world.pass(1, 0);
    let said = world.run(secs(6 * 3600));
    assert!(said.len() <= 2, "a keepalive each at most: {}", said.len());
    assert_eq!(initiations(&said, 0), []);
    for end in &world.ends {
        assert_eq!(end.engine.poll_timeout(), None);
        assert!(end.engine.can_seal(PeerIndex(0), world.now).is_none());
    }
    world.connect();
    world.pass(0, 1);
}

#[test]
fn a_packet_after_a_pause_begins_no_handshake() {
    let mut world = World::pair();
    world.connect();
    world.pass(1, 0);
    world.run(secs(20));
    world.pass(0, 1);
    let said = world.run(secs(12));
    assert_eq!(said.len(), 1, "the keepalive that answers it");
    assert_eq!(initiations(&said, 0), []);
}

#[test]
fn keepalives_go_both_ways_without_a_fight() {
    let mut world = World::pair();
    let (one, zero) = (world.peer(1, true, Some(25)), world.peer(0, true, Some(25)));
    world.set_peers(0, &[one]);
    world.set_peers(1, &[zero]);
    let said = world.run(secs(3600));
    let calls = initiations(&said, 0).len() + initiations(&said, 1).len();
    assert!((24..=36).contains(&calls), "{calls} handshakes in an hour");
    let keepalives = said.iter().filter(|(_, sent)| sent.bytes.len() == OVERHEAD).count();
    assert!((120..=330).contains(&keepalives), "{keepalives}");
    world.pass(0, 1);
    world.pass(1, 0);
}

#[test]
fn a_kept_peer_without_a_path_wakes_nobody() {
    let mut world = World::pair();
    let zero = world.peer(0, false, Some(25));
    world.set_peers(1, &[zero]);
    assert_eq!(world.ends[1].engine.poll_timeout(), None);
    world.connect();
    assert!(world.ends[1].engine.poll_timeout().is_some());
}

#[test]
fn the_set_of_peers_says_who_is_gone_and_who_is_another() {
    let mut world = World::pair();
    world.connect();
    let (zero, index) = (world.peer(0, false, None), world.index(1, 0));
    let changed = |what| vec![Change { peer: index, what }];
    assert_eq!(world.set_peers(1, std::slice::from_ref(&zero)), []);
    world.pass(0, 1);

    let mut two = zero.clone();
    two.allowed_ips.push("100.72.9.0/24".parse().unwrap());
    assert_eq!(world.set_peers(1, std::slice::from_ref(&two)), changed(What::NewIdentity));
    two.allowed_ips.reverse();
    assert_eq!(world.set_peers(1, std::slice::from_ref(&two)), [], "the order says nothing");
    assert!(world.ends[1].engine.identity(index).unwrap().site);
    let mut other = zero.clone();
    other.generation = 2;
    assert_eq!(world.set_peers(1, std::slice::from_ref(&other)), changed(What::NewIdentity));
    assert_eq!(world.ends[1].engine.identity(index).unwrap().generation, 2);
    world.pass(0, 1);
    world.pass(1, 0);

    let mut moved = zero.clone();
    moved.allowed_ips = vec!["100.72.0.99/32".parse().unwrap()];
    world.set_peers(1, &[moved]);
    let sent = world.seal(0, 1, b"from the address of before").unwrap();
    assert_eq!(world.deliver(&sent).unwrap().1, Opened::Dropped(Drop::ForeignSource));

    let sent = world.seal(0, 1, b"too late").unwrap();
    let stranger = Peer { key: [9; 32], ..zero.clone() };
    assert_eq!(world.set_peers(1, &[stranger]), changed(What::Gone));
    assert_eq!(world.deliver(&sent).unwrap().1, Opened::Dropped(Drop::UnknownIndex));
    assert_ne!(world.ends[1].engine.by_key[&[9; 32]], index, "an index is not given away in the same call");
    assert_eq!(world.ends[1].engine.identity(index), None);
    assert_eq!(world.set_peers(1, &[zero]).len(), 1);
    assert_eq!(world.ends[1].engine.poll_timeout(), None);
}

#[test]
fn the_first_that_asks_for_a_range_keeps_it() {
    let mut world = World::new(3);
    let (zero, mut two) = (world.peer(0, false, None), world.peer(2, false, None));
    two.allowed_ips.push(IpNet::from(inside(0)));
    world.set_peers(1, &[zero.clone(), two.clone(), zero.clone()]);
    assert_eq!(world.drops(1), [(Drop::Overlap, 2)]);
    assert_eq!(world.ends[1].engine.route(inside(0)), Some(world.index(1, 0)));
    world.set_peers(1, &[two, zero]);
    assert_eq!(world.drops(1), [(Drop::Overlap, 1)]);
    assert_eq!(world.ends[1].engine.route(inside(0)), Some(world.index(1, 2)));
    let own = world.peer(1, false, None);
    world.set_peers(1, &[own]);
    assert_eq!(world.drops(1), [(Drop::Overlap, 1)], "we are no peer of ours");
}

#[test]
fn another_endpoint_counts_when_it_is_said_and_the_same_does_not() {
    let mut world = World::new(3);
    let (one, zero) = (world.peer(1, true, None), world.peer(0, false, None));
    world.set_peers(0, std::slice::from_ref(&one));
    world.set_peers(1, &[zero]);
    world.connect();
    let roamed = world.seal(1, 0, b"from elsewhere").unwrap();
    world.give(0, at(7), &roamed.bytes);
    let path = |world: &World| world.ends[0].engine.can_seal(PeerIndex(0), world.now);
    assert_eq!(path(&world), Some(at(7)));
    world.set_peers(0, std::slice::from_ref(&one));
    assert_eq!(path(&world), Some(at(7)));
    world.set_peers(0, &[Peer { path: Some(at(8)), ..one.clone() }]);
    assert_eq!(path(&world), Some(at(8)));
    world.set_peers(0, &[Peer { path: None, ..one }]);
    assert_eq!(path(&world), Some(at(8)));
}

#[test]
fn who_is_not_where_it_was_heard_is_called_at_home() {
    let mut world = World::pair();
    let one = world.peer(1, true, Some(25));
    world.set_peers(0, &[one]);
    world.run(secs(1));
    let kept = world.seal_packet(1, 0, &[]).unwrap();
    assert_eq!(world.give(0, Path::Stream(666), &kept.bytes).0, Opened::Nothing);
    let said = world.run(secs(100));
    assert!(said.iter().all(|(_, sent)| sent.from == 1 || sent.to == Path::Stream(666)));
    world.run(secs(60));
    world.pass(0, 1);
    world.pass(1, 0);
}

#[test]
fn ten_thousand_peers_are_called_some_at_a_time() {
    let mut world = World::new(1);
    let peer = |n: u32| {
        let mut key = [1; 32];
        key[..4].copy_from_slice(&n.to_le_bytes());
        let address = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
        Peer { key, generation: 1, allowed_ips: vec![address.into()], path: Some(at(1)), keep_alive: None }
    };
    let mut peers: Vec<Peer> = (0..10_000).map(peer).collect();
    world.set_peers(0, &peers);
    assert_eq!(world.ends[0].engine.poll_timeout(), None);
    for peer in &mut peers[..100] {
        peer.keep_alive = Some(secs(25));
    }
    world.set_peers(0, &peers);
    for calls in [32, 32, 32, 4] {
        assert_eq!(world.ends[0].engine.poll_timeout(), Some(world.now));
        world.ends[0].engine.handle_timeout(world.now);
        assert_eq!(world.control(0).len(), calls);
    }
    assert!(world.ends[0].engine.poll_timeout() > Some(world.now));
    assert_eq!(world.ends[0].engine.route("10.0.39.15".parse().unwrap()), Some(PeerIndex(9999)));
}
