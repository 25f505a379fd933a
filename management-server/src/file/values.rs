use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use ipnet::{IpNet, Ipv4Net};
use postern_model::{HostName, Secret, ServiceId, Target, is_framing};

use crate::desired::{Endpoint, InvalidEndpoint};
use crate::network::Network;
use crate::words;

use super::section::{Wrong, printable};

/// NetBird refuses longer header values and more headers than these.
const LONGEST_HEADER_VALUE: usize = 4096;
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// What the proxy answers for besides what [`is_framing`] names.
const NOT_CUSTOM: [&str; 8] = [
    "content-type",
    "cookie",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
];

pub(super) fn service_id(text: &str) -> Result<ServiceId, Wrong> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match ServiceId::parse(text) {
        Ok(id) if text.len() <= 63 && text.chars().all(plain) => Ok(id),
        _ => Err(Wrong::new(
            format!("`{}` cannot name a service", printable(text)),
            "use 1 to 63 letters, digits, hyphens, dots and underscores, such as [service.app]",
        )),
    }
}

pub(super) fn host(text: &str) -> Result<HostName, Wrong> {
    HostName::parse(text).map_err(|error| {
        Wrong::new(
            format!("`{}` is {error}", printable(text)),
            "write the bare name people type, such as \"app.example.com\", without scheme, port and path",
        )
    })
}

/// Where requests go, and over what.
pub(super) struct Upstream {
    pub(super) target: Target,
    /// Over the host's own network; else the target's host is the name of a peer.
    pub(super) direct: bool,
}

pub(super) fn upstream(text: &str) -> Result<Upstream, Wrong> {
    // A password may stand in it, so a URL is not repeated in a message.
    match text.split_once("://") {
        Some(("tunnel", rest)) => return behind_peer("http", rest),
        Some(("tunnel+https", rest)) => return behind_peer("https", rest),
        Some((scheme @ ("tcp" | "udp" | "tls"), _)) => {
            return Err(Wrong::new(
                format!("{scheme} services are not there yet in this version"),
                "use an upstream that this machine can reach, such as \"http://127.0.0.1:3000\"",
            ));
        }
        Some(_) | None => {}
    }
    match Target::parse(text) {
        Ok(target) => Ok(Upstream { target, direct: true }),
        Err(error) => {
            let error = error.to_string();
            let message = error.split_once("; ").map_or(error.as_str(), |(message, _)| message);
            Err(Wrong::new(
                message,
                "write it as \"http://host:port\", \"https://host:port/path\" or \"tunnel://PEER:port\"",
            ))
        }
    }
}

