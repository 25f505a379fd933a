//! Files with secrets in them, for this user alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Writes a file whole or not at all, over one that is there.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let file = private().truncate(true).create(true).open(&temporary);
    let written = file.and_then(|mut file| fill(&mut file, text)).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _not_there = fs::remove_file(&temporary);
    }
    written
}

/// A file that was not there before, and goes again unless it is written.
pub(crate) struct NewFile {
    path: PathBuf,
    file: File,
    written: bool,
}

impl NewFile {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = private().create_new(true).open(path)?;
        Ok(Self { path: path.to_owned(), file, written: false })
    }

    pub(crate) fn write(mut self, text: &str) -> io::Result<()> {
        fill(&mut self.file, text)?;
        self.written = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.written {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn fill(file: &mut File, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn private() -> OpenOptions {
    let mut options = File::options();
    options.write(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        replace(&one, "first").unwrap();
        replace(&one, "second").unwrap();
        NewFile::create(&other).unwrap().write("third").unwrap();
        for (path, text) in [(&one, "second"), (&other, "third")] {
            assert_eq!(fs::read_to_string(path).unwrap(), text);
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left over");
    }

    #[test]
    fn what_is_there_stays_and_what_is_not_written_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.conf");
        drop(NewFile::create(&path).unwrap());
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        assert_eq!(NewFile::create(&path).err().map(|error| error.kind()), Some(io::ErrorKind::AlreadyExists));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
