//! Connections that come in through a tunnel, and from whom. Only here is a [`TunnelPeer`] minted.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use postern_model::{Generation, PeerKind, PublicKey, TunnelPeer};
use postern_netstack::{Accepted, ListenerId};

use crate::owner::Owner;
use crate::shared::Orphan;
use crate::stream::Stream;

/// A port of our addresses in the tunnel. What waits to be accepted is bounded; beyond it connections are not answered.
/// Dropping it resets those that wait and leaves those that were accepted.
pub struct Listener {
    owner: Arc<Owner>,
    id: ListenerId,
}

impl Listener {
    /// Takes over a listener that the core has adopted.
    pub(crate) fn new(owner: Arc<Owner>, id: ListenerId) -> Self {
        Self { owner, id }
    }

    /// The next connection, in the order in which they were established, and the peer whose key it came with. `None` once
    /// the tunnel has ended. Nothing is lost if the future is dropped.
    pub async fn accept(&mut self) -> Option<(Stream, TunnelPeer)> {
        let accepted = poll_fn(|cx| {
            let polled = self.owner.shared.poll(|core| match core.netstack.accept(self.id) {
                Some(accepted) => {
                    core.adopt(accepted.stream);
                    Poll::Ready(Some(accepted))
                }
                None => core.await_incoming(self.id, cx),
            });
            polled.unwrap_or(Poll::Ready(None))
        })
        .await?;
        let peer = self.mint(&accepted);
        Some((Stream::new(self.owner.clone(), accepted.stream, accepted.local, accepted.remote), peer))
    }

    #[expect(clippy::disallowed_methods, reason = "the accept path: the key has decrypted the connection's packets")]
    fn mint(&self, accepted: &Accepted) -> TunnelPeer {
        let peer = &accepted.peer;
        let kind = if peer.site { PeerKind::Site } else { PeerKind::Device };
        let account = self.owner.shared.account.clone();
        TunnelPeer::minted(account, PublicKey(peer.key), Generation(peer.generation), accepted.remote.ip(), kind)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Without a tunnel there is nothing left to close.
        let _ = self.owner.shared.act(|core| core.abandon(Orphan::Listener(self.id)));
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("account", &self.owner.shared.account).finish_non_exhaustive()
    }
}
