//! Which header fields pass, and which only we may write.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Fields by which upstreams learn from a proxy who is asking and what for. Whatever a client sends under such a name,
/// or under one that some server folds to it, is removed from headers and trailers, whether or not we set one.
const MANAGED: [&str; 23] = [
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "client-cert",
    "client-cert-chain",
    "client-ip",
    "fastly-client-ip",
    "forwarded",
    // CGI turns it into HTTP_PROXY, which many programs take for their own proxy.
    "proxy",
    "true-client-ip",
    "x-client-cert",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-goog-iap-jwt-assertion",
    "x-original-for",
    "x-original-forwarded-for",
    "x-original-host",
    "x-original-method",
    "x-original-proto",
    "x-original-remote-addr",
    "x-original-uri",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
];

/// The same, for all names that begin so.
const MANAGED_FAMILIES: [&str; 19] = [
    "cf-access-",
    "remote-",
    "ssl-client-",
    "tailscale-",
    "x-amzn-oidc-",
    "x-auth-request-",
    "x-authelia-",
    "x-authenticated-",
    "x-authentik-",
    "x-forwarded-",
    "x-goog-authenticated-user-",
    "x-ms-client-principal",
    "x-netbird-",
    "x-pomerium-",
    "x-remote-",
    "x-ssl-client-",
    "x-tailscale-",
    "x-vouch-",
    "x-webauth-",
];

/// What concerns one connection only (RFC 9110 §7.6.1). `Trailer` is not among them: trailers pass.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// What may not come after the content (RFC 9110 §6.5.1): framing, routing, credentials, and the form of the content.
const NOT_IN_TRAILERS: [&str; 15] = [
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "host",
    "max-forwards",
    "range",
    "set-cookie",
    "trailer",
    "www-authenticate",
    "x-http-method-override",
];

/// Whether two names are one to some server: CGI, WSGI and PHP see no difference between letter cases, nor between `-`,
/// `_`, `.` and other punctuation.
pub(crate) fn same_folded(one: &str, other: &str) -> bool {
    one.len() == other.len() && begins_folded(one, other)
}

/// The lengths of names, a bit for each.
const fn lengths(names: &[&str]) -> u64 {
    let (mut lengths, mut at) = (0, 0);
    while at < names.len() {
        lengths |= 1 << names[at].len();
        at += 1;
    }
    lengths
}

/// Spares most names the walk through a list: each is looked at for every request.
fn is_as_long_as_one_of(name: &str, lengths: u64) -> bool {
    name.len() < 64 && lengths >> name.len() & 1 == 1
}

/// The same for what begins a name.
fn begins_as_one_of(name: &str, letters: &[u8]) -> bool {
    name.bytes().next().is_some_and(|first| letters.contains(&folded(first)))
}

fn begins_folded(name: &str, beginning: &str) -> bool {
    name.len() >= beginning.len()
        && name.bytes().zip(beginning.bytes()).all(|(one, other)| folded(one) == folded(other))
}

fn folded(byte: u8) -> u8 {
    FOLDED[usize::from(byte)]
}

/// What each byte is folded to: letters to small ones, punctuation to `-`.
static FOLDED: [u8; 256] = {
    let (mut folded, mut byte) = ([b'-'; 256], 0_u8);
    while byte < 128 {
        if byte.is_ascii_alphanumeric() {
            folded[byte as usize] = byte.to_ascii_lowercase();
        }
        byte += 1;
    }
    folded
};

/// Whether only we may write it.
pub(crate) fn is_managed(name: &str) -> bool {
    begins_as_one_of(name, b"cfprstx")
        && (MANAGED.iter().any(|managed| same_folded(name, managed))
            || MANAGED_FAMILIES.iter().any(|family| begins_folded(name, family)))
}

/// Whether it belongs to one connection, or is how some server would spell such a field.
fn is_hop_by_hop(name: &str) -> bool {
    const LENGTHS: u64 = lengths(&HOP_BY_HOP);
    is_as_long_as_one_of(name, LENGTHS) && HOP_BY_HOP.iter().any(|hop| same_folded(name, hop))
}

/// Whether it frames a message or names its host, which our HTTP client writes, or folds to such a field.
pub(crate) fn is_framing(name: &str) -> bool {
    is_hop_by_hop(name) || same_folded(name, "content-length") || name == "host"
}

/// Leaves of a request's fields those that may go to an upstream as they came, and `Host`, which is written anew. Removed are
/// those of the connection, whatever the client declares to be of the connection (`Connection: Cookie` keeps a cookie from
/// the upstream, never from the gate, which has read what was sent), and the managed ones. Several `Cookie` fields, as
/// HTTP/2 sends them, become one.
pub(crate) fn clean_request(headers: &mut HeaderMap) {
    let listed = listed(headers);
    let passes =
        |name: &HeaderName| name == header::HOST || name == header::CONTENT_LENGTH || !is_framing(name.as_str());
    let unwanted = names(headers, |name| !passes(name) || is_listed(&listed, name) || is_managed(name.as_str()));
    remove_names(headers, unwanted);
    join_cookies(headers);
    filter_announcements(headers);
}

