//! A peer from Debian, unpacked beside the benchmark with its libraries and its loader.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::Place;
use crate::run_folder::bench_folder;

/// An unpacked package.
pub(crate) struct Unpacked {
    root: PathBuf,
    loader: PathBuf,
    /// Of the Debian package.
    pub(crate) version: String,
}

impl Unpacked {
    /// Downloads and unpacks a package unless it is there.
    pub(crate) fn obtain(package: &str) -> Result<Self> {
        let script = bench_folder().join("peers.sh");
        let status = Command::new(&script).arg(package).status();
        let status = status.with_context(|| format!("cannot run {}", script.display()))?;
        ensure!(status.success(), "{package} could not be fetched: the lines above say why");

        let folder = bench_folder().join(".peers").join(package);
        let version = fs::read_to_string(folder.join("version"));
        let version = version.with_context(|| format!("the unpacked {package} has no version"))?;
        let root = folder.join("root");
        Ok(Self { loader: find_loader(&root)?, root, version: version.trim().to_owned() })
    }

    /// A program of the package, started with the libraries that came with it.
    pub(crate) fn command(&self, place: Place, program: &str) -> Command {
        let mut command = place.command(&self.loader);
        command.arg("--library-path").arg(self.loader.parent().unwrap_or(&self.root)).arg(self.root.join(program));
        command
    }
}

/// The loader lies beside the C library, in a folder named after the architecture.
fn find_loader(root: &Path) -> Result<PathBuf> {
    let libraries = root.join("usr/lib");
    let folders = fs::read_dir(&libraries).with_context(|| format!("cannot read {}", libraries.display()))?;
    let mut files = folders.flatten().filter_map(|folder| fs::read_dir(folder.path()).ok()).flatten().flatten();
    let loader = files.find(|file| file.file_name().to_string_lossy().starts_with("ld-linux"));
    Ok(loader.with_context(|| format!("no loader below {}", libraries.display()))?.path())
}
