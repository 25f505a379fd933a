use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use futures_util::Stream;
use futures_util::stream::unfold;
use postern_model::{Capabilities, Mapping, Mode};
use postern_proto::convert::mapping_to_wire;
use postern_proto::management::{
    ProxyMapping, ProxyMappingUpdateType, SyncMappingsRequest, sync_mappings_request::Msg,
};
use prost::Message as _;
use tokio::sync::oneshot;
use tonic::{Status, Streaming};

use crate::catalog::Edit;
use crate::hub::{End, Seat};
use crate::one_time::{NoRandomness, OneTimeTokens};
use crate::tokens::Bearer;

/// NetBird's default.
const BATCH: usize = 500;
/// gRPC's limit for a message is 4 MiB; one mapping more than this may still follow.
const BATCH_BYTES: usize = 1 << 20;

/// One message of a mapping stream.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) mapping: Vec<ProxyMapping>,
    pub(super) initial_sync_complete: bool,
}

/// A mapping stream: the snapshot in batches, each gated by the acknowledgement of the one before where there are any, then
/// changes as they come. It runs in the connection's own task and leaves its seat when it is dropped.
pub(super) struct Mappings {
    seat: Seat,
    bearer: Arc<Bearer>,
    capabilities: Capabilities,
    one_time: Arc<OneTimeTokens>,
    /// Where acknowledgements come from; none from a legacy proxy.
    acks: Option<Streaming<SyncMappingsRequest>>,
    unacknowledged: bool,
    snapshot_sent: bool,
    waiting: VecDeque<Edit>,
}

