//! The suite `tunnel`: userspace WireGuard with TCP inside, against wireguard-go with the kernel's TCP and nginx. Two stations
//! with a cable between them stand for two machines; everything runs on this one, so both ends are in every figure.

mod bulk;
mod core;
mod end;
mod field;
mod one_flow;
mod private;
mod public;
mod relay;
mod requests;
mod station;
mod traffic;
mod userspace;
mod wan;
mod wireguard_go;

use std::env;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

pub(crate) use self::core::Core;
use self::core::Work;
use crate::machine::{Cores, Patience};
use crate::measure::{Sample, Samples, Side, interleave};
use crate::nginx::Nginx;
use crate::options::Options;
use crate::process::{Place, Process};
use crate::report::{self, Better, Metric, Row};
use crate::run_folder::{RunFolder, bench_folder};
pub(crate) use end::End;
use field::Field;
pub(crate) use requests::Requests;
use traffic::Traffic;
use userspace::PATIENCE;
use wireguard_go::WireGuardGo;

const SUITE: &str = "tunnel";

/// All waiting for a quiet machine in one run.
const QUIET: Duration = Duration::from_secs(120);

const SHARE_OF_AEAD: [Metric; 1] = [Metric {
    name: "share_of_aead",
    unit: "Gbit/s",
    better: Better::Higher,
    load: 0,
    value: |sample| sample.bytes * 8e-9 / sample.seconds,
}];

/// Fetches the peers while there is a network, and goes on in [`run_inside`].
pub(crate) fn run(options: Options) -> Result<()> {
    Nginx::obtain()?;
    WireGuardGo::obtain()?;
    field::enter(&[
        "tunnel-inside".to_owned(),
        format!("--rounds={}", options.rounds),
        format!("--seconds={}", options.seconds),
    ])
}

/// Everything, in a network namespace of its own; keeps the rows.
pub(crate) fn run_inside(options: Options) -> Result<()> {
    let mut bench = Bench::prepare(options)?;
    let groups = [bench.bulk()?, bench.core()?, bench.one_flow()?, bench.wan()?, bench.private()?, bench.public()?];
    if bench.patience.disturbed > 0 {
        println!("{} measurements began on a machine that was not quiet", bench.patience.disturbed);
    }
    let results = bench_folder().join("results.json");
    report::keep(&results, SUITE, &groups.concat())?;
    println!("kept in {}", results.display());
    Ok(())
}

struct Bench {
    options: Options,
    patience: Patience,
    cores: Cores,
    nginx: Nginx,
    wireguard_go: WireGuardGo,
    field: Field,
    folder: RunFolder,
}

impl Bench {
    fn prepare(options: Options) -> Result<Self> {
        let folder = RunFolder::take()?;
        let field = Field::lay_out(&folder.folder("field")?)?;
        let (nginx, wireguard_go) = (Nginx::obtain()?, WireGuardGo::obtain()?);
        println!("peers wireguard-go {}, nginx {} (Debian)", wireguard_go.version(), nginx.version());
        let cores = Cores::choose()?;
        println!("medians of {} rounds of {} s", options.rounds, options.seconds);
        Ok(Self { options, patience: Patience::new(QUIET), cores, nginx, wireguard_go, field, folder })
    }

    fn bulk(&mut self) -> Result<Vec<Row>> {
        let folder = self.folder.folder("bulk")?;
        let mut bulk = bulk::Bulk::prepare(&self.field, &folder, &self.wireguard_go)?;
        let rounds = Rounds { options: self.options, patience: &mut self.patience };
        let samples = rounds.measure(1, |_, side, duration| bulk.measure(side, duration))?;
        Ok(told(bulk::PEER, &bulk::METRICS, &samples))
    }

    /// A third of the time is enough for a thread that neither waits nor shares.
    fn core(&mut self) -> Result<Vec<Row>> {
        let folder = self.folder.folder("core")?;
        let place = Place::on(self.cores.proxy);
        let rounds = Rounds { options: self.options, patience: &mut self.patience };
        let samples = rounds.measure(1, |_, side, duration| on_one_core(place, &folder, side, third(duration)))?;
        Ok(told("aead", &SHARE_OF_AEAD, &samples))
    }

