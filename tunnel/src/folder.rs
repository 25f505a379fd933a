//! The folder of a proxy's tunnel keys. Two processes with the same keys would be the same peers.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A folder that no other process uses for as long as this lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// The lock ends with the file, and so with the process, however that ends.
    _lock: File,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process has it.
    #[error("another process uses the tunnel keys in {}: stop it, or give this one a data folder of its own", path.display())]
    Taken {
        /// The folder.
        path: PathBuf,
    },
    /// It cannot be made, or not be locked.
    #[error("cannot use the folder {} for tunnel keys: {source}; make it writable, or choose another", path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Folder {
    /// Takes the folder, which is made if it does not exist. Blocks on the disk.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let open = || -> io::Result<File> {
            DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path.join(LOCK))
        };
        let unusable = |source| FolderError::Unusable { path: path.to_owned(), source };
        let lock = open().map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(FolderError::Taken { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(unusable(source)),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// No account's file begins with a dot.
const LOCK: &str = ".lock";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("tunnel");
        let first = Folder::open(&path).unwrap();
        let error = Folder::open(&path).unwrap_err();
        assert!(matches!(&error, FolderError::Taken { path: taken } if *taken == path), "{error}");
        assert!(error.to_string().contains("stop it") && !error.to_string().contains('\n'), "{error}");
        assert!(Folder::open(&parent.path().join("other")).is_ok());
        drop(first);
        assert_eq!(Folder::open(&path).unwrap().path(), path);
    }

    #[test]
    fn what_cannot_be_a_folder_is_an_error() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        for path in [&file, Path::new("/proc/tunnel")] {
            assert!(matches!(Folder::open(path), Err(FolderError::Unusable { .. })), "{path:?}");
        }
    }
}