impl Mappings {
    pub(super) fn new(
        seat: Seat,
        bearer: Arc<Bearer>,
        capabilities: Capabilities,
        one_time: Arc<OneTimeTokens>,
        acks: Option<Streaming<SyncMappingsRequest>>,
    ) -> Self {
        let waiting = seat.snapshot.values().cloned().map(Edit::Created).collect();
        Self { seat, bearer, capabilities, one_time, acks, unacknowledged: false, snapshot_sent: false, waiting }
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Message, Status>> + Send + 'static {
        unfold(Some(self), |mappings| async move {
            let mut mappings = mappings?;
            match mappings.next().await {
                Ok(Some(message)) => Some((Ok(message), Some(mappings))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<Message>, Status> {
        if self.unacknowledged {
            self.acknowledgement().await?;
            self.unacknowledged = false;
        }
        if !self.snapshot_sent {
            let mapping = self.batch()?;
            self.snapshot_sent = self.waiting.is_empty();
            self.unacknowledged = self.acks.is_some();
            return Ok(Some(Message { mapping, initial_sync_complete: self.snapshot_sent }));
        }
        loop {
            if self.waiting.is_empty() && !self.change().await? {
                return Ok(None);
            }
            let mapping = self.batch()?;
            if !mapping.is_empty() {
                return Ok(Some(Message { mapping, initial_sync_complete: false }));
            }
        }
    }

    /// NetBird's rule: nothing but an acknowledgement may come during the snapshot.
    async fn acknowledgement(&mut self) -> Result<(), Status> {
        tokio::select! {
            biased;
            status = ended(&mut self.seat.end, &self.bearer) => Err(status),
            message = heard(self.acks.as_mut()) => match message?.and_then(|message| message.msg) {
                Some(Msg::Ack(_)) => Ok(()),
                Some(Msg::Init(_)) | None => Err(Status::unknown("a batch of the snapshot must be answered by an ack")),
            },
        }
    }

    /// Waits for the next changes; `false` if the proxy has closed the stream.
    async fn change(&mut self) -> Result<bool, Status> {
        loop {
            tokio::select! {
                biased;
                status = ended(&mut self.seat.end, &self.bearer) => return Err(status),
                update = self.seat.updates.recv() => match update {
                    Some(edits) => {
                        self.waiting.extend(edits.iter().cloned());
                        return Ok(true);
                    }
                    None => return Err(status_of(End::Stopping)),
                },
                // Acknowledgements of changes are read and not waited for.
                message = heard(self.acks.as_mut()) => if message?.is_none() {
                    return Ok(false);
                },
            }
        }
    }

    /// Takes the next mappings off the queue, as they concern this proxy, each with a fresh token.
    fn batch(&mut self) -> Result<Vec<ProxyMapping>, Status> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let Some(edit) = self.waiting.pop_front() else { break };
            let mapping = &edit.published().mapping;
            if mapping.account != self.bearer.account {
                continue;
            }
            if let Some(kind) = kind(&edit, self.capabilities) {
                let token = match kind {
                    ProxyMappingUpdateType::UpdateTypeRemoved => None,
                    ProxyMappingUpdateType::UpdateTypeCreated | ProxyMappingUpdateType::UpdateTypeModified => {
                        let token = self.one_time.make(&mapping.account, &mapping.id, Instant::now());
                        Some(token.map_err(|NoRandomness| Status::internal("the system has no randomness"))?)
                    }
                };
                let wire = mapping_to_wire(kind, mapping, token.as_ref());
                bytes += wire.encoded_len();
                batch.push(wire);
            }
        }
        Ok(batch)
    }
}

/// What a proxy with these capabilities is told. What it cannot serve it does not get; what it can serve no longer is
/// taken away from it.
fn kind(edit: &Edit, capabilities: Capabilities) -> Option<ProxyMappingUpdateType> {
    let able = able(&edit.published().mapping, capabilities);
    match edit {
        Edit::Created(_) => able.then_some(ProxyMappingUpdateType::UpdateTypeCreated),
        Edit::Modified(_) if able => Some(ProxyMappingUpdateType::UpdateTypeModified),
        Edit::Modified(_) | Edit::Removed(_) => Some(ProxyMappingUpdateType::UpdateTypeRemoved),
    }
}

fn able(mapping: &Mapping, capabilities: Capabilities) -> bool {
    let private = !mapping.private || capabilities.private_service;
    let port = mapping.listen_port == 0 || mapping.mode == Mode::Tls || capabilities.custom_ports;
    private && port
}

async fn heard(acks: Option<&mut Streaming<SyncMappingsRequest>>) -> Result<Option<SyncMappingsRequest>, Status> {
    match acks {
        Some(acks) => acks.message().await,
        None => std::future::pending().await,
    }
}

async fn ended(end: &mut oneshot::Receiver<End>, bearer: &Bearer) -> Status {
    tokio::select! {
        end = end => status_of(end.unwrap_or(End::Stopping)),
        () = bearer.removed.cancelled() => removed(),
    }
}

/// NetBird ends streams with `CANCELLED`, which its proxies take for an invitation to come again.
pub(super) fn status_of(end: End) -> Status {
    match end {
        End::Superseded => Status::cancelled("superseded: this proxy has opened another mapping stream"),
        End::Behind => Status::cancelled("too many changes wait for this proxy: connect again for a snapshot"),
        End::Stopping => Status::unavailable("the management server is stopping"),
    }
}

pub(super) fn removed() -> Status {
    Status::unauthenticated("the token was removed; make a new one with `postern token add`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{no_peers, publish};
    use crate::desired::Desired;
    use postern_model::{AccountId, ServiceId};
    use std::collections::BTreeMap;
    use std::path::Path;

    fn mapping(private: bool, listen_port: u16, mode: Mode) -> Mapping {
        let text = "[service.a]\nhost = 'a.b'\nupstream = 'http://x'\naccess = 'open'";
        let desired: Desired = crate::file::parse(text, Path::new("")).expect("good");
        let account = AccountId::parse("default").expect("id");
        let catalog = publish(&account, &desired, &BTreeMap::new(), &BTreeMap::new(), &no_peers).catalog;
        let id = ServiceId::parse("a").expect("id");
        Mapping { private, listen_port, mode, ..catalog[&id].mapping.clone() }
    }

    #[test]
    fn proxies_get_what_they_can_serve() {
        let none = Capabilities::default();
        let ports = Capabilities { custom_ports: true, ..none };
        let private = Capabilities { private_service: true, ..none };
        let cases = [
            (mapping(false, 0, Mode::Http), none, true),
            (mapping(true, 0, Mode::Http), none, false),
            (mapping(true, 0, Mode::Http), private, true),
            (mapping(false, 5432, Mode::Tcp), none, false),
            (mapping(false, 5432, Mode::Tcp), ports, true),
            (mapping(false, 443, Mode::Tls), none, true),
        ];
        for (mapping, capabilities, expected) in cases {
            assert_eq!(able(&mapping, capabilities), expected, "{mapping:?} {capabilities:?}");
        }
    }

    #[test]
    fn what_a_proxy_can_no_longer_serve_is_taken_away() {
        let published = |mapping| {
            let (signing, members, private, lacks) = (None, BTreeMap::new(), None, None);
            Arc::new(crate::catalog::Published { mapping, signing, members, private, lacks })
        };
        let private = published(mapping(true, 0, Mode::Http));
        let none = Capabilities::default();
        assert_eq!(kind(&Edit::Created(private.clone()), none), None);
        let taken = Some(ProxyMappingUpdateType::UpdateTypeRemoved);
        assert_eq!(kind(&Edit::Modified(private.clone()), none), taken);
        assert_eq!(kind(&Edit::Removed(private), none), taken);
        let open = published(mapping(false, 0, Mode::Http));
        assert_eq!(kind(&Edit::Modified(open), none), Some(ProxyMappingUpdateType::UpdateTypeModified));
    }
}
