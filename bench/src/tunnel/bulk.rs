//! One TCP connection through a tunnel between the stations: ours in userspace, against the kernel's over wireguard-go.

use std::env;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::end::{End, READY, Role, Tcp};
use super::field::Field;
use super::station::Station;
use super::traffic::Traffic;
use super::userspace::PATIENCE;
use super::wireguard_go::{Device, WireGuardGo};
use crate::measure::{Sample, Side};
use crate::process::Process;
use crate::report::{Better, Metric};

pub(super) const PEER: &str = "wireguard-go";

pub(super) const METRICS: [Metric; 2] = [
    Metric { name: "bulk", unit: "Gbit/s", better: Better::Higher, load: 0, value: |s| s.bytes * 8e-9 / s.seconds },
    Metric { name: "cpu_per_byte", unit: "ns", better: Better::Lower, load: 0, value: |s| s.cpu / s.bytes * 1e9 },
];

/// Both sides.
pub(super) struct Bulk<'a> {
    field: &'a Field,
    folder: &'a Path,
    devices: [Device; 2],
}

impl<'a> Bulk<'a> {
    /// With wireguard-go at both ends; every process may use every core.
    pub(super) fn prepare(field: &'a Field, folder: &'a Path, wireguard_go: &WireGuardGo) -> Result<Self> {
        let devices = wireguard_go.pair(field, folder, |station| field.on(station), Station::theirs)?;
        Ok(Self { field, folder, devices })
    }

    /// One measurement; CPU is that of everything that it takes at both ends.
    pub(super) fn measure(&mut self, side: Side, duration: Duration) -> Result<Sample> {
        match side {
            Side::Ours => transfer(self.field, self.folder, Tcp::Ours, Station::ours, duration),
            Side::Theirs => {
                let before = self.devices_cpu()?;
                let sample = transfer(self.field, self.folder, Tcp::Kernel, Station::theirs, duration)?;
                let cpu = sample.cpu + self.devices_cpu()? - before;
                Ok(Sample { cpu, ..sample })
            }
        }
    }

    fn devices_cpu(&mut self) -> Result<f64> {
        let mut total = 0.0;
        for device in &mut self.devices {
            device.check()?;
            total += device.cpu_seconds()?;
        }
        Ok(total)
    }
}

/// The far station sends for a while, the near one receives. `endpoint` is where the tunnel of a station is found.
pub(super) fn transfer(
    field: &Field,
    folder: &Path,
    tcp: Tcp,
    endpoint: impl Fn(Station) -> SocketAddr,
    duration: Duration,
) -> Result<Sample> {
    let start = |name, station: Station, role| {
        let program = env::current_exe().context("cannot find this program's own file")?;
        let mut command = field.on(station).command(&program);
        command.args(End::arguments(station, role, tcp, endpoint(station.other()), duration));
        Process::spawn(name, command, folder.join(format!("{station:?}.end.log")))
    };
    let mut receiver = start("the receiver", Station::Near, Role::Receiver)?;
    receiver.wait_for(READY, PATIENCE)?;
    let sender = start("the sender", Station::Far, Role::Sender)?;
    let received = Traffic::find(&receiver.finish(duration + PATIENCE)?)?;
    let sent = Traffic::find(&sender.finish(duration + PATIENCE)?)?;
    #[expect(clippy::cast_precision_loss, reason = "bytes of a few seconds are far below 2^52")]
    let bytes = received.bytes as f64;
    Ok(Sample { requests: 1.0, bytes, seconds: received.seconds, cpu: received.cpu + sent.cpu })
}
