//! What a fuzz target runs: bytes from the wire, decoded and converted. Whatever they are, nothing panics and what comes
//! out keeps the promises of the model.

use std::net::{IpAddr, Ipv4Addr};

use postern_model::{Change, Mode};
use prost::Message;

use crate::convert::{self, Hello};
use crate::management::{
    AuthenticateRequest, AuthenticateResponse, GetMappingUpdateRequest, ProxyMappingUpdateType,
    SendStatusUpdateRequest, SyncMappingsRequest, SyncMappingsResponse, sync_mappings_request::Msg,
};

/// Decodes `bytes` as each message that is converted from the wire, and converts it.
///
/// # Panics
/// If a converted mapping breaks a promise of the model: that is what fuzzing looks for.
pub fn conversions(bytes: &[u8]) {
    if let Ok(message) = SyncMappingsResponse::decode(bytes) {
        for change in convert::batch(message.mapping, message.initial_sync_complete).batch.changes {
            check(change);
        }
    }
    if let Ok(SyncMappingsRequest { msg: Some(Msg::Init(init)) }) = SyncMappingsRequest::decode(bytes) {
        let _ = Hello::from_init(init);
    }
    if let Ok(message) = GetMappingUpdateRequest::decode(bytes) {
        let _ = Hello::from_legacy(message);
    }
    if let Ok(message) = AuthenticateRequest::decode(bytes) {
        let _ = convert::authenticate_from_wire(message, IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    if let Ok(message) = AuthenticateResponse::decode(bytes) {
        let _ = convert::authenticated_from_wire(message);
    }
    if let Ok(message) = SendStatusUpdateRequest::decode(bytes) {
        let _ = convert::status_from_wire(message);
    }
}

fn check(change: Change) {
    let Change::Upsert(mapping, token) = change else { return };
    assert!(mapping.mode != Mode::Http || !mapping.paths.is_empty(), "an http service leads somewhere");
    assert!(mapping.authentication.headers.is_empty() || mapping.authentication.session_key.is_some());
    let wire = convert::mapping_to_wire(ProxyMappingUpdateType::UpdateTypeModified, &mapping, Some(&token));
    let again = convert::batch(vec![wire], false).batch.changes;
    assert!(matches!(again.as_slice(), [Change::Upsert(..)]), "what was understood once is understood again");
}
