//! Two of our flows back to back in one thread.

use std::time::{Duration, Instant};

use postern_tcp::{Buffers, Config, Flow, Header, Phase, Segment};

use super::Work;
use super::wire::{ENDS, Ends, IP, TCP, Wire, is_for, print, read};

/// What a flow hands out at once, and what is merged at once.
const MOST_AT_ONCE: usize = 64_000;

/// One end.
struct End {
    flow: Flow,
    ends: Ends,
    /// Bytes of a packet; larger pieces are cut.
    mtu: usize,
    /// Payload of packets in a row.
    merged: Vec<u8>,
}

impl End {
    /// Puts what the flow has to send on the wire.
    fn send(&mut self, wire: &mut Wire, now: Instant) {
        let mut more = true;
        while more {
            // By reference: what was written in small pieces a moment ago is expensive to copy in large ones.
            let next = self.flow.poll_transmit(now, MOST_AT_ONCE);
            let Some(transmit) = &next else { return };
            if transmit.len() <= transmit.mss {
                put(wire, &self.ends, &transmit.header, transmit.payload);
            } else {
                for (header, payload) in transmit.packets() {
                    put(wire, &self.ends, &header, payload);
                }
            }
            more = transmit.more;
        }
    }

    /// Takes everything on the wire; packets in a row are merged, as receive offload would.
    fn receive(&mut self, wire: &mut Wire, now: Instant) {
        if wire.len() > 1 {
            return self.receive_several(wire, now);
        }
        let Some(packet) = wire.front() else { return };
        assert!(is_for(packet, &self.ends), "somebody else's packet");
        read(packet, |segment| self.flow.handle_segment(segment, now));
        wire.pop();
    }

    #[inline(never)]
    fn receive_several(&mut self, wire: &mut Wire, now: Instant) {
        let mut held: Option<(Header, u16)> = None;
        while let Some(packet) = wire.front() {
            assert!(is_for(packet, &self.ends), "somebody else's packet");
            read(packet, |segment| {
                if held.is_none() && (wire.len() == 1 || 2 * segment.payload.len() > MOST_AT_ONCE) {
                    // Nothing to merge it with, or no room for it.
                    self.flow.handle_segment(segment, now);
                } else {
                    self.merge(&mut held, segment, now);
                }
            });
            wire.pop();
        }
        self.flush(held, now);
    }

    /// Adds a segment to what is held if it follows, else hands that on and holds this.
    fn merge(&mut self, held: &mut Option<(Header, u16)>, segment: &Segment<'_>, now: Instant) {
        let Segment { header, payload, .. } = segment;
        let follows = held.is_some_and(|(first, _)| {
            header.seq == first.seq.wrapping_add(self.merged.len() as u32)
                && header.ack == first.ack
                && header.window == first.window
                && !payload.is_empty()
                && !self.merged.is_empty()
                && self.merged.len() + payload.len() <= MOST_AT_ONCE
                && !(header.syn || header.fin || header.rst || first.fin)
        });
        if let Some((first, packets)) = held.as_mut().filter(|_| follows) {
            first.psh |= header.psh;
            *packets += 1;
        } else {
            self.flush(held.take(), now);
            *held = Some((*header, 1));
        }
        self.merged.extend_from_slice(payload);
    }

    fn flush(&mut self, held: Option<(Header, u16)>, now: Instant) {
        if let Some((header, packets)) = held {
            self.flow.handle_segment(&Segment { header, payload: &self.merged, packets }, now);
            self.merged.clear();
        }
    }
}

/// Puts a packet on the wire.
#[inline(never)]
fn put(wire: &mut Wire, ends: &Ends, header: &Header, payload: (&[u8], &[u8])) {
    let packet = wire.put(IP + TCP + header.options_len() + payload.0.len() + payload.1.len());
    print(packet, ends, header, payload);
}

/// Two ends and the wires between them.
struct Pair {
    ends: [End; 2],
    wires: [Wire; 2],
}

impl Pair {
    /// Two ends without a connection.
    fn new(mtu: usize, now: Instant) -> Self {
        let end = |ends| End { flow: Flow::connect(config(mtu), 0, now), ends, mtu, merged: Vec::new() };
        Self { ends: [end(ENDS), end(ENDS.reversed())], wires: Default::default() }
    }

