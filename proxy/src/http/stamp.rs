//! The head of the request that goes to an upstream, and what is undone on its answer.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Uri, Version};
use postern_auth::cookie::strip_session_cookie;
use postern_model::{Mapping, PathMapping, Principal};

use crate::error::Result;
use crate::http::canonical::Request;
use crate::http::fields::{self, is_framing, same_folded};
use crate::http::forwarded::Hop;
use crate::http::path::Prefix;
use crate::http::rewrite::{Public, Rewrite};

const USER: HeaderName = HeaderName::from_static("x-netbird-user");
const GROUPS: HeaderName = HeaderName::from_static("x-netbird-groups");

/// A custom header whose value cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value of the custom header {0} has control characters in it")]
pub(crate) struct InvalidHeader(HeaderName);

/// Who asks, as NetBird's identity headers tell an upstream; absent where there is nothing that can be said in them.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    user: Option<HeaderValue>,
    groups: Option<HeaderValue>,
}

impl Identity {
    pub(crate) fn of(principal: &Principal) -> Self {
        let label = |group: &'_ postern_model::Group| {
            let label = if group.name.is_empty() { &group.id } else { &group.name };
            (!label.contains(',') && printable(label).is_some()).then(|| label.clone())
        };
        let labels: Vec<String> = principal.groups.iter().filter_map(label).collect();
        Self { user: principal.email.as_deref().and_then(printable), groups: printable(&labels.join(",")) }
    }

    fn stamp(&self, headers: &mut HeaderMap) {
        for (name, value) in [(USER, &self.user), (GROUPS, &self.groups)] {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
    }
}

/// What a route does to the heads of its requests and answers, prepared once.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    rewrite: Rewrite,
    /// What the upstream's Host says unless the client's is passed.
    host: HeaderValue,
    pass_host_header: bool,
    rewrite_redirects: bool,
    /// For the gate only.
    credentials: Vec<HeaderName>,
    custom: Vec<(HeaderName, HeaderValue)>,
}

impl Outbound {
    /// `path` is one of `mapping`'s, matched as `prefix`; `credentials` are the fields that the gate reads. Custom headers
    /// that would frame a message or that we set ourselves have no effect (NetBird).
    ///
    /// # Errors
    /// [`InvalidHeader`] for a custom header that cannot be sent.
    pub(crate) fn new(
        prefix: Prefix,
        mapping: &Mapping,
        path: &PathMapping,
        credentials: impl IntoIterator<Item = HeaderName>,
    ) -> Result<Self, InvalidHeader> {
        let mut custom = Vec::new();
        for (name, secret) in &path.options.custom_headers {
            let mut value = HeaderValue::from_str(secret.expose()).map_err(|_| InvalidHeader(name.clone()))?;
            value.set_sensitive(true);
            if !is_ours(name) {
                custom.push((name.clone(), value));
            }
        }
        let host = HeaderValue::try_from(path.target.authority()).expect("a target's host is visible ASCII");
        let rewrite = Rewrite { prefix, target: path.target.clone(), path: path.options.path_rewrite };
        Ok(Self {
            rewrite,
            host,
            pass_host_header: mapping.pass_host_header,
            rewrite_redirects: mapping.rewrite_redirects,
            credentials: credentials.into_iter().collect(),
            custom,
        })
    }

    /// The head to send for a request whose fields came as `sent`, in HTTP/1 form: the target is a path and query, the host
    /// stands in `Host`, a WebSocket is asked for with `Upgrade`. Later steps win over earlier ones, so that nothing of ours can be overridden: credentials go,
    /// custom headers come, then identity, forwarding fields and the session cookie, last the connection's own.
    ///
    /// # Errors
    /// [`BadRequest::Target`](crate::error::BadRequest::Target) where target and request make too long a path.
    pub(crate) fn head(
        &self,
        request: &Request,
        sent: HeaderMap,
        hop: &Hop<'_>,
        identity: Option<&Identity>,
    ) -> Result<http::Request<()>> {
        let target = self.rewrite.forth(&request.path, request.query.as_deref())?;
        let host = if self.pass_host_header { request.authority.clone() } else { self.host.clone() };
        let mut head = http::Request::new(());
        *head.method_mut() = request.method.clone();
        *head.version_mut() = Version::HTTP_11;
        *head.uri_mut() = uri(target);
        let forwarded = hop.forwarded(request, &sent);
        let mut headers = request.passing(sent);
        if !self.credentials.is_empty() || !self.custom.is_empty() {
            fields::remove(&mut headers, |name| self.reserves(name));
        }
        headers.extend(self.custom.iter().cloned());
        if let Some(identity) = identity {
            identity.stamp(&mut headers);
        }
        forwarded.stamp(&mut headers);
        strip_session_cookie(&mut headers);
        headers.insert(header::HOST, host);
        stamp_connection(request, &mut headers);
        *head.headers_mut() = headers;
        Ok(head)
    }

