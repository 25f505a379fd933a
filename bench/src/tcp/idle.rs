//! What an idle connection costs: resident memory per established flow whose rings were given back.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use postern_tcp::{Buffers, Config, Flow, Segment};

use crate::measure::{Sample, Samples};
use crate::report::{self, Better, Metric, Row};

/// A limit of our own: there is nobody to compare with.
const PEER: &str = "limit";
const LIMIT: f64 = 2048.0;

/// So many that pages, and what the allocator keeps for itself, do not show.
const FLOWS: u32 = 20_000;
/// What a flow hands out at once.
const MOST_AT_ONCE: usize = 60_000;
/// What each end has sent before it is idle: enough to have made every table that a busy flow has.
const BYTES: usize = 100_000;

const METRIC: Metric =
    Metric { name: "idle_flow_bytes", unit: "bytes", better: Better::Lower, load: 0, value: |sample| sample.bytes };

/// The row of `suite` that this makes. To be measured first: memory that the process has used and freed would hide what
/// flows take.
pub(super) fn row(suite: &'static str) -> Result<Vec<Row>> {
    let sample = |bytes| vec![Sample { requests: 1.0, bytes, seconds: 1.0, cpu: 0.0 }];
    let samples = Samples { ours: sample(bytes_per_flow()?), theirs: sample(LIMIT) };
    Ok(report::rows(suite, PEER, &[METRIC], &[samples]))
}

/// By what the kernel has given to the process, so that everything on the heap counts, the allocator's share included.
fn bytes_per_flow() -> Result<f64> {
    let now = Instant::now();
    let mut flows = Vec::with_capacity(FLOWS as usize);
    // The first ones leave behind what their peers took on the heap.
    flows.extend((0..FLOWS / 10).map(|number| idle(number, now)));
    let (before, warm) = (resident()?, flows.len());
    flows.extend((0..FLOWS - FLOWS / 10).map(|number| idle(number, now)));
    #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
    Ok((resident()? - before) as f64 / (flows.len() - warm) as f64)
}

/// An established flow that has sent and received, and is idle.
fn idle(salt: u32, start: Instant) -> Flow {
    let config = Config { mtu: 1420, buffers: Buffers { send: 1 << 20, receive: 1 << 20 }, salt, ..Config::default() };
    let mut ours = Flow::connect(config.clone(), salt, start);
    let syn = ours.poll_transmit(start, MOST_AT_ONCE).expect("a SYN").header;
    let mut peer = Flow::accept(config, &Segment::new(syn, b""), !salt, start).expect("a SYN is accepted");
    let bytes = vec![7; BYTES];
    let mut now = start;
    let (mut written, mut received) = ([0, 0], [0, 0]);
    while received != [BYTES, BYTES] {
        now += Duration::from_millis(1);
        written[0] += ours.write(&bytes[written[0]..]);
        written[1] += peer.write(&bytes[written[1]..]);
        hand_over(&mut ours, &mut peer, now);
        hand_over(&mut peer, &mut ours, now);
        received[0] += take(&mut ours);
        received[1] += take(&mut peer);
        assert!(now - start < Duration::from_secs(60), "the exchange of a flow does not end");
    }
    // The last acknowledgements are late on purpose.
    for _ in 0..100 {
        now += Duration::from_millis(1);
        hand_over(&mut ours, &mut peer, now);
        hand_over(&mut peer, &mut ours, now);
    }
    ours.release_idle_memory();
    assert_eq!((ours.memory(), ours.figures().in_flight), (0, 0), "the flow is idle");
    ours
}

fn hand_over(from: &mut Flow, to: &mut Flow, now: Instant) {
    from.handle_timeout(now);
    while let Some(transmit) = from.poll_transmit(now, MOST_AT_ONCE) {
        for (header, (head, tail)) in transmit.packets() {
            to.handle_segment(&Segment::new(header, &[head, tail].concat()), now);
        }
    }
}

fn take(flow: &mut Flow) -> usize {
    let (head, tail) = flow.peek();
    let n = head.len() + tail.len();
    flow.consume(n);
    n
}

/// Bytes of the process that are in memory and its own.
fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")).context("the kernel tells no RssAnon")?;
    Ok(kibibytes.trim().parse::<u64>().with_context(|| format!("RssAnon of {kibibytes}"))? * 1024)
}
