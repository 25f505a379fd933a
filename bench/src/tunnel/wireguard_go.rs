//! wireguard-go from Debian, as the peer and as a stock client of ours.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use postern_model::PublicKey;

use super::field::Field;
use super::station::Station;
use crate::machine;
use crate::process::{Place, Process};
use crate::unpacked::Unpacked;

/// How long its control socket may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An unpacked wireguard-go.
pub(super) struct WireGuardGo {
    unpacked: Unpacked,
}

/// Somebody that a device speaks with.
pub(super) struct Neighbour {
    pub(super) key: PublicKey,
    /// Where it listens; it is called at once, so that it learns where we are. `None` for one that calls by itself.
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) address: IpAddr,
}

/// A network device made by a wireguard-go of its own.
pub(super) struct Device {
    name: String,
    process: Process,
}

impl WireGuardGo {
    /// Downloads and unpacks it unless it is there.
    pub(super) fn obtain() -> Result<Self> {
        Ok(Self { unpacked: Unpacked::obtain("wireguard-go")? })
    }

    /// Of the Debian package.
    pub(super) fn version(&self) -> &str {
        &self.unpacked.version
    }

    /// Both ends of one tunnel, each where `place` says; the other end of each is at `endpoint`.
    pub(super) fn pair(
        &self,
        field: &Field,
        folder: &Path,
        place: impl Fn(Station) -> Place,
        endpoint: impl Fn(Station) -> SocketAddr,
    ) -> Result<[Device; 2]> {
        let [near, far] = [Station::Near, Station::Far].map(|station| {
            let device = self.device(field, folder, station, place(station), &[station.inside()])?;
            let other = station.other();
            let neighbour =
                Neighbour { key: other.public_key(), endpoint: Some(endpoint(other)), address: other.inside() };
            device.meet(field, station, &[neighbour])?;
            Ok::<_, anyhow::Error>(device)
        });
        Ok([near?, far?])
    }

    /// A device of a station with its addresses in the tunnel, alone so far.
    pub(super) fn device(
        &self,
        field: &Field,
        folder: &Path,
        station: Station,
        place: Place,
        addresses: &[IpAddr],
    ) -> Result<Device> {
        // Control sockets of both stations lie in one folder.
        let name = format!("wg-{station:?}").to_lowercase();
        let mut command = self.unpacked.command(place, "usr/bin/wireguard-go");
        command.args(["-f", &name]).env("LOG_LEVEL", "error");
        let process = Process::spawn("wireguard-go", command, folder.join(format!("{name}.log")))?;
        let mut device = Device { name, process };
        machine::poll("wireguard-go", PATIENCE, || {
            device.process.check()?;
            Ok(UnixStream::connect(device.socket()).ok())
        })?;
        device.set(&format!("private_key={}\nlisten_port={}\n", hex(station.key_bytes()), station.theirs().port()))?;
        let name = &device.name;
        for address in addresses {
            field.run(station, &format!("ip addr add {address} dev {name}"))?;
        }
        field.run(station, &format!("ip link set {name} mtu 1420 up"))?;
        Ok(device)
    }
}

impl Device {
    /// Adds those it speaks with.
    pub(super) fn meet(&self, field: &Field, station: Station, neighbours: &[Neighbour]) -> Result<()> {
        for Neighbour { key, endpoint, address } in neighbours {
            let (key, range) = (hex(key.0), IpNet::from(*address));
            let called = |endpoint| format!("endpoint={endpoint}\npersistent_keepalive_interval=25\n");
            let called = endpoint.map(called).unwrap_or_default();
            self.set(&format!("public_key={key}\n{called}allowed_ip={range}\n"))?;
            field.run(station, &format!("ip route replace {address} dev {}", self.name))?;
        }
        Ok(())
    }

    /// CPU seconds so far.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        machine::cpu_seconds(self.process.id())
    }

    pub(super) fn check(&mut self) -> Result<()> {
        self.process.check()
    }

    fn set(&self, settings: &str) -> Result<()> {
        let ask = || {
            let mut socket = UnixStream::connect(self.socket())?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.write_all(format!("set=1\n{settings}\n").as_bytes())?;
            let (mut answer, mut part) = (Vec::new(), [0; 256]);
            while !answer.ends_with(b"\n\n") {
                match socket.read(&mut part)? {
                    0 => break,
                    count => answer.extend_from_slice(&part[..count]),
                }
            }
            Ok::<_, std::io::Error>(answer)
        };
        let answer = ask().with_context(|| format!("cannot speak with wireguard-go at {}", self.socket()))?;
        let answer = String::from_utf8_lossy(&answer);
        ensure!(answer.trim() == "errno=0", "wireguard-go refuses its settings: {}", answer.trim());
        Ok(())
    }

    fn socket(&self) -> String {
        format!("/var/run/wireguard/{}.sock", self.name)
    }
}

fn hex(bytes: [u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
