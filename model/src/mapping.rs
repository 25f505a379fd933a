use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Uri};
use ipnet::IpNet;

use crate::{AccountId, HostName, Secret, ServiceId};

/// The state management wants for one service (NetBird: `ProxyMapping`). Two mappings that are equal ask for the same
/// thing, so a re-sent one changes nothing; the one-time token, fresh in every snapshot, is therefore not part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The service.
    pub id: ServiceId,
    /// The tenant it belongs to.
    pub account: AccountId,
    /// Where it is published.
    pub host: HostName,
    /// How it is published.
    pub mode: Mode,
    /// A port of its own; 0 is the main listener's.
    pub listen_port: u16,
    /// Each path once. At least one for [`Mode::Http`]; none for the other modes, whose targets are no URLs.
    pub paths: Vec<PathMapping>,
    /// Who may enter.
    pub authentication: Authentication,
    /// Reachable over the account's tunnel only.
    pub private: bool,
    /// Whether the upstream sees the client's Host instead of its own.
    pub pass_host_header: bool,
    /// Whether absolute `Location`s of the upstream are rewritten to the public host.
    pub rewrite_redirects: bool,
    /// From where it may be reached.
    pub restrictions: Restrictions,
}

/// NetBird's `mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// HTTP behind our TLS; the empty text means it too.
    Http,
    /// A TCP port relayed as it is.
    Tcp,
    /// TLS by SNI, passed through.
    Tls,
    /// A UDP port relayed as it is.
    Udp,
}

/// One path of a service and where it leads (NetBird: `PathMapping`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathMapping {
    /// Begins with `/`; `/` matches everything. Matched by whole segments.
    pub path: String,
    /// Where requests go.
    pub target: Target,
    /// How they go there.
    pub options: TargetOptions,
}

/// Whether a target speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// As a URL spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// 80 or 443.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A text that is not the URL of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an upstream URL: {0}; write it as http://host:port/path")]
pub struct InvalidTarget(&'static str);

/// The URL of an upstream, checked: `http` or `https`, a host, a port.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Plain or TLS.
    pub scheme: Scheme,
    /// A name or an IP literal, IPv6 without brackets.
    pub host: Arc<str>,
    /// Given, or the scheme's.
    pub port: u16,
    /// Begins with `/`; put before the request's path with exactly one slash between.
    pub path: Arc<str>,
    /// Put before the request's query with `&`; empty if there is none.
    pub query: Arc<str>,
}

impl Target {
    /// Reads a URL such as `http://10.0.0.7:3000/app?key=1`.
    ///
    /// # Errors
    /// [`InvalidTarget`] with the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidTarget> {
        let uri: Uri = text.parse().map_err(|_| InvalidTarget("it does not parse"))?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some(_) => return Err(InvalidTarget("its scheme is neither http nor https")),
            None => return Err(InvalidTarget("it has no scheme")),
        };
        let authority = uri.authority().ok_or(InvalidTarget("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(InvalidTarget("it carries a user name or password"));
        }
        if authority.host().is_empty() {
            return Err(InvalidTarget("it has no host"));
        }
        let host = checked_host(authority.host()).ok_or(InvalidTarget("its host is neither a name nor an address"))?;
        // `Uri` lets a port pass that is none, and then says that there is none.
        let port = match &authority.as_str()[authority.host().len()..] {
            "" => scheme.default_port(),
            rest => checked_port(rest).ok_or(InvalidTarget("its port is not 1 to 65535"))?,
        };
        let path = if uri.path().is_empty() { "/" } else { uri.path() };
        Ok(Self {
            scheme,
            host: host.to_ascii_lowercase().into(),
            port,
            path: path.into(),
            query: uri.query().unwrap_or_default().into(),
        })
    }

    /// `host`, or `host:port` where the port is not the scheme's; an IPv6 literal in brackets. What a Host header says.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_string() };
        if self.port == self.scheme.default_port() { host } else { format!("{host}:{}", self.port) }
    }
}

/// Without the query, which may hold a key.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("scheme", &self.scheme)
            .field("authority", &self.authority())
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.as_str(), self.authority(), self.path)?;
        if self.query.is_empty() { Ok(()) } else { write!(f, "?{}", self.query) }
    }
}

/// A name, an IPv4 address, or an IPv6 address that had brackets: `Uri` lets other things pass.
fn checked_host(text: &str) -> Option<&str> {
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(inside) => inside.parse::<Ipv6Addr>().is_ok().then_some(inside),
        None => (text.parse::<Ipv4Addr>().is_ok() || HostName::parse(text).is_ok()).then_some(text),
    }
}

