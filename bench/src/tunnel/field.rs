//! Where the suite runs: a network namespace for the benchmark, one for the far station, a cable between them. Nothing of the
//! machine is touched, and all of it ends with the run.

use std::env;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::station::Station;
use crate::machine;
use crate::process::{Place, Process};

/// Becomes this program again, in namespaces of its own: another network, and another /run for the control sockets of
/// wireguard-go. Returns only if that fails.
pub(super) fn enter(arguments: &[String]) -> Result<()> {
    let program = env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--", "sh", "-ec"]);
    command.arg("mount -t tmpfs none /run; ip link set lo up; exec \"$0\" \"$@\"").arg(program).args(arguments);
    Err(command.exec()).context("cannot start unshare, which comes with util-linux")
}

/// Both stations.
pub(super) struct Field {
    /// Holds the far station's namespace.
    holder: Process,
}

impl Field {
    /// Inside [`enter`].
    pub(super) fn lay_out(folder: &Path) -> Result<Self> {
        let mut command = Place::default().command(Path::new("unshare"));
        command.args(["--net", "--", "sleep", "infinity"]);
        let mut holder = Process::spawn("the far station", command, folder.join("far.log"))?;
        let own = fs::read_link("/proc/self/ns/net").context("the kernel has no network namespaces")?;
        let theirs = format!("/proc/{}/ns/net", holder.id());
        machine::poll("the far station's namespace", Duration::from_secs(10), || {
            holder.check()?;
            // Until the kernel has made it, the holder is in ours.
            Ok(fs::read_link(&theirs).ok().filter(|namespace| *namespace != own))
        })?;

        let field = Self { holder };
        let pid = field.holder.id();
        field.run(Station::Near, &format!("ip link add cable type veth peer name cable netns {pid}"))?;
        // Buffers that are never what is measured; and nothing learned from earlier connections.
        let settings = "cd /proc/sys/net/ipv4; echo 1 > tcp_no_metrics_save; \
             for file in tcp_rmem tcp_wmem; do echo 4096 131072 16777216 > $file; done";
        for station in [Station::Near, Station::Far] {
            let address = station.outside();
            field.run(
                station,
                &format!("ip addr add {address}/24 dev cable; ip link set cable up; ip link set lo up"),
            )?;
            field.run(station, settings)?;
        }
        Ok(field)
    }

    /// Anywhere on a station.
    pub(super) fn on(&self, station: Station) -> Place {
        self.at(station, Place::default())
    }

    /// On one core of a station.
    pub(super) fn on_core(&self, station: Station, core: usize) -> Place {
        self.at(station, Place::on(core))
    }

    /// Runs a line of shell on a station.
    pub(super) fn run(&self, station: Station, line: &str) -> Result<()> {
        let output = self.on(station).command(Path::new("sh")).args(["-ec", line]).output();
        let output = output.context("cannot start sh by setpriv and nsenter, which come with util-linux")?;
        ensure!(output.status.success(), "`{line}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    fn at(&self, station: Station, place: Place) -> Place {
        match station {
            Station::Near => place,
            Station::Far => place.beside(self.holder.id()),
        }
    }
}
