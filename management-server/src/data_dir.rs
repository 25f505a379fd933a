use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Why a data folder cannot be used. Each text is one sentence that ends with what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error(
        "another postern{} is running on the data folder {}; stop it, or choose another folder with --data-dir",
        .pid.as_ref().map(|pid| format!(" (process {pid})")).unwrap_or_default(), .path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Who has it, if it says so.
        pid: Option<u32>,
    },
    /// Somebody else may write to it.
    #[error("other users may write to the data folder {0}; run `chmod 700 {0}`, or choose another folder with --data-dir", .path.display())]
    Exposed {
        /// The folder.
        path: PathBuf,
    },
    /// It cannot be made, read or written.
    #[error("cannot use the data folder {}: {source}; make it readable and writable for this user, or choose another with --data-dir", .path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A data folder that this process has to itself, until dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the folder (0700) if it is not there, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        let failed = |source| DataDirError::Io { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let path = fs::canonicalize(path).map_err(failed)?;
        let failed = |source| DataDirError::Io { path: path.clone(), source };
        if fs::metadata(&path).map_err(failed)?.mode() & 0o022 != 0 {
            return Err(DataDirError::Exposed { path });
        }
        let mut lock = private_file(&path.join("postern.lock")).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let pid = lock.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(DataDirError::InUse { path, pid });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let note = |lock: &mut File| {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())
        };
        note(&mut lock).map_err(failed)?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Opens a file to read and write, made with 0600 if it is not there.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn one_process_has_a_folder_and_the_next_gets_it_after_it() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("a/b");
        let first = DataDir::open(&path).expect("first");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(path.join("postern.lock")).expect("there").mode() & 0o777, 0o600);
        let refused = DataDir::open(&path).expect_err("second").to_string();
        assert!(refused.contains(&format!("(process {})", std::process::id())), "{refused}");
        assert!(refused.contains("--data-dir"), "{refused}");
        drop(first);
        DataDir::open(&path).expect("free again");
    }

    #[test]
    fn a_folder_of_others_is_refused() {
        let folder = tempfile::tempdir().expect("tempdir");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
        let refused = DataDir::open(folder.path()).expect_err("exposed").to_string();
        assert!(refused.contains("chmod 700"), "{refused}");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        DataDir::open(folder.path()).expect("only readable by others");
    }

    #[test]
    fn a_file_in_its_place_is_one_sentence() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("file");
        fs::write(&path, "").expect("write");
        let refused = DataDir::open(&path).expect_err("file").to_string();
        assert!(refused.contains("cannot use the data folder") && refused.contains("--data-dir"), "{refused}");
    }
}
