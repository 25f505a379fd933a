//! What reaches the application, in virtual time: the table that a change of the sender must not make worse unseen.

use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use postern_tcp::world::{Close, Path, Script, World};
use postern_tcp::{Buffers, Config, Congestion};

/// 300 Mbit/s.
const RATE: u64 = 37_500_000;
const LARGE_QUEUE: usize = 1 << 20;
const SMALL_QUEUE: usize = 64 << 10;

/// Share of the link's bytes that one flow delivers as payload, from the third to the twelfth second. Headers take 3 %.
#[test]
fn one_flow() {
    let ms = Duration::from_millis;
    let clean = |rtt, queue| Path::new(Some(RATE), rtt / 2, queue);
    let lossy = |rtt, loss| Path { loss, ..clean(rtt, LARGE_QUEUE) };
    let paths = [
        ("20 ms", clean(ms(20), LARGE_QUEUE)),
        ("20 ms, 0.1 % lost", lossy(ms(20), 0.001)),
        ("20 ms, 1 % lost", lossy(ms(20), 0.01)),
        ("5 ms, 1 % lost", lossy(ms(5), 0.01)),
        ("80 ms, 0.1 % lost", lossy(ms(80), 0.001)),
        ("20 ms, 64 KB queue", clean(ms(20), SMALL_QUEUE)),
        ("20 ms, 1 % late by 1 ms", Path { reorder: (0.01, ms(1)), ..clean(ms(20), LARGE_QUEUE) }),
    ];
    let mut table = String::new();
    for (name, path) in paths {
        let share = |control| shares(path, &[control], 0, [2, 12]).remove(0);
        let (bbr, cubic) = (share(Congestion::Bbr), share(Congestion::Cubic));
        writeln!(table, "{name:<24} bbr {bbr:.2}  cubic {cubic:.2}").expect("a string takes it");
    }
    insta::assert_snapshot!(table, @r"
    20 ms                    bbr 0.96  cubic 0.97
    20 ms, 0.1 % lost        bbr 0.96  cubic 0.09
    20 ms, 1 % lost          bbr 0.95  cubic 0.02
    5 ms, 1 % lost           bbr 0.93  cubic 0.09
    80 ms, 0.1 % lost        bbr 0.97  cubic 0.04
    20 ms, 64 KB queue       bbr 0.92  cubic 0.93
    20 ms, 1 % late by 1 ms  bbr 0.97  cubic 0.97
    ");
}

/// Shares of the link that two flows have, from the sixth second to the twenty-fifth, in the mean of eight runs.
/// The second begins a second after the first, which has the whole link by then.
#[test]
fn two_flows() {
    use Congestion::{Bbr, Cubic};
    let rows = [("1 MB", LARGE_QUEUE), ("64 KB", SMALL_QUEUE)];
    let rows = rows.into_iter().flat_map(|(name, queue)| [[Bbr, Bbr], [Bbr, Cubic]].map(|pair| (name, queue, pair)));
    let row = |(name, queue, pair): (&str, usize, [Congestion; 2])| {
        let path = Path::new(Some(RATE), Duration::from_millis(10), queue);
        let runs: Vec<_> = (1..=8).map(|salt| shares(path, &pair, salt, [5, 25])).collect();
        let shares = [0, 1].map(|flow| runs.iter().map(|shares| shares[flow]).sum::<f64>() / runs.len() as f64);
        let ratio = shares[0].max(shares[1]) / shares[0].min(shares[1]);
        let names = format!("{:?} and {:?}", pair[0], pair[1]);
        format!("{name:<6} {names:<16} {:.2} and {:.2}, {ratio:.2} : 1\n", shares[0], shares[1])
    };
    // Minutes in one thread.
    let table: String = thread::scope(|scope| {
        let rows: Vec<_> = rows.map(|flows| scope.spawn(move || row(flows))).collect();
        rows.into_iter().map(|row| row.join().expect("a row")).collect()
    });
    insta::assert_snapshot!(table, @r"
    1 MB   Bbr and Bbr      0.53 and 0.43, 1.23 : 1
    1 MB   Bbr and Cubic    0.67 and 0.29, 2.29 : 1
    64 KB  Bbr and Bbr      0.56 and 0.40, 1.38 : 1
    64 KB  Bbr and Cubic    0.70 and 0.23, 3.10 : 1
    ");
}

/// Milliseconds until an answer of 30 KB is there, the handshake included, on a path of 20 ms that loses 1 %.
#[test]
fn short_answers() {
    let mut table = String::new();
    for (name, rtt) in [("nothing known of the path", None), ("round trip known", Some(Duration::from_millis(20)))] {
        let mut times: Vec<u128> = (0..1000).map(|seed| answer_time(seed, rtt).as_millis()).collect();
        times.sort_unstable();
        let [p50, p95, p99] = [500, 950, 990].map(|index| times[index]);
        writeln!(table, "{name:<26} p50 {p50}  p95 {p95}  p99 {p99}").expect("a string takes it");
    }
    insta::assert_snapshot!(table, @r"
    nothing known of the path  p50 70  p95 100  p99 1070
    round trip known           p50 70  p95 100  p99 270
    ");
}

fn answer_time(seed: u64, rtt: Option<Duration>) -> Duration {
    const ANSWER: u64 = 30_000;
    let path = Path { loss: 0.01, ..Path::new(Some(RATE), Duration::from_millis(10), LARGE_QUEUE) };
    let mut world = World::new(seed, Instant::now(), path, path);
    let config = Config { rtt, mtu: 1420, ..Config::default() };
    world.connect(
        [config.clone(), config],
        [Script { close: Close::AfterPeer, ..Script::bulk(100) }, Script::bulk(ANSWER)],
    );
    let arrived = |world: &World| world.ends(0)[0].received() == ANSWER;
    assert!(world.run_until(Duration::from_secs(60), arrived));
    world.elapsed()
}

/// Lets flows run side by side; returns the share of the link that each had between two times, in seconds.
fn shares(path: Path, controls: &[Congestion], salt: u32, [from, to]: [u64; 2]) -> Vec<f64> {
    let mut world = World::new(7, Instant::now(), path, Path { loss: 0.0, ..path });
    for (index, control) in controls.iter().enumerate() {
        let config = Config {
            control: *control,
            mtu: 1420,
            salt: salt * 12_345 + index as u32 * 77,
            buffers: Buffers { send: 16 << 20, receive: 16 << 20 },
            ..Config::default()
        };
        let endless = Script { send: u64::MAX, close: Close::Never, ..Script::bulk(0) };
        let starts_after = Duration::from_secs(index as u64);
        let silent = Script { close: Close::Never, ..Script::bulk(0) };
        world.connect([config.clone(), config], [Script { starts_after, ..endless }, silent]);
    }
    let received =
        |world: &World| -> Vec<u64> { (0..controls.len()).map(|pair| world.ends(pair)[1].received()).collect() };
    world.run_for(Duration::from_secs(from));
    let before = received(&world);
    world.run_for(Duration::from_secs(to - from));
    let after = received(&world);
    let most = ((to - from) * RATE) as f64;
    after.iter().zip(before).map(|(after, before)| (after - before) as f64 / most).collect()
}
