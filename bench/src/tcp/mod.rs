//! The suite `tcp`: two of our flows back to back in one thread against two of smoltcp's sockets, with the same packets, the
//! same checksums and the real clock; our flow sending over a network against the kernel's BBR (`kernel`); what an idle flow
//! takes (`idle`).

mod idle;
mod kernel;
mod ours;
mod peer;
mod wire;

use std::time::Duration;

use anyhow::Result;

use crate::machine::Patience;
use crate::measure::{Sample, Side, interleave};
use crate::options::Options;
use crate::report::{self, Better, Metric, Row};
use crate::run_folder::bench_folder;
pub(crate) use kernel::Crossing;

const SUITE: &str = "tcp";
const PEER: &str = "smoltcp";

/// A WireGuard tunnel's usual packet.
const CUT: usize = 1420;
/// The largest IPv4 packet: what a super-segment fills.
const SUPER: usize = 65_535;

/// What one side did.
struct Work {
    requests: u64,
    bytes: u64,
    elapsed: Duration,
}

/// A load: the size of packets, and both sides' way to do it for a while.
struct Load {
    mtu: usize,
    ours: fn(usize, Duration) -> Work,
    theirs: fn(usize, Duration) -> Work,
}

const LOADS: [Load; 4] = [
    Load { mtu: CUT, ours: ours::bulk, theirs: peer::bulk },
    Load { mtu: SUPER, ours: ours::bulk, theirs: peer::bulk },
    Load { mtu: CUT, ours: ours::echo, theirs: peer::echo },
    Load { mtu: CUT, ours: ours::connect_exchange_close, theirs: peer::connect_exchange_close },
];

const METRICS: [Metric; 4] = [
    Metric { name: "bulk_cut", unit: "Gbit/s", better: Better::Higher, load: 0, value: gigabits },
    Metric { name: "bulk_super", unit: "Gbit/s", better: Better::Higher, load: 1, value: gigabits },
    Metric { name: "echo", unit: "us", better: Better::Lower, load: 2, value: microseconds },
    Metric { name: "connect_exchange_close", unit: "us", better: Better::Lower, load: 3, value: microseconds },
];

/// All waiting for a quiet machine in one run.
const PATIENCE: Duration = Duration::from_secs(120);

/// Everything; keeps the rows.
pub(crate) fn run(options: Options) -> Result<()> {
    let mut patience = Patience::new(PATIENCE);
    let groups =
        [idle::row(SUITE)?, against_smoltcp(options, &mut patience)?, kernel::rows(SUITE, options, &mut patience)?];
    println!("\nmedians of {} rounds of {} s", options.rounds, options.seconds);
    for rows in &groups {
        print!("{}", report::table(rows));
    }
    let results = bench_folder().join("results.json");
    report::keep(&results, SUITE, &groups.concat())?;
    println!("kept in {}", results.display());
    Ok(())
}

/// Our flow against smoltcp's socket. A third of the time is enough for a thread that neither waits nor shares.
fn against_smoltcp(options: Options, patience: &mut Patience) -> Result<Vec<Row>> {
    let samples = interleave(options.rounds, LOADS.len(), |load, side| {
        patience.wait_for_quiet()?;
        Ok(LOADS[load].run(side, options.duration() / 3))
    })?;
    Ok(report::rows(SUITE, PEER, &METRICS, &samples))
}

impl Load {
    /// Both ends run in this thread and never sleep: its time is its CPU time.
    fn run(&self, side: Side, duration: Duration) -> Sample {
        let work = match side {
            Side::Ours => (self.ours)(self.mtu, duration),
            Side::Theirs => (self.theirs)(self.mtu, duration),
        };
        let seconds = work.elapsed.as_secs_f64();
        Sample { requests: work.requests as f64, bytes: work.bytes as f64, seconds, cpu: seconds }
    }
}

fn gigabits(sample: &Sample) -> f64 {
    sample.bytes * 8e-9 / sample.seconds
}

fn microseconds(sample: &Sample) -> f64 {
    sample.seconds * 1e6 / sample.requests
}
