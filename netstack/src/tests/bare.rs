//! Packets without WireGuard around them.

use std::io::IoSlice;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use postern_tcp::{Header, SackBlocks, Segment};
use proptest::prelude::*;

use super::world::{PORT, inside, ms};
use crate::engine::PeerIndex;
use crate::event::{Event, Read, StreamId};
use crate::inlet;
use crate::merge::Merge;
use crate::stack::Stack;
use crate::tuple::FourTuple;
use crate::wire::{emit, ip, tcp};
use crate::{Drop, Limits, ListenerId};

const PEER: PeerIndex = PeerIndex(0);
const OTHER: PeerIndex = PeerIndex(1);

/// A stack that is fed packets by hand.
struct Bare {
    stack: Stack,
    merge: Merge,
    now: Instant,
    listener: ListenerId,
}

/// A connection as its peer sees it.
#[derive(Clone, Copy)]
struct Conn {
    peer: PeerIndex,
    tuple: FourTuple,
    seq: u32,
    ack: u32,
}

impl Bare {
    fn new(limits: Limits) -> Self {
        let now = Instant::now();
        let mut stack = Stack::new(limits, vec![inside(0, false), inside(0, true)], 1420, &[3; 32], now);
        let listener = stack.listeners.add(PORT).expect("nobody listens");
        Self { stack, merge: Merge::new(), now, listener }
    }

    /// A packet arrives and is passed on.
    fn arrive(&mut self, peer: PeerIndex, packet: &[u8]) {
        self.arrive_with_more(peer, packet);
        inlet::flush(&mut self.merge, &mut self.stack, self.now);
    }

    /// A packet arrives, and more may follow.
    fn arrive_with_more(&mut self, peer: PeerIndex, packet: &[u8]) {
        if !self.merge.has_room(packet.len()) {
            inlet::flush(&mut self.merge, &mut self.stack, self.now);
        }
        self.merge.space()[..packet.len()].copy_from_slice(packet);
        inlet::handle_packet(&mut self.merge, &mut self.stack, peer, packet.len(), self.now);
    }

    fn pass(&mut self, span: Duration) {
        self.now += span;
        self.stack.handle_timeout(self.now);
    }

    /// Everything that leaves.
    fn sent(&mut self) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        while let Some(peer) = self.stack.outbox.next() {
            while let Some(answer) = self.stack.outbox.pop_answer(peer) {
                sent.push(answer);
            }
            while let Some(id) = self.stack.outbox.pop_flow(peer) {
                let Some(index) = self.stack.flows.index(id) else { continue };
                let slot = self.stack.flows.get_mut(index).expect("a flow");
                let tuple = slot.tuple;
                while let Some(transmit) = slot.flow.poll_transmit(self.now, 60_000) {
                    for (header, payload) in transmit.packets() {
                        let mut packet = vec![0; 1500];
                        let length = emit::segment(&mut packet, &tuple, &header, payload);
                        packet.truncate(length);
                        sent.push(packet);
                    }
                }
                slot.dirty = false;
                self.stack.settle(index, self.now);
            }
        }
        sent
    }

    fn headers(&mut self) -> Vec<Header> {
        self.sent().iter().map(|packet| parsed(packet)).collect()
    }

    fn dropped(&self, reason: Drop) -> u64 {
        self.stack.counters.dropped(reason)
    }

    /// A peer opens a connection.
    fn open(&mut self, tuple: FourTuple) -> Option<Conn> {
        self.open_for(PEER, tuple)
    }

    fn open_for(&mut self, peer: PeerIndex, tuple: FourTuple) -> Option<Conn> {
        self.arrive(peer, &packet(&tuple, &syn(1000), b""));
        let answer = self.headers().pop().filter(|header| header.syn)?;
        let conn = Conn { peer, tuple, seq: 1001, ack: answer.seq.wrapping_add(1) };
        self.arrive(peer, &packet(&tuple, &conn.header(), b""));
        Some(conn)
    }

    fn accept(&mut self) -> StreamId {
        self.stack.accept(self.listener, self.now).expect("one waits").0
    }

    fn read(&mut self, stream: StreamId) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = [0; 1000];
        let unread = self.stack.unread(stream);
        while let Ok(Read::Bytes(n)) = self.stack.read(stream, &mut buffer, self.now) {
            all.extend_from_slice(&buffer[..n]);
        }
        assert_eq!((unread, self.stack.unread(stream)), (all.len(), 0));
        all
    }
}

