//! Our flow sending over a network against the kernel's BBR sending over the same one.
//!
//! The network is a link in a process of its own: 300 Mbit/s with a drop-tail queue of 1 MB, a round-trip time, and random loss
//! of the packets that carry data. Who receives is the same on both sides, the kernel's TCP behind a TUN device, so that
//! only the senders differ. The kernel's sender sits behind the same device: its packets come back to it with their
//! addresses swapped, which leaves their checksums right, so that one kernel has both ends of a connection whose every packet
//! passes the link. It pays for that with one more crossing of the device, microseconds against a round trip of
//! milliseconds, and keeps its own defaults, such as 12 bytes of timestamps in each packet. Everything is counted from before
//! the handshake, so slow starts are part of the figures.
//!
//! Each measurement is a process in a network namespace of its own: nothing is left in the kernel for the next one.

mod flows;
mod line;
mod packet;
mod sockets;
#[path = "../../../../tests/src/tun.rs"]
#[expect(unreachable_pub, reason = "the end-to-end tests share the file, not their many dependencies")]
mod tun;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::machine::Patience;
use crate::measure::{Sample, Side, interleave};
use crate::options::Options;
use crate::report::{self, Better, Metric, Row};
use crate::summary::Summary;
use line::{Line, Network};
use sockets::Demand;

const PEER: &str = "kernel-bbr";

/// What crosses the link.
struct Load {
    rtt: Duration,
    loss: f64,
    demand: Demand,
}

const fn endless(rtt_ms: u64, loss: f64) -> Load {
    Load { rtt: Duration::from_millis(rtt_ms), loss, demand: Demand::Endless }
}

const LOADS: [Load; 5] = [
    endless(20, 0.0),
    endless(20, 0.001),
    endless(20, 0.01),
    endless(80, 0.001),
    Load { rtt: Duration::from_millis(20), loss: 0.01, demand: Demand::Short },
];

const METRICS: [Metric; 5] = [
    goodput("goodput_20ms_0", 0),
    goodput("goodput_20ms_0.1", 1),
    goodput("goodput_20ms_1", 2),
    goodput("goodput_80ms_0.1", 3),
    Metric {
        name: "short_p95",
        unit: "ms",
        better: Better::Lower,
        load: 4,
        value: |sample| sample.seconds / sample.requests * 1e3,
    },
];

const fn goodput(name: &'static str, load: usize) -> Metric {
    Metric { name, unit: "Mbit/s", better: Better::Higher, load, value: |sample| sample.bytes * 8e-6 / sample.seconds }
}

/// The rows of `suite` that this comparison makes.
pub(super) fn rows(suite: &'static str, options: Options, patience: &mut Patience) -> Result<Vec<Row>> {
    let mut measured = 0;
    let samples = interleave(options.rounds, LOADS.len(), |load, side| {
        patience.wait_for_quiet()?;
        // Both sides of a round lose the same packets.
        let seed = measured / 2;
        measured += 1;
        LOADS[load].measure(side, options.seconds, seed)
    })?;
    Ok(report::rows(suite, PEER, &METRICS, &samples))
}

impl Load {
    /// In a process of its own.
    fn measure(&self, side: Side, seconds: u32, seed: u64) -> Result<Sample> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let output = in_namespace(&program)
            .arg("crossing")
            .args(["--sender", if side == Side::Ours { "ours" } else { "kernel" }])
            .args(["--rtt-ms", &self.rtt.as_millis().to_string()])
            .args(["--loss", &self.loss.to_string()])
            .args(["--demand", if self.demand == Demand::Short { "short" } else { "endless" }])
            .args(["--seconds", &seconds.to_string()])
            .args(["--seed", &seed.to_string()])
            .output()
            .context("cannot start unshare, which comes with util-linux")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "a measurement in a network namespace failed: {}", errors.trim());
        let summary = Summary::find(&String::from_utf8_lossy(&output.stdout))?;
        #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds are far below 2^52")]
        let (bytes, seconds) = (summary.bytes as f64, summary.microseconds as f64 / 1e6);
        Ok(Sample { requests: 1.0, bytes, seconds, cpu: 0.0 })
    }
}

/// Runs a program in a network namespace of its own, as root of it: no device of the machine is touched.
fn in_namespace(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--"]).arg(program);
    command
}

/// One measurement.
#[derive(Args)]
pub(crate) struct Crossing {
    #[arg(long)]
    sender: Sender,
    #[arg(long)]
    rtt_ms: u64,
    #[arg(long)]
    loss: f64,
    #[arg(long)]
    demand: Demand,
    #[arg(long)]
    seconds: u32,
    #[arg(long)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Sender {
    Ours,
    Kernel,
}

impl Crossing {
    /// Measures, in a network namespace that is its own, and prints a [`Summary`].
    pub(crate) fn run(&self) -> Result<()> {
        let tun = tun::Tun::create(packet::MTU).context("cannot create a TUN device: this needs privileges")?;
        sockets::make_room()?;
        let flows = match self.sender {
            Sender::Ours => Some(flows::Flows::default()),
            Sender::Kernel => {
                sockets::serve()?;
                None
            }
        };
        let network = Network { rtt: Duration::from_millis(self.rtt_ms), loss: self.loss, seed: self.seed };
        let duration = Duration::from_secs(self.seconds.into());
        let client = sockets::ask(self.demand, duration);
        Line::new(tun, network, flows).run(duration + sockets::PATIENCE * 2, || client.is_finished())?;
        let summary = client.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
        println!("{}", summary.line()?);
        Ok(())
    }
}
