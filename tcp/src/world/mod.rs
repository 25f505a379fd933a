//! A simulated network in virtual time: two hosts, a link each way, as many connections as wanted.
//!
//! Everything is a value and follows from the seed. Applications write a stream that is a function of its offset and compare
//! every byte they read with it, so "bytes out are a prefix of bytes in" holds as long as nothing panics.

mod end;
mod fuzz;
mod link;
mod random;

use std::time::{Duration, Instant};

pub use end::{Close, End, Script, check, fill};
pub use fuzz::replay;
pub use link::{Arrival, Link, Path};
pub use random::Random;

use crate::config::Config;
use crate::flow::Flow;
use crate::segment::Header;

/// The world.
#[derive(Debug)]
pub struct World {
    start: Instant,
    now: Instant,
    random: Random,
    /// From the first host to the second, and back.
    links: [Link<Packet>; 2],
    pairs: Vec<[End; 2]>,
    /// Whether packets that arrive together are merged before a flow sees them.
    merge: bool,
    audit: bool,
    packets: u64,
    /// What happened, mixed into a number.
    trace: u64,
    /// Steps without time passing.
    stuck: u32,
}

/// A packet on a link.
#[derive(Debug, Clone)]
struct Packet {
    pair: usize,
    header: Header,
    payload: Vec<u8>,
}

/// Bytes of an IPv4 and a TCP header.
const HEADERS: usize = 40;
/// What a flow is asked for at once: what UDP segmentation offload takes.
const MOST_AT_ONCE: usize = 60_000;

impl World {
    /// A world without connections. Virtual time begins at `start`, which can be any instant.
    pub fn new(seed: u64, start: Instant, there: Path, back: Path) -> Self {
        let links = [Link::new(there, start), Link::new(back, start)];
        let random = Random::new(seed);
        Self {
            start,
            now: start,
            random,
            links,
            pairs: Vec::new(),
            merge: false,
            audit: false,
            packets: 0,
            trace: 0,
            stuck: 0,
        }
    }

    /// Merges consecutive packets of a connection that arrive at the same moment.
    pub fn merging(mut self) -> Self {
        self.merge = true;
        self
    }

    /// Checks the inner consistency of every flow after every step.
    pub fn audited(mut self) -> Self {
        self.audit = true;
        self
    }

    /// Opens a connection from the first host to the second. Returns its index.
    pub fn connect(&mut self, configs: [Config; 2], scripts: [Script; 2]) -> usize {
        self.connect_with(configs, scripts, [None, None])
    }

    /// As [`connect`](Self::connect); with flows of earlier connections, in whose place the new ones begin.
    pub fn connect_with(&mut self, configs: [Config; 2], scripts: [Script; 2], used: [Option<Flow>; 2]) -> usize {
        let pair = self.pairs.len();
        let [first, second] = configs;
        let (isn, other) = (self.random.bits() as u32, self.random.bits() as u32);
        let streams = streams(pair);
        let mut ends = [
            End::new(first.clone(), isn, scripts[0], streams[0], self.now),
            End::new(second, other, scripts[1], streams[1], self.now),
        ];
        let [used, other] = used;
        ends[0].flow = Some(match used {
            Some(mut flow) => {
                flow.reconnect(first, isn, self.now);
                flow
            }
            None => Flow::connect(first, isn, self.now),
        });
        ends[1].used = other;
        self.pairs.push(ends);
        pair
    }

