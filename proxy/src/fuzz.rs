//! What the fuzz targets run, and an ordinary test on their corpora: bytes of an attacker's choice, read as the proxy
//! reads them. Nothing panics, and whatever is understood keeps its promises. No part of the interface.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Version, request};
use hyper::ext::Protocol;
use postern_model::HostName;
use rustls::server::Acceptor;

use crate::acceptor::{HANDSHAKE_RECORD, named};
use crate::error::Kind;
use crate::http::canonical::{Request, canonical};
use crate::http::fields;
use crate::http::path::Path;
use crate::http1::replay::{Beside, Heard, read};

/// Reads `bytes` as a request head: `METHOD target version`, then `name: value` lines, parted by bare line feeds; the
/// version may be missing; `:protocol` is HTTP/2's. `true` where it has a canonical form; heads that the `http` crate
/// itself refuses have none.
///
/// # Panics
/// If the canonical form breaks a promise: that is what fuzzing looks for.
pub fn canonical_request(bytes: &[u8]) -> bool {
    let Some(parts) = head(bytes) else { return false };
    let Ok(request) = canonical(&parts, None, None) else { return false };
    assert_eq!(request.query.as_deref(), parts.uri.query(), "the query is not ours to touch");
    check_host(&request.host);
    check_path(&request.path);
    let passing = request.passing(parts.headers.clone());
    check_fields(&passing);
    check_tls_name(&parts, &request);
    check_again(&request, &passing);
    true
}

fn head(bytes: &[u8]) -> Option<request::Parts> {
    let mut lines = bytes.split(|&byte| byte == b'\n');
    let mut words = lines.next()?.splitn(3, |&byte| byte == b' ');
    let mut builder = http::Request::builder().method(words.next()?).uri(words.next()?);
    builder = match words.next() {
        None | Some(b"HTTP/1.1") => builder,
        Some(b"HTTP/1.0") => builder.version(Version::HTTP_10),
        Some(b"HTTP/2.0") => builder.version(Version::HTTP_2),
        Some(_) => return None,
    };
    for line in lines {
        builder = if let Some(protocol) = line.strip_prefix(b":protocol:") {
            builder.extension(Protocol::from(str::from_utf8(protocol.trim_ascii()).ok()?))
        } else {
            let colon = line.iter().position(|&byte| byte == b':')?;
            builder.header(&line[..colon], line[colon + 1..].trim_ascii())
        };
    }
    Some(builder.body(()).ok()?.into_parts().0)
}

/// Every spelling of a host is one host, and it is no address.
fn check_host(host: &HostName) {
    let text = host.as_str();
    for spelling in [text.to_owned(), text.to_ascii_uppercase(), format!("{text}.")] {
        assert_eq!(HostName::parse(&spelling).as_ref(), Ok(host), "{spelling}");
    }
    assert!(text.parse::<std::net::IpAddr>().is_err(), "{text} is an address");
}

fn check_path(path: &Path) {
    if *path == Path::asterisk() {
        return;
    }
    assert_eq!(Path::parse(path.as_str()).as_ref(), Ok(path), "canonical is canonical");
    assert!(PathAndQuery::try_from(path.as_str()).is_ok_and(|parsed| parsed.path() == path.as_str()), "{path}");
    let segments = segments_of_a_reckless_server(path.as_str());
    assert!(!segments.iter().any(|segment| segment == b"." || segment == b".."), "{path} has a dot segment");
    let plain = path.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte));
    let others = path.readings();
    assert!(others.iter().flatten().all(|reading| reading != path), "{path} is no other reading of itself");
    assert!(!plain || path.as_str().contains("//") || others == Some(Vec::new()), "{path} has one reading");
}

