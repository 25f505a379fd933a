//! The folder of one run: everything written while measuring, wiped before and after.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The folder of the benchmark itself, in the source tree.
pub(crate) fn bench_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// An empty folder for configurations, bodies and logs. Only one run at a time: two would measure each other.
pub(crate) struct RunFolder {
    path: PathBuf,
    _lock: File,
}

impl RunFolder {
    /// Takes the folder, or says that another run has it.
    pub(crate) fn take() -> Result<Self> {
        let peers = bench_folder().join(".peers");
        fs::create_dir_all(&peers).with_context(|| format!("cannot create {}", peers.display()))?;
        let lock = File::create(peers.join("lock")).with_context(|| format!("cannot write in {}", peers.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another benchmark is running: wait for it, or end it"),
            Err(TryLockError::Error(error)) => return Err(error).context("cannot lock the benchmark's folder"),
        }
        let path = peers.join("run");
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("cannot empty {}", path.display()))?;
        }
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path, _lock: lock })
    }

    /// Creates a folder inside.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next run.
        let _ = fs::remove_dir_all(&self.path);
    }
}
