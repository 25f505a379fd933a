use http::Uri;
use http::header::ORIGIN;
use postern_model::HostName;

use crate::facts::Facts;

/// Whether an upgrade was begun by a page of another host or port, or by one that came without TLS where we speak it, and
/// may be anybody's.
/// A browser sends its credentials along with such a WebSocket and asks nobody (RFC 6455 section 10.2), but it always
/// says where the page is from; a client that sends no `Origin` is no browser.
pub(crate) fn is_foreign(facts: &Facts<'_>) -> bool {
    let mut origins = facts.headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => false,
        (Some(_), Some(_)) => true,
        (Some(origin), None) => !origin.to_str().is_ok_and(|origin| is_own(origin, facts)),
    }
}

fn is_own(origin: &str, facts: &Facts<'_>) -> bool {
    let (scheme, default_port) = if facts.tls { ("https", 443) } else { ("http", 80) };
    let Ok(uri) = origin.parse::<Uri>() else { return false };
    let Some(host) = uri.host().filter(|_| uri.scheme_str() == Some(scheme)) else { return false };
    let port = uri.port_u16().unwrap_or(default_port);
    HostName::parse(host).is_ok_and(|host| host == *facts.host) && port == facts.port.unwrap_or(default_port)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::facts::Origin;

    fn foreign(origins: &[&str], port: Option<u16>) -> bool {
        foreign_to(true, origins, port)
    }

    fn foreign_to(tls: bool, origins: &[&str], port: Option<u16>) -> bool {
        let mut headers = HeaderMap::new();
        for origin in origins {
            headers.append(ORIGIN, HeaderValue::from_str(origin).expect("a header value"));
        }
        let host = HostName::parse("app.example.com").expect("a host");
        let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let origin = &Origin::Public;
        is_foreign(&Facts { source, origin, tls, headers: &headers, upgrade: true, host: &host, port })
    }

    #[test]
    fn the_own_origin_and_none_at_all_are_no_strangers() {
        assert!(!foreign(&[], None));
        assert!(!foreign(&["https://app.example.com"], None));
        assert!(!foreign(&["https://APP.example.com"], Some(443)));
        assert!(!foreign(&["https://app.example.com:8443"], Some(8443)));
        assert!(!foreign(&["https://app.example.com:443"], None));
    }

    #[test]
    fn without_tls_the_own_origin_is_the_plain_one() {
        assert!(!foreign_to(false, &["http://app.example.com"], None));
        assert!(!foreign_to(false, &["http://app.example.com:80"], Some(80)));
        assert!(foreign_to(false, &["https://app.example.com"], None));
        assert!(foreign_to(false, &["http://app.example.com:443"], None));
        assert!(foreign_to(false, &["http://evil.example"], None));
    }

    #[test]
    fn every_other_origin_is_foreign() {
        for origin in [
            "https://evil.example",
            "https://app.example.com.evil.example",
            "https://evil.example/app.example.com",
            "https://app.example.com@evil.example",
            "https://sub.app.example.com",
            "https://app.example.com:8443",
            "http://app.example.com",
            "http://app.example.com:443",
            "null",
            "",
            "app.example.com",
            "file://app.example.com",
            "https://app.example.com https://evil.example",
        ] {
            assert!(foreign(&[origin], None), "{origin:?}");
        }
        assert!(foreign(&["https://app.example.com"], Some(8443)));
        assert!(foreign(&["https://app.example.com", "https://app.example.com"], None));
        assert!(foreign(&["https://evil.example", "https://app.example.com"], None));
    }
}