    /// Virtual time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.now.duration_since(self.start)
    }

    /// The present moment.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Packets sent so far.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Both ends of a connection: the one that connected, the one that accepted.
    pub fn ends(&self, pair: usize) -> &[End; 2] {
        &self.pairs[pair]
    }

    /// The flows of a connection, as they are; it is over with that.
    pub fn take_flows(&mut self, pair: usize) -> [Option<Flow>; 2] {
        self.pairs[pair].each_mut().map(|end| end.flow.take())
    }

    /// A number that follows from every packet sent so far, and when: two worlds with the same have done the same.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// One end of a connection, to be acted upon.
    pub fn end_mut(&mut self, pair: usize, side: usize) -> &mut End {
        &mut self.pairs[pair][side]
    }

    /// A link: 0 from the first host to the second, 1 back.
    pub fn link(&self, direction: usize) -> (&Path, u64) {
        (self.links[direction].path(), self.links[direction].dropped())
    }

    /// Changes a link.
    pub fn set_path(&mut self, direction: usize, path: Path) {
        self.links[direction].set_path(path);
    }

    /// Lets time pass for `span`.
    pub fn run_for(&mut self, span: Duration) {
        let until = self.now + span;
        while self.step(until) {}
    }

    /// Lets time pass until `done`, or for `span` at most. Returns whether it is done.
    pub fn run_until(&mut self, span: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let until = self.now + span;
        while !done(self) {
            if !self.step(until) {
                return done(self);
            }
        }
        true
    }

    /// Whether every connection is over on both sides.
    pub fn is_over(&self) -> bool {
        self.pairs.iter().flatten().all(End::is_over)
    }

    /// Lets everything that can happen now happen, then moves on to the next event, but not beyond `until`. Returns false at
    /// `until`, or if nothing will ever happen again.
    pub fn step(&mut self, until: Instant) -> bool {
        self.act();
        let Some(next) = self.next_event().filter(|next| *next <= until) else {
            let more = self.next_event().is_some();
            self.now = if more { until } else { self.now };
            return false;
        };
        self.stuck = if next > self.now { 0 } else { self.stuck + 1 };
        assert!(self.stuck < 100_000, "time stands still");
        self.now = next.max(self.now);
        self.deliver();
        for end in self.pairs.iter_mut().flatten() {
            if let Some(flow) = &mut end.flow
                && flow.poll_timeout().is_some_and(|at| at <= self.now)
            {
                flow.handle_timeout(self.now);
            }
        }
        true
    }

    /// Applications work, flows send.
    fn act(&mut self) {
        for (index, ends) in self.pairs.iter_mut().enumerate() {
            let streams = streams(index);
            for (side, end) in ends.iter_mut().enumerate() {
                end.work(self.now, streams[1 - side]);
                let Some(flow) = &mut end.flow else { continue };
                let mut more = true;
                while let Some(transmit) = flow.poll_transmit(self.now, MOST_AT_ONCE) {
                    assert!(more, "a flow has more to send than it said");
                    more = transmit.more;
                    for (header, (head, tail)) in transmit.packets() {
                        let payload = [head, tail].concat();
                        let bytes = HEADERS + header.options_len() + payload.len();
                        self.packets += 1;
                        self.trace = mix(self.trace, self.now - self.start, &header, payload.len());
                        let packet = Packet { pair: index, header, payload };
                        self.links[side].send(packet, bytes, self.now, &mut self.random);
                    }
                }
                if self.audit {
                    flow.audit();
                }
            }
        }
    }

    fn next_event(&self) -> Option<Instant> {
        let links = self.links.iter().filter_map(Link::deadline);
        let ends = self.pairs.iter().flatten();
        let flows = ends.clone().filter_map(|end| end.flow.as_ref()?.poll_timeout());
        links.chain(flows).chain(ends.filter_map(|end| end.deadline(self.now))).min()
    }

    fn deliver(&mut self) {
        for side in 0..2 {
            let mut held: Option<(Packet, u16)> = None;
            while let Some(arrival) = self.links[side].receive(self.now) {
                if arrival.corrupt {
                    continue;
                }
                let packet = arrival.packet;
                match held.take() {
                    Some((mut first, packets)) if self.merge && follows(&first, &packet) => {
                        first.payload.extend_from_slice(&packet.payload);
                        first.header.psh |= packet.header.psh;
                        held = Some((first, packets + 1));
                        continue;
                    }
                    Some((first, packets)) => self.hand_over(side, &first, packets),
                    None => {}
                }
                held = Some((packet, 1));
            }
            if let Some((packet, packets)) = held {
                self.hand_over(side, &packet, packets);
            }
        }
    }

    fn hand_over(&mut self, side: usize, packet: &Packet, packets: u16) {
        let end = &mut self.pairs[packet.pair][1 - side];
        if let Some(header) = end.handle(packet.header, &packet.payload, packets, self.now) {
            let reset = Packet { pair: packet.pair, header, payload: Vec::new() };
            self.links[1 - side].send(reset, HEADERS, self.now, &mut self.random);
        }
    }
}

/// Adds a packet to a trace.
fn mix(trace: u64, at: Duration, header: &Header, len: usize) -> u64 {
    let Header { seq, ack, window, syn, fin, rst, psh, mss, window_scale, sack_permitted, sack } = header;
    let flags = [*syn, *fin, *rst, *psh, *sack_permitted, ack.is_some(), mss.is_some(), window_scale.is_some()];
    let flags = flags.into_iter().fold(0, |bits, flag| bits << 1 | u64::from(flag));
    let numbers = [at.as_nanos() as u64, u64::from(*seq), u64::from(ack.unwrap_or(0)), u64::from(*window), flags];
    let options = [u64::from(mss.unwrap_or(0)), u64::from(window_scale.unwrap_or(0)), len as u64];
    let blocks = sack.iter().map(|(left, right)| u64::from(left) << 32 | u64::from(right));
    let mix = |trace: u64, number: u64| (trace ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    numbers.into_iter().chain(options).chain(blocks).fold(trace, mix)
}

/// Whether two packets can be merged: what receive offload does too.
fn follows(first: &Packet, second: &Packet) -> bool {
    let expected = first.header.seq.wrapping_add(first.payload.len() as u32);
    let plain = Header { psh: false, seq: 0, ..first.header } == Header { psh: false, seq: 0, ..second.header };
    first.pair == second.pair
        && plain
        && !first.payload.is_empty()
        && !second.payload.is_empty()
        && second.header.seq == expected
        && !(first.header.syn || first.header.fin || first.header.rst)
}

/// The names of a connection's two streams.
fn streams(pair: usize) -> [u64; 2] {
    [2 * pair as u64 + 1, 2 * pair as u64 + 2]
}
