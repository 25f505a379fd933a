//! The numbers that make the messages NetBird's. A number that changes here changes what other programs read.

use std::collections::BTreeMap;
use std::path::Path;

use postern_proto::management::{Authentication, HeaderAuth};
use prost::Message;

const MESSAGES: &[(&str, &str)] = &[
    (
        "ProxyCapabilities",
        "supports_custom_ports 1, require_subdomain 2, supports_crowdsec 3, private 4, supports_private_service 5",
    ),
    ("GetMappingUpdateRequest", "proxy_id 1, version 2, started_at 3, address 4, capabilities 5"),
    ("GetMappingUpdateResponse", "mapping 1, initial_sync_complete 2"),
    ("SyncMappingsRequest", "init 1, ack 2"),
    ("SyncMappingsInit", "proxy_id 1, version 2, started_at 3, address 4, capabilities 5"),
    ("SyncMappingsAck", ""),
    ("SyncMappingsResponse", "mapping 1, initial_sync_complete 2"),
    (
        "ProxyMapping",
        "type 1, id 2, account_id 3, domain 4, path 5, auth_token 6, auth 7, pass_host_header 8, rewrite_redirects 9, mode 10, listen_port 11, access_restrictions 12, private 13",
    ),
    ("PathMapping", "path 1, target 2, options 3"),
    (
        "PathTargetOptions",
        "skip_tls_verify 1, request_timeout 2, path_rewrite 3, custom_headers 4, proxy_protocol 5, session_idle_timeout 6, direct_upstream 7, capture_max_request_bytes 8, capture_max_response_bytes 9, capture_content_types 10, middlewares 11, agent_network 12, disable_access_log 13",
    ),
    ("MiddlewareConfig", "id 1, enabled 2, slot 3, config_json 4, fail_mode 5, timeout 6, can_mutate 7"),
    (
        "Authentication",
        "session_key 1, max_session_age_seconds 2, password 3, pin 4, oidc 5, header_auths 6, open 1000",
    ),
    ("HeaderAuth", "header 1, hashed_value 2, basic_realm 1000"),
    (
        "AccessRestrictions",
        "allowed_cidrs 1, blocked_cidrs 2, allowed_countries 3, blocked_countries 4, crowdsec_mode 5",
    ),
    ("SendAccessLogRequest", "log 1"),
    ("SendAccessLogResponse", ""),
    (
        "AccessLog",
        "timestamp 1, log_id 2, account_id 3, service_id 4, host 5, path 6, duration_ms 7, method 8, response_code 9, source_ip 10, auth_mechanism 11, user_id 12, auth_success 13, bytes_upload 14, bytes_download 15, protocol 16, metadata 17, agent_network 18, reason 1000",
    ),
    ("AuthenticateRequest", "id 1, account_id 2, password 3, pin 4, header_auth 5, source_ip 1000"),
    ("PasswordRequest", "password 1"),
    ("PinRequest", "pin 1"),
    ("HeaderAuthRequest", "header_value 1, header_name 2"),
    ("AuthenticateResponse", "success 1, session_token 2"),
    (
        "SendStatusUpdateRequest",
        "service_id 1, account_id 2, status 3, certificate_issued 4, error_message 5, inbound_listener 50",
    ),
    ("ProxyInboundListener", "tunnel_ip 1, https_port 2, http_port 3"),
    ("SendStatusUpdateResponse", ""),
    (
        "CreateProxyPeerRequest",
        "service_id 1, account_id 2, token 3, wireguard_public_key 4, cluster 5, listen_port 1000",
    ),
    ("CreateProxyPeerResponse", "success 1, error_message 2"),
    ("GetOIDCURLRequest", "id 1, account_id 2, redirect_url 3"),
    ("GetOIDCURLResponse", "url 1"),
    ("ValidateSessionRequest", "domain 1, session_token 2"),
    (
        "ValidateSessionResponse",
        "valid 1, user_id 2, user_email 3, denied_reason 4, peer_group_ids 5, peer_group_names 6",
    ),
    ("ValidateTunnelPeerRequest", "tunnel_ip 1, domain 2, account_id 1000, peer_public_key 1001, generation 1002"),
    (
        "ValidateTunnelPeerResponse",
        "valid 1, user_id 2, user_email 3, denied_reason 4, session_token 5, peer_group_ids 6, peer_group_names 7",
    ),
    ("CheckLLMPolicyLimitsRequest", "account_id 1, user_id 2, group_ids 3, provider_id 4, model 5"),
    (
        "CheckLLMPolicyLimitsResponse",
        "decision 1, selected_policy_id 2, attribution_group_id 3, window_seconds 4, deny_code 5, deny_reason 6",
    ),
    (
        "RecordLLMUsageRequest",
        "account_id 1, user_id 2, group_id 3, window_seconds 4, tokens_input 5, tokens_output 6, cost_usd 7, group_ids 8",
    ),
    ("RecordLLMUsageResponse", ""),
];