/// Removes from an upstream's answer what concerned its connection only.
pub(crate) fn clean_response(headers: &mut HeaderMap) {
    let listed = listed(headers);
    let unwanted = names(headers, |name| is_hop_by_hop(name.as_str()) || is_listed(&listed, name));
    remove_names(headers, unwanted);
}

/// Removes from a request's trailers all that servers which merge them into the headers could mistake for ours, and
/// what `reserved` points out.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap, reserved: impl Fn(&HeaderName) -> bool) {
    remove(trailers, |name| is_managed(name.as_str()) || is_no_trailer(name.as_str()) || reserved(name));
}

/// Removes from an answer's trailers what may not stand there.
pub(crate) fn clean_response_trailers(trailers: &mut HeaderMap) {
    remove(trailers, |name| is_no_trailer(name.as_str()));
}

fn is_no_trailer(name: &str) -> bool {
    is_hop_by_hop(name) || NOT_IN_TRAILERS.iter().any(|not| same_folded(name, not))
}

/// Removes the fields that `unwanted` points out.
pub(crate) fn remove(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let unwanted = names(headers, unwanted);
    remove_names(headers, unwanted);
}

fn names(headers: &HeaderMap, wanted: impl Fn(&HeaderName) -> bool) -> Vec<HeaderName> {
    headers.keys().filter(|&name| wanted(name)).cloned().collect()
}

fn remove_names(headers: &mut HeaderMap, names: Vec<HeaderName>) {
    for name in names {
        headers.remove(name);
    }
}

/// The members of a comma-separated list over all fields of that name (RFC 9110 §5.6.1), without those that are empty or
/// not ASCII: one of them does not hide the others.
pub(crate) fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> + use<'a> {
    let lists = headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
    let members = lists.flat_map(|list| list.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    members.filter(|member| !member.is_empty() && member.is_ascii()).filter_map(|member| str::from_utf8(member).ok())
}

/// What `Connection` declares to be of the connection beside what always is; usually nothing.
fn listed(headers: &HeaderMap) -> Vec<&str> {
    let lists_itself = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"keep-alive");
    if headers.get_all(header::CONNECTION).iter().all(lists_itself) {
        return Vec::new();
    }
    tokens(headers, &header::CONNECTION).filter(|token| !is_hop_by_hop(token)).collect()
}

fn is_listed(listed: &[&str], name: &HeaderName) -> bool {
    listed.iter().any(|token| token.eq_ignore_ascii_case(name.as_str()))
}

/// RFC 9113 §8.2.3: `; ` between the pieces, before anybody reads them.
fn join_cookies(fields: &mut HeaderMap) {
    if fields.get_all(header::COOKIE).into_iter().nth(1).is_none() {
        return;
    }
    let pieces: Vec<&[u8]> = fields.get_all(header::COOKIE).into_iter().map(HeaderValue::as_bytes).collect();
    let joined = HeaderValue::from_bytes(&pieces.join(&b"; "[..])).expect("pieces of values make a value");
    fields.insert(header::COOKIE, joined);
}

