//! The session cookie: made, found, and kept from upstreams.

use std::time::Duration;

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use postern_model::Secret;

/// NetBird's name for it.
pub const SESSION_COOKIE: &str = "nb_session";

/// The longest token that is looked at, in bytes. Browsers keep cookies of half that size.
pub(crate) const LONGEST_TOKEN: usize = 8 * 1024;

/// A sibling host may have set cookies of our name for the whole domain, and they may come first: so many are tried.
const MOST_TOKENS: usize = 4;

/// The `Set-Cookie` that gives a session to a browser, for this host only. `None` if the token is not a JWT in form,
/// which would let it write attributes of its own.
#[must_use]
pub fn set_cookie(token: &Secret, max_age: Duration) -> Option<HeaderValue> {
    if !looks_like_token(token.expose().as_bytes()) {
        return None;
    }
    let (token, max_age) = (token.expose(), max_age.as_secs());
    let text = format!("{SESSION_COOKIE}={token}; Path=/; Max-Age={max_age}; HttpOnly; Secure; SameSite=Lax");
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The values of the session cookies in a request that may be tokens, in order, four at most.
pub fn session_tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b';'))
        .filter_map(session_value)
        .filter(|value| looks_like_token(value))
        .filter_map(|value| str::from_utf8(value).ok())
        .take(MOST_TOKENS)
}

/// Removes every session cookie from a request. Other cookies stay as they are, byte for byte and in order; the several
/// `Cookie` fields that HTTP/2 allows become the one that HTTP/1 allows (RFC 9113 section 8.2.3).
pub fn strip_session_cookie(headers: &mut HeaderMap) {
    let mut fields = headers.get_all(COOKIE).iter();
    let (first, more) = (fields.next(), fields.next().is_some());
    let Some(first) = first else { return };
    if !more && !first.as_bytes().split(|&byte| byte == b';').any(is_session) {
        return;
    }
    let kept: Vec<Vec<u8>> = headers
        .get_all(COOKIE)
        .iter()
        .map(|value| without_session(value.as_bytes()))
        .filter(|field| !field.is_empty())
        .collect();
    let joined = kept.join(&b"; "[..]);
    match HeaderValue::from_bytes(&joined) {
        Ok(value) if !joined.is_empty() => {
            headers.insert(COOKIE, value);
        }
        Ok(_) | Err(_) => {
            headers.remove(COOKIE);
        }
    }
}

fn without_session(field: &[u8]) -> Vec<u8> {
    let pairs: Vec<&[u8]> = field.split(|&byte| byte == b';').collect();
    if !pairs.iter().any(|pair| is_session(pair)) {
        return field.to_vec();
    }
    let begins_with_session = is_session(pairs[0]);
    let kept: Vec<&[u8]> = pairs.into_iter().filter(|pair| !is_session(pair)).collect();
    let joined = kept.join(&b';');
    if begins_with_session { joined.trim_ascii_start().to_vec() } else { joined }
}

fn is_session(pair: &[u8]) -> bool {
    let name = pair.split(|&byte| byte == b'=').next().unwrap_or(pair);
    name.trim_ascii() == SESSION_COOKIE.as_bytes()
}

fn session_value(pair: &[u8]) -> Option<&[u8]> {
    let equals = pair.iter().position(|&byte| byte == b'=')?;
    is_session(pair).then(|| pair[equals + 1..].trim_ascii())
}