impl Conn {
    fn header(&self) -> Header {
        Header { seq: self.seq, ack: Some(self.ack), window: 60_000, ..Header::default() }
    }
}

fn syn(seq: u32) -> Header {
    Header { seq, syn: true, window: 60_000, mss: Some(1380), sack_permitted: true, ..Header::default() }
}

/// What a peer at `port` sees.
fn tuple(port: u16) -> FourTuple {
    FourTuple { remote: inside(0, false), local: inside(1, false), remote_port: PORT, local_port: port }
}

fn packet(tuple: &FourTuple, header: &Header, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; payload.len() + 200];
    let length = emit::segment(&mut packet, tuple, header, (payload, &[]));
    packet.truncate(length);
    packet
}

fn parsed(packet: &[u8]) -> Header {
    let inner = ip::parse(packet).expect("a packet");
    tcp::parse(&packet[inner.payload]).expect("a segment").header
}

fn udp(v6: bool, length: usize) -> Vec<u8> {
    let mut packet = vec![0; emit::ip_length(inside(0, v6)) + length];
    let end = packet.len();
    emit::ip_header(&mut packet, inside(1, v6), inside(0, v6), ip::UDP, end);
    packet
}

#[test]
fn a_syn_costs_nothing_beyond_each_bound_and_others_go_on() {
    let bound = |limits: Limits, reason: Drop, most: u64| {
        let mut bare = Bare::new(limits);
        for port in 1..200 {
            // What bounds them all is reached by many alone: one has a part of what is left.
            let peer = if matches!(reason, Drop::Flows | Drop::Backlog) { PeerIndex(port.into()) } else { PEER };
            bare.arrive(peer, &packet(&tuple(port), &syn(1000), b""));
        }
        assert_eq!((bare.stack.counters.flows, bare.dropped(reason)), (most, 199 - most), "{reason:?}");
        assert_eq!(bare.sent().len() as u64, most, "what is dropped is not answered");
        bare
    };
    let few = Limits { embryonic_per_peer: 10, ..Limits::default() };
    let mut bare = bound(few, Drop::Embryonic, 10);
    let other = FourTuple { local: inside(2, false), ..tuple(9) };
    bare.arrive(OTHER, &packet(&other, &syn(5), b""));
    assert_eq!(bare.headers().iter().filter(|header| header.syn).count(), 1, "another peer's is answered");
    bare.pass(Duration::from_secs(30));
    assert!(bare.headers().iter().all(|header| header.rst), "their peers are told");
    assert_eq!(bare.stack.counters.flows, 0, "unfinished handshakes end");

    bound(Limits { flows_per_peer: 11, ..Limits::default() }, Drop::FlowsOfPeer, 11);
    bound(Limits { flows: 12, ..Limits::default() }, Drop::Flows, 12);
    let mut bare = bound(Limits { backlog: 13, ..Limits::default() }, Drop::Backlog, 13);
    bare.pass(Duration::from_secs(30));
    bare.sent();
    assert!(bare.open(tuple(7)).is_some(), "there is room again");
}

#[test]
fn peers_that_take_all_they_get_leave_some_to_each_other() {
    const ALL: u32 = 1000;
    let plenty = Limits { flows: 100_000, backlog: 100_000, embryonic_per_peer: 100_000, ..Limits::default() };
    for limits in [Limits { flows: ALL, ..plenty.clone() }, Limits { backlog: ALL, ..plenty }] {
        let mut bare = Bare::new(limits);
        let (mut port, mut held) = (0, Vec::new());
        for peer in 0..40 {
            // Each tries for ever, and the first begins before there is anybody else.
            let before = bare.stack.counters.flows;
            for _ in 0..200 {
                port += 1;
                bare.arrive(PeerIndex(peer), &packet(&tuple(port), &syn(1000), b""));
            }
            held.push(bare.stack.counters.flows - before);
        }
        assert_eq!(held[0], u64::from(ALL.div_ceil(9)), "an eighth of what it leaves");
        assert!(held.iter().all(|held| *held > 0), "{held:?}");
    }
}