/// It decodes everything twice, takes any separator for one, and cuts parameters.
fn segments_of_a_reckless_server(path: &str) -> Vec<Vec<u8>> {
    let once = percent_decoded(path.as_bytes());
    let twice = percent_decoded(&once);
    let segments = twice.split(|byte| b"/\\".contains(byte));
    segments.map(|segment| segment.split(|byte| b";?#".contains(byte)).next().unwrap_or_default().to_vec()).collect()
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        let hex = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

fn check_fields(passing: &HeaderMap) {
    for name in passing.keys().map(http::HeaderName::as_str) {
        assert!(!fields::is_managed(name), "{name} passed");
        assert!(!fields::is_framing(name) || name == "content-length" || name == "host", "{name} passed");
    }
    assert!(passing.get_all(http::header::COOKIE).iter().count() <= 1, "cookies are joined");
}

/// A request is for the host that TLS was made for, or it is misdirected, whatever else is in it.
fn check_tls_name(parts: &request::Parts, request: &Request) {
    assert!(canonical(parts, Some(&request.host), Some(&request.host)).is_ok_and(|same| same.host == request.host));
    let other = HostName::parse(if request.host.as_str() == "a" { "b" } else { "a" }).expect("a name");
    assert!(canonical(parts, Some(&other), Some(&other)).is_err_and(|error| matches!(error.kind, Kind::Misdirected)));
}

/// Another proxy of ours behind this one would read the same.
fn check_again(request: &Request, passing: &HeaderMap) {
    let target = match &request.query {
        Some(query) => format!("{}?{query}", request.path),
        None => request.path.to_string(),
    };
    let mut sent = http::Request::builder().method(&request.method).uri(&target).body(()).expect(&target);
    *sent.headers_mut() = passing.clone();
    sent.headers_mut().insert(HOST, request.authority.clone());
    let (parts, ()) = sent.into_parts();
    let again = canonical(&parts, None, None).expect("what was understood once is understood again");
    assert_eq!((&again.method, &again.host, again.port), (&request.method, &request.host, request.port));
    assert_eq!((&again.path, &again.query), (&request.path, &request.query));
    assert_eq!(&again.passing(parts.headers.clone()), &parts.headers);
    assert_eq!(again.upgrade, None, "what would upgrade again is not passed");
}

/// Reads `bytes` as the first that a client sends. `true` where they are a ClientHello that names a host.
///
/// # Panics
/// If the answer depends on how the bytes were cut into packets, or breaks a promise: that is what fuzzing looks for.
pub fn client_hello(bytes: &[u8]) -> bool {
    let greeting = greet(bytes, bytes.len());
    for size in [1, 5, 64] {
        assert_eq!(greet(bytes, size), greeting, "in pieces of {size} bytes");
    }
    match greeting {
        Greeting::Named(host) => {
            assert_eq!(bytes[0], HANDSHAKE_RECORD, "the acceptor would have taken this for something else than TLS");
            check_host(&host);
            true
        }
        Greeting::Nameless | Greeting::Unfinished | Greeting::Refused => false,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Greeting {
    Named(HostName),
    Nameless,
    Unfinished,
    Refused,
}

/// As `tokio_rustls::LazyConfigAcceptor` does it, from packets of `size` bytes.
fn greet(bytes: &[u8], size: usize) -> Greeting {
    let mut acceptor = Acceptor::default();
    for mut packet in bytes.chunks(size.max(1)) {
        while !packet.is_empty() {
            if acceptor.read_tls(&mut packet).is_err() {
                return Greeting::Refused;
            }
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    return named(&accepted.client_hello()).map_or(Greeting::Nameless, Greeting::Named);
                }
                Err(_) => return Greeting::Refused,
            }
        }
    }
    Greeting::Unfinished
}

/// Reads `bytes` as what an upstream says after a request, up to the end of its connection. `true` where they begin with
/// a whole answer.
///
/// # Panics
/// If the answer depends on how the bytes were cut into packets, or breaks a promise: that is what fuzzing looks for.
pub fn upstream_answer(bytes: &[u8]) -> bool {
    for method in [Method::GET, Method::HEAD] {
        let whole = read(&method, [bytes]).ok();
        for size in [1, 5, 64] {
            assert_eq!(read(&method, bytes.chunks(size)).ok(), whole, "{method}, in pieces of {size} bytes");
        }
        if let Some((heard, beside)) = whole {
            check_answer(&heard, &beside, bytes.len());
        }
    }
    read(&Method::GET, [bytes]).is_ok()
}

/// It ends in one place, wherever it is sent on to.
fn check_answer(heard: &Heard, beside: &Beside, sent: usize) {
    let lengths: Vec<_> = heard.fields.get_all(CONTENT_LENGTH).iter().collect();
    let length = lengths.first().map(|length| length.to_str().ok().and_then(|length| length.parse::<usize>().ok()));
    assert!(lengths.len() <= 1 && length != Some(None), "{lengths:?}");
    assert!(length.is_none() || !heard.fields.contains_key(TRANSFER_ENCODING), "one framing");
    assert!(heard.body.is_empty() || length.is_none_or(|length| length == Some(heard.body.len())));
    assert!(heard.body.len() + beside.left < sent, "nothing is read twice");
    assert!(heard.fields.len() <= 100 && heard.trailers.len() <= 100);
}
