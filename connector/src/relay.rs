//! Two byte streams, each the other's continuation.

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};

/// Copies both ways until both ends have ended or one breaks. An end of one direction is passed on and the other goes on: who
/// vanishes without a word is noticed by the keep-alive of either side.
pub(crate) async fn relay(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut tunnel: impl AsyncRead + AsyncWrite + Unpin,
) {
    if let Err(error) = copy_bidirectional(&mut client, &mut tunnel).await {
        tracing::debug!(%error, "a connection broke");
    }
}