    /// Gives both ends a new connection and exchanges its SYNs.
    fn open(&mut self, isn: u32, now: Instant) {
        let [first, second] = &mut self.ends;
        first.flow.reconnect(config(first.mtu), isn, now);
        first.send(&mut self.wires[0], now);
        let syn = self.wires[0].front().expect("a SYN");
        assert!(read(syn, |syn| second.flow.reaccept(config(second.mtu), syn, !isn, now)));
        self.wires[0].pop();
        self.back(now);
        self.forth(now);
    }

    /// The first sends, the second receives.
    fn forth(&mut self, now: Instant) {
        let [first, second] = &mut self.ends;
        first.send(&mut self.wires[0], now);
        second.receive(&mut self.wires[0], now);
    }

    /// The second sends, the first receives.
    fn back(&mut self, now: Instant) {
        let [first, second] = &mut self.ends;
        second.send(&mut self.wires[1], now);
        first.receive(&mut self.wires[1], now);
    }

    fn handle_timeouts(&mut self, now: Instant) {
        for end in &mut self.ends {
            if end.flow.poll_timeout().is_some_and(|at| at <= now) {
                end.flow.handle_timeout(now);
            }
        }
    }
}

fn config(mtu: usize) -> Config {
    Config {
        mtu: mtu as u16,
        buffers: Buffers { send: 1 << 20, receive: 1 << 20 },
        time_wait: Duration::ZERO,
        ..Config::default()
    }
}

/// One end sends, the other reads.
pub(super) fn bulk(mtu: usize, duration: Duration) -> Work {
    let start = Instant::now();
    let mut pair = Pair::new(mtu, start);
    pair.open(1, start);
    let chunk = vec![7; 64 << 10];
    let mut out = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        let now = Instant::now();
        if now - start >= duration {
            return Work { requests: 0, bytes, elapsed: now - start };
        }
        while pair.ends[0].flow.write(&chunk) > 0 {}
        pair.handle_timeouts(now);
        pair.forth(now);
        pair.back(now);
        bytes += pair.ends[1].flow.read(&mut out) as u64;
    }
}

/// One byte there and back, again and again.
pub(super) fn echo(mtu: usize, duration: Duration) -> Work {
    let start = Instant::now();
    let mut pair = Pair::new(mtu, start);
    pair.open(1, start);
    let mut byte = [0; 1];
    let mut requests = 0;
    loop {
        let now = Instant::now();
        if now - start >= duration {
            return Work { requests, bytes: 0, elapsed: now - start };
        }
        assert_eq!(pair.ends[0].flow.write(&byte), 1);
        pair.forth(now);
        let second = &mut pair.ends[1].flow;
        assert_eq!(second.read(&mut byte), 1);
        assert_eq!(second.write(&byte), 1);
        pair.back(now);
        assert_eq!(pair.ends[0].flow.read(&mut byte), 1);
        pair.handle_timeouts(now);
        requests += 1;
    }
}

/// A connection, a kibibyte each way, the end of it, again and again; the same two flows, so that no memory is taken.
pub(super) fn connect_exchange_close(mtu: usize, duration: Duration) -> Work {
    let start = Instant::now();
    let kibibyte = [7; 1024];
    let mut out = [0; 1024];
    let (mut pair, mut requests) = (Pair::new(mtu, start), 0u32);
    loop {
        let now = Instant::now();
        if now - start >= duration {
            return Work { requests: requests.into(), bytes: 0, elapsed: now - start };
        }
        pair.open(requests << 12, now);
        assert_eq!(pair.ends[0].flow.write(&kibibyte), 1024);
        pair.forth(now);
        let second = &mut pair.ends[1].flow;
        assert_eq!(second.read(&mut out), 1024);
        assert_eq!(second.write(&kibibyte), 1024);
        second.shutdown();
        pair.back(now);
        assert_eq!(pair.ends[0].flow.read(&mut out), 1024);
        pair.ends[0].flow.shutdown();
        pair.forth(now);
        pair.back(now);
        let phases = pair.ends.each_ref().map(|end| end.flow.phase());
        assert!(phases.iter().all(|phase| matches!(phase, Phase::Closed | Phase::TimeWait)), "{phases:?}");
        requests += 1;
    }
}