#[test]
fn a_port_is_used_again_after_time_wait_only_beyond_it() {
    let mut bare = Bare::new(Limits::default());
    let mut conn = bare.open(tuple(9)).expect("open");
    let stream = bare.accept();
    bare.stack.shutdown(stream, bare.now);
    let fin = bare.headers().pop().expect("a FIN");
    assert!(fin.fin);
    conn.ack = conn.ack.wrapping_add(1);
    let last = Header { fin: true, ..conn.header() };
    bare.arrive(PEER, &packet(&conn.tuple, &last, b""));
    assert_eq!(bare.read(stream), b"");
    bare.stack.close(stream, bare.now);
    assert_eq!(bare.headers().len(), 1, "the last acknowledgement");
    assert_eq!(bare.stack.counters.flows, 0, "a record remains, no flow");

    bare.arrive(PEER, &packet(&conn.tuple, &last, b""));
    assert_eq!(bare.headers().pop().and_then(|header| header.ack), Some(1002), "a repeated FIN is answered");
    bare.arrive(PEER, &packet(&conn.tuple, &syn(900), b""));
    assert!(!bare.headers().pop().expect("a challenge").syn, "an old SYN opens nothing");
    bare.arrive(OTHER, &packet(&conn.tuple, &last, b""));
    assert!(bare.headers().pop().expect("an answer").rst, "another peer's segment belongs to nothing");
    bare.arrive(PEER, &packet(&conn.tuple, &syn(500_000), b""));
    let answer = bare.headers().pop().expect("an answer");
    assert!(answer.syn && (answer.seq.wrapping_sub(conn.ack) as i32) >= 0, "a later one opens, with later numbers");
    assert_eq!(bare.stack.counters.flows, 1);
}

#[test]
fn what_belongs_to_nothing_is_reset_and_a_reset_is_not() {
    let mut bare = Bare::new(Limits::default());
    let header = Header { seq: 7, ack: Some(9), ..Header::default() };
    bare.arrive(PEER, &packet(&tuple(9), &header, b"x"));
    let reset = bare.headers().pop().expect("a reset");
    assert!(reset.rst && reset.seq == 9);
    bare.arrive(PEER, &packet(&tuple(9), &Header { rst: true, ..header }, b""));
    assert!(bare.sent().is_empty());
    assert_eq!(bare.dropped(Drop::NoFlow), 2);
}

#[test]
fn a_segment_of_another_peer_does_not_reach_the_flow() {
    let mut bare = Bare::new(Limits::default());
    let conn = bare.open(tuple(9)).expect("open");
    let stream = bare.accept();
    bare.arrive(OTHER, &packet(&conn.tuple, &conn.header(), b"forged"));
    assert_eq!((bare.read(stream).len(), bare.dropped(Drop::OtherPeer)), (0, 1));
    bare.arrive(PEER, &packet(&conn.tuple, &conn.header(), b"mine"));
    assert_eq!(bare.read(stream), b"mine");
}

#[test]
fn answers_are_never_larger_than_what_they_answer_and_bounded() {
    let mut bare = Bare::new(Limits { answers_per_second: 20, ..Limits::default() });
    for (v6, length, answered) in
        [(false, 8, false), (false, 35, false), (false, 36, true), (true, 55, false), (true, 56, true)]
    {
        let packet = udp(v6, length);
        bare.arrive(PEER, &packet);
        let sent = bare.sent();
        assert_eq!(sent.len(), usize::from(answered), "{length}");
        assert!(sent.iter().all(|answer| answer.len() <= packet.len()));
    }
    assert_eq!(bare.dropped(Drop::Unanswered), 3);
    for _ in 0..100 {
        bare.arrive(PEER, &udp(false, 100));
    }
    assert_eq!(bare.sent().len(), 18);
    bare.arrive(OTHER, &udp(false, 100));
    assert_eq!(bare.sent().len(), 1, "another peer has its own");
    bare.pass(Duration::from_secs(1));
    bare.arrive(PEER, &udp(false, 100));
    assert_eq!(bare.sent().len(), 1);
}

#[test]
fn an_echo_comes_back() {
    let mut bare = Bare::new(Limits::default());
    let mut request = udp(false, 64);
    request[9] = ip::ICMP;
    request[20] = 8;
    bare.arrive(PEER, &request);
    let sent = bare.sent();
    assert_eq!((sent.len(), sent[0].len(), sent[0][20]), (1, request.len(), 0));
    assert_eq!(sent[0][12..20], [request[16..20].to_vec(), request[12..16].to_vec()].concat());
}

