//! `Authorization: Basic` (RFC 7617), read and written.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderValue;
use postern_model::Secret;

/// Clients differ about the final `=`.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The longest value that is read, in bytes.
const LONGEST: usize = 8 * 1024;

/// A user name and a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Basic {
    /// Without a colon; may be empty.
    pub user: String,
    /// May hold colons.
    pub password: Secret,
}

/// Reads the value of an `Authorization` header. `None` for another scheme, bad base64, what is not UTF-8, control
/// characters (which RFC 7617 forbids) and more than 8 KiB.
#[must_use]
pub fn parse(value: &HeaderValue) -> Option<Basic> {
    let text = value.to_str().ok().filter(|text| text.len() <= LONGEST)?;
    let (scheme, token) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64.decode(token.trim_matches(' ')).ok()?;
    let pair = Secret::new(String::from_utf8(decoded).ok()?);
    let (user, password) = pair.expose().split_once(':')?;
    if pair.expose().chars().any(char::is_control) {
        return None;
    }
    Some(Basic { user: user.to_owned(), password: Secret::from(password) })
}

/// Writes what [`parse`] reads. `None` if the user name holds a colon, or either a control character.
#[must_use]
pub fn build(user: &str, password: &Secret) -> Option<HeaderValue> {
    if user.contains(':') || user.chars().chain(password.expose().chars()).any(char::is_control) {
        return None;
    }
    let pair = Secret::new(format!("{user}:{}", password.expose()));
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64.encode(pair.expose()))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Option<(String, String)> {
        let basic = parse(&HeaderValue::from_str(text).expect("a header value"))?;
        Some((basic.user, basic.password.expose().to_owned()))
    }

    #[test]
    fn the_examples_of_rfc_7617_are_read() {
        let aladdin = Some(("Aladdin".to_owned(), "open sesame".to_owned()));
        assert_eq!(read("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), aladdin);
        assert_eq!(read("bAsIc   QWxhZGRpbjpvcGVuIHNlc2FtZQ"), aladdin);
        assert_eq!(read("Basic dGVzdDoxMjPCow=="), Some(("test".to_owned(), "123£".to_owned())));
        assert_eq!(read("Basic YTpiOmM="), Some(("a".to_owned(), "b:c".to_owned())));
        assert_eq!(read("Basic Og=="), Some((String::new(), String::new())));
    }

    #[test]
    fn everything_else_is_refused() {
        for bad in [
            "",
            "Basic",
            "Basic ",
            "Bearer QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            "BasicQWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            "Basic QWxhZGRpbg==",
            "Basic QWxh ZGRpbjpv",
            "Basic ****",
            "Basic gIA6gIA=",
            "Basic YToAYg==",
            "Basic YQo6Yg==",
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
        assert_eq!(read(&format!("Basic {}", "YTph".repeat(4096))), None);
        assert_eq!(build("a:b", &Secret::from("c")), None);
        assert_eq!(build("a", &Secret::from("c\n")), None);
    }

    proptest! {
        #[test]
        fn what_is_built_is_read(user in "[^:\\p{Cc}]{0,20}", password in "[^\\p{Cc}]{0,20}") {
            let value = build(&user, &Secret::from(password.as_str())).expect("builds");
            prop_assert_eq!(parse(&value), Some(Basic { user, password: Secret::from(password.as_str()) }));
        }
    }
}
