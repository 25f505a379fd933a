//! Wire to model and back: what goes out comes in again, what is wrong is named, and nothing panics.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use http::HeaderName;
use ipnet::IpNet;
use postern_model::{
    AccessLogLine, AccountId, AuthMechanism, Authenticate, Authenticated, Authentication, Capabilities, Challenge,
    Change, Credential, HeaderAuth, HostName, InboundListener, Mapping, Mode, Needs, OneTimeToken, PathMapping,
    PathRewrite, ProxyId, RequestId, Restrictions, Secret, ServiceId, ServiceState, SessionKey, StatusUpdate, Target,
    TargetOptions,
};
use postern_proto::convert::{self, Hello};
use postern_proto::fuzz;
use postern_proto::management::{self as wire, ProxyMappingUpdateType as Kind};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message;

fn service() -> ServiceId {
    ServiceId::parse("svc-1").expect("id")
}

fn account() -> AccountId {
    AccountId::parse("acc-1").expect("id")
}

/// A mapping that converts, to be spoilt field by field.
fn good() -> wire::ProxyMapping {
    wire::ProxyMapping {
        id: "svc-1".into(),
        account_id: "acc-1".into(),
        domain: "App.Example.com.".into(),
        auth_token: "once".into(),
        path: vec![wire::PathMapping {
            target: "http://10.0.0.7:3000/".into(),
            options: Some(wire::PathTargetOptions::default()),
            ..Default::default()
        }],
        auth: Some(wire::Authentication {
            session_key: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into(),
            header_auths: vec![wire::HeaderAuth {
                header: "Authorization".into(),
                hashed_value: "$argon2id$x".into(),
                basic_realm: Some("app".into()),
            }],
            ..Default::default()
        }),
        access_restrictions: Some(wire::AccessRestrictions {
            allowed_cidrs: vec!["10.1.2.3/8".into(), "::ffff:192.168.0.0/112".into()],
            blocked_countries: vec!["de".into()],
            crowdsec_mode: "off".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn only(mapping: wire::ProxyMapping) -> Change {
    let received = convert::batch(vec![mapping], false);
    assert_eq!(received.unidentified, []);
    received.batch.changes.into_iter().next().expect("one change")
}

fn mapping(wire: wire::ProxyMapping) -> Mapping {
    match only(wire) {
        Change::Upsert(mapping, _) => *mapping,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_missing_has_netbirds_meaning() {
    let Change::Upsert(mapping, token) = only(good()) else { panic!("not understood") };
    assert_eq!(token.0, Secret::from("once"));
    assert_eq!((mapping.mode, mapping.host.as_str(), &*mapping.paths[0].path), (Mode::Http, "app.example.com", "/"));
    assert_eq!(mapping.paths[0].options, TargetOptions::default());
    assert_eq!(mapping.authentication.max_session_age, Duration::from_secs(86_400));
    assert_eq!(mapping.authentication.deliberately_open, None);
    let nets: Vec<IpNet> = ["10.0.0.0/8", "192.168.0.0/16"].map(|net| net.parse().expect("net")).into();
    assert_eq!(mapping.restrictions.allowed_cidrs, nets);
    assert_eq!(mapping.restrictions.blocked_countries, ["DE"]);
    assert!(!mapping.restrictions.crowdsec);

    let open = self::mapping(wire::ProxyMapping { auth: None, access_restrictions: None, ..good() });
    assert_eq!(open.authentication.session_key, None);
    assert_eq!(open.restrictions, Restrictions::default());
}

#[test]
fn a_fingerprint_follows_the_hash_without_showing_it() {
    let fingerprint = |hash: &str| {
        let mut wire = good();
        wire.auth.as_mut().expect("auth").header_auths[0].hashed_value = hash.into();
        mapping(wire).authentication.headers[0].fingerprint.clone()
    };
    assert_eq!(fingerprint("$argon2id$x"), fingerprint("$argon2id$x"));
    assert_ne!(fingerprint("$argon2id$x"), fingerprint("$argon2id$y"));
    assert!(!fingerprint("$argon2id$x").contains("argon"));
    assert_eq!(fingerprint(""), "");
}

#[test]
fn a_bad_field_is_named() {
    type Spoil = fn(&mut wire::ProxyMapping);
    let options = |m: &mut wire::ProxyMapping, f: SpoilOptions| {
        f(m.path[0].options.get_or_insert_default());
    };
    let cases: &[(&str, Spoil)] = &[
        ("type: 7", |m| m.r#type = 7),
        ("domain: \"10.0.0.1\"", |m| m.domain = "10.0.0.1".into()),
        ("domain: \"\"", |m| m.domain.clear()),
        ("mode: \"quic\"", |m| m.mode = "quic".into()),
        ("mode: \"HTTP\"", |m| m.mode = "HTTP".into()),
        ("listen_port: 65536", |m| m.listen_port = 65_536),
        ("listen_port: -1", |m| m.listen_port = -1),
        ("path: ", |m| m.path.clear()),
        ("path[0].path: \"app\"", |m| m.path[0].path = "app".into()),
        ("path[0].path: \"/a/../b\"", |m| m.path[0].path = "/a/../b".into()),
        ("path[0].path: \"/a?b\"", |m| m.path[0].path = "/a?b".into()),
        ("path[0].path: \"/a\\nb\"", |m| m.path[0].path = "/a\nb".into()),
        ("path[1].path: \"/\" is given twice", |m| m.path.push(m.path[0].clone())),
        ("path[0].target: ", |m| m.path[0].target = "10.0.0.7:3000".into()),
        ("auth.session_key: it is missing", |m| m.auth.as_mut().expect("auth").session_key.clear()),
        ("auth.session_key: ", |m| m.auth.as_mut().expect("auth").session_key = "AAEC".into()),
        ("auth.header_auths[0].header: \"a b\"", |m| {
            m.auth.as_mut().expect("auth").header_auths[0].header = "a b".into();
        }),
        ("auth.header_auths[0].header: host", |m| {
            m.auth.as_mut().expect("auth").header_auths[0].header = "Host".into();
        }),
        ("auth.header_auths[0].basic_realm: ", |m| {
            m.auth.as_mut().expect("auth").header_auths[0].header = "X-Key".into();
        }),
        ("auth.header_auths[0].basic_realm: \"a\\\"b\"", |m| {
            m.auth.as_mut().expect("auth").header_auths[0].basic_realm = Some("a\"b".into());
        }),
        ("access_restrictions.allowed_cidrs[1]: \"10.0.0.1\"", |m| {
            m.access_restrictions.get_or_insert_default().allowed_cidrs[1] = "10.0.0.1".into();
        }),
        ("access_restrictions.blocked_cidrs[0]: \"\"", |m| {
            m.access_restrictions.get_or_insert_default().blocked_cidrs.push(String::new());
        }),
        ("access_restrictions.blocked_countries[0]: \"DEU\"", |m| {
            m.access_restrictions.get_or_insert_default().blocked_countries[0] = "DEU".into();
        }),
        ("access_restrictions.crowdsec_mode: \"on\"", |m| {
            m.access_restrictions.get_or_insert_default().crowdsec_mode = "on".into();
        }),
    ];
    assert!(matches!(only(good()), Change::Upsert(..)), "the twin that succeeds");
    for (expected, spoil) in cases {
        let mut wire = good();
        spoil(&mut wire);
        rejected(expected, wire);
    }
    type SpoilOptions = fn(&mut wire::PathTargetOptions);
    let cases: &[(&str, SpoilOptions)] = &[
        ("path[0].options.path_rewrite: 2", |o| o.path_rewrite = 2),
        ("path[0].options.request_timeout: ", |o| {
            o.request_timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 });
        }),
        ("path[0].options.request_timeout: ", |o| {
            o.request_timeout = Some(prost_types::Duration { seconds: i64::MAX, nanos: 0 });
        }),
        ("path[0].options.custom_headers: \"a b\"", |o| o.custom_headers = [("a b".into(), "1".into())].into()),
        ("path[0].options.custom_headers: the value of x-a", |o| {
            o.custom_headers = [("X-A".into(), "1\r\nX-B: 2".into())].into();
        }),
        ("path[0].options.custom_headers: transfer-encoding", |o| {
            o.custom_headers = [("Transfer-Encoding".into(), "chunked".into())].into();
        }),
        ("path[0].options.custom_headers: x-a is given twice", |o| {
            o.custom_headers = [("X-A".into(), "1".into()), ("x-a".into(), "2".into())].into();
        }),
    ];
    for (expected, spoil) in cases {
        let mut wire = good();
        options(&mut wire, *spoil);
        rejected(expected, wire);
    }
}

fn rejected(expected: &str, wire: wire::ProxyMapping) {
    match only(wire) {
        Change::Rejected(rejected) => {
            assert!(rejected.reason.starts_with(expected), "{} is not {expected}", rejected.reason);
            assert_eq!((rejected.service, rejected.account), (service(), account()));
        }
        other => panic!("{expected}: {other:?}"),
    }
}

#[test]
fn a_mapping_of_nobody_is_left_out_and_told() {
    let nobody = wire::ProxyMapping { id: " ".into(), ..good() };
    let homeless = wire::ProxyMapping { account_id: String::new(), ..good() };
    let received = convert::batch(vec![nobody, homeless, good()], true);
    assert!(received.batch.initial_sync_complete);
    assert!(matches!(
        received.batch.changes.as_slice(),
        [Change::Remove(id), Change::Upsert(..)] if *id == service()
    ));
    let told: Vec<_> = received.unidentified.iter().map(convert::Invalid::field).collect();
    assert_eq!(told, ["id", "account_id of service svc-1"]);
}

#[test]
fn a_removed_service_needs_only_its_id() {
    let wire = wire::ProxyMapping { id: "svc-1".into(), r#type: Kind::UpdateTypeRemoved.into(), ..Default::default() };
    assert!(matches!(only(wire), Change::Remove(id) if id == service()));
}

#[test]
fn other_modes_are_understood_without_urls() {
    let mut wire = wire::ProxyMapping { mode: "tcp".into(), listen_port: 5432, ..good() };
    wire.path[0].target = "10.0.0.7:5432".into();
    let mapping = mapping(wire);
    assert_eq!((mapping.mode, mapping.listen_port, mapping.paths), (Mode::Tcp, 5432, vec![]));
}

#[test]
fn what_this_version_cannot_do_is_seen() {
    for spoil in [
        |o: &mut wire::PathTargetOptions| o.agent_network = true,
        |o: &mut wire::PathTargetOptions| o.middlewares.push(wire::MiddlewareConfig::default()),
    ] {
        let mut wire = good();
        spoil(wire.path[0].options.get_or_insert_default());
        assert!(mapping(wire).paths[0].options.needs.middlewares);
    }
    assert!(!mapping(good()).paths[0].options.needs.middlewares);
}

#[test]
fn custom_ports_are_announced_by_presence_alone() {
    let mut hello = Hello {
        proxy_id: ProxyId::parse("proxy-1").expect("id"),
        version: "1".into(),
        started_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        address: "proxy.example.com".into(),
        capabilities: Capabilities { private_service: true, ..Capabilities::default() },
    };
    let sent = hello.to_init().capabilities.expect("capabilities");
    assert_eq!(
        (sent.supports_custom_ports, sent.private, sent.supports_private_service),
        (None, Some(false), Some(true))
    );
    assert_eq!(Hello::from_init(hello.to_init()), Ok(hello.clone()));
    hello.capabilities.custom_ports = true;
    assert_eq!(Hello::from_legacy(hello.to_legacy()), Ok(hello.clone()));
    let mut nameless = hello.to_init();
    nameless.proxy_id.clear();
    assert_eq!(Hello::from_init(nameless).expect_err("no id").field(), "proxy_id");
}

#[test]
fn a_credential_travels_with_who_tries() {
    let proxy = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));
    let ask = Authenticate {
        service: service(),
        account: account(),
        credential: Credential::Header {
            name: HeaderName::from_static("authorization"),
            value: Secret::from("Basic eA=="),
        },
        source: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 5)),
    };
    let wire = convert::authenticate_to_wire(&ask);
    let got = convert::authenticate_from_wire(wire.clone(), proxy).expect("understood");
    assert_eq!((got.service, got.account, got.source), (ask.service, ask.account, ask.source));
    let Credential::Header { name, value } = got.credential;
    assert_eq!((name.as_str(), value.expose()), ("authorization", "Basic eA=="));

    let stock = wire::AuthenticateRequest { source_ip: String::new(), ..wire.clone() };
    assert_eq!(convert::authenticate_from_wire(stock, proxy).expect("understood").source, proxy);
    let pin = wire::authenticate_request::Request::Pin(wire::PinRequest { pin: "1".into() });
    for (field, bad) in [
        ("source_ip", wire::AuthenticateRequest { source_ip: "x".into(), ..wire.clone() }),
        ("request", wire::AuthenticateRequest { request: Some(pin), ..wire.clone() }),
        ("request", wire::AuthenticateRequest { request: None, ..wire.clone() }),
        ("id", wire::AuthenticateRequest { id: String::new(), ..wire }),
    ] {
        assert_eq!(convert::authenticate_from_wire(bad, proxy).expect_err(field).field(), field);
    }
}

#[test]
fn an_inbound_listener_has_an_address_and_ports() {
    let spoilt = |inbound: wire::ProxyInboundListener| {
        let inbound_listener = Some(inbound);
        let (service_id, account_id) = ("svc-1".to_owned(), "acc-1".to_owned());
        convert::status_from_wire(wire::SendStatusUpdateRequest {
            service_id,
            account_id,
            inbound_listener,
            ..Default::default()
        })
    };
    let good = || wire::ProxyInboundListener { tunnel_ip: "100.72.0.1".into(), https_port: 443, http_port: 80 };
    let inbound = spoilt(good()).expect("converts").inbound.expect("a listener");
    assert_eq!((inbound.address.to_string(), inbound.https, inbound.http), ("100.72.0.1".to_owned(), 443, 80));
    for (field, bad) in [
        ("tunnel_ip", wire::ProxyInboundListener { tunnel_ip: "here".into(), ..good() }),
        ("https_port", wire::ProxyInboundListener { https_port: 70_000, ..good() }),
        ("http_port", wire::ProxyInboundListener { http_port: 70_000, ..good() }),
    ] {
        assert_eq!(spoilt(bad).expect_err(field).field(), format!("inbound_listener.{field}"));
    }
}

#[test]
fn a_verdict_travels() {
    let yes = Authenticated::Yes { session_token: Secret::from("jwt") };
    let back = |verdict| convert::authenticated_from_wire(convert::authenticated_to_wire(verdict).expect("a message"));
    assert!(matches!(back(&yes), Ok(Authenticated::Yes { session_token }) if session_token.expose() == "jwt"));
    assert!(matches!(back(&Authenticated::No), Ok(Authenticated::No)));
    let status = convert::authenticated_to_wire(&Authenticated::TooMany).expect_err("a code");
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    let hollow = wire::AuthenticateResponse { success: true, session_token: String::new() };
    assert_eq!(convert::authenticated_from_wire(hollow).expect_err("no token").field(), "session_token");
}

#[test]
fn a_log_line_says_what_netbird_expects() {
    let line = AccessLogLine {
        timestamp: SystemTime::UNIX_EPOCH + Duration::from_millis(1_500),
        id: RequestId::new(1, 1),
        account: None,
        service: Some(service()),
        host: HostName::parse("app.example.com").ok(),
        path: "/x".into(),
        duration: Duration::from_micros(2_900),
        method: http::Method::GET,
        status: 401,
        source: IpAddr::V4(Ipv4Addr::LOCALHOST),
        mechanism: AuthMechanism::Header,
        user_id: String::new(),
        auth_success: false,
        bytes_upload: 1,
        bytes_download: u64::MAX,
        reason: "refused",
    };
    let expected = wire::AccessLog {
        timestamp: Some(prost_types::Timestamp { seconds: 1, nanos: 500_000_000 }),
        log_id: RequestId::new(1, 1).to_string(),
        service_id: "svc-1".into(),
        host: "app.example.com".into(),
        path: "/x".into(),
        duration_ms: 2,
        method: "GET".into(),
        response_code: 401,
        source_ip: "127.0.0.1".into(),
        auth_mechanism: "header".into(),
        bytes_upload: 1,
        bytes_download: i64::MAX,
        protocol: "http".into(),
        reason: "refused".into(),
        ..Default::default()
    };
    let line = convert::access_log_line_to_wire(&line);
    assert_eq!(convert::access_log_message(&line), expected);
    let encoded = convert::access_log_to_wire(&[line.clone(), line]);
    assert_eq!(encoded, [expected.encode_to_vec(), expected.encode_to_vec()]);
}

// --- round trips

fn any_target() -> impl Strategy<Value = Target> {
    let host =
        prop_oneof!["[a-z][a-z0-9]{0,8}(\\.[a-z]{2,5})?", Just("fd00::7".to_owned()), Just("10.0.0.7".to_owned())];
    let query = prop_oneof![Just(String::new()), "[a-z]{1,4}=[a-z0-9%]{0,4}"];
    (any::<bool>(), host, 1u16.., "/[a-zA-Z0-9/._-]{0,12}", query).prop_map(|(tls, host, port, path, query)| {
        let scheme = if tls { postern_model::Scheme::Https } else { postern_model::Scheme::Http };
        Target { scheme, host: host.into(), port, path: path.into(), query: query.into() }
    })
}

fn any_options() -> impl Strategy<Value = TargetOptions> {
    let headers = btree_map("x-[a-z]{1,6}", "[ -~é]{0,10}", 0..3);
    let timeout = option::of((1u64..100_000_000).prop_map(Duration::from_micros));
    (any::<[bool; 5]>(), timeout, headers).prop_map(|(flags, request_timeout, headers)| TargetOptions {
        skip_tls_verify: flags[0],
        request_timeout,
        path_rewrite: if flags[1] { PathRewrite::Preserve } else { PathRewrite::Strip },
        custom_headers: headers
            .into_iter()
            .map(|(name, value)| (HeaderName::try_from(name).expect("name"), Secret::new(value)))
            .collect(),
        direct_upstream: flags[2],
        disable_access_log: flags[3],
        needs: Needs { middlewares: flags[4] },
    })
}

fn any_header() -> impl Strategy<Value = HeaderAuth> {
    prop_oneof![
        ("x-[a-z]{1,6}", "[a-z0-9]{0,8}").prop_map(|(name, fingerprint)| HeaderAuth {
            name: HeaderName::try_from(name).expect("name"),
            fingerprint,
            challenge: None,
        }),
        ("[a-z0-9]{0,8}", "[ !#-\\[\\]-~]{0,12}").prop_map(|(fingerprint, realm)| HeaderAuth {
            name: http::header::AUTHORIZATION,
            fingerprint,
            challenge: Some(Challenge::Basic { realm }),
        }),
    ]
}

fn any_authentication() -> impl Strategy<Value = Authentication> {
    (any::<[u8; 32]>(), 1u64..34_560_000, any::<[bool; 3]>(), vec(any_header(), 0..4), any::<Option<bool>>()).prop_map(
        |(key, age, [password, pin, oidc], headers, deliberately_open)| Authentication {
            session_key: Some(SessionKey(key)),
            max_session_age: Duration::from_secs(age),
            password,
            pin,
            oidc,
            headers,
            deliberately_open,
        },
    )
}

fn any_net() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<[u8; 4]>(), 0u8..=32).prop_map(|(addr, length)| IpNet::new(addr.into(), length).expect("net").trunc()),
        (any::<[u8; 16]>(), 0u8..=128).prop_map(|(mut addr, length)| {
            addr[0] = 0xfd;
            IpNet::new(addr.into(), length).expect("net").trunc()
        }),
    ]
}