#[test]
fn fragments_strange_protocols_and_strange_addresses_are_counted() {
    let mut bare = Bare::new(Limits::default());
    let mut fragment = udp(false, 30);
    fragment[6] = 0x20;
    let mut strange = udp(false, 30);
    strange[9] = 132;
    let mut astray = udp(false, 30);
    astray[19] ^= 1;
    for packet in [&fragment, &strange, &astray, &vec![0x45; 10], &vec![]] {
        bare.arrive(PEER, packet);
    }
    let short = FourTuple { ..tuple(9) };
    let mut short = packet(&short, &syn(1), b"");
    short[32] = 0xf0;
    bare.arrive(PEER, &short);
    let reasons = [Drop::Fragment, Drop::Protocol, Drop::NotOurs, Drop::InnerMalformed, Drop::BadTcp];
    assert_eq!(reasons.map(|reason| bare.dropped(reason)), [1, 1, 1, 2, 1]);
    assert!(bare.sent().is_empty());
}

#[test]
fn a_path_that_carries_less_is_believed_of_the_flows_own_peer() {
    let mut bare = Bare::new(Limits::default());
    let conn = bare.open(tuple(9)).expect("open");
    let stream = bare.accept();
    bare.stack.write(stream, &[IoSlice::new(&[7; 20_000])], bare.now).expect("room");
    let sent = bare.sent();
    let largest = |sent: &[Vec<u8>]| sent.iter().map(Vec::len).max();
    assert_eq!(largest(&sent), Some(1420));
    let too_big = |mtu: u16| {
        let mut message = udp(false, 8 + 28);
        message[9] = ip::ICMP;
        message[20..22].copy_from_slice(&[3, 4]);
        message[26..28].copy_from_slice(&mtu.to_be_bytes());
        message[28..].copy_from_slice(&sent[0][..28]);
        message
    };
    bare.arrive(OTHER, &too_big(1000));
    bare.arrive(PEER, &too_big(1420));
    assert_eq!((bare.sent().len(), bare.dropped(Drop::Icmp)), (0, 2));
    bare.arrive(PEER, &too_big(1000));
    bare.pass(ms(500));
    assert_eq!(largest(&bare.sent()), Some(1000), "what was sent in larger packets is sent again");
    bare.arrive(PEER, &too_big(10));
    bare.pass(ms(900));
    assert_eq!(largest(&bare.sent()), Some(552), "no path carries less");
    let _ = conn;
}

#[test]
fn closing_with_unread_data_resets_and_without_does_not() {
    for unread in [false, true] {
        let mut bare = Bare::new(Limits::default());
        let conn = bare.open(tuple(9)).expect("open");
        let stream = bare.accept();
        bare.stack.write(stream, &[IoSlice::new(b"bye")], bare.now).expect("room");
        if unread {
            bare.arrive(PEER, &packet(&conn.tuple, &conn.header(), b"unread"));
        }
        bare.stack.close(stream, bare.now);
        let sent = bare.headers();
        assert_eq!(sent.iter().any(|header| header.rst), unread);
        assert_eq!(sent.iter().any(|header| header.fin), !unread);
        assert_eq!(bare.stack.counters.flows, u64::from(!unread));
        if !unread {
            bare.arrive(PEER, &packet(&conn.tuple, &conn.header(), b"late"));
            assert!(bare.headers().iter().any(|header| header.rst), "nobody will read it");
            assert_eq!(bare.stack.counters.flows, 0);
        }
    }
}

#[test]
fn a_closed_connection_whose_peer_is_silent_ends_within_its_bound() {
    let mut bare = Bare::new(Limits::default());
    bare.open(tuple(9)).expect("open");
    let stream = bare.accept();
    bare.stack.close(stream, bare.now);
    for _ in 0..70 {
        bare.pass(Duration::from_secs(1));
        bare.sent();
    }
    assert_eq!(bare.stack.counters.flows, 0);
    assert_eq!(bare.stack.poll_timeout(), None, "nobody is woken for nothing");
}

