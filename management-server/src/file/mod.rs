//! `postern.toml`: read as a whole or refused with all its mistakes.

mod access;
mod mistake;
mod section;
mod service;
mod settings;
#[cfg(test)]
mod tests;
mod user;
mod values;

pub use mistake::Mistake;

use std::io;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use crate::desired::Desired;
use mistake::Findings;
use section::Section;

const KNOWN: [&str; 6] = ["service", "user", "proxy", "management", "tunnel", "log"];

/// Why a file is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {}: {detail}; check that the file is there and that this user may read it", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// It holds mistakes; each on a line of its own.
    #[error("{} is not taken:{}", .path.display(), .mistakes.iter().map(|m| format!("\n  {m}")).collect::<String>())]
    Mistakes {
        /// The file.
        path: PathBuf,
        /// In the order of the text; at least one.
        mistakes: Vec<Mistake>,
    },
}

/// Reads a file from disk.
///
/// # Errors
/// [`FileError`].
pub fn load(path: &Path) -> Result<Desired, FileError> {
    let unreadable = |error: io::Error| FileError::Read { path: path.to_owned(), detail: error.to_string() };
    let bytes = std::fs::read(path).map_err(unreadable)?;
    parse_bytes(path, &bytes)
}

/// What `bytes`, the content of the file at `path`, ask for.
///
/// # Errors
/// [`FileError::Mistakes`].
pub fn parse_bytes(path: &Path, bytes: &[u8]) -> Result<Desired, FileError> {
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    let desired = match std::str::from_utf8(bytes) {
        Ok(text) => parse(text, folder),
        Err(error) => {
            let text = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let findings = Findings::new(&text);
            findings.add(&(text.len()..text.len()), "the file is not UTF-8 text", "save it as UTF-8");
            Err(findings.into_mistakes())
        }
    };
    desired.map_err(|mistakes| FileError::Mistakes { path: path.to_owned(), mistakes })
}

/// What the text of a `postern.toml` asks for. Relative paths in it are taken from `folder`.
///
/// # Errors
/// Every mistake, in the order of the text. Mistakes of TOML itself hide the others, because what the rest means is
/// then a guess.
pub fn parse(text: &str, folder: &Path) -> Result<Desired, Vec<Mistake>> {
    let findings = Findings::new(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().unwrap_or(text.len()..text.len());
        findings.add(
            &at,
            format!("this is not TOML: {}", error.message()),
            "see https://toml.io for how it is written",
        );
    }
    if !errors.is_empty() {
        return Err(findings.into_mistakes());
    }
    // An editor that truncates before it writes must not take every service away for a moment.
    if text.trim().is_empty() {
        findings.add(&(0..0), "the file is empty", "add a service, or a comment if there shall be none");
    }
    let section = Section::new(&findings, root.get_ref(), 0..0, "this file".to_owned(), &KNOWN);
    let settings = settings::read(&section, folder);
    let users = user::read(&section);
    let services = service::read(&section, &users);
    let mistakes = findings.into_mistakes();
    if mistakes.is_empty() {
        let users = users.into_iter().filter_map(|(name, user)| user.map(|user| (name, user))).collect();
        Ok(Desired { settings, users, services })
    } else {
        Err(mistakes)
    }
}
