//! A request, read once: routing, policy, logging, stamping and forwarding all use the value made here.

use std::net::{IpAddr, Ipv6Addr};

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::Authority;
use http::{Method, Uri, Version, request};
use hyper::ext::Protocol;
use postern_model::HostName;

use crate::error::{BadRequest, Kind, Result};
use crate::http::fields;
use crate::http::path::Path;

/// A request in canonical form.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// As sent; GET for a WebSocket over HTTP/2 (RFC 8441), which is what it is in HTTP/1.
    pub(crate) method: Method,
    /// The one host that Host field, target and TLS agree on.
    pub(crate) host: HostName,
    /// The port beside it, if one was sent.
    pub(crate) port: Option<u16>,
    /// The host, and the port if one was sent, as a Host field says it.
    pub(crate) authority: HeaderValue,
    /// Canonical; `*` for `OPTIONS *`.
    pub(crate) path: Path,
    /// Byte for byte as sent, without `?`; empty where the target ends in `?`.
    pub(crate) query: Option<Box<str>>,
    /// It wants to become a WebSocket.
    pub(crate) upgrade: Option<Upgrade>,
    /// The client waits for `100 Continue` before it sends the body.
    pub(crate) expects_continue: bool,
    /// The client sent `TE: trailers`.
    pub(crate) accepts_trailers: bool,
}

impl Request {
    /// What may go to an upstream of the fields that were sent: see [`fields::clean_request`].
    pub(crate) fn passing(&self, sent: HeaderMap) -> HeaderMap {
        let mut headers = sent;
        fields::clean_request(&mut headers);
        if !self.expects_continue {
            // HTTP/1.0 knows no expectations.
            headers.remove(header::EXPECT);
        }
        headers
    }
}

/// How a WebSocket is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// `Upgrade: websocket` (RFC 6455): answered with 101.
    Http1,
    /// Extended CONNECT (RFC 8441): answered with 200.
    Http2,
}

/// Reads a request head. `sni` is the name the TLS connection was made for, if there was one; `likely` is a host that need not
/// be read again where the request names it.
///
/// # Errors
/// [`Kind::BadRequest`] for what is malformed or can be read in several ways; [`Kind::Misdirected`] where the host is
/// not the TLS name, before anything is looked up; [`Kind::NoRoute`] for an address as host, which no service has.
pub(crate) fn canonical(parts: &request::Parts, sni: Option<&HostName>, likely: Option<&HostName>) -> Result<Request> {
    let (host, port) = host(parts, sni, likely)?;
    let authority = authority(&host, port, parts.headers.get(header::HOST));
    let upgrade = upgrade(parts)?;
    Ok(Request {
        method: if upgrade == Some(Upgrade::Http2) { Method::GET } else { parts.method.clone() },
        host,
        port,
        authority,
        path: path(parts)?,
        query: parts.uri.query().map(Into::into),
        upgrade,
        expects_continue: expects_continue(parts)?,
        accepts_trailers: fields::tokens(&parts.headers, &header::TE)
            .any(|token| token.eq_ignore_ascii_case("trailers")),
    })
}

/// Host header and target must name one host (RFC 9112 §3.2, RFC 9113 §8.3.1), and the same as TLS did.
fn host(parts: &request::Parts, sni: Option<&HostName>, likely: Option<&HostName>) -> Result<(HostName, Option<u16>)> {
    let mut fields = parts.headers.get_all(header::HOST).into_iter();
    let field = fields.next().map(|value| field(value, likely)).transpose()?;
    if fields.next().is_some() {
        return Err(BadRequest::HostRepeated.into());
    }
    let target = parts.uri.authority().map(Authority::as_str).map(Named::parse).transpose()?;
    let named = match (target, field) {
        (Some(target), Some(field)) if !target.agrees(&field, &parts.uri) => {
            return Err(BadRequest::HostConflict.into());
        }
        (Some(named), _) | (None, Some(named)) => named,
        (None, None) => return Err(BadRequest::HostMissing.into()),
    };
    match (named.host, sni) {
        (Host::Name(host), None) => Ok((host, named.port)),
        (Host::Name(host), Some(sni)) if host == *sni => Ok((host, named.port)),
        (Host::Name(_) | Host::Address(_), Some(_)) => Err(Kind::Misdirected.into()),
        (Host::Address(_), None) => Err(Kind::NoRoute.into()),
    }
}

