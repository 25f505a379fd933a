use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser};
use ipnet::IpNet;

use super::settings::{Server, Settings, level, settings};
use super::values::{Environment, Values};
use crate::args::{Cli, Command};
use crate::dashes;
use crate::failure::Failure;
use crate::logging::Level;

const ENOUGH: &[(&str, &str)] = &[("NB_PROXY_TOKEN", "nbx_secret"), ("NB_PROXY_DOMAIN", "proxy.example.com")];

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn values(flags: &[&str], pairs: &[(&str, &str)]) -> Values {
    let line = ["postern", "proxy"].iter().chain(flags).map(Into::into);
    let matches = Cli::command().try_get_matches_from(dashes::doubled(&Cli::command(), line)).expect("clap takes it");
    let Command::Proxy(proxy) = Cli::from_arg_matches(&matches).expect("a command").command else { panic!("proxy") };
    Values::read(&proxy.given, &environment(pairs))
}

fn read(flags: &[&str], pairs: &[(&str, &str)]) -> Result<Settings, Failure> {
    settings(&values(flags, pairs), 2)
}

/// With token and domain, and these on top.
fn with(flags: &[&str], pairs: &[(&str, &str)]) -> Result<Settings, Failure> {
    read(flags, &[ENOUGH, pairs].concat())
}

fn refusal(result: Result<Settings, Failure>) -> Vec<String> {
    result.expect_err("it is refused").sentences().to_vec()
}

#[test]
fn the_defaults_are_netbirds() {
    let all = with(&[], &[]).unwrap();
    let server = Server { tls: true, host: "api.netbird.io".into(), port: 443, ca_file: None };
    assert_eq!(all.management, server);
    assert_eq!(all.domain.as_str(), "proxy.example.com");
    assert_eq!(all.token.expose(), "nbx_secret");
    assert!(!all.allow_insecure && !all.require_subdomain);
    assert!(all.https.ip().is_unspecified() && all.https.port() == 443);
    assert_eq!(all.health, Some("127.0.0.1:8080".parse().unwrap()));
    assert_eq!((all.certificate, all.key), ("./certs/tls.crt".into(), "./certs/tls.key".into()));
    assert_eq!(all.upstream.max_idle, postern_proxy::UpstreamLimits::default().max_idle);
}

#[test]
fn a_flag_wins_over_its_variable_and_that_over_the_default() {
    let port = |flags: &[&str], pairs: &[(&str, &str)]| with(flags, pairs).unwrap().https.port();
    assert_eq!(port(&[], &[("NB_PROXY_ADDRESS", "127.0.0.1:1")]), 1);
    assert_eq!(port(&["--addr", "127.0.0.1:2"], &[("NB_PROXY_ADDRESS", "127.0.0.1:1")]), 2);
    assert_eq!(port(&["-addr=127.0.0.1:3", "--addr", "127.0.0.1:4"], &[]), 4);
}

#[test]
fn token_comes_first_and_every_mistake_is_listed() {
    let mistakes = refusal(read(
        &["--forwarded-proto", "gopher", "--trusted-proxies", "10.0.0.0/33", "--proxy-protocol"],
        &[("NB_PROXY_MAX_BATCH_SIZE", "many")],
    ));
    let begin = [
        "NB_PROXY_TOKEN",
        "NB_PROXY_MAX_BATCH_SIZE",
        "--forwarded-proto",
        "--domain",
        "--trusted-proxies",
        "--proxy-protocol",
    ];
    assert_eq!(mistakes.len(), begin.len(), "{mistakes:?}");
    for (mistake, begin) in mistakes.iter().zip(begin) {
        assert!(mistake.starts_with(begin), "{mistake}");
    }
}

#[test]
fn the_tunnel_has_netbirds_names_and_a_folder_beside_the_certificates() {
    let plain = with(&["--cert-dir", "/c"], &[]).unwrap().tunnel;
    assert_eq!((plain.inbound, plain.port, plain.data_dir), (false, 0, "/c/tunnel".into()));
    assert_eq!(plain.cache_ttl, Duration::from_secs(300));
    let variables = [("NB_PROXY_TUNNEL_CACHE_TTL", "90s"), ("NB_PROXY_PRIVATE", "true"), ("NB_PROXY_WG_PORT", "51820")];
    let chosen = with(&["-data-dir", "/d"], &variables).unwrap().tunnel;
    assert_eq!((chosen.inbound, chosen.port, chosen.data_dir), (true, 51_820, "/d".into()));
    assert_eq!(chosen.cache_ttl, Duration::from_secs(90));
}

