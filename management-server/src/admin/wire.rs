//! What client and router agree on beyond the reports.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where the socket of a data folder is.
#[must_use]
pub fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join("admin.sock")
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct AddToken {
    pub(super) name: String,
}

/// Whose peers are removed.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct OfUser {
    pub(super) user: String,
}

/// What could not be done, in one sentence.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Problem {
    pub(super) message: String,
}
