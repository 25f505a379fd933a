//! The end of a tunnel that nobody can use any more.

use std::sync::Arc;

use crate::shared::Shared;

/// What every handle of a tunnel holds: with the last of them the tunnel closes.
pub(crate) struct Owner {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.close();
    }
}