#[test]
fn memory_stays_within_its_budget_when_nobody_reads() {
    let memory = 1 << 20;
    let mut bare = Bare::new(Limits { memory, flows: 64, ..Limits::default() });
    // A peer each, for one peer has a part of what is left.
    let open = |bare: &mut Bare, port: u16| bare.open_for(PeerIndex(port.into()), tuple(port)).expect("open");
    let mut conns: Vec<Conn> = (1..=50).map(|port| open(&mut bare, port)).collect();
    let streams: Vec<StreamId> = conns.iter().map(|_| bare.accept()).collect();
    for _ in 0..100 {
        for conn in &mut conns {
            bare.arrive(conn.peer, &packet(&conn.tuple, &conn.header(), &[7; 1380]));
            conn.seq = conn.seq.wrapping_add(1380);
        }
        bare.sent();
        assert!(bare.stack.counters.memory as usize <= memory + (64 << 10));
    }
    assert!(bare.dropped(Drop::Memory) > 0);
    // Those that hold nothing yet get on, and holes get nobody more memory.
    let late: Vec<Conn> = (51..=60).map(|port| open(&mut bare, port)).collect();
    let waiting: Vec<StreamId> = late.iter().map(|_| bare.accept()).collect();
    for conn in &late {
        for (from, length) in [(0, 1000), (1000, 60_000), (60_000, 1), (1000, 60_000)] {
            let header = Header { seq: conn.seq.wrapping_add(from), ..conn.header() };
            bare.arrive(conn.peer, &packet(&conn.tuple, &header, &vec![7; length]));
        }
        bare.sent();
    }
    assert!(bare.stack.counters.memory as usize <= memory + (64 << 10) + 10 * (8 << 10));
    for stream in waiting {
        assert_eq!(bare.read(stream).len(), 8 << 10, "as much as everybody may");
    }
    for stream in streams {
        assert!(bare.read(stream).len() >= 8 << 10, "everybody has got something");
    }
    bare.sent();
    bare.pass(Duration::from_secs(6));
    assert_eq!(bare.stack.counters.memory, 0, "idle flows give their memory back");
}

#[test]
fn an_idle_flow_wakes_nobody_but_to_give_back_memory_and_to_ask() {
    for unread in [false, true] {
        let mut bare = Bare::new(Limits::default());
        let conn = bare.open(tuple(9)).expect("open");
        let stream = bare.accept();
        bare.arrive(PEER, &packet(&conn.tuple, &conn.header(), b"hello"));
        if !unread {
            bare.read(stream);
        }
        bare.sent();
        let mut wakes = Vec::new();
        let began = bare.now;
        while let Some(at) = bare.stack.poll_timeout().filter(|at| at.duration_since(began).as_secs() < 330) {
            bare.pass(at - bare.now);
            bare.sent();
            wakes.push(at.duration_since(began).as_secs());
        }
        wakes.retain(|at| *at > 0);
        assert_eq!(wakes, [5, 300, 320]);
        assert_eq!(bare.stack.counters.memory > 0, unread);
    }
}

/// Segments of two connections: from where on, how much, whether pushed, which connection, what else.
type Piece = (u32, usize, bool, usize, u8);

fn feed(bare: &mut Bare, conns: &[Conn], pieces: &[Piece], merge: bool) {
    let stream: Vec<u8> = (0..100_000u32).map(|i| (i * 7 % 251) as u8).collect();
    for (from, len, psh, which, kind) in pieces {
        let conn = conns[*which];
        let payload = &stream[*from as usize..*from as usize + len];
        let mut header = Header { seq: conn.seq.wrapping_add(*from), psh: *psh, ..conn.header() };
        match kind {
            0 => header.sack = SackBlocks::from_iter([(5, 9)]),
            1 => header.window = 59_000,
            _ => {}
        }
        let packet = packet(&conn.tuple, &header, payload);
        if merge {
            bare.arrive_with_more(PEER, &packet);
        } else {
            bare.arrive(PEER, &packet);
        }
    }
    inlet::flush(&mut bare.merge, &mut bare.stack, bare.now);
}

