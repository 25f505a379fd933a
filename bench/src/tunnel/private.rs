//! Requests of a tunnel peer to a private service: `postern up` against nginx behind wireguard-go. All of the server is on one
//! core, the upstream included; the client is the same for both.

use std::env;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_model::PublicKey;

use super::field::Field;
use super::requests::Requests;
use super::station::Station;
use super::userspace::PATIENCE;
use super::wireguard_go::{Device, Neighbour, WireGuardGo};
use crate::load::{Kind, Load, Proxy};
use crate::machine::{self, Cores};
use crate::measure::{Sample, Side};
use crate::nginx::Nginx;
use crate::postern;
use crate::process::{Place, Process};
use crate::report::{Better, Metric};
use crate::summary::Summary;

pub(super) const PEER: &str = "wireguard-go+nginx";

pub(super) const LOADS: [Load; 2] = [
    Load { title: "1 KiB, 64 kept connections", path: "/small", size: 1024, connections: 64, kind: Kind::KeepAlive },
    Load { title: "1 MiB, 16 kept connections", path: "/large", size: 1 << 20, connections: 16, kind: Kind::KeepAlive },
];

pub(super) const METRICS: [Metric; 2] = [
    Metric {
        name: "private_requests_per_second",
        unit: "1/s",
        better: Better::Higher,
        load: 0,
        value: |sample| sample.requests / sample.seconds,
    },
    Metric {
        name: "private_throughput",
        unit: "GB/s",
        better: Better::Higher,
        load: 1,
        value: |sample| sample.bytes * 1e-9 / sample.seconds,
    },
];

const HOST: &str = "private.localhost";
const GROUP: &str = "bench";

/// Both servers.
pub(super) struct Private<'a> {
    field: &'a Field,
    cores: Cores,
    folder: &'a Path,
    upstream: Process,
    postern: Proxy,
    device: Device,
    nginx: Process,
    /// Of the client, for either server.
    confs: [PathBuf; 2],
}

impl<'a> Private<'a> {
    pub(super) fn prepare(
        field: &'a Field,
        cores: Cores,
        folder: &'a Path,
        nginx: &Nginx,
        wireguard_go: &WireGuardGo,
    ) -> Result<Self> {
        let place = Place::on(cores.proxy);
        let at = |name: &str| subfolder(folder, name);
        let origin = SocketAddr::from((Ipv4Addr::LOCALHOST, 8000));
        let upstream = nginx.start_upstream(place, &at("upstream")?, &LOADS, origin)?;

        let postern = postern::start_with(place, &at("postern")?, &configuration(origin))?;
        let conf = postern::add_peer(&folder.join("postern"), "client", &["--groups", GROUP])?;
        let ours = keep(folder, "ours.conf", &conf)?;

        let device = wireguard_go.device(field, folder, Station::Near, place, &[Station::Near.inside()])?;
        let client = Neighbour { key: Station::Far.public_key(), endpoint: None, address: Station::Far.inside() };
        device.meet(field, Station::Near, &[client])?;
        let address = SocketAddr::new(Station::Near.inside(), 80);
        let nginx = nginx.start_plain_proxy(place, &at("nginx")?, origin, address)?;
        let theirs = keep(folder, "theirs.conf", &their_conf())?;

        Ok(Self { field, cores, folder, upstream, postern, device, nginx, confs: [ours, theirs] })
    }

    /// One measurement; CPU is that of the server without its upstream.
    pub(super) fn measure(&mut self, load: usize, side: Side, duration: Duration) -> Result<Sample> {
        let (load, conf) = (&LOADS[load], &self.confs[side as usize]);
        let program = env::current_exe().context("cannot find this program's own file")?;
        let mut command = self.field.on_core(Station::Far, self.cores.load).command(&program);
        command.args(Requests::arguments(conf, HOST, load, duration));
        let before = self.cpu_seconds(side)?;
        let client = Process::spawn("the client", command, self.folder.join("client.log"))?;
        let output = client.finish(duration + 2 * PATIENCE)?;
        let cpu = self.cpu_seconds(side)? - before;
        self.check()?;

        let summary = Summary::find(&output)?;
        ensure!(summary.requests > 0, "no request was answered ({})", load.title);
        #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds are far below 2^52")]
        let (requests, bytes) = (summary.requests as f64, summary.bytes as f64);
        #[expect(clippy::cast_precision_loss, reason = "some seconds")]
        let seconds = summary.microseconds as f64 / 1e6;
        Ok(Sample { requests, bytes, seconds, cpu })
    }

    fn cpu_seconds(&self, side: Side) -> Result<f64> {
        match side {
            Side::Ours => machine::cpu_seconds(self.postern.process.id()),
            Side::Theirs => Ok(machine::cpu_seconds(self.nginx.id())? + self.device.cpu_seconds()?),
        }
    }

    fn check(&mut self) -> Result<()> {
        self.upstream.check()?;
        self.postern.process.check()?;
        self.device.check()?;
        self.nginx.check()
    }
}

/// Creates a folder inside another one.
pub(super) fn subfolder(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(path)
}

fn configuration(upstream: SocketAddr) -> String {
    let endpoint = Station::Near.ours();
    format!(
        "[tunnel]
port = {}
endpoint = \"{endpoint}\"

[service.private]
host = \"{HOST}\"
upstream = \"http://{upstream}\"
access = {{ private = [\"{GROUP}\"] }}
",
        endpoint.port()
    )
}

/// As Postern prints one. Private keys are written as public ones are.
fn their_conf() -> String {
    let (server, client) = (Station::Near, Station::Far);
    format!(
        "[Interface]\nPrivateKey = {}\nAddress = {}/32\n\n[Peer]\nPublicKey = {}\nAllowedIPs = {}/32\nEndpoint = {}\n",
        PublicKey(client.key_bytes()),
        client.inside(),
        server.public_key(),
        server.inside(),
        server.theirs()
    )
}

fn keep(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