#[test]
fn domain_and_url_name_the_same_thing() {
    let name = |flags: &[&str]| read(flags, &[("NB_PROXY_TOKEN", "t")]).map(|all| all.domain.as_str().to_owned());
    for flags in [
        &["--domain", "Proxy.Example.com."][..],
        &["-url", "https://proxy.example.com:8443/x"],
        &["-url", "proxy.example.com"],
        &["-domain", "proxy.example.com", "-url", "https://proxy.example.com"],
    ] {
        assert_eq!(name(flags).as_deref(), Ok("proxy.example.com"), "{flags:?}");
    }
    for flags in [
        &[][..],
        &["--domain", ""],
        &["--domain", "192.0.2.1"],
        &["-url", "ftp://proxy.example.com"],
        &["-url", "https://"],
        &["-domain", "a.example.com", "-url", "https://b.example.com"],
    ] {
        assert!(name(flags).is_err(), "{flags:?}");
    }
}

#[test]
fn a_set_but_empty_variable_is_an_empty_text() {
    assert_eq!(with(&[], &[("NB_PROXY_HEALTH_ADDRESS", "")]).unwrap().health, None);
    assert!(refusal(with(&[], &[("NB_PROXY_ADDRESS", "")]))[0].starts_with("--addr"));
    assert!(refusal(with(&[], &[("NB_PROXY_DOMAIN", "")]))[0].starts_with("--domain"));
    // Nothing is asked for by an empty text.
    with(&[], &[("NB_PROXY_GEO_DATA_DIR", ""), ("NB_PROXY_OIDC_CLIENT_ID", ""), ("NB_PROXY_WILDCARD_CERT_DIR", "")])
        .unwrap();
}

#[test]
fn an_unreadable_variable_is_a_warning_and_an_unreadable_flag_a_mistake() {
    for (variable, text) in [
        ("NB_PROXY_ALLOW_INSECURE", "yes"),
        ("NB_PROXY_REQUIRE_SUBDOMAIN", ""),
        ("NB_PROXY_WG_PORT", "70000"),
        ("NB_PROXY_IDLE_CONN_TIMEOUT", "-5s"),
        ("NB_PROXY_MAX_IDLE_CONNS", "-1"),
    ] {
        let all = values(&[], &[ENOUGH, &[(variable, text)]].concat());
        assert_eq!(all.warnings.len(), 1, "{variable}");
        assert!(all.warnings[0].starts_with(variable), "{:?}", all.warnings);
        settings(&all, 1).unwrap();
    }
    for flag in ["--wg-port=70000", "--require-subdomain=yes", "--max-session-idle-timeout=5"] {
        assert_eq!(refusal(with(&[flag], &[])).len(), 1, "{flag}");
    }
    // What is empty there is unset.
    assert!(values(&[], &[("NB_PROXY_MAX_IDLE_CONNS", "")]).warnings.is_empty());
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    for (flags, variable, text) in [
        ("--acme-certs", "NB_PROXY_ACME_CERTIFICATES", "true"),
        ("--proxy-protocol", "NB_PROXY_PROXY_PROTOCOL", "true"),
        ("--debug-endpoint", "NB_PROXY_DEBUG_ENDPOINT", "true"),
        ("--supports-custom-ports", "NB_PROXY_SUPPORTS_CUSTOM_PORTS", "true"),
        ("--wildcard-cert-dir=/w", "NB_PROXY_WILDCARD_CERT_DIR", "/w"),
        ("--preshared-key=hush", "NB_PROXY_PRESHARED_KEY", "hush"),
        ("--max-dial-timeout=5s", "NB_PROXY_MAX_DIAL_TIMEOUT", "5s"),
        ("--geo-data-dir=/geo", "NB_PROXY_GEO_DATA_DIR", "/geo"),
        ("--crowdsec-api-url=http://c", "NB_PROXY_CROWDSEC_API_URL", "http://c"),
        ("-oidc-id=me", "NB_PROXY_OIDC_CLIENT_ID", "me"),
        ("-oidc-secret=hush", "NB_PROXY_OIDC_CLIENT_SECRET", "hush"),
        ("-oidc-endpoint=https://i", "NB_PROXY_OIDC_ENDPOINT", "https://i"),
        ("-oidc-scopes=openid", "NB_PROXY_OIDC_SCOPES", "openid"),
    ] {
        for mistakes in [refusal(with(&[flags], &[])), refusal(with(&[], &[(variable, text)]))] {
            assert_eq!(mistakes.len(), 1, "{mistakes:?}");
            assert!(mistakes[0].contains(variable) && !mistakes[0].contains("hush"), "{mistakes:?}");
        }
    }
    for variable in ["NB_PROXY_MAX_INFLIGHT", "NB_PROXY_MAX_BATCH_SIZE", "NB_PROXY_READ_BUFFER_SIZE"] {
        assert!(refusal(with(&[], &[(variable, "7")]))[0].starts_with(variable));
    }
}