/// What both ends of two connections see afterwards.
fn outcome(pieces: &[Piece], merge: bool) -> (Vec<Vec<u8>>, Vec<Option<u32>>, u64) {
    let mut bare = Bare::new(Limits::default());
    let conns = [1, 2].map(|port| bare.open(tuple(port)).expect("open"));
    let streams = [bare.accept(), bare.accept()];
    feed(&mut bare, &conns, pieces, merge);
    let read = streams.map(|stream| bare.read(stream)).to_vec();
    bare.pass(ms(30));
    let mut acks = vec![None; 2];
    for packet in bare.sent() {
        let inner = ip::parse(&packet).expect("a packet");
        let segment = tcp::parse(&packet[inner.payload]).expect("a segment");
        acks[usize::from(segment.to) - 1] = segment.header.ack;
    }
    let waiting = std::iter::from_fn(|| bare.stack.next_event());
    assert!(waiting.filter(|event| matches!(event, Event::Closed(_))).count() == 0);
    (read, acks, bare.stack.counters.merged)
}

proptest! {
    /// Receive offload changes nothing that anybody sees but how often they are asked.
    #[test]
    fn merged_or_not_the_same_bytes_arrive(
        chunks in prop::collection::vec((1..1380usize, any::<bool>(), 0..2usize, 0..20u8, 0..12u8), 1..60)
    ) {
        let mut next = [0u32; 2];
        let mut pieces = Vec::new();
        for (len, psh, which, kind, fate) in chunks {
            // Some come twice, some later, some never.
            let piece = (next[which], len, psh, which, kind);
            if next[which] as usize + len > 60_000 {
                continue;
            }
            if fate != 1 {
                next[which] += len as u32;
            }
            match fate {
                0 => pieces.extend([piece, piece]),
                2 => {}
                3 => pieces.insert(pieces.len().saturating_sub(2), piece),
                _ => pieces.push(piece),
            }
        }
        let (merged, single) = (outcome(&pieces, true), outcome(&pieces, false));
        prop_assert_eq!((merged.0, merged.1), (single.0, single.1));
        prop_assert_eq!(single.2, 0);
    }
}

#[test]
fn a_burst_is_merged_and_acknowledged_at_once() {
    let mut bare = Bare::new(Limits::default());
    let conn = bare.open(tuple(1)).expect("open");
    bare.sent();
    let polls = bare.stack.counters.polls;
    let pieces: Vec<Piece> = (0..40).map(|i| (i * 1380, 1380, false, 0, 9)).collect();
    feed(&mut bare, &[conn], &pieces, true);
    assert_eq!(bare.stack.counters.merged, 39);
    let sent = bare.headers();
    assert_eq!(sent.iter().map(|header| header.ack).collect::<Vec<_>>(), [Some(1001 + 40 * 1380)]);
    assert_eq!(bare.stack.counters.polls, polls);
}

#[test]
fn checksums_are_right_for_both_families() {
    let remote: IpAddr = inside(1, true);
    let v6 = FourTuple { remote: inside(0, true), local: remote, remote_port: PORT, local_port: 5 };
    let mut bare = Bare::new(Limits::default());
    assert!(bare.open(v6).is_some());
    bare.accept();
    let segment = Segment::new(syn(5), b"");
    bare.stack.handle_segment(PEER, &FourTuple { remote, ..v6 }, &segment, bare.now);
    for packet in bare.sent() {
        let inner = ip::parse(&packet).expect("a packet");
        let sum = crate::wire::checksum::Sum::pseudo(inner.from, inner.to, ip::TCP, inner.payload.len());
        assert_eq!(sum.add(&packet[inner.payload]).finish(), [0, 0]);
    }
}

#[test]
fn refused_dials_do_not_use_up_the_ports() {
    let mut bare = Bare::new(Limits::default());
    let to = (inside(1, false), 80).into();
    for dial in 0..30_000 {
        let stream = bare.stack.connect(PEER, to, ms(1000), bare.now);
        let stream = stream.unwrap_or_else(|error| panic!("dial {dial}: {error}"));
        let local_port = bare.stack.local(stream).expect("it is there").port();
        let syn = bare.headers().pop().expect("a SYN");
        let tuple =
            FourTuple { remote: inside(0, false), local: inside(1, false), remote_port: local_port, local_port: 80 };
        let reset = Header { rst: true, ack: Some(syn.seq.wrapping_add(1)), ..Header::default() };
        bare.arrive(PEER, &packet(&tuple, &reset, b""));
        bare.stack.close(stream, bare.now);
        while bare.stack.next_event().is_some() {}
    }
    assert!(bare.sent().is_empty());
    assert_eq!(bare.stack.counters.flows, 0);
}