/// `:` and a port.
fn checked_port(text: &str) -> Option<u16> {
    let digits = text.strip_prefix(':').filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok().filter(|&port| port != 0)
}

/// What happens to the matched prefix of the path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathRewrite {
    /// It stays.
    Preserve,
    /// It is cut off (NetBird's default).
    #[default]
    Strip,
}

/// How requests go to a target (NetBird: `PathTargetOptions`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetOptions {
    /// Accept any certificate of the upstream.
    pub skip_tls_verify: bool,
    /// How long the upstream may take to be reached and to send the head of its answer.
    pub request_timeout: Option<Duration>,
    /// What happens to the matched prefix.
    pub path_rewrite: PathRewrite,
    /// Set on each request, after the client's were cleaned; names in the order sent, each once.
    pub custom_headers: Vec<(HeaderName, Secret)>,
    /// Dial over the host's network instead of the account's tunnel.
    pub direct_upstream: bool,
    /// Keep requests out of the access log.
    pub disable_access_log: bool,
    /// Things asked for that this version has no answer to. A mapping with any is refused, never served without them.
    pub needs: Needs,
}

/// What a target asks for beyond plain forwarding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// NetBird's `middlewares` or `agent_network`.
    pub middlewares: bool,
}

/// A session-signing public key: the 32 bytes of an Ed25519 key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey(pub [u8; 32]);

/// Who may enter a service (NetBird: `Authentication`, and `postern.v1` beside it).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// Verifies the sessions of this service; needed as soon as there is a scheme.
    pub session_key: Option<SessionKey>,
    /// How long a session lasts.
    pub max_session_age: Duration,
    /// A shared password.
    pub password: bool,
    /// A shared PIN.
    pub pin: bool,
    /// A login at an identity provider.
    pub oidc: bool,
    /// Any one of these lets in.
    pub headers: Vec<HeaderAuth>,
    /// What `postern.v1` says about openness: `None` from a stock server, where no scheme and not private means open;
    /// `Some(false)` never means open, whatever else is missing.
    pub deliberately_open: Option<bool>,
}

/// One accepted value of a header (NetBird: `HeaderAuth`). The value is verified by management.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderAuth {
    /// The header that carries the credential.
    pub name: HeaderName,
    /// Changes whenever the accepted value does; says nothing about it. Empty where management sends nothing.
    pub fingerprint: String,
    /// How to ask for it.
    pub challenge: Option<Challenge>,
}

/// How a missing credential is asked for (`postern.v1`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// `WWW-Authenticate: Basic realm="…"` (RFC 7617); the realm holds no quote, backslash or control character.
    Basic {
        /// What the browser shows.
        realm: String,
    },
}

/// From where a service may be reached (NetBird: `AccessRestrictions`). A CIDR that does not parse refuses the mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restrictions {
    /// If any is given, the source must be in one of them.
    pub allowed_cidrs: Vec<IpNet>,
    /// The source must be in none of them; wins over the allowed.
    pub blocked_cidrs: Vec<IpNet>,
    /// ISO country codes in capitals.
    pub allowed_countries: Vec<String>,
    /// ISO country codes in capitals.
    pub blocked_countries: Vec<String>,
    /// NetBird's `crowdsec_mode` is `enforce` or `observe`.
    pub crowdsec: bool,
}

/// The single-use token with which a proxy may register a tunnel peer for a mapping (NetBird: `auth_token`).
#[derive(Clone, Debug)]
pub struct OneTimeToken(pub Secret);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_scheme_host_port_path() {
        let target = Target::parse("http://Backend:8080/app?k=1").expect("parses");
        assert_eq!((&*target.host, target.port, &*target.path, &*target.query), ("backend", 8080, "/app", "k=1"));
        assert_eq!(target.authority(), "backend:8080");
        let shown = format!("{target:?}");
        assert!(shown.contains("/app") && !shown.contains("k=1"), "{shown}");
        let target = Target::parse("https://[fd00::1]").expect("parses");
        assert_eq!((&*target.host, target.port, &*target.path), ("fd00::1", 443, "/"));
        assert_eq!(target.to_string(), "https://[fd00::1]/");
    }

    #[test]
    fn what_is_no_upstream_is_refused() {
        for bad in [
            "",
            "backend:8080",
            "/x",
            "ftp://a/",
            "http://",
            "http://u:p@host/",
            "http://host:0/",
            "http://a b/",
            "http://host:99999/",
            "http://host:+80/",
            "http://host:/",
            "http://[::1]x/",
            "http://df[00::7]/",
            "http://[df00:x]/",
            "http://127.1/",
            "http://-host/",
        ] {
            assert!(Target::parse(bad).is_err(), "{bad:?}");
        }
    }
}