fn any_restrictions() -> impl Strategy<Value = Restrictions> {
    let nets = || vec(any_net(), 0..4);
    let countries = || vec("[A-Z]{2}", 0..3);
    (nets(), nets(), countries(), countries(), any::<bool>()).prop_map(
        |(allowed_cidrs, blocked_cidrs, allowed_countries, blocked_countries, crowdsec)| Restrictions {
            allowed_cidrs,
            blocked_cidrs,
            allowed_countries,
            blocked_countries,
            crowdsec,
        },
    )
}

prop_compose! {
    fn any_mapping()(
        host in "[a-z]{1,8}(\\.[a-z]{2,6}){0,2}",
        mode in prop_oneof![Just(Mode::Http), Just(Mode::Tcp), Just(Mode::Tls), Just(Mode::Udp)],
        listen_port in any::<u16>(),
        paths in btree_set("/[a-zA-Z0-9/%_-]{0,10}", 1..4),
        targets in vec((any_target(), any_options()), 3),
        authentication in any_authentication(),
        restrictions in any_restrictions(),
        flags in any::<[bool; 3]>(),
    ) -> Mapping {
        let paths = paths.into_iter().zip(targets).map(|(path, (target, options))| PathMapping { path, target, options });
        Mapping {
            id: service(),
            account: account(),
            host: HostName::parse(&host).expect("host"),
            mode,
            listen_port,
            paths: if mode == Mode::Http { paths.collect() } else { Vec::new() },
            authentication,
            private: flags[0],
            pass_host_header: flags[1],
            rewrite_redirects: flags[2],
            restrictions,
        }
    }
}

