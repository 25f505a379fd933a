use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::Error;

/// Who may read a file.
#[derive(Clone, Copy)]
pub(crate) enum Readers {
    /// Only the owner: keys.
    Owner,
    /// Everybody who reaches the folder: certificates.
    Everybody,
}

/// Makes the folder and those above it; what is new is for the owner alone.
pub(crate) fn make_folder(folder: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| Error::Write { path: folder.to_owned(), source })
}

/// Reads a file whole.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// Replaces a file so that whoever reads it, even after a crash, finds the old text or the new one, never half of it.
pub(crate) fn replace(path: &Path, text: &str, readers: Readers) -> Result<(), Error> {
    let write = || -> io::Result<()> {
        let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
        let mode = match readers {
            Readers::Owner => 0o600,
            Readers::Everybody => 0o644,
        };
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        // A file that was already there keeps its own mode through `open`.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    write().map_err(|source| Error::Write { path: path.to_owned(), source })
}
