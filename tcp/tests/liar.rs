//! A peer that lies: whatever it says, a flow neither panics nor grows, and stops in bounded time.

use std::time::{Duration, Instant};

use postern_tcp::world::{Random, replay};
use postern_tcp::{Buffers, Config, Congestion, Flow, Header, Ignored, SackBlocks, Segment};

/// How many bytes a flow under attack may hold.
const BUFFER: usize = 1 << 20;

#[test]
fn random_bytes_act_upon_a_flow() {
    let number = std::env::var("INPUTS").ok().map_or(20_000u64, |value| value.parse().expect("a number"));
    let mut opened = 0;
    for seed in 0..number {
        let mut random = Random::new(seed);
        let len = random.below(600);
        let data: Vec<u8> = (0..len).map(|_| random.bits() as u8).collect();
        match std::panic::catch_unwind(|| replay(&data)) {
            Ok(open) => opened += u64::from(open),
            Err(_) => panic!("the input of seed {seed} failed: {data:?}"),
        }
    }
    assert!(opened > number / 4, "only {opened} of {number} got into the house");
}

/// What a liar does with what we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// Acknowledges what was never sent.
    Unsent,
    /// SACKs every second byte of what was sent, one byte at a time.
    Confetti,
    /// SACKs everything but the first byte, and then forgets it.
    Renege,
    /// Grants a window, then takes it back, and again.
    Shrink,
    /// Takes one byte at a time.
    Sliver,
    /// Repeats one acknowledgement for ever.
    Echo,
    /// Reports repetitions that never were.
    Repetitions,
}

#[test]
fn lies_about_what_was_received_cost_bounded_memory() {
    for lie in [Lie::Unsent, Lie::Confetti, Lie::Renege, Lie::Shrink, Lie::Sliver, Lie::Echo, Lie::Repetitions] {
        for control in [Congestion::Bbr, Congestion::Cubic] {
            lie_to(lie, control);
        }
    }
}

fn lie_to(lie: Lie, control: Congestion) {
    let mut now = Instant::now();
    let buffers = Buffers { send: BUFFER, receive: BUFFER };
    let config = Config { buffers, control, patience: Duration::from_secs(60), ..Config::default() };
    // The least that can be asked for; the flow does not go below 88.
    let syn = Header {
        syn: true,
        window: u16::MAX,
        mss: Some(1),
        window_scale: Some(255),
        sack_permitted: true,
        ..Header::default()
    };
    let mut flow = Flow::accept(config, &Segment::new(syn, b""), 0, now).expect("a SYN");
    let (mut sent, mut acked, mut most) = (0u32, 1u32, 0);
    for round in 0..3000u32 {
        flow.write(&[0; 4096]);
        while let Some(transmit) = flow.poll_transmit(now, 60_000) {
            assert!(transmit.mss >= 88);
            sent = sent.max(transmit.header.seq + transmit.len() as u32 + u32::from(transmit.header.syn));
        }
        flow.audit();
        most = most.max(flow.figures().records);
        let mut sack = SackBlocks::default();
        let mut header = Header { seq: 1, ack: Some(acked), window: 1 << 10, ..Header::default() };
        match lie {
            Lie::Unsent => header.ack = Some(sent + 1 + round),
            Lie::Confetti => {
                for block in 0..4 {
                    let at = acked + (round * 8 + block * 2) % (sent - acked).max(1);
                    sack.push(at + 1, at + 2);
                }
            }
            Lie::Renege if round % 5 < 4 => sack.push(acked + 1, sent),
            Lie::Renege => {}
            Lie::Shrink => header.window = if round % 2 == 0 { u16::MAX } else { 0 },
            Lie::Sliver => {
                acked = (acked + 1).min(sent);
                (header.ack, header.window) = (Some(acked), 0);
            }
            Lie::Echo => {}
            Lie::Repetitions => sack.push(acked.saturating_sub(2000).max(1), acked.max(2)),
        }
        header.sack = sack;
        flow.handle_segment(&Segment::new(header, b""), now);
        now += Duration::from_millis(if round % 50 == 49 { 400 } else { 1 });
        flow.handle_timeout(now);
        assert!(flow.memory() <= 2 * BUFFER, "{lie:?}: {} bytes", flow.memory());
    }
    assert!(most <= 256 + 4 * BUFFER / 88 + 8, "{lie:?}: {most} records");
    assert!(lie != Lie::Unsent || flow.counters().ignored(Ignored::AckOfUnsent) > 0);
}

/// Payload in single bytes with holes between them: at most as many pieces as full segments would make.
#[test]
fn confetti_costs_no_more_than_its_window() {
    let now = Instant::now();
    let config = Config { buffers: Buffers { send: BUFFER, receive: BUFFER }, ..Config::default() };
    let syn = Header { syn: true, window: 1000, window_scale: Some(7), sack_permitted: true, ..Header::default() };
    let mut flow = Flow::accept(config, &Segment::new(syn, b""), 0, now).expect("a SYN");
    while flow.poll_transmit(now, 1000).is_some() {}
    for at in 0..200_000u32 {
        let header = Header { seq: 3 + 2 * at, ack: Some(1), window: 1000, ..Header::default() };
        flow.handle_segment(&Segment::new(header, b"x"), now);
        while flow.poll_transmit(now, 1000).is_some() {}
    }
    assert!(flow.counters().ignored(Ignored::TooManyHoles) > 0 || flow.counters().ignored(Ignored::OutsideWindow) > 0);
    assert!(flow.memory() <= 2 * BUFFER);
    assert_eq!(flow.peek().0.len(), 0);
    // The honest byte still counts.
    let header = Header { seq: 1, ack: Some(1), window: 1000, ..Header::default() };
    flow.handle_segment(&Segment::new(header, b"ab"), now);
    assert!(flow.peek().0.len() >= 3);
}