/// Announces no trailer that would be removed.
fn filter_announcements(fields: &mut HeaderMap) {
    if !fields.contains_key(header::TRAILER) {
        return;
    }
    let passes = |name: &&str| !is_managed(name) && !is_no_trailer(name);
    let announced = tokens(fields, &header::TRAILER).filter(passes).collect::<Vec<_>>().join(", ");
    match HeaderValue::try_from(announced) {
        Ok(announced) if !announced.is_empty() => drop(fields.insert(header::TRAILER, announced)),
        Ok(_) | Err(_) => drop(fields.remove(header::TRAILER)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::try_from(*name).expect(name), HeaderValue::from_str(value).expect(value));
        }
        map
    }

    fn for_upstream(sent: &HeaderMap) -> HeaderMap {
        let mut headers = sent.clone();
        clean_request(&mut headers);
        headers
    }

    fn names(map: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn first_letters_are_those_of_the_lists() {
        let first = |name: &&str| folded(name.as_bytes()[0]);
        assert!(MANAGED.iter().chain(&MANAGED_FAMILIES).all(|name| b"cfprstx".contains(&first(name))));
    }

    #[test]
    fn managed_names_and_whatever_folds_to_them_are_removed() {
        for name in [
            "X-NetBird-User",
            "x_netbird_user",
            "X.NetBird.User",
            "X-NetBird_Groups",
            "x!netbird~anything",
            "X-Forwarded-For",
            "X_Forwarded_Proto",
            "X-Forwarded-User",
            "Forwarded",
            "X-Real-IP",
            "x_real-ip",
            "True-Client-IP",
            "Remote-User",
            "Remote_Groups",
            "X-Remote-User",
            "Cf-Access-Jwt-Assertion",
            "Cf_Access_Authenticated_User_Email",
            "X-Auth-Request-Email",
            "Tailscale-User-Login",
            "X-authentik-username",
            "X-Original-URL",
            "X_Rewrite_Url",
            "X-Pomerium-Claim-Email",
            "Proxy",
        ] {
            assert!(is_managed(name), "{name}");
            assert_eq!(names(&for_upstream(&map(&[(name, "x"), ("accept", "y")]))), ["accept"], "{name}");
            let mut trailers = map(&[(name, "x"), ("grpc-status", "0")]);
            clean_trailers(&mut trailers, |_| false);
            assert_eq!(names(&trailers), ["grpc-status"], "{name}");
        }
        for name in
            ["X-NetBirds", "X-Forwarded", "Forwarded-By", "X-Request-ID", "Authorization", "api_key", "X-Real-IPs"]
        {
            assert!(!is_managed(name), "{name}");
            assert_eq!(for_upstream(&map(&[(name, "x")])).len(), 1, "{name}");
        }
    }

    #[test]
    fn what_belongs_to_the_connection_stays_there() {
        let fields = for_upstream(&map(&[
            ("connection", "close, X-Secret,,Cookie"),
            ("connection", "X-Other"),
            ("proxy-connection", "keep-alive"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("transfer_encoding", "chunked"),
            ("content_length", "7"),
            ("content-length", "3"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("host", "a.example"),
            ("x-secret", "1"),
            ("x-other", "2"),
            ("x-kept", "3"),
            ("cookie", "a=1"),
            ("authorization", "Bearer x"),
        ]));
        assert_eq!(names(&fields), ["authorization", "content-length", "host", "x-kept"]);
    }

    #[test]
    fn values_and_their_order_stay_byte_for_byte() {
        let mut sent = map(&[("x-a", "1"), ("x-b", "q"), ("x-a", " 2,  \"3\"")]);
        sent.append("x-b", HeaderValue::from_bytes(b"\xff\xfe").expect("obs-text"));
        assert_eq!(for_upstream(&sent), sent);
    }

    #[test]
    fn split_cookies_become_one() {
        let fields = for_upstream(&map(&[("cookie", "a=1"), ("cookie", "b=\"2\""), ("cookie", "c")]));
        assert_eq!(fields.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=\"2\"; c"]);
        let fields = for_upstream(&map(&[("cookie", "a=1;b=2")]));
        assert_eq!(fields.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1;b=2"]);
    }

    #[test]
    fn only_trailers_that_pass_are_announced() {
        let fields = for_upstream(&map(&[("trailer", "X-Sum, X_NetBird_User"), ("trailer", "Content-Length,x-b")]));
        assert_eq!(fields["trailer"], "X-Sum, x-b");
        assert!(!for_upstream(&map(&[("trailer", "Host")])).contains_key("trailer"));
    }

    #[test]
    fn trailers_carry_neither_credentials_nor_reserved_names() {
        let mut trailers = map(&[("authorization", "x"), ("X_Api_Key", "x"), ("te", "x"), ("x-sum", "1")]);
        clean_trailers(&mut trailers, |name| same_folded(name.as_str(), "x-api-key"));
        assert_eq!(names(&trailers), ["x-sum"]);
        let mut trailers = map(&[("set-cookie", "x"), ("content-length", "9"), ("grpc-message", "ok")]);
        clean_response_trailers(&mut trailers);
        assert_eq!(names(&trailers), ["grpc-message"]);
    }

    #[test]
    fn an_answer_loses_its_connection_fields_only() {
        let mut headers = map(&[
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("trailer", "x-sum"),
            ("content-length", "3"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
        ]);
        clean_response(&mut headers);
        assert_eq!(names(&headers), ["content-length", "set-cookie", "trailer"]);
        assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
    }

    proptest! {
        /// Against folding as a text operation.
        #[test]
        fn folding_is_lower_case_with_hyphens(one in "[a-bA-B0_.~-]{0,4}", other in "[a-bA-B0_.~-]{0,4}") {
            let model = |name: &str| name.to_lowercase().replace(['_', '.', '~'], "-");
            prop_assert_eq!(same_folded(&one, &other), model(&one) == model(&other));
            prop_assert_eq!(begins_folded(&one, &other), model(&one).starts_with(&model(&other)));
        }

        #[test]
        fn nothing_that_passes_folds_to_a_managed_name(
            name in prop::sample::select(vec!["x-netbird-user", "forwarded", "x-real-ip", "remote-user", "transfer-encoding"]),
            marks in prop::collection::vec(prop::sample::select(vec!["-", "_", ".", "~", "!"]), 3),
        ) {
            let mut marks = marks.iter();
            let spelled: String = name.split('-').map(str::to_owned).reduce(|name, part| {
                format!("{name}{}{part}", marks.next().copied().unwrap_or("-"))
            }).unwrap_or_default();
            prop_assert!(for_upstream(&map(&[(&spelled, "x")])).is_empty());
        }
    }
}