fn field(value: &HeaderValue, likely: Option<&HostName>) -> Result<Named, BadRequest> {
    let text = value.to_str().map_err(|_| BadRequest::HostInvalid)?;
    likely.and_then(|likely| Named::with_host(likely, text)).map_or_else(|| Named::parse(text), Ok)
}

/// Nearly every client sends it in canonical form; then its bytes are shared.
fn authority(host: &HostName, port: Option<u16>, sent: Option<&HeaderValue>) -> HeaderValue {
    let is_canonical = |sent: &&HeaderValue| {
        let after = sent.as_bytes().strip_prefix(host.as_str().as_bytes());
        after.is_some_and(|after| match port {
            Some(port) => after.starts_with(b":") && !after.starts_with(b":0") && port_of(&after[1..]) == Some(port),
            None => after.is_empty(),
        })
    };
    if let Some(sent) = sent.filter(is_canonical) {
        return sent.clone();
    }
    let text = match port {
        Some(port) => HeaderValue::try_from(format!("{host}:{port}")),
        None => HeaderValue::from_str(host.as_str()),
    };
    text.expect("a host name and a port are visible ASCII")
}

/// What a Host header or an authority says.
struct Named {
    host: Host,
    port: Option<u16>,
}

#[derive(PartialEq, Eq)]
enum Host {
    Name(HostName),
    Address(IpAddr),
}

impl Named {
    /// What `text` says if it begins with `host`, whose bytes are shared then.
    fn with_host(host: &HostName, text: &str) -> Option<Self> {
        let port = match text.strip_prefix(host.as_str())? {
            "" => None,
            after => Some(port_of(after.strip_prefix(':')?.as_bytes())?),
        };
        Some(Self { host: Host::Name(host.clone()), port })
    }

    /// `host` or `host:port`, nothing else: no user, no empty port, no zone.
    fn parse(text: &str) -> Result<Self, BadRequest> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            Some(_) | None => (text, None),
        };
        let port = port.map(|port| port_of(port.as_bytes()).ok_or(BadRequest::HostInvalid)).transpose()?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address.parse::<Ipv6Addr>().map(|address| Host::Address(address.into())).ok(),
            None => match HostName::parse(host) {
                Ok(name) => Some(Host::Name(name)),
                Err(_) => host.parse::<std::net::Ipv4Addr>().map(|address| Host::Address(address.into())).ok(),
            },
        };
        Ok(Self { host: host.ok_or(BadRequest::HostInvalid)?, port })
    }

    /// The same host and port, one left out being the default of the target's scheme.
    fn agrees(&self, field: &Self, target: &Uri) -> bool {
        let default = match target.scheme_str() {
            Some("http") => Some(80),
            _ => Some(443),
        };
        self.host == field.host && self.port.or(default) == field.port.or(default)
    }
}

fn port_of(digits: &[u8]) -> Option<u16> {
    let port = digits.iter().all(u8::is_ascii_digit).then(|| str::from_utf8(digits).ok()?.parse().ok()).flatten();
    port.filter(|&port| port != 0)
}

/// CONNECT only as RFC 8441 has it, `*` only for OPTIONS (RFC 9110 §9.3.7), absolute targets only over HTTP.
fn path(parts: &request::Parts) -> Result<Path, BadRequest> {
    if !matches!(parts.uri.scheme_str(), None | Some("http" | "https")) {
        return Err(BadRequest::Target);
    }
    if parts.method == Method::CONNECT && parts.extensions.get::<Protocol>().is_none() {
        return Err(BadRequest::Target);
    }
    match parts.uri.path() {
        "*" if parts.method == Method::OPTIONS && parts.uri.query().is_none() => Ok(Path::asterisk()),
        path => Path::parse(path),
    }
}

