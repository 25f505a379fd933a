//! Bytes become what a hostile peer, a clock and an application do to a flow: the body of a fuzz target.

use std::time::{Duration, Instant};

use crate::config::{Buffers, Config, Congestion, Family, KeepAlive};
use crate::flow::Flow;
use crate::segment::{Header, SackBlocks, Segment};
use crate::state::Phase;

/// Lets `data` act upon a flow. Panics only if the flow does, or grows beyond what it was given. Returns whether the connection
/// was open at some time.
///
/// The first byte chooses the configuration, then each step takes an opcode and its operands. Numbers of segments are those
/// that the flow expects, or at a distance from them, so that a few bytes reach deep.
pub fn replay(data: &[u8]) -> bool {
    let mut input = Input(data);
    let kind = input.byte();
    let now = Instant::now();
    let config = Config {
        family: if kind & 1 == 0 { Family::V4 } else { Family::V6 },
        control: if kind & 2 == 0 { Congestion::Bbr } else { Congestion::Cubic },
        buffers: Buffers { send: 64 << 10, receive: 1 << (10 + (kind >> 4) % 8) },
        keep_alive: (kind & 4 != 0).then_some(KeepAlive {
            idle: Duration::from_secs(5),
            interval: Duration::from_secs(1),
            probes: 3,
        }),
        ..Config::default()
    };
    let mut target = Target { isn: 0xffff_f000, peer: 0xffff_fff0, sent: 1, now, flow: None };
    target.flow = if kind & 8 == 0 {
        Some(Flow::connect(config, target.isn, now))
    } else {
        let syn = Header { seq: target.peer, syn: true, mss: Some(1000), sack_permitted: true, ..Header::default() };
        target.peer = target.peer.wrapping_add(1);
        Flow::accept(config, &Segment::new(syn, b""), target.isn, now)
    };
    let mut opened = false;
    // The SYN leaves before anything else can happen.
    target.drain();
    while !input.0.is_empty() {
        target.step(&mut input);
        opened |= target.flow.as_ref().is_some_and(|flow| flow.phase() == Phase::Established);
    }
    opened
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A signed distance: mostly small, at times as large as sequence space.
    fn distance(&mut self) -> u32 {
        let (high, low) = (self.byte(), self.byte());
        let small = i32::from(low as i8);
        let distance = match high % 8 {
            0..=3 => small,
            4 | 5 => small * 256,
            6 => small * 65_536,
            _ => small << 24,
        };
        distance as u32
    }
}

struct Target {
    isn: u32,
    /// The next number of the peer.
    peer: u32,
    /// How far the flow has sent, counted from its initial number.
    sent: u32,
    now: Instant,
    flow: Option<Flow>,
}

impl Target {
    fn step(&mut self, input: &mut Input<'_>) {
        let Some(flow) = &mut self.flow else { return input.0 = &[] };
        match input.byte() % 8 {
            0..=3 => {
                let (header, len) = self.header(input);
                let payload = vec![0; len];
                let packets = u16::from(input.byte() % 4) + 1;
                let flow = self.flow.as_mut().expect("looked at above");
                flow.handle_segment(&Segment { header, payload: &payload, packets }, self.now);
            }
            4 => {
                self.now += Duration::from_millis(u64::from(input.byte()) * 4);
                flow.handle_timeout(self.now);
            }
            5 => drop(flow.write(&vec![1; usize::from(input.byte()) * 64])),
            6 => flow.consume(usize::from(input.byte()) * 64),
            _ => match input.byte() % 8 {
                0 => flow.shutdown(),
                1 => flow.abort(),
                2 => flow.release_idle_memory(),
                3 => flow.set_mtu(u16::from(input.byte()) * 16, self.now),
                4 => flow.set_buffers(Buffers { send: usize::from(input.byte()) * 256, receive: 4096 }),
                _ => {
                    let next = flow.poll_timeout();
                    self.now = next.map_or(self.now, |next| next.max(self.now));
                    flow.handle_timeout(self.now);
                }
            },
        }
        self.drain();
    }

    fn header(&mut self, input: &mut Input<'_>) -> (Header, usize) {
        let (flags, options) = (input.byte(), input.byte());
        let (mut seq, base) = (self.peer, self.isn.wrapping_add(self.sent));
        if flags & 0x10 != 0 {
            seq = seq.wrapping_add(input.distance());
        }
        let ack = (flags & 1 == 0).then(|| if flags & 0x20 == 0 { base } else { base.wrapping_add(input.distance()) });
        let mut sack = SackBlocks::default();
        for _ in 0..options % 5 {
            let left = base.wrapping_add(input.distance());
            sack.push(left, left.wrapping_add(input.distance()));
        }
        let header = Header {
            seq,
            ack,
            window: u16::from(input.byte()) << 8 | 1,
            syn: flags & 0x06 == 2,
            fin: flags & 0x06 == 4,
            rst: flags & 0x0e == 6,
            psh: false,
            mss: (options & 0x10 != 0).then_some(u16::from(input.byte())),
            window_scale: (options & 0x20 != 0).then_some(input.byte()),
            sack_permitted: options & 0x40 != 0,
            sack,
        };
        let len = if flags & 0x40 != 0 { usize::from(input.byte()) * 8 } else { 0 };
        // A peer goes on from what it has sent, so that a stream can develop.
        if flags & 0x90 == 0x80 {
            self.peer = seq.wrapping_add(len as u32).wrapping_add(u32::from(header.syn));
        }
        (header, len)
    }

    fn drain(&mut self) {
        let Some(flow) = &mut self.flow else { return };
        let mut rounds = 0;
        while let Some(transmit) = flow.poll_transmit(self.now, 60_000) {
            let end = transmit.header.seq.wrapping_add(transmit.len() as u32).wrapping_sub(self.isn);
            if (end.wrapping_sub(self.sent) as i32) > 0 {
                self.sent = end;
            }
            rounds += 1;
            assert!(rounds < 10_000, "it never stops sending");
        }
        flow.audit();
    }
}
