//! What a fuzz target runs, and an ordinary test on its corpus: bytes from the wire, decoded and converted. Whatever they
//! are, nothing panics and what comes out keeps the promises of the model.

use std::net::{IpAddr, Ipv4Addr};

use postern_model::{Change, HostName, Mapping, Mode};
use prost::Message;

use crate::convert::{self, Hello};
use crate::management::{
    AuthenticateRequest, AuthenticateResponse, CreateProxyPeerRequest, GetMappingUpdateRequest, ProxyMapping,
    ProxyMappingUpdateType, SendStatusUpdateRequest, SyncMappingsRequest, SyncMappingsResponse,
    ValidateTunnelPeerRequest, ValidateTunnelPeerResponse, sync_mappings_request::Msg,
};
use crate::postern::v1;

/// Decodes `bytes` as each message that is converted from the wire, and converts it. `true` where they are mappings
/// (`SyncMappingsResponse`), at least one, and all are understood.
///
/// # Panics
/// If what was converted breaks a promise: that is what fuzzing looks for.
pub fn conversions(bytes: &[u8]) -> bool {
    calls(bytes);
    SyncMappingsResponse::decode(bytes).is_ok_and(mappings)
}

fn calls(bytes: &[u8]) {
    if let Ok(SyncMappingsRequest { msg: Some(Msg::Init(init)) }) = SyncMappingsRequest::decode(bytes)
        && let Ok(hello) = Hello::from_init(init)
    {
        assert_eq!(Hello::from_init(hello.to_init()), Ok(hello));
    }
    if let Ok(message) = GetMappingUpdateRequest::decode(bytes)
        && let Ok(hello) = Hello::from_legacy(message)
    {
        assert_eq!(Hello::from_legacy(hello.to_legacy()), Ok(hello));
    }
    if let Ok(message) = AuthenticateRequest::decode(bytes) {
        let _ = convert::authenticate_from_wire(message, IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    if let Ok(message) = AuthenticateResponse::decode(bytes) {
        let _ = convert::authenticated_from_wire(message);
    }
    if let Ok(message) = SendStatusUpdateRequest::decode(bytes)
        && let Ok(status) = convert::status_from_wire(message)
    {
        assert_eq!(convert::status_from_wire(convert::status_to_wire(&status)), Ok(status));
    }
    tunnel(bytes);
}

fn tunnel(bytes: &[u8]) {
    if let Ok(message) = CreateProxyPeerRequest::decode(bytes)
        && let Ok(request) = convert::create_proxy_peer_from_wire(message)
    {
        let again = convert::create_proxy_peer_to_wire(&request);
        assert!(convert::create_proxy_peer_from_wire(again).is_ok());
    }
    if let Ok(message) = ValidateTunnelPeerRequest::decode(bytes) {
        let _ = convert::peer_question_from_wire(&message);
    }
    if let Ok(message) = ValidateTunnelPeerResponse::decode(bytes)
        && let Ok(verdict) = convert::tunnel_verdict_from_wire(message)
    {
        assert!(convert::tunnel_verdict_from_wire(convert::tunnel_verdict_to_wire(verdict)).is_ok());
    }
    if let Ok(message) = v1::WatchPeersRequest::decode(bytes)
        && let Ok(watch) = convert::watch_peers_from_wire(&message)
    {
        assert_eq!(convert::watch_peers_from_wire(&convert::watch_peers_to_wire(&watch)), Ok(watch));
    }
    if let Ok(message) = v1::PeerMap::decode(bytes)
        && let Ok((map, _)) = convert::peer_map_from_wire(message)
    {
        assert_eq!(convert::peer_map_from_wire(convert::peer_map_to_wire(&map)), Ok((map, Vec::new())));
    }
}

fn mappings(message: SyncMappingsResponse) -> bool {
    let SyncMappingsResponse { mapping: wires, initial_sync_complete } = message;
    let together = convert::batch(wires.clone(), initial_sync_complete);
    assert_eq!(together.batch.initial_sync_complete, initial_sync_complete);
    let understood = !wires.is_empty();
    let mut rest = together.batch.changes.into_iter();
    let understood = wires.into_iter().fold(understood, |understood, wire| {
        let apart = convert::batch(vec![wire.clone()], false);
        match (apart.batch.changes.as_slice(), apart.unidentified.as_slice()) {
            ([_], []) => check(&wire, &rest.next().expect("a change for each mapping")) && understood,
            ([Change::Remove(_)], [_]) => {
                assert!(matches!(rest.next(), Some(Change::Remove(_))), "what is not understood is not kept");
                false
            }
            ([], [_]) => false,
            other => panic!("{other:?} for one mapping"),
        }
    });
    assert!(rest.next().is_none(), "a change without a mapping");
    understood
}

/// Whether `wire` was understood.
fn check(wire: &ProxyMapping, change: &Change) -> bool {
    match change {
        Change::Upsert(mapping, token) => {
            assert_eq!(token.0.expose(), wire.auth_token);
            check_mapping(wire, mapping);
            let back = convert::mapping_to_wire(ProxyMappingUpdateType::UpdateTypeModified, mapping, Some(token));
            let again = convert::batch(vec![back], false).batch.changes;
            let [Change::Upsert(again, _)] = again.as_slice() else { panic!("{mapping:?} came back as {again:?}") };
            assert_eq!(without_fingerprints(again), without_fingerprints(mapping));
            true
        }
        Change::Remove(service) => {
            assert_eq!(service.as_str(), wire.id);
            assert_eq!(wire.r#type, i32::from(ProxyMappingUpdateType::UpdateTypeRemoved));
            true
        }
        Change::Rejected(rejected) => {
            assert_eq!((rejected.service.as_str(), rejected.account.as_str()), (&*wire.id, &*wire.account_id));
            assert!(!rejected.reason.is_empty(), "a refusal says why");
            assert!(!rejected.reason.chars().any(char::is_control), "{:?} would break a log line", rejected.reason);
            false
        }
    }
}

/// It is about what the wire names, and nothing that guards the service was dropped.
fn check_mapping(wire: &ProxyMapping, mapping: &Mapping) {
    assert_eq!((mapping.id.as_str(), mapping.account.as_str()), (&*wire.id, &*wire.account_id));
    assert_eq!(HostName::parse(&wire.domain).as_ref(), Ok(&mapping.host));
    assert_eq!(mapping.private, wire.private);
    assert!(mapping.mode != Mode::Http || !mapping.paths.is_empty(), "an http service leads somewhere");
    assert!(mapping.mode != Mode::Http || mapping.paths.len() == wire.path.len());
    let (auth, said) = (&mapping.authentication, wire.auth.clone().unwrap_or_default());
    assert_eq!((auth.password, auth.pin, auth.oidc), (said.password, said.pin, said.oidc));
    assert_eq!((auth.headers.len(), auth.deliberately_open), (said.header_auths.len(), said.open));
    let login = auth.password || auth.pin || auth.oidc || !auth.headers.is_empty();
    assert!(!login || auth.session_key.is_some(), "a login without a session key");
    let (restricted, said) = (&mapping.restrictions, wire.access_restrictions.clone().unwrap_or_default());
    assert_eq!(restricted.allowed_cidrs.len(), said.allowed_cidrs.len());
    assert_eq!(restricted.blocked_cidrs.len(), said.blocked_cidrs.len());
    assert_eq!(restricted.allowed_countries.len(), said.allowed_countries.len());
    assert_eq!(restricted.blocked_countries.len(), said.blocked_countries.len());
    assert_eq!(restricted.crowdsec, !matches!(&*said.crowdsec_mode, "" | "off"));
}

/// They are digested on the way in, so they change with each journey.
fn without_fingerprints(mapping: &Mapping) -> Mapping {
    let mut mapping = mapping.clone();
    mapping.authentication.headers.iter_mut().for_each(|header| header.fingerprint.clear());
    mapping
}
