use std::fmt;
use std::sync::Arc;

/// A text that cannot be an identifier: empty, longer than 255 bytes, or with a control character or white space in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be 1 to 255 characters without spaces or control characters")]
pub struct InvalidId {
    what: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes over a non-empty text of at most 255 bytes without white space or control characters.
            ///
            /// # Errors
            /// [`InvalidId`] for any other text.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let plain = |c: char| !c.is_control() && !c.is_whitespace();
                if text.is_empty() || text.len() > 255 || !text.chars().all(plain) {
                    return Err(InvalidId { what: $what });
                }
                Ok(Self(text.into()))
            }

            /// The identifier as it travels on the wire.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// One published service: NetBird's `ProxyMapping.id`.
    ServiceId,
    "a service id"
);
id!(
    /// A tenant: NetBird's `ProxyMapping.account_id`.
    AccountId,
    "an account id"
);
id!(
    /// One running proxy process: NetBird's `proxy_id`.
    ProxyId,
    "a proxy id"
);
/// One request, as the access log and the error pages name it: which process, and which of its requests. Written as 20 letters
/// and digits, as NetBird's; made for every request, so it is text only where somebody reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(u128);

impl RequestId {
    /// The low 48 bits of `process` and the low 52 of `number`.
    #[must_use]
    pub fn new(process: u64, number: u64) -> Self {
        let low = |value: u64, bits: u32| u128::from(value & ((1 << bits) - 1));
        Self(low(process, 48) << 52 | low(number, 52))
    }

    /// As it is displayed; ASCII.
    #[must_use]
    pub fn text(self) -> [u8; 20] {
        let mut rest = self.0;
        let mut text = [0; 20];
        for place in text.iter_mut().rev() {
            *place = b"0123456789abcdefghijklmnopqrstuv"[(rest & 31) as usize];
            rest >>= 5;
        }
        text
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).expect("the alphabet is ASCII"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_names_its_process_first() {
        let (one, two, other) = (RequestId::new(7, 1), RequestId::new(7, 2), RequestId::new(8, 1));
        assert_eq!((one.to_string().len(), &one.to_string()[..9]), (20, &two.to_string()[..9]));
        assert_ne!(one.to_string(), two.to_string());
        assert_ne!(one.to_string()[..10], other.to_string()[..10]);
    }

    #[test]
    fn an_id_is_one_plain_word() {
        assert_eq!(ServiceId::parse("svc-1").map(|id| id.to_string()), Ok("svc-1".to_owned()));
        for bad in ["", "a b", "a\nb", "a\u{7f}", &"x".repeat(256)] {
            assert!(ServiceId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