    /// Removes from a request's trailers whatever an upstream could take for ours.
    pub(crate) fn clean_trailers(&self, trailers: &mut HeaderMap) {
        fields::clean_trailers(trailers, |name| self.reserves(name));
    }

    /// Removes from an answer what concerned the upstream's connection, and makes its `Location` public.
    pub(crate) fn rewrite_back(&self, headers: &mut HeaderMap, public: &Public) {
        fields::clean_response(headers);
        if !self.rewrite_redirects {
            return;
        }
        if let Some(location) = headers.get(header::LOCATION)
            && let Some(location) = self.rewrite.back(location, public)
        {
            headers.insert(header::LOCATION, location);
        }
    }

    /// Whether the client may not send it: a credential or a custom header, in any spelling.
    fn reserves(&self, name: &HeaderName) -> bool {
        let mut reserved = self.credentials.iter().chain(self.custom.iter().map(|(name, _)| name));
        reserved.any(|reserved| same_folded(name.as_str(), reserved.as_str()))
    }
}

/// Set or framed by us whatever a mapping says.
fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str();
    let framing = is_framing(name) || same_folded(name, "trailer") || name == "expect" || name == "cookie";
    framing || same_folded(name, USER.as_str()) || same_folded(name, GROUPS.as_str())
}

fn uri(target: PathAndQuery) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(target);
    Uri::from_parts(parts).expect("a path alone is a URI")
}

/// A value of tabs and visible ASCII, spaces included; nothing else, and nothing empty.
fn printable(text: &str) -> Option<HeaderValue> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte == b'\t' || (0x20..0x7f).contains(&byte));
    plain.then(|| HeaderValue::from_str(text).ok()).flatten()
}

