//! Postern as its users start it: `postern up FILE`, management server and access log included.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::load::{HOST, Proxy};
use crate::machine;
use crate::nginx::free_address;
use crate::process::{self, Process};

/// The part of a ready file that is needed here.
#[derive(Deserialize)]
struct Ready {
    https: SocketAddr,
    ca_file: PathBuf,
}

/// Starts the release build beside this program with one open service. On a single core it runs a single worker.
pub(crate) fn start(core: usize, folder: &Path, upstream: SocketAddr) -> Result<Proxy> {
    let program = env::current_exe().context("cannot find this program's own file")?.with_file_name("postern");
    ensure!(program.exists(), "{} is missing: cargo build --release", program.display());
    let file = folder.join("postern.toml");
    fs::write(&file, configuration(free_address()?, upstream))
        .with_context(|| format!("cannot write {}", file.display()))?;

    let ready = folder.join("ready.json");
    let mut command = process::pinned(core, &program);
    command.arg("up").arg(&file).arg("--data-dir").arg(folder.join("data")).arg("--ready-file").arg(&ready);
    let mut process = Process::spawn("postern", command, folder.join("postern.log"))?;
    let ready: Ready = machine::poll("postern", Duration::from_secs(30), || {
        process.check()?;
        Ok(fs::read(&ready).ok().and_then(|text| serde_json::from_slice(&text).ok()))
    })?;
    let ca = fs::read_to_string(&ready.ca_file);
    let ca = ca.with_context(|| format!("cannot read {}", ready.ca_file.display()))?;
    Ok(Proxy { process, address: ready.https, ca })
}

fn configuration(https: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "[proxy]
https = \"{https}\"

[service.bench]
host = \"{HOST}\"
upstream = \"http://{upstream}\"
access = \"open\"
"
    )
}