/// `PEER:port/path`. The port must be given: a device has none that goes without saying.
fn behind_peer(scheme: &str, rest: &str) -> Result<Upstream, Wrong> {
    let wrong = |what: &str| {
        let remedy = "write it as \"tunnel://PEER:port\" with the name that `postern peer list` shows; the peer's \
                      upstream speaks HTTPS if it is \"tunnel+https://PEER:port\"";
        Err(Wrong::new(format!("not an upstream behind the tunnel: {what}"), remedy))
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let Some((peer, port)) = authority.rsplit_once(':') else { return wrong("it has no port") };
    if !words::is_name(peer) {
        return wrong("what stands before the port cannot name a peer");
    }
    match Target::parse(&format!("{scheme}://peer:{port}{path}")) {
        Ok(target) => Ok(Upstream { target: Target { host: peer.into(), ..target }, direct: false }),
        Err(_) => wrong("its port is not 1 to 65535, or its path is none"),
    }
}

pub(super) fn endpoint(text: &str) -> Result<Endpoint, Wrong> {
    text.parse().map_err(|error: InvalidEndpoint| {
        Wrong::new(
            format!("`{}` is {error}", printable(text)),
            "write where peers reach this machine's UDP port from where they are",
        )
    })
}

pub(super) fn network(text: &str) -> Result<Ipv4Net, Wrong> {
    text.parse().ok().filter(|range| Network::new(*range).is_some()).ok_or_else(|| {
        Wrong::new(
            format!("`{}` cannot be the tunnel's network", printable(text)),
            "write a private IPv4 range from /8 to /29, such as \"100.72.0.0/16\", that no network of yours has",
        )
    })
}

/// A path prefix in plain form: what requests are matched against after they were made canonical.
pub(super) fn path(text: &str) -> Result<String, Wrong> {
    let wrong = |what: &str| {
        Err(Wrong::new(format!("the path `{}` {what}", printable(text)), "write a plain prefix such as \"/api\""))
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@/".contains(&b);
    if !text.starts_with('/') {
        return wrong("does not begin with `/`");
    }
    if !text.bytes().all(plain) {
        return wrong("has a character that cannot stand in a path prefix");
    }
    if text.split('/').any(|segment| segment == "." || segment == "..") || text.contains("//") {
        return wrong("has an empty, `.` or `..` segment");
    }
    Ok(text.to_owned())
}

pub(super) fn cidr(text: &str) -> Result<IpNet, Wrong> {
    let wrong = |what: String, remedy: String| Err(Wrong::new(what, remedy));
    let example = "write it as \"10.0.0.0/8\" or \"2001:db8::/32\"";
    let net = match (text.parse::<IpNet>(), text.parse()) {
        (Ok(net), _) => net,
        (Err(_), Ok(address)) => IpNet::from(std::net::IpAddr::to_canonical(&address)),
        (Err(_), Err(_)) => return wrong(format!("`{}` is not an address range", printable(text)), example.into()),
    };
    if net.trunc() == net {
        Ok(net)
    } else {
        let meant = net.trunc();
        wrong(format!("`{net}` has bits after its prefix"), format!("write \"{meant}\", or one address without `/`"))
    }
}

pub(super) fn address(text: &str) -> Result<SocketAddr, Wrong> {
    text.parse().map_err(|_| {
        Wrong::new(
            format!("`{}` is not an address and a port", printable(text)),
            "write it as \"127.0.0.1:8443\" or \"[::]:443\"",
        )
    })
}

pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    let example = "write a number with ms, s or m, such as \"30s\", up to \"60m\"";
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    let millis = unit.and_then(|unit| digits.parse::<u64>().ok()?.checked_mul(unit)).map(Duration::from_millis);
    match millis {
        None => Err(Wrong::new(format!("`{}` is not a time", printable(text)), example)),
        Some(time) if time.is_zero() || time > LONGEST_TIMEOUT => {
            Err(Wrong::new(format!("`{text}` is not a usable time limit"), example))
        }
        Some(time) => Ok(time),
    }
}

pub(super) fn header_name(text: &str) -> Result<HeaderName, Wrong> {
    let shown = printable(text);
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        return Err(Wrong::new(format!("`{shown}` is not a header name"), "use letters, digits and hyphens"));
    };
    let text = name.as_str();
    if is_framing(&name) || NOT_CUSTOM.contains(&text) || text.starts_with("x-netbird-") {
        let message = format!("the header `{shown}` is set by the proxy itself");
        return Err(Wrong::new(message, "remove it, or use a name of your own such as \"X-Api-Key\""));
    }
    Ok(name)
}

/// The value is not repeated in the message: it may be a key.
pub(super) fn header_value(text: &str) -> Result<Secret, Wrong> {
    match HeaderValue::from_str(text) {
        Ok(_) if text.len() <= LONGEST_HEADER_VALUE && text.trim() == text => Ok(Secret::from(text)),
        _ => Err(Wrong::new(
            "this header value has a line break or control character, spaces around it, or more than 4096 bytes",
            "write one line of plain text",
        )),
    }
}

pub(super) fn user_name(text: &str) -> Result<String, Wrong> {
    if !words::is_user(text) {
        return Err(Wrong::new(
            format!("`{}` cannot be a user name", printable(text)),
            "use up to 255 characters without colons, control characters and spaces around them",
        ));
    }
    Ok(text.to_owned())
}

pub(super) fn group(text: &str) -> Result<String, Wrong> {
    if !words::is_group(text) {
        return Err(Wrong::new(
            format!("`{}` cannot be a group name", printable(text)),
            "use up to 255 characters without commas, control characters and spaces around them",
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_proxy_answers_for_is_no_custom_header() {
        for name in [
            "Connection",
            "content-length",
            "Host",
            "keep-alive",
            "proxy-authenticate",
            "Proxy-Authorization",
            "proxy-connection",
            "TE",
            "trailer",
            "Transfer-Encoding",
            "upgrade",
            "Cookie",
            "content-type",
            "Forwarded",
            "X-Forwarded-For",
            "X-Real-IP",
            "X-NetBird-User",
        ] {
            assert!(header_name(name).is_err(), "{name}");
        }
        for name in ["X-Api-Key", "Authorization", "Accept", "hosts"] {
            assert!(header_name(name).is_ok(), "{name}");
        }
    }
}