fn stamp_connection(request: &Request, headers: &mut HeaderMap) {
    if request.accepts_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if request.upgrade.is_some() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::canonical::{Upgrade, canonical};
    use crate::http::forwarded::Peer;
    use postern_model::{
        AccountId, Authentication, Group, HostName, Mode, Restrictions, Scheme, Secret, ServiceId, Target,
        TargetOptions,
    };
    use std::time::Duration;

    fn mapping(custom: &[(&str, &str)]) -> Mapping {
        let custom_headers = custom
            .iter()
            .map(|(name, value)| (HeaderName::try_from(*name).expect(name), Secret::from(*value)))
            .collect();
        Mapping {
            id: ServiceId::parse("s").expect("id"),
            account: AccountId::parse("a").expect("id"),
            host: HostName::parse("app.example").expect("host"),
            mode: Mode::Http,
            listen_port: 0,
            paths: vec![PathMapping {
                path: "/api".to_owned(),
                target: Target::parse("http://backend:8080/base?key=1").expect("target"),
                options: TargetOptions { custom_headers, ..TargetOptions::default() },
            }],
            authentication: Authentication {
                session_key: None,
                max_session_age: Duration::ZERO,
                password: false,
                pin: false,
                oidc: false,
                headers: Vec::new(),
                deliberately_open: Some(true),
            },
            private: false,
            pass_host_header: false,
            rewrite_redirects: true,
            restrictions: Restrictions::default(),
        }
    }

    fn outbound(mapping: &Mapping, credentials: &[&'static str]) -> Outbound {
        let credentials = credentials.iter().map(|name| HeaderName::from_static(name));
        Outbound::new(Prefix::parse("/api").expect("prefix"), mapping, &mapping.paths[0], credentials).expect("headers")
    }

    fn request(fields: &[(&str, &str)]) -> (Request, HeaderMap) {
        let mut builder = http::Request::get("/api/x%2Fy?q=1").header("host", "App.Example:8443");
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        let parts = builder.body(()).expect("request").into_parts().0;
        (canonical(&parts, None, None).expect("canonical"), parts.headers)
    }

    fn head(outbound: &Outbound, fields: &[(&str, &str)], principal: Option<&Principal>) -> http::Request<()> {
        let (request, sent) = request(fields);
        let peer = Peer::new("203.0.113.7".parse().expect("ip"));
        let hop = Hop::new(&[], &peer, Scheme::Https, &sent);
        outbound.head(&request, sent, &hop, principal.map(Identity::of).as_ref()).expect("head")
    }

    fn principal(email: &str, groups: &[(&str, &str)]) -> Principal {
        let group = |(id, name): &(&str, &str)| Group { id: (*id).to_owned(), name: (*name).to_owned() };
        Principal {
            subject: "s".to_owned(),
            email: Some(email.to_owned()),
            groups: groups.iter().map(group).collect(),
            method: "header".to_owned(),
        }
    }

    fn field<'a>(head: &'a http::Request<()>, name: &str) -> Vec<&'a str> {
        head.headers().get_all(name).iter().map(|value| value.to_str().expect("ASCII")).collect()
    }

    #[test]
    fn a_whole_head() {
        let head =
            head(&outbound(&mapping(&[]), &[]), &[("accept", "x"), ("te", "trailers"), ("connection", "te")], None);
        assert_eq!((head.method(), head.uri().to_string().as_str()), (&http::Method::GET, "/base/x%2Fy?key=1&q=1"));
        let mut fields: Vec<_> =
            head.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().expect("ASCII"))).collect();
        fields.sort_unstable();
        assert_eq!(
            fields,
            [
                ("accept", "x"),
                ("host", "backend:8080"),
                ("te", "trailers"),
                ("x-forwarded-for", "203.0.113.7"),
                ("x-forwarded-host", "app.example:8443"),
                ("x-forwarded-port", "8443"),
                ("x-forwarded-proto", "https"),
                ("x-real-ip", "203.0.113.7"),
            ]
        );
        let mut passing = mapping(&[]);
        passing.pass_host_header = true;
        assert_eq!(field(&self::head(&outbound(&passing, &[]), &[], None), "host"), ["app.example:8443"]);
    }

    #[test]
    fn identity() {
        let identity = |principal: Option<&Principal>| {
            let lies = [("X-NetBird-User", "root"), ("x_netbird_groups", "admin"), ("connection", "x-netbird-user")];
            let head = head(&outbound(&mapping(&[]), &[]), &lies, principal);
            assert!(!head.headers().contains_key("x_netbird_groups"));
            let one = |name| field(&head, name).first().map(|value| (*value).to_owned());
            (one("x-netbird-user"), one("x-netbird-groups"))
        };
        let says = |user: &str, groups: &str| {
            let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            (some(user), some(groups))
        };
        let of = |email, groups: &[(&str, &str)]| identity(Some(&principal(email, groups)));
        assert_eq!(identity(None), says("", ""));
        assert_eq!(of("alice@x", &[("a", "eng"), ("b", "ops")]), says("alice@x", "eng,ops"));
        assert_eq!(of("alice@x", &[("a", "alpha"), ("b", ""), ("c", "")]), says("alice@x", "alpha,b,c"));
        assert_eq!(of("alice@x", &[("a", "eng"), ("b", "EU, EMEA"), ("c", "ops")]), says("alice@x", "eng,ops"));
        assert_eq!(of("alice\r\nX-Evil: 1", &[("a", "eng")]), says("", "eng"));
        assert_eq!(of("\u{e4}lice@x", &[]), says("", ""));
        assert_eq!(of("", &[("", ""), ("a,b", ""), ("c", "\u{e4}")]), says("", ""));
        let mut nobody = principal("x", &[]);
        nobody.email = None;
        assert_eq!(identity(Some(&nobody)), says("", ""));
    }

    #[test]
    fn credentials_are_for_the_gate_and_cookies_for_the_upstream() {
        let fields = [
            ("authorization", "Basic x"),
            ("X-Api-Key", "k"),
            ("x_api_key", "k"),
            ("cookie", "a=\"1\"; nb_session=secret"),
            ("cookie", "b=2"),
        ];
        let guarded = head(&outbound(&mapping(&[]), &["authorization", "x-api-key"]), &fields, None);
        assert!(["authorization", "x-api-key", "x_api_key"].iter().all(|name| !guarded.headers().contains_key(*name)));
        assert_eq!(field(&guarded, "cookie"), ["a=\"1\"; b=2"]);
        let open = head(&outbound(&mapping(&[]), &[]), &fields, None);
        assert_eq!((field(&open, "authorization"), field(&open, "x_api_key")), (vec!["Basic x"], vec!["k"]));
        let alone = head(&outbound(&mapping(&[]), &[]), &[("cookie", "nb_session=secret")], None);
        assert!(!alone.headers().contains_key("cookie"));
    }

    #[test]
    fn custom_headers_win_over_the_client_and_lose_against_us() {
        let custom = [
            ("X-Token", "ours"),
            ("Authorization", "Bearer ours"),
            ("X-NetBird-User", "mallory"),
            ("X-Forwarded-For", "1.2.3.4"),
            ("Host", "evil"),
            ("Cookie", "a=1"),
            ("Transfer-Encoding", "chunked"),
            ("Content-Length", "7"),
            ("Connection", "close"),
            ("Remote-User", "service"),
        ];
        let fields = [("X_Token", "theirs"), ("x-token", "theirs"), ("remote-user", "theirs")];
        let outbound = outbound(&mapping(&custom), &["authorization"]);
        let head = head(&outbound, &fields, None);
        assert_eq!(field(&head, "x-token"), ["ours"]);
        assert_eq!(field(&head, "authorization"), ["Bearer ours"]);
        assert_eq!(field(&head, "remote-user"), ["service"]);
        assert_eq!(field(&head, "x-forwarded-for"), ["203.0.113.7"]);
        assert_eq!(field(&head, "host"), ["backend:8080"]);
        for name in ["x_token", "x-netbird-user", "cookie", "transfer-encoding", "content-length", "connection"] {
            assert!(!head.headers().contains_key(name), "{name}");
        }
        let printed = format!("{outbound:?}");
        assert!(!printed.contains("ours"), "{printed}");
        let mut trailers = HeaderMap::new();
        trailers.insert("x_token", HeaderValue::from_static("theirs"));
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        outbound.clean_trailers(&mut trailers);
        assert_eq!(trailers.len(), 1);
    }

    #[test]
    fn a_custom_header_must_be_one_line() {
        let mapping = mapping(&[("x-token", "a\r\nb: c")]);
        let error =
            Outbound::new(Prefix::parse("/").expect("root"), &mapping, &mapping.paths[0], []).expect_err("CR LF");
        assert!(error.to_string().contains("x-token") && !error.to_string().contains("b: c"));
    }

    #[test]
    fn a_websocket_is_asked_for_as_in_http_1() {
        let outbound = outbound(&mapping(&[]), &[]);
        let fields = [("connection", "Upgrade, X-NetBird-User"), ("upgrade", "WebSocket"), ("sec-websocket-key", "k")];
        let head1 = head(&outbound, &fields, Some(&principal("alice@x", &[])));
        assert_eq!((field(&head1, "connection"), field(&head1, "upgrade")), (vec!["Upgrade"], vec!["websocket"]));
        assert_eq!((field(&head1, "sec-websocket-key"), field(&head1, "x-netbird-user")), (vec!["k"], vec!["alice@x"]));
        let (mut request, sent) = request(&[]);
        request.upgrade = Some(Upgrade::Http2);
        let peer = Peer::new("203.0.113.7".parse().expect("ip"));
        let hop = Hop::new(&[], &peer, Scheme::Https, &sent);
        assert_eq!(field(&outbound.head(&request, sent, &hop, None).expect("head"), "upgrade"), ["websocket"]);
        assert!(
            !head(&outbound, &[("upgrade", "h2c"), ("connection", "upgrade")], None).headers().contains_key("upgrade")
        );
    }

    #[test]
    fn answers_come_back_public() {
        let (request, _) = request(&[]);
        let public = Public::of(&request, Scheme::Https);
        let answer = |rewrite_redirects| {
            let mut mapping = mapping(&[]);
            mapping.rewrite_redirects = rewrite_redirects;
            let mut headers = HeaderMap::new();
            headers.insert("location", HeaderValue::from_static("http://backend:8080/base/login"));
            headers.insert("connection", HeaderValue::from_static("close"));
            outbound(&mapping, &[]).rewrite_back(&mut headers, &public);
            assert_eq!(headers.len(), 1);
            headers["location"].clone()
        };
        assert_eq!(answer(true), "https://app.example:8443/api/login");
        assert_eq!(answer(false), "http://backend:8080/base/login");
    }
}
