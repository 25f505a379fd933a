//! Load on a proxy, and what it cost the proxy.

use std::env;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::client::{self, Connections};
use crate::machine::{self, Cores};
use crate::measure::Sample;
use crate::process::{Place, Process};
use crate::run_folder::bench_folder;
use crate::summary::Summary;

/// The host every measured proxy serves: a name that is in each machine's hosts file, since wrk takes the address, the
/// Host and the SNI from one URL.
pub(crate) const HOST: &str = "localhost";

/// One way of asking.
pub(crate) struct Load {
    pub(crate) title: &'static str,
    pub(crate) path: &'static str,
    /// Bytes of the body at that path.
    pub(crate) size: usize,
    /// Connections at a time.
    pub(crate) connections: usize,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// wrk on connections that stay.
    KeepAlive,
    /// A new connection with a full handshake for each request.
    NewConnection,
}

/// A proxy under test.
pub(crate) struct Proxy {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    /// PEM of the CA that vouches for it.
    pub(crate) ca: String,
}

impl Proxy {
    /// Fetches what the load will fetch with every check on; says what TLS agreed on.
    pub(crate) fn check(&mut self, load: &Load) -> Result<String> {
        self.process.check()?;
        let answer = client::fetch(self.address, HOST, &self.ca, load.path)
            .with_context(|| format!("https://{HOST}:{}{} does not answer", self.address.port(), load.path))?;
        ensure!(answer.body.len() == load.size, "{} has {} bytes, not {}", load.path, answer.body.len(), load.size);
        Ok(answer.tls)
    }
}

impl Load {
    /// Loads the proxy for `duration`. One failed request fails the measurement.
    pub(crate) fn run(&self, proxy: &mut Proxy, cores: Cores, duration: Duration, folder: &Path) -> Result<Sample> {
        let before = machine::cpu_seconds(proxy.process.id())?;
        let generator = self.start(proxy.address, cores, duration, folder)?;
        let output = generator.finish(duration + Duration::from_secs(30))?;
        let cpu = machine::cpu_seconds(proxy.process.id())? - before;
        proxy.process.check()?;

        let summary = Summary::find(&output)?;
        ensure!(summary.failed == 0, "{} of {} requests failed ({})", summary.failed, summary.requests, self.title);
        ensure!(summary.requests > 0, "no request was answered ({})", self.title);
        #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds are far below 2^52")]
        let sample = Sample {
            requests: summary.requests as f64,
            bytes: summary.bytes as f64,
            seconds: summary.microseconds as f64 / 1e6,
            cpu,
        };
        #[expect(clippy::cast_precision_loss, reason = "a body of some MiB")]
        let expected = sample.requests * self.size as f64;
        ensure!(sample.bytes >= expected, "answers are shorter than {} bytes ({})", self.size, self.title);
        Ok(sample)
    }

    fn start(&self, address: SocketAddr, cores: Cores, duration: Duration, folder: &Path) -> Result<Process> {
        let log = folder.join("load.log");
        match self.kind {
            Kind::KeepAlive => {
                let mut command = Place::on(cores.load).command(Path::new("wrk"));
                command
                    .args(["--threads", "1", "--timeout", "10s", "--connections"])
                    .arg(self.connections.to_string())
                    .args(["--duration", &format!("{}s", duration.as_secs()), "--script"])
                    .arg(bench_folder().join("wrk.lua"))
                    .arg(format!("https://{HOST}:{}{}", address.port(), self.path));
                Process::spawn("wrk", command, log)
            }
            Kind::NewConnection => {
                let program = env::current_exe().context("cannot find this program's own file")?;
                let mut command = Place::on(cores.load).command(&program);
                command.args(Connections::arguments(address, HOST, self.path, self.connections, duration));
                Process::spawn("the load of new connections", command, log)
            }
        }
    }
}
