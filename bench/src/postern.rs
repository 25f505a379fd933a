//! Postern as its users start it: `postern up FILE`, management server and access log included.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::load::{HOST, Proxy};
use crate::machine;
use crate::nginx::free_address;
use crate::process::{Place, Process};

/// The part of a ready file that is needed here.
#[derive(Deserialize)]
struct Ready {
    https: SocketAddr,
    ca_file: PathBuf,
}

/// Starts the release build beside this program with one open service.
pub(crate) fn start(place: Place, folder: &Path, upstream: SocketAddr) -> Result<Proxy> {
    let service = format!("[service.bench]\nhost = \"{HOST}\"\nupstream = \"http://{upstream}\"\naccess = \"open\"\n");
    start_with(place, folder, &service)
}

/// Starts the release build beside this program with `settings` of postern.toml. On a single core it runs a single worker.
pub(crate) fn start_with(place: Place, folder: &Path, settings: &str) -> Result<Proxy> {
    let file = folder.join("postern.toml");
    fs::write(&file, format!("[proxy]\nhttps = \"{}\"\n\n{settings}", free_address()?))
        .with_context(|| format!("cannot write {}", file.display()))?;

    let ready = folder.join("ready.json");
    let mut command = place.command(&program()?);
    command.arg("up").arg(&file).arg("--data-dir").arg(data(folder)).arg("--ready-file").arg(&ready);
    let mut process = Process::spawn("postern", command, folder.join("postern.log"))?;
    let ready: Ready = machine::poll("postern", Duration::from_secs(30), || {
        process.check()?;
        Ok(fs::read(&ready).ok().and_then(|text| serde_json::from_slice(&text).ok()))
    })?;
    let ca = fs::read_to_string(&ready.ca_file);
    let ca = ca.with_context(|| format!("cannot read {}", ready.ca_file.display()))?;
    Ok(Proxy { process, address: ready.https, ca })
}

/// Lets a peer into the tunnel of the one that was started in `folder`; its wg-quick file.
pub(crate) fn add_peer(folder: &Path, name: &str, options: &[&str]) -> Result<String> {
    let mut command = Command::new(program()?);
    command.args(["peer", "add", name]).args(options).arg("--data-dir").arg(data(folder));
    let output = command.output().context("cannot start postern")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`postern peer add {name}` failed: {}", errors.trim());
    String::from_utf8(output.stdout).context("`postern peer add` printed no text")
}

fn program() -> Result<PathBuf> {
    let program = env::current_exe().context("cannot find this program's own file")?.with_file_name("postern");
    ensure!(program.exists(), "{} is missing: cargo build --release", program.display());
    Ok(program)
}

fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}
