//! One HTTP request: from its canonical form to the answer's last byte.

pub(crate) mod body;
pub(crate) mod canonical;
pub(crate) mod download;
pub(crate) mod exchange;
pub(crate) mod fields;
pub(crate) mod forward;
pub(crate) mod forwarded;
pub(crate) mod path;
pub(crate) mod pipeline;
pub(crate) mod push;
pub(crate) mod relay;
pub(crate) mod rescue;
pub(crate) mod rewrite;
pub(crate) mod stamp;
pub(crate) mod upgrade;
pub(crate) mod upload;
pub(crate) mod watch;
