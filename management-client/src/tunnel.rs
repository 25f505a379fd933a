use std::time::Duration;

use postern_model::{
    BoxFuture, CreateProxyPeer, ManagementError, PeerMap, PeerMaps, TunnelVerdict, ValidateTunnelPeer,
};
use postern_proto::convert::{
    self, Watch, create_proxy_peer_to_wire, tunnel_verdict_from_wire, validate_tunnel_peer_to_wire, watch_peers_to_wire,
};
use postern_proto::postern::v1;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::failure::{call, describe, is_from_server, to_error};
use crate::rpc::Rpc;

/// As NetBird's proxy: a server may have to tell other peers before it answers.
const CREATE_DEADLINE: Duration = Duration::from_secs(30);
/// Somebody's request waits for it.
const VALIDATE_DEADLINE: Duration = Duration::from_secs(5);
/// For the first map.
const WATCH_DEADLINE: Duration = Duration::from_secs(10);

/// Makes this proxy a peer of an account's tunnel.
pub(crate) async fn create_proxy_peer(rpc: &Rpc, request: CreateProxyPeer) -> Result<(), ManagementError> {
    let mut management = rpc.management();
    let wire = create_proxy_peer_to_wire(&request);
    match call(CREATE_DEADLINE, management.create_proxy_peer(wire)).await {
        Ok(answer) if answer.success => Ok(()),
        Ok(answer) => {
            let reason = answer.error_message.filter(|reason| !reason.is_empty());
            Err(ManagementError::Refused(reason.unwrap_or_else(|| "it gives no reason".to_owned())))
        }
        Err(status) if is_from_server(&status) && status.code() == Code::Unauthenticated => {
            let reason = "the mapping's one-time token is used or too old; fresh ones are asked for by themselves";
            Err(ManagementError::Refused(reason.to_owned()))
        }
        Err(status) => Err(to_error(&status)),
    }
}

/// Asks whether a tunnel peer may enter.
pub(crate) async fn validate_tunnel_peer(
    rpc: &Rpc,
    request: ValidateTunnelPeer,
) -> Result<TunnelVerdict, ManagementError> {
    let mut management = rpc.management();
    let wire = validate_tunnel_peer_to_wire(&request);
    match call(VALIDATE_DEADLINE, management.validate_tunnel_peer(wire)).await {
        Ok(answer) => tunnel_verdict_from_wire(answer).map_err(|e| ManagementError::Refused(e.to_string())),
        Err(status) => Err(to_error(&status)),
    }
}

/// The peer maps of one account.
pub(crate) struct Maps {
    watch: Watch,
    /// It came with the opening.
    first: Option<PeerMap>,
    rest: Streaming<v1::PeerMap>,
    closing: CancellationToken,
}

impl Maps {
    /// Returns with the first map, which proves that the server has such maps. The stream ends with `closing`.
    pub(crate) async fn open(rpc: &Rpc, watch: &Watch, closing: CancellationToken) -> Result<Self, ManagementError> {
        let mut postern = rpc.postern();
        let begin = async {
            let mut rest = postern.watch_peers(watch_peers_to_wire(watch)).await?.into_inner();
            let first = rest.message().await?;
            Ok((first, rest))
        };
        let begun = timeout(WATCH_DEADLINE, begin).await;
        let (first, rest) = match begun {
            Ok(begun) => begun.map_err(|status| unopened(&status))?,
            Err(_) => return Err(unavailable("it sent no peer map in time")),
        };
        let first = first.ok_or_else(|| unavailable("it closed the stream of peer maps at once"))?;
        let first = understand(watch, first).map_err(|e| ManagementError::Refused(e.to_string()))?;
        Ok(Self { watch: watch.clone(), first: Some(first), rest, closing })
    }

    async fn more(&mut self) -> Option<PeerMap> {
        let account = &self.watch.account;
        match self.closing.run_until_cancelled(self.rest.message()).await? {
            Ok(Some(map)) => match understand(&self.watch, map) {
                Ok(map) => return Some(map),
                Err(invalid) => tracing::warn!(%account, "management sent a peer map that is none: {invalid}"),
            },
            Ok(None) => tracing::info!(%account, "management closed the stream of peer maps"),
            Err(status) => tracing::info!(%account, "lost the stream of peer maps: {}", describe(&status)),
        }
        None
    }
}

impl PeerMaps for Maps {
    fn next(&mut self) -> BoxFuture<'_, Option<PeerMap>> {
        Box::pin(async move {
            match self.first.take() {
                Some(map) => Some(map),
                None => self.more().await,
            }
        })
    }
}

fn understand(watch: &Watch, map: v1::PeerMap) -> Result<PeerMap, convert::Invalid> {
    let (map, left_out) = convert::peer_map_from_wire(map)?;
    for invalid in left_out {
        tracing::warn!(account = %watch.account, "management sent a peer that cannot be understood: {invalid}");
    }
    Ok(map)
}

fn unopened(status: &Status) -> ManagementError {
    if is_from_server(status) && status.code() == Code::Unimplemented {
        let reason = "this management server sends no peer maps; Postern's own does";
        return ManagementError::Refused(reason.to_owned());
    }
    if is_from_server(status) && status.code() == Code::NotFound {
        return ManagementError::Unknown(describe(status));
    }
    to_error(status)
}

fn unavailable(reason: &str) -> ManagementError {
    ManagementError::Unavailable(reason.to_owned())
}