/// Whether the request wants to become a WebSocket. Other upgrades are not offered: their `Upgrade` goes no further, and
/// the request is an ordinary one.
fn upgrade(parts: &request::Parts) -> Result<Option<Upgrade>, BadRequest> {
    if parts.method == Method::CONNECT {
        return match parts.extensions.get::<Protocol>() {
            Some(protocol) if protocol.as_str() == "websocket" => Ok(Some(Upgrade::Http2)),
            Some(_) | None => Err(BadRequest::Target),
        };
    }
    let says = |name, word| fields::tokens(&parts.headers, name).any(|token| token.eq_ignore_ascii_case(word));
    if parts.version != Version::HTTP_11
        || parts.method != Method::GET
        || !says(&header::CONNECTION, "upgrade")
        || !says(&header::UPGRADE, "websocket")
    {
        return Ok(None);
    }
    let empty = parts.headers.get_all(header::CONTENT_LENGTH).iter().all(|length| length == "0");
    if !empty || parts.headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(BadRequest::UpgradeBody);
    }
    Ok(Some(Upgrade::Http1))
}

/// HTTP/1.0 knows no expectations (RFC 9110 §10.1.1).
fn expects_continue(parts: &request::Parts) -> Result<bool, BadRequest> {
    if parts.version < Version::HTTP_11 {
        return Ok(false);
    }
    let mut values = parts.headers.get_all(header::EXPECT).into_iter().peekable();
    let expects = values.peek().is_some();
    if values.all(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        Ok(expects)
    } else {
        Err(BadRequest::Expectation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(method: &str, target: &str, fields: &[(&str, &str)]) -> request::Parts {
        let mut builder = http::Request::builder().method(method).uri(target);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).expect(target).into_parts().0
    }

    fn read(method: &str, target: &str, fields: &[(&str, &str)]) -> Result<Request, &'static str> {
        canonical(&parts(method, target, fields), None, None).map_err(|error| error.kind.reason())
    }

    fn name(text: &str) -> HostName {
        HostName::parse(text).expect(text)
    }

    #[test]
    fn one_host_in_one_form() {
        for (target, host, port) in [
            ("/", "app.example.com", None),
            ("/", "APP.Example.COM", None),
            ("/", "app.example.com.", None),
            ("/", "app.example.com:443", Some(443)),
            ("/", "app.example.com:8443", Some(8443)),
            ("http://app.example.com/", "APP.example.com", None),
            ("https://app.example.com/", "app.example.com:443", None),
            ("http://app.example.com:80/", "app.example.com", Some(80)),
        ] {
            let request = read("GET", target, &[("host", host)]).expect(host);
            assert_eq!((request.host, request.port), (name("app.example.com"), port), "{target} {host}");
        }
        assert_eq!(
            read("GET", "https://xn--bcher-kva.example/", &[]).map(|request| request.host),
            Ok(name("bücher.example"))
        );
        assert_eq!(
            read("GET", "/", &[("host", "a:8443")]).map(|request| request.authority),
            Ok("a:8443".try_into().expect("a value"))
        );
        assert_eq!(
            read("GET", "/", &[("host", "a:0443")]).map(|request| request.authority),
            Ok("a:443".try_into().expect("a value"))
        );
        assert_eq!(
            read("GET", "/", &[("host", "A")]).map(|request| request.authority),
            Ok("a".try_into().expect("a value"))
        );
    }

    #[test]
    fn what_names_no_host_or_two_is_refused() {
        for (target, hosts, why) in [
            ("/", &[][..], "host_missing"),
            ("/", &["a", "a"], "host_repeated"),
            ("/", &[""], "host_invalid"),
            ("/", &[":443"], "host_invalid"),
            ("/", &["a:"], "host_invalid"),
            ("/", &["a:0"], "host_invalid"),
            ("/", &["a:+80"], "host_invalid"),
            ("/", &["a:65536"], "host_invalid"),
            ("/", &["a:80:80"], "host_invalid"),
            ("/", &["user@a"], "host_invalid"),
            ("/", &["a, b"], "host_invalid"),
            ("/", &["a/b"], "host_invalid"),
            ("/", &["a b"], "host_invalid"),
            ("/", &["::1"], "host_invalid"),
            ("/", &["[::1"], "host_invalid"),
            ("/", &["[fe80::1%25eth0]"], "host_invalid"),
            ("/", &["[fe80::1%eth0]"], "host_invalid"),
            ("/", &["127.1"], "host_invalid"),
            ("/", &["*.a.example"], "host_invalid"),
            ("http://user@a/", &["a"], "host_invalid"),
            ("http://a/", &["b"], "host_conflict"),
            ("http://a:81/", &["a"], "host_conflict"),
            ("https://a/", &["a:80"], "host_conflict"),
            ("ftp://a/", &["a"], "target_invalid"),
        ] {
            let fields: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            assert_eq!(read("GET", target, &fields).err(), Some(why), "{target} {hosts:?}");
        }
    }

    #[test]
    fn an_address_is_a_host_that_nobody_has() {
        for host in ["10.0.0.1", "10.0.0.1:443", "[::1]", "[::1]:8443"] {
            assert_eq!(read("GET", "/", &[("host", host)]).err(), Some("no_route"), "{host}");
            let sni = Some(name("a.example"));
            let error = canonical(&parts("GET", "/", &[("host", host)]), sni.as_ref(), sni.as_ref()).expect_err(host);
            assert!(matches!(error.kind, Kind::Misdirected), "{host}");
        }
    }

    #[test]
    fn tls_and_host_must_agree() {
        let judge = |sni, host| {
            canonical(&parts("GET", "/", &[("host", host)]), Some(&name(sni)), Some(&name(sni)))
                .map(|_| ())
                .map_err(|error| error.kind.reason())
        };
        assert_eq!(judge("a.example", "A.example.:8443"), Ok(()));
        assert_eq!(judge("a.example", "b.example"), Err("misdirected"));
        assert_eq!(judge("a.example", "x.a.example"), Err("misdirected"));
        assert_eq!(judge("a.example", "a.example:"), Err("host_invalid"));
    }

    #[test]
    fn a_likely_host_changes_nothing_but_the_effort() {
        for host in
            ["a.example", "A.example", "a.example.", "a.example:8443", "a.example:", "a.example:0", "a.example:1:1"]
                .into_iter()
                .chain(["a.example.com", "xa.example", "b.example", "a.example/", "a.example:443 ", ""])
        {
            let parts = parts("GET", "/", &[("host", host)]);
            let read = |likely: Option<&HostName>| {
                let request = canonical(&parts, None, likely).map_err(|error| error.kind.reason());
                request.map(|request| (request.host, request.port, request.authority))
            };
            assert_eq!(read(Some(&name("a.example"))), read(None), "{host}");
        }
    }

    #[test]
    fn targets() {
        let host = [("host", "a")];
        let request = read("GET", "/a%2fb/%41?q=%41&;x=?&session_token=1", &host).expect("origin form");
        assert_eq!((request.path.as_str(), request.query.as_deref()), ("/a%2Fb/A", Some("q=%41&;x=?&session_token=1")));
        assert_eq!(read("GET", "/x?", &host).map(|request| request.query), Ok(Some("".into())));
        assert_eq!(read("GET", "/x", &host).map(|request| request.query), Ok(None));
        assert_eq!(read("GET", "http://a", &host).map(|request| request.path), Ok(Path::parse("/").expect("root")));
        assert_eq!(read("OPTIONS", "*", &host).map(|request| request.path), Ok(Path::asterisk()));
        assert_eq!(read("GET", "*", &host).err(), Some("target_invalid"));
        assert_eq!(read("CONNECT", "a:80", &host).err(), Some("host_conflict"));
        assert_eq!(read("CONNECT", "a:443", &[("host", "a:443")]).err(), Some("target_invalid"));
        assert_eq!(read("GET", "/a/../b", &host).err(), Some("path_dots"));
        // A fragment is cut before anybody sees it.
        assert_eq!(read("GET", "/a#/../b", &host).map(|request| request.path.to_string()), Ok("/a".to_owned()));
    }

    fn extended_connect(protocol: &'static str) -> Result<Request, &'static str> {
        let mut parts = parts("CONNECT", "https://a/chat?x=1", &[("sec-websocket-version", "13")]);
        parts.version = Version::HTTP_2;
        parts.extensions.insert(Protocol::from_static(protocol));
        canonical(&parts, Some(&name("a")), Some(&name("a"))).map_err(|error| error.kind.reason())
    }

    #[test]
    fn websockets_over_http_2_are_gets() {
        let request = extended_connect("websocket").expect("RFC 8441");
        assert_eq!((request.upgrade, request.method), (Some(Upgrade::Http2), Method::GET));
        assert_eq!((request.path.as_str(), request.query.as_deref()), ("/chat", Some("x=1")));
        assert_eq!(extended_connect("connect-udp").err(), Some("target_invalid"));
    }

    #[test]
    fn only_websockets_upgrade() {
        let ask = |method, fields: &[(&str, &str)]| {
            let fields: Vec<_> = fields.iter().copied().chain([("host", "a")]).collect();
            let request = read(method, "/", &fields)?;
            let passing = request.passing(parts(method, "/", &fields).headers);
            assert!(!passing.contains_key("upgrade") && !passing.contains_key("connection"));
            Ok(request.upgrade)
        };
        let websocket = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
        assert_eq!(ask("GET", &websocket), Ok(Some(Upgrade::Http1)));
        assert_eq!(ask("GET", &[websocket[0], websocket[1], ("content-length", "0")]), Ok(Some(Upgrade::Http1)));
        assert_eq!(ask("POST", &websocket), Ok(None));
        assert_eq!(ask("GET", &websocket[1..]), Ok(None));
        assert_eq!(ask("GET", &[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c")]), Ok(None));
        assert_eq!(ask("GET", &[websocket[0], websocket[1], ("content-length", "5")]), Err("upgrade_body"));
        assert_eq!(ask("GET", &[websocket[0], websocket[1], ("transfer-encoding", "chunked")]), Err("upgrade_body"));
    }

    #[test]
    fn only_100_continue_is_expected() {
        let ask =
            |value| read("POST", "/", &[("host", "a"), ("expect", value)]).map(|request| request.expects_continue);
        assert_eq!(ask("100-Continue"), Ok(true));
        assert_eq!(ask("200-ok"), Err("expectation"));
        assert_eq!(ask("100-continue, x"), Err("expectation"));
        let mut old = parts("POST", "/", &[("host", "a"), ("expect", "100-continue")]);
        old.version = Version::HTTP_10;
        let request = canonical(&old, None, None).expect("ignored");
        assert!(!request.expects_continue && !request.passing(old.headers).contains_key("expect"));
    }

    #[test]
    fn te_trailers_is_noticed() {
        let ask = |value| read("GET", "/", &[("host", "a"), ("te", value)]).map(|request| request.accepts_trailers);
        assert_eq!(ask("gzip;q=0.5, Trailers"), Ok(true));
        assert_eq!(ask("gzip"), Ok(false));
    }

    proptest! {
        #[test]
        fn whatever_has_a_canonical_form_keeps_its_promises(
            target in "(/|http://a/|\\*)[ -~]{0,20}",
            fields in prop::collection::vec("(host: a(:443)?|cookie: [a-z=;]{0,5}|x[-_.]netbird[-_.]user: x|[ -~]{0,12})", 0..5),
        ) {
            crate::fuzz::canonical_request(format!("GET {target}\n{}", fields.join("\n")).as_bytes());
        }
    }
}
