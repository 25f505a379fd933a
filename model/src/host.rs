use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// A text that is not a DNS host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a host name: {0}")]
pub struct InvalidHost(&'static str);

/// A DNS host name in its one normal form: lower case, IDN as punycode, no final dot, no port.
///
/// Two spellings that DNS holds equal (`APP.example.com.`, `app.example.com`) are the same `HostName`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

impl HostName {
    /// Normalises `text` (case, IDN, one final dot) and checks it by the rules of RFC 1123: labels of 1 to 63 letters,
    /// digits, hyphens and underscores, 253 bytes at most. IP literals are not host names.
    ///
    /// # Errors
    /// [`InvalidHost`] with the rule that `text` breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidHost> {
        if text.is_ascii() && text.bytes().all(is_normal) {
            return Self::checked(text);
        }
        let ascii = if text.is_ascii() {
            text.to_ascii_lowercase()
        } else {
            idna::domain_to_ascii(text).map_err(|_| InvalidHost("its international form cannot be encoded"))?
        };
        Self::checked(&ascii)
    }

    fn checked(text: &str) -> Result<Self, InvalidHost> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(InvalidHost("it is empty"));
        }
        if text.len() > 253 {
            return Err(InvalidHost("it is longer than 253 bytes"));
        }
        for label in text.split('.') {
            if label.is_empty() || label.len() > 63 {
                return Err(InvalidHost("each label must have 1 to 63 characters"));
            }
            if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
                return Err(InvalidHost("only letters, digits, hyphens and dots may stand in it"));
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err(InvalidHost("no label may begin or end with a hyphen"));
            }
        }
        let last = text.rsplit('.').next().unwrap_or(text);
        if last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(InvalidHost("it is an address, not a name"));
        }
        Ok(Self(text.into()))
    }

    /// The normal form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Lower-case letters, digits, dot, hyphen, underscore: the common case needs no copy before the check.
fn is_normal(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for HostName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_fold() {
        for spelling in ["app.example.com", "APP.Example.COM", "app.example.com.", "App.example.com."] {
            assert_eq!(HostName::parse(spelling).expect(spelling).as_str(), "app.example.com");
        }
        assert_eq!(HostName::parse("Bücher.example").expect("idn").as_str(), "xn--bcher-kva.example");
        assert_eq!(HostName::parse("localhost").expect("one label").as_str(), "localhost");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = format!("{}.example", "a".repeat(64));
        for bad in [
            "",
            ".",
            "a..b",
            "-a.example",
            "a-.example",
            "a b",
            "a/b",
            "a:80",
            "user@host",
            "10.0.0.1",
            "[::1]",
            "a..",
            "A..",
            "*.a.example",
            &long,
        ] {
            assert!(HostName::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn parsing_is_idempotent(text in "\\PC{0,40}") {
            if let Ok(host) = HostName::parse(&text) {
                prop_assert_eq!(HostName::parse(host.as_str()), Ok(host));
            }
        }
    }
}
