use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::unfold;
use postern_proto::convert::{Watch, peer_map_to_wire};
use postern_proto::postern::v1::PeerMap;
use tokio::sync::watch::Receiver;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::clock::unix_now;
use crate::peers::{Peers, Presence, Rosters};
use crate::tokens::Bearer;

use super::mappings::removed;

/// For whoever looks at the proxy. One that hears it asks for its mappings again.
const UNKNOWN: &str = "the management server does not know this proxy's key in the tunnel; the proxy makes it known with the \
                       next mappings that it is sent, so wait a moment, or else restart it";

/// The peer maps of one proxy: the first at once, then another whenever it is different. A proxy that is slow misses some,
/// never the newest.
pub(super) struct PeerMaps {
    peers: Arc<Peers>,
    changes: Receiver<Arc<Rosters>>,
    of: Watch,
    sent: Option<PeerMap>,
    bearer: Arc<Bearer>,
    stop: CancellationToken,
    _presence: Presence,
}

impl PeerMaps {
    /// For a key that the account's proxies have registered.
    pub(super) fn new(
        peers: &Arc<Peers>,
        of: Watch,
        bearer: Arc<Bearer>,
        stop: CancellationToken,
    ) -> Result<Self, Status> {
        map(peers, &of)?;
        let (changes, presence) = (peers.watch(), peers.enter(&of.account, of.key, bearer.internal));
        Ok(Self { peers: peers.clone(), changes, of, sent: None, bearer, stop, _presence: presence })
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = Result<PeerMap, Status>> + Send + 'static {
        unfold(Some(self), |maps| async move {
            let mut maps = maps?;
            match maps.next().await {
                Ok(map) => Some((Ok(map), Some(maps))),
                Err(status) => Some((Err(status), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<PeerMap, Status> {
        loop {
            self.changes.mark_unchanged();
            let map = map(&self.peers, &self.of)?;
            if self.sent.as_ref() != Some(&map) {
                self.sent = Some(map.clone());
                return Ok(map);
            }
            tokio::select! {
                biased;
                () = self.bearer.removed.cancelled() => return Err(removed()),
                () = self.stop.cancelled() => return Err(stopping()),
                changed = self.changes.changed() => changed.map_err(|_| stopping())?,
            }
        }
    }
}

fn map(peers: &Peers, of: &Watch) -> Result<PeerMap, Status> {
    let map = peers.roster(&of.account).map(of.key, peers.mtu(), unix_now());
    let map = map.ok_or_else(|| Status::not_found(UNKNOWN))?;
    Ok(peer_map_to_wire(&map))
}

fn stopping() -> Status {
    Status::unavailable("the management server is stopping")
}