    fn one_flow(&mut self) -> Result<Vec<Row>> {
        let rounds = Rounds { options: self.options, patience: &mut self.patience };
        let samples = rounds.measure(1, |_, side, duration| one_flow::measure(side, third(duration)))?;
        Ok(told(one_flow::PEER, &one_flow::METRICS, &samples))
    }

    fn private(&mut self) -> Result<Vec<Row>> {
        let folder = self.folder.folder("private")?;
        let Self { field, cores, nginx, wireguard_go, .. } = self;
        let mut private = private::Private::prepare(field, *cores, &folder, nginx, wireguard_go)?;
        let rounds = Rounds { options: self.options, patience: &mut self.patience };
        let samples =
            rounds.measure(private::LOADS.len(), |load, side, duration| private.measure(load, side, duration))?;
        let rows = told(private::PEER, &private::METRICS, &samples);
        for (load, samples) in private::LOADS.iter().zip(&samples) {
            let cost = |samples| report::median(samples, |sample| sample.cpu / sample.requests * 1e6);
            let (ours, theirs) = (cost(&samples.ours), cost(&samples.theirs));
            println!(
                "{}: server CPU per request without the upstream {ours} us, {} {theirs} us",
                load.title,
                private::PEER
            );
        }
        Ok(rows)
    }

    fn public(&mut self) -> Result<Vec<Row>> {
        let folder = self.folder.folder("public")?;
        let Self { field, cores, nginx, wireguard_go, .. } = self;
        let mut public = public::Public::prepare(field, *cores, &folder, nginx, wireguard_go)?;
        let rounds = Rounds { options: self.options, patience: &mut self.patience };
        let samples = rounds.measure(1, |_, side, duration| public.measure(side, duration))?;
        Ok(told(private::PEER, &public::METRICS, &samples))
    }

    fn wan(&mut self) -> Result<Vec<Row>> {
        let folder = self.folder.folder("wan")?;
        let wan = wan::Wan::prepare(&self.field, &folder, &self.wireguard_go)?;
        let rounds = Rounds { options: self.options, patience: &mut self.patience };
        let samples = rounds.measure(1, |_, side, duration| wan.measure(side, duration))?;
        wan.finish()?;
        Ok(told(wan::PEER, &wan::METRICS, &samples))
    }
}

/// The rounds of one comparison.
struct Rounds<'a> {
    options: Options,
    patience: &'a mut Patience,
}

impl Rounds<'_> {
    fn measure(
        self,
        loads: usize,
        mut measure: impl FnMut(usize, Side, Duration) -> Result<Sample>,
    ) -> Result<Vec<Samples>> {
        // Sessions, connections to upstreams, caches and lazily made tables are there before the first round.
        interleave(1, loads, |load, side| measure(load, side, Duration::from_secs(1)))?;
        interleave(self.options.rounds, loads, |load, side| {
            self.patience.wait_for_quiet()?;
            measure(load, side, self.options.duration())
        })
    }
}

/// The rows of a comparison, said at once: the whole suite takes minutes.
fn told(peer: &'static str, metrics: &[Metric], samples: &[Samples]) -> Vec<Row> {
    let rows = report::rows(SUITE, peer, metrics, samples);
    print!("\n{}", report::table(&rows));
    rows
}

fn third(duration: Duration) -> Duration {
    (duration / 3).max(Duration::from_secs(1))
}

/// Our tunnel with both ends in a thread, or boringtun alone, in a process of its own.
fn on_one_core(place: Place, folder: &Path, side: Side, duration: Duration) -> Result<Sample> {
    let work = match side {
        Side::Ours => Work::Tunnel,
        Side::Theirs => Work::Aead,
    };
    let program = env::current_exe().context("cannot find this program's own file")?;
    let mut command = place.command(&program);
    command.args(Core::arguments(work, duration));
    let process = Process::spawn("the work of one core", command, folder.join("core.log"))?;
    let Traffic { bytes, seconds, cpu } = Traffic::find(&process.finish(duration + 2 * PATIENCE)?)?;
    #[expect(clippy::cast_precision_loss, reason = "bytes of a few seconds are far below 2^52")]
    let bytes = bytes as f64;
    Ok(Sample { requests: 1.0, bytes, seconds, cpu })
}
