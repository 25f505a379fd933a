//! The suite `http`: a reverse proxy on kernel sockets. TLS 1.3 in, HTTP/1.1 to a static upstream, one worker against
//! one worker.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::load::{Kind, Load, Proxy};
use crate::machine::{Cores, Patience};
use crate::measure::{Samples, Side, interleave};
use crate::nginx::{Nginx, free_address};
use crate::options::Options;
use crate::postern;
use crate::process::Place;
use crate::report::{self, Better, Metric, Row};
use crate::run_folder::{RunFolder, bench_folder};

const SUITE: &str = "http";
const PEER: &str = "nginx";

const SMALL: usize = 0;
const LARGE: usize = 1;
const CONNECT: usize = 2;

const LOADS: [Load; 3] = [
    Load { title: "1 KiB, 64 kept connections", path: "/small", size: 1024, connections: 64, kind: Kind::KeepAlive },
    Load { title: "1 MiB, 16 kept connections", path: "/large", size: 1 << 20, connections: 16, kind: Kind::KeepAlive },
    Load {
        title: "1 KiB, a new connection each",
        path: "/small",
        size: 1024,
        connections: 16,
        kind: Kind::NewConnection,
    },
];

const METRICS: [Metric; 4] = [
    Metric {
        name: "requests_per_second",
        unit: "1/s",
        better: Better::Higher,
        load: SMALL,
        value: |sample| sample.requests / sample.seconds,
    },
    Metric {
        name: "cpu_per_request",
        unit: "us",
        better: Better::Lower,
        load: SMALL,
        value: |sample| sample.cpu / sample.requests * 1e6,
    },
    Metric {
        name: "cpu_per_byte",
        unit: "ns",
        better: Better::Lower,
        load: LARGE,
        value: |sample| sample.cpu / sample.bytes * 1e9,
    },
    Metric {
        name: "handshake_cpu",
        unit: "us",
        better: Better::Lower,
        load: CONNECT,
        value: |sample| sample.cpu / sample.requests * 1e6,
    },
];

/// All waiting for a quiet machine in one run.
const PATIENCE: Duration = Duration::from_secs(180);

/// Postern against nginx; keeps the rows.
pub(crate) fn against_nginx(options: Options) -> Result<()> {
    let bench = Bench::prepare()?;
    let ours = |upstream| postern::start(Place::on(bench.cores.proxy), &bench.folder.folder("postern")?, upstream);
    let rows = bench.compare(options, ours)?;
    let results = bench_folder().join("results.json");
    report::keep(&results, SUITE, &rows)?;
    println!("kept in {}", results.display());
    Ok(())
}

/// What the harness makes of two equals.
pub(crate) fn nginx_against_itself(options: Options) -> Result<()> {
    let bench = Bench::prepare()?;
    let ours =
        |upstream| bench.nginx.start_proxy(Place::on(bench.cores.proxy), &bench.folder.folder("other")?, upstream);
    bench.compare(options, ours)?;
    Ok(())
}

struct Bench {
    folder: RunFolder,
    cores: Cores,
    nginx: Nginx,
}

impl Bench {
    fn prepare() -> Result<Self> {
        let bench = Self { folder: RunFolder::take()?, cores: Cores::choose()?, nginx: Nginx::obtain()? };
        println!("peer nginx {} (Debian), one worker each", bench.nginx.version());
        println!("core {}: load and upstream, core {}: the proxy under test", bench.cores.load, bench.cores.proxy);
        Ok(bench)
    }

    fn compare(&self, options: Options, start_ours: impl FnOnce(SocketAddr) -> Result<Proxy>) -> Result<Vec<Row>> {
        let origin = free_address()?;
        let upstream = self.folder.folder("upstream")?;
        let mut upstream = self.nginx.start_upstream(Place::on(self.cores.load), &upstream, &LOADS, origin)?;
        let mut ours = start_ours(origin)?;
        let mut theirs = self.nginx.start_proxy(Place::on(self.cores.proxy), &self.folder.folder("nginx")?, origin)?;
        check(&mut ours, &mut theirs)?;

        let loads = self.folder.folder("load")?;
        let mut patience = Patience::new(PATIENCE);
        let mut run = |load: usize, side: Side, duration: Duration| {
            let proxy = match side {
                Side::Ours => &mut ours,
                Side::Theirs => &mut theirs,
            };
            LOADS[load].run(proxy, self.cores, duration, &loads)
        };
        // Connections to the upstream, caches and lazily made tables are there before the first round.
        interleave(1, LOADS.len(), |load, side| run(load, side, Duration::from_secs(1)))?;
        let samples = interleave(options.rounds, LOADS.len(), |load, side| {
            patience.wait_for_quiet()?;
            run(load, side, options.duration())
        })?;
        upstream.check()?;

        let rows = report::rows(SUITE, PEER, &METRICS, &samples);
        print!("\nmedians of {} rounds of {} s\n{}", options.rounds, options.seconds, report::table(&rows));
        print_use(&samples);
        if patience.disturbed > 0 {
            println!("{} measurements began on a machine that was not quiet", patience.disturbed);
        }
        Ok(rows)
    }
}

/// Both sides must do the same work: same bodies, same TLS.
fn check(ours: &mut Proxy, theirs: &mut Proxy) -> Result<()> {
    for load in &LOADS {
        let (ours, theirs) = (ours.check(load)?, theirs.check(load)?);
        ensure!(ours == theirs, "the sides do different work: ours speaks {ours}, {PEER} speaks {theirs}");
        if load.path == LOADS[SMALL].path && matches!(load.kind, Kind::KeepAlive) {
            println!("both: {ours}, ECDSA P-256");
        }
    }
    Ok(())
}

/// A proxy that leaves its core idle was waiting for the load: then only CPU figures say something about it.
fn print_use(samples: &[Samples]) {
    println!("\nuse of the proxy's core");
    for (load, samples) in LOADS.iter().zip(samples) {
        let share = |samples| report::percent(samples, |sample| sample.cpu / sample.seconds);
        println!("{:<30} ours {}, {PEER} {}", load.title, share(&samples.ours), share(&samples.theirs));
    }
}