/// Three parts of base64url with dots between, neither absurdly long.
pub(crate) fn looks_like_token(text: &[u8]) -> bool {
    let in_alphabet = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.len() <= LONGEST_TOKEN
        && text.iter().all(in_alphabet)
        && text.split(|&byte| byte == b'.').filter(|part| !part.is_empty()).count() == 3
        && text.iter().filter(|&&byte| byte == b'.').count() == 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(fields: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(COOKIE, HeaderValue::from_str(field).expect("a header value"));
        }
        headers
    }

    fn stripped(fields: &[&str]) -> Option<String> {
        let mut headers = headers(fields);
        strip_session_cookie(&mut headers);
        assert!(headers.get_all(COOKIE).iter().count() <= 1);
        headers.get(COOKIE).map(|value| value.to_str().expect("text").to_owned())
    }

    #[test]
    fn the_cookie_has_the_attributes_of_the_contract() {
        let value = set_cookie(&Secret::from("a.b.c"), Duration::from_secs(86_400)).expect("a token");
        assert_eq!(
            value.to_str().expect("text"),
            "nb_session=a.b.c; Path=/; Max-Age=86400; HttpOnly; Secure; SameSite=Lax"
        );
        assert!(value.is_sensitive());
        for bad in ["", "a.b", "a.b.c; Domain=example.com", "a.b.c\r\nX: y", "a..c", "a.b.c.d", "a.b.\"c\""] {
            assert_eq!(set_cookie(&Secret::from(bad), Duration::ZERO), None, "{bad:?}");
        }
    }

    #[test]
    fn only_our_cookie_is_removed() {
        let cases: &[(&[&str], Option<&str>)] = &[
            (&[], None),
            (&["nb_session=a.b.c"], None),
            (&["nb_session"], None),
            (&["nb_session=a.b.c;"], None),
            (&["nb_session=a; nb_session=b"], None),
            (&["a=1; nb_session=x; b=2"], Some("a=1; b=2")),
            (&["nb_session=x; a=1"], Some("a=1")),
            (&["a=1; nb_session=x"], Some("a=1")),
            (&["a=1;nb_session=x;b=2"], Some("a=1;b=2")),
            (
                &["a=1; NB_SESSION=x; xnb_session=1; nb_session2=2"],
                Some("a=1; NB_SESSION=x; xnb_session=1; nb_session2=2"),
            ),
            (&["a=\"q uoted, \"; =nameless;; ;x==; nb_session = t"], Some("a=\"q uoted, \"; =nameless;; ;x==")),
            (&["b=nb_session=1"], Some("b=nb_session=1")),
            (&["a=1", "nb_session=x", "b=2"], Some("a=1; b=2")),
            (&["a=1", "b=2"], Some("a=1; b=2")),
            (&["nb_session=x", "nb_session=y"], None),
        ];
        for (fields, expected) in cases {
            assert_eq!(stripped(fields).as_deref(), *expected, "{fields:?}");
        }
    }

    #[test]
    fn tokens_are_found_in_order_and_bounded() {
        let map = headers(&["nb_session=x; a=1; nb_session=a.b.c", "nb_session= d.e.f ;b=2"]);
        assert_eq!(session_tokens(&map).collect::<Vec<_>>(), ["a.b.c", "d.e.f"]);
        let flood = "nb_session=a.b.c; ".repeat(100);
        assert_eq!(session_tokens(&headers(&[&flood])).count(), MOST_TOKENS);
        let huge = format!("nb_session=a.b.{}", "c".repeat(LONGEST_TOKEN));
        assert_eq!(session_tokens(&headers(&[&huge])).count(), 0);
    }

    proptest! {
        #[test]
        fn stripping_leaves_the_others_as_they_were(
            pairs in proptest::collection::vec(("[a-z]{1,3}|nb_session", "[ -:<-~]{0,6}"), 1..8),
            several_fields: bool,
        ) {
            let texts: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", value.trim())).collect();
            let fields = if several_fields { texts.clone() } else { vec![texts.join("; ")] };
            let others: Vec<&str> =
                texts.iter().map(String::as_str).filter(|text| !text.starts_with("nb_session=")).collect();
            let expected = (!others.is_empty()).then(|| others.join("; "));
            prop_assert_eq!(stripped(&fields.iter().map(String::as_str).collect::<Vec<_>>()), expected);
        }
    }
}