const ENUMS: &[(&str, &[i32])] = &[
    ("ProxyMappingUpdateType", &[0, 1, 2]),
    ("PathRewriteMode", &[0, 1]),
    ("MiddlewareSlot", &[0, 1, 2, 3]),
    ("MiddlewareFailMode", &[0, 1]),
    ("ProxyStatus", &[0, 1, 2, 3, 4, 5]),
];

const METHODS: [&str; 11] = [
    "GetMappingUpdate",
    "SyncMappings",
    "SendAccessLog",
    "Authenticate",
    "SendStatusUpdate",
    "CreateProxyPeer",
    "GetOIDCURL",
    "ValidateSession",
    "ValidateTunnelPeer",
    "CheckLLMPolicyLimits",
    "RecordLLMUsage",
];

#[test]
fn names_and_numbers_are_netbirds() {
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let files = protox::compile([protos.join("management.proto")], [&protos]).expect("compiles").file;
    let file = files.iter().find(|file| file.package() == "management").expect("the package");

    let messages: BTreeMap<_, _> = file
        .message_type
        .iter()
        .map(|message| {
            let fields: Vec<_> = message.field.iter().map(|f| format!("{} {}", f.name(), f.number())).collect();
            (message.name(), fields.join(", "))
        })
        .collect();
    let expected: BTreeMap<_, _> = MESSAGES.iter().map(|(name, fields)| (*name, (*fields).to_owned())).collect();
    assert_eq!(messages, expected);

    let enums: BTreeMap<_, Vec<_>> =
        file.enum_type.iter().map(|e| (e.name(), e.value.iter().map(|v| v.number()).collect())).collect();
    assert_eq!(enums, ENUMS.iter().map(|(name, values)| (*name, values.to_vec())).collect());

    let service = file.service.first().expect("the service");
    assert_eq!(service.name(), "ProxyService");
    assert_eq!(service.method.iter().map(|m| m.name()).collect::<Vec<_>>(), METHODS);
}

/// What a stock program sees of a message: the fields below 1000.
#[derive(Clone, PartialEq, Message)]
struct StockHeaderAuth {
    #[prost(string, tag = "1")]
    header: String,
    #[prost(string, tag = "2")]
    hashed_value: String,
}

#[test]
fn a_stock_program_reads_past_our_fields() {
    let ours = HeaderAuth { header: "Authorization".into(), hashed_value: "1".into(), basic_realm: Some("app".into()) };
    let stock = StockHeaderAuth::decode(&*ours.encode_to_vec()).expect("decodes");
    assert_eq!(stock, StockHeaderAuth { header: "Authorization".into(), hashed_value: "1".into() });
}

#[test]
fn a_field_of_the_future_is_skipped() {
    // Field 2000, varint 7, behind an otherwise empty message.
    let bytes = [0x80, 0x7d, 0x07];
    assert_eq!(Authentication::decode(&bytes[..]), Ok(Authentication::default()));
}
