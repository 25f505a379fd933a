//! What an acknowledgement costs, counted in records visited: not more with a large window than with a small one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use postern_tcp::{Buffers, Config, Congestion, Flow, Header, SackBlocks, Segment};

/// Steps per acknowledgement with `window` bytes in flight, of which the peer reports every fourth packet lost.
fn steps(window: u32) -> f64 {
    const MSS: u32 = 1000;
    const MS: Duration = Duration::from_millis(1);
    let now = Instant::now();
    let buffers = Buffers { send: 64 << 20, receive: 1 << 20 };
    let config = Config { buffers, mtu: 1040, control: Congestion::Cubic, ..Config::default() };
    let syn = Header {
        syn: true,
        window: u16::MAX,
        mss: Some(MSS as u16),
        window_scale: Some(10),
        sack_permitted: true,
        ..Header::default()
    };
    let mut flow = Flow::accept(config, &Segment::new(syn, b""), 0, now).expect("a SYN");
    assert!(flow.poll_transmit(now, 1000).is_some());
    let (mut clock, mut acked, mut next) = (now, 1, 1);
    let mut sent = VecDeque::new();
    // 50 ms of round trip, until so much is in flight; one packet per transmission.
    while next - acked < window {
        clock += MS;
        flow.handle_timeout(clock);
        while flow.write(&[0; 1 << 16]) > 0 {}
        while let Some(transmit) = flow.poll_transmit(clock, MSS as usize) {
            next = transmit.header.seq + transmit.len() as u32;
            sent.push_back((clock, next));
        }
        while let Some((_, end)) = sent.pop_front_if(|(at, _)| *at + 50 * MS <= clock) {
            acked = end;
        }
        let header = Header { seq: 1, ack: Some(acked), window: u16::MAX, ..Header::default() };
        flow.handle_segment(&Segment::new(header, b""), clock);
    }
    let before = flow.figures().steps;
    let count = window / MSS / 4 - 2;
    for index in 0..count {
        let left = acked + (4 * index + 1) * MSS;
        let sack: SackBlocks = [(left, left + 3 * MSS)].into_iter().collect();
        let header = Header { seq: 1, ack: Some(acked), window: u16::MAX, sack, ..Header::default() };
        flow.handle_segment(&Segment::new(header, b""), clock);
        clock += MS / 1000;
    }
    (flow.figures().steps - before) as f64 / f64::from(count)
}

#[test]
fn sixteen_mebibytes_in_flight_cost_no_more_than_a_quarter() {
    let (small, large) = (steps(256 << 10), steps(16 << 20));
    println!("{small:.1} and {large:.1} steps per acknowledgement");
    assert!(large <= 1.3 * small, "{large} against {small}");
}
