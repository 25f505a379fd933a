//! Random worlds from seeds: whatever the network does, every byte arrives once and in order, everything ends in bounded
//! virtual time, and after every step the flows' counters are the sums of their records.
//!
//! `WORLDS` sets how many there are and `FIRST` with which seed they begin; `SEED` runs a single one.

use std::time::{Duration, Instant};

use postern_tcp::world::{Close, End, Path, Random, Script, World};
use postern_tcp::{Buffers, Config, Congestion, Family, Flow};
use proptest::prelude::*;

/// How many worlds an ordinary run has.
const WORLDS: u64 = 10_000;
/// A day is longer than any honest repetition at the slowest path takes.
const BOUND: Duration = Duration::from_secs(86_400);

#[test]
fn every_byte_arrives_and_everything_ends() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    if let Some(seed) = number("SEED") {
        return run(seed);
    }
    let first = number("FIRST").unwrap_or(0);
    for seed in first..first + number("WORLDS").unwrap_or(WORLDS) {
        if std::panic::catch_unwind(|| run(seed)).is_err() {
            panic!("the world of seed {seed} failed: SEED={seed} runs it alone");
        }
    }
}

proptest! {
    /// Whatever the earlier connection was like, and wherever it was when it was given up.
    #[test]
    fn a_flow_that_begins_again_is_a_new_one(before: u64, after: u64, until in 0..3000u64) {
        let (mut earlier, _) = begin(before, [None, None]);
        earlier.run_for(Duration::from_millis(until));
        let used = earlier.take_flows(0);
        let (mut anew, mut again) = (begin(after, [None, None]).0, begin(after, used).0);
        anew.run_for(Duration::from_secs(60));
        again.run_for(Duration::from_secs(60));
        prop_assert_eq!((anew.packets(), anew.trace()), (again.packets(), again.trace()));
        for (anew, again) in anew.ends(0).iter().zip(again.ends(0)) {
            let look = |end: &End| end.flow().map(|flow| (flow.figures(), flow.phase(), *flow.counters(), flow.error()));
            prop_assert_eq!(look(anew), look(again));
            prop_assert!(again.flow().is_none_or(|flow| flow.memory() <= anew.flow().map_or(0, Flow::memory) + (16 << 10)));
        }
    }
}

fn run(seed: u64) {
    let (mut world, pairs) = begin(seed, [None, None]);
    let read = |world: &World| (0..pairs).all(|pair| world.ends(pair).iter().all(End::has_read_all));
    let done = world.run_until(BOUND, |world| world.is_over() && read(world));
    assert!(done, "not over after {:?}", world.elapsed());
    for pair in 0..pairs {
        let ends = world.ends(pair);
        for side in 0..2 {
            let flow = ends[side].flow().expect("it has been over");
            assert_eq!(flow.error(), None, "side {side} of {pair}");
            assert_eq!(ends[side].received(), ends[1 - side].sent(), "side {side} of {pair}");
        }
    }
}

/// The world of a seed, and how many connections it has; the flows of the first one begin in the place of `used` ones.
fn begin(seed: u64, mut used: [Option<Flow>; 2]) -> (World, usize) {
    let random = &mut Random::new(seed);
    let (there, back) = (path(random), path(random));
    let mut world = World::new(seed, Instant::now(), there, back).audited();
    if random.chance(0.5) {
        world = world.merging();
    }
    let pairs = if random.chance(0.1) { 4 } else { 1 };
    for _ in 0..pairs {
        let configs = [config(random), config(random)];
        let scripts = scripts(random);
        world.connect_with(configs, scripts, std::mem::take(&mut used));
    }
    disturb(&mut world, random, [there, back]);
    (world, pairs)
}

/// In the middle, the path changes, or nothing gets through for a while.
fn disturb(world: &mut World, random: &mut Random, paths: [Path; 2]) {
    if random.chance(0.3) {
        world.run_for(random.time(Duration::from_secs(1)));
        for direction in 0..2 {
            world.set_path(direction, path(random));
        }
    }
    if random.chance(0.2) {
        world.run_for(random.time(Duration::from_millis(300)));
        let direction = random.below(2) as usize;
        world.set_path(direction, Path { loss: 1.0, ..paths[direction] });
        world.run_for(random.time(Duration::from_secs(10)));
        world.set_path(direction, paths[direction]);
    }
}

fn path(random: &mut Random) -> Path {
    let rates = [None, Some(20_000), Some(1_000_000), Some(10_000_000), Some(100_000_000)];
    let delays = [0, 1, 10, 40, 300].map(Duration::from_millis);
    let delay = random.pick(&delays);
    Path {
        jitter: random.pick(&[Duration::ZERO, delay / 2]),
        loss: random.pick(&[0.0, 0.0, 0.01, 0.05, 0.2]),
        reorder: (random.pick(&[0.0, 0.0, 0.02, 0.3]), random.time(Duration::from_millis(50))),
        duplicate: random.pick(&[0.0, 0.0, 0.02, 0.3]),
        corrupt: random.pick(&[0.0, 0.01]),
        ..Path::new(random.pick(&rates), delay, random.pick(&[4_000, 64_000, 1_000_000]))
    }
}

fn config(random: &mut Random) -> Config {
    Config {
        family: random.pick(&[Family::V4, Family::V6]),
        mtu: random.pick(&[576, 1280, 1420, 9000]),
        buffers: Buffers {
            send: random.pick(&[2_000, 64 << 10, 4 << 20]),
            receive: random.pick(&[2_000, 20_000, 64 << 10, 4 << 20]),
        },
        control: random.pick(&[Congestion::Bbr, Congestion::Bbr, Congestion::Cubic]),
        salt: random.bits() as u32,
        rtt: random.pick(&[None, Some(Duration::from_millis(20))]),
        // Longer than any silence that the worlds above make.
        patience: Duration::from_secs(1800),
        // As long as a repetition of the last FIN may come.
        time_wait: Duration::from_secs(3600),
        ..Config::default()
    }
}

fn scripts(random: &mut Random) -> [Script; 2] {
    let mut script = |close: &[Close]| {
        let most = random.pick(&[1, 3_000, 50_000, 400_000, 400_000, 2_000_000]);
        Script {
            send: random.below(most),
            chunk: random.pick(&[1_000, 64 << 10]),
            close: random.pick(close),
            reads: random.pick(&[None, None, None, Some(50_000)]),
            starts_after: random.pick(&[Duration::ZERO, Duration::from_millis(500)]),
        }
    };
    [script(&[Close::WhenSent]), script(&[Close::WhenSent, Close::AfterPeer])]
}