/// Fingerprints are digested on the way in, so they are compared apart.
fn without_fingerprints(mut mapping: Mapping) -> (Mapping, Vec<bool>) {
    let given =
        mapping.authentication.headers.iter_mut().map(|header| !std::mem::take(&mut header.fingerprint).is_empty());
    let given = given.collect();
    (mapping, given)
}

fn any_inbound() -> impl Strategy<Value = InboundListener> {
    any::<(IpAddr, u16, u16)>().prop_map(|(address, https, http)| InboundListener { address, https, http })
}

proptest! {
    #[test]
    fn a_mapping_comes_back_as_it_went(mapping in any_mapping(), modified in any::<bool>()) {
        let kind = if modified { Kind::UpdateTypeModified } else { Kind::UpdateTypeCreated };
        let token = OneTimeToken(Secret::from("once"));
        let bytes = convert::mapping_to_wire(kind, &mapping, Some(&token)).encode_to_vec();
        let wire = wire::ProxyMapping::decode(&*bytes).expect("decodes");
        match only(wire) {
            Change::Upsert(back, back_token) => {
                prop_assert_eq!(without_fingerprints(*back), without_fingerprints(mapping));
                prop_assert_eq!(back_token.0, token.0);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn a_status_comes_back_as_it_went(
        state in prop::sample::select(vec![
            ServiceState::Active, ServiceState::CertificateFailed, ServiceState::CertificatePending,
            ServiceState::Error, ServiceState::Pending, ServiceState::TunnelNotCreated,
        ]),
        certificate_issued in any::<bool>(),
        error in option::of("\\PC{0,20}"),
        inbound in option::of(any_inbound()),
    ) {
        let status = StatusUpdate { service: service(), account: account(), state, certificate_issued, error, inbound };
        let bytes = convert::status_to_wire(&status).encode_to_vec();
        let wire = wire::SendStatusUpdateRequest::decode(&*bytes).expect("decodes");
        prop_assert_eq!(convert::status_from_wire(wire), Ok(status));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        fuzz::conversions(&bytes);
    }

    /// Bytes that are nearly a mapping reach deeper than arbitrary ones.
    #[test]
    fn damaged_messages_never_panic(mapping in any_mapping(), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let wire = convert::mapping_to_wire(Kind::UpdateTypeCreated, &mapping, None);
        let mut bytes = wire::SyncMappingsResponse { mapping: vec![wire], initial_sync_complete: true }.encode_to_vec();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        fuzz::conversions(&bytes);
    }

    /// Well-formed messages with arbitrary text in every field.
    #[test]
    fn arbitrary_text_never_panics(texts in vec("\\PC{0,12}", 12), numbers in any::<(i32, i32, i64, i64, i32)>()) {
        let [id, account_id, domain, mode, path, target, header, value, cidr, country, realm, crowdsec] =
            <[String; 12]>::try_from(texts).expect("twelve");
        let options = wire::PathTargetOptions {
            request_timeout: Some(prost_types::Duration { seconds: numbers.2, nanos: numbers.4 }),
            custom_headers: [(header.clone(), value.clone())].into(),
            ..Default::default()
        };
        let mapping = wire::ProxyMapping {
            r#type: numbers.0 % 4,
            id: format!("s{id}"), account_id, domain, mode,
            listen_port: numbers.1,
            path: vec![wire::PathMapping { path: format!("/{path}"), target: format!("http://{target}"), options: Some(options) }],
            auth: Some(wire::Authentication {
                max_session_age_seconds: numbers.3,
                header_auths: vec![wire::HeaderAuth { header, hashed_value: value, basic_realm: Some(realm) }],
                ..Default::default()
            }),
            access_restrictions: Some(wire::AccessRestrictions {
                allowed_cidrs: vec![cidr], blocked_countries: vec![country], crowdsec_mode: crowdsec, ..Default::default()
            }),
            ..Default::default()
        };
        fuzz::conversions(&wire::SyncMappingsResponse { mapping: vec![mapping], initial_sync_complete: false }.encode_to_vec());
    }
}