#[test]
fn what_asks_for_nothing_never_fails() {
    let flags = [
        "--acme-certs=false",
        "--private=false",
        "--supports-custom-ports=false",
        "--geo-data-dir=/var/lib/netbird/geolocation",
        "-oidc-id=netbird-proxy",
        "--wg-port=0",
        "--max-dial-timeout=0s",
        "--acme-dir=https://acme.example/dir",
        "--acme-eab-hmac-key=hush",
        "--crowdsec-api-key=hush",
        "--debug-endpoint-addr=:1",
        "--max-session-idle-timeout=5m",
    ];
    with(&flags, &[("NB_PROXY_TUNNEL_CACHE_TTL", "5m"), ("NB_PROXY_DISABLE_COMPRESSION", "true")]).unwrap();
}

#[test]
fn the_management_server_is_named_by_a_url() {
    let server = |flags: &[&str]| with(flags, &[]).map(|all| all.management);
    let is = |url: &str, tls, host: &str, port| {
        let wanted = Server { tls, host: host.into(), port, ca_file: None };
        assert_eq!(server(&["--mgmt", url]), Ok(wanted), "{url}");
    };
    is("https://m.example.com", true, "m.example.com", 443);
    is("http://m.example.com", false, "m.example.com", 443);
    is("http://m.example.com:80/path", false, "m.example.com", 80);
    is("https://[::1]:33073", true, "::1", 33_073);
    is("https://[::1]", true, "::1", 443);
    let with_ca = server(&["--mgmt", "https://m:1", "--mgmt-ca", "ca.pem"]).unwrap();
    assert_eq!(with_ca.ca_file, Some("ca.pem".into()));
    for url in ["", "m.example.com:33073", "https://", "/x"] {
        assert!(server(&["--mgmt", url]).is_err(), "{url}");
    }
    assert!(server(&["--mgmt", "http://m:1", "--mgmt-ca", "ca.pem"]).is_err());
}

#[test]
fn trusted_proxies_are_addresses_and_networks() {
    let all = with(&["--trusted-proxies", "10.0.0.0/8, 192.0.2.7,, fd00::/8,::1"], &[]).unwrap();
    let wanted: Vec<IpNet> =
        ["10.0.0.0/8", "192.0.2.7/32", "fd00::/8", "::1/128"].map(|net| net.parse().unwrap()).to_vec();
    assert_eq!(all.trusted_proxies, wanted);
}

#[test]
fn upstream_limits_are_taken_over_and_shared_by_the_workers() {
    let pairs = [
        ("NB_PROXY_MAX_IDLE_CONNS", "100"),
        ("NB_PROXY_MAX_IDLE_CONNS_PER_HOST", "0"),
        ("NB_PROXY_IDLE_CONN_TIMEOUT", "5s"),
        ("NB_PROXY_RESPONSE_HEADER_TIMEOUT", "7s"),
    ];
    let limits = with(&[], &pairs).unwrap().upstream;
    assert_eq!((limits.max_idle, limits.max_idle_per_host), (50, usize::MAX));
    assert_eq!(limits.idle_timeout, Duration::from_secs(5));
    assert_eq!(limits.response_header_timeout, Some(Duration::from_secs(7)));
}

#[test]
fn the_log_level_is_settled_first() {
    assert_eq!(level(&values(&[], &[])), (Level::Info, None));
    assert_eq!(level(&values(&["--debug"], &[("NB_PROXY_LOG_LEVEL", "error")])).0, Level::Debug);
    let (level, warning) = level(&values(&[], &[("NB_PROXY_LOG_LEVEL", "loud")]));
    assert!(level == Level::Info && warning.is_some());
}

#[test]
fn help_names_every_flag_and_shows_no_secret() {
    let help = Cli::command().find_subcommand_mut("proxy").unwrap().render_long_help().to_string();
    for text in ["--mgmt <URL>", "NB_PROXY_TRUSTED_PROXIES", "NB_PROXY_TOKEN", "[default: :443]", "Examples:"] {
        assert!(help.contains(text), "{text}");
    }
    assert!(Cli::try_parse_from(["postern", "proxy", "--no-such-flag"]).is_err());
}
