use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postern_model::Secret;
use rand::RngExt;

const PREFIX: &str = "nbx_";
const SECRET: usize = 30;
const CHECKSUM: usize = 6;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A proxy's token: `nbx_`, 30 random base62 characters, and their CRC-32 as 6 base62 characters (NetBird:
/// `ProxyAccessToken`). 178 bits of chance, so a fast hash of it gives nothing away.
#[derive(Clone)]
pub(crate) struct ProxyToken(Secret);

/// The base64 of the SHA-256 of a token: all that is stored of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TokenHash(String);

/// A text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MalformedToken {
    #[error("the token does not have the form of a proxy token (nbx_ and 36 letters and digits)")]
    Form,
    #[error("the checksum of the token is wrong: it is mistyped or cut off")]
    Checksum,
}

impl ProxyToken {
    /// A new one.
    pub(crate) fn random() -> Self {
        let mut rng = rand::rng();
        let secret: String = (0..SECRET).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect();
        Self(Secret::new(format!("{PREFIX}{secret}{}", checksum(&secret))))
    }

    /// Checks form and checksum, before anything is looked up.
    pub(crate) fn parse(text: &str) -> Result<Self, MalformedToken> {
        let body = text.strip_prefix(PREFIX).ok_or(MalformedToken::Form)?;
        if body.len() != SECRET + CHECKSUM || !body.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(MalformedToken::Form);
        }
        let (secret, sum) = body.split_at(SECRET);
        if sum == checksum(secret) { Ok(Self(Secret::from(text))) } else { Err(MalformedToken::Checksum) }
    }

    pub(crate) fn hash(&self) -> TokenHash {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.0.expose().as_bytes());
        TokenHash(STANDARD.encode(digest))
    }

    pub(crate) fn into_secret(self) -> Secret {
        self.0
    }
}

impl TokenHash {
    /// As it was stored.
    pub(crate) fn stored(text: String) -> Self {
        Self(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ProxyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyToken")
    }
}

/// CRC-32 (IEEE) in base62, most significant digit first, padded with zeros.
fn checksum(secret: &str) -> String {
    let mut rest = crc32fast::hash(secret.as_bytes()) as usize;
    let mut digits = [b'0'; CHECKSUM];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[rest % ALPHABET.len()];
        rest /= ALPHABET.len();
    }
    digits.map(char::from).iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed outside, by the description of the format.
    const VECTORS: [(&str, &str); 2] = [
        ("nbx_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA0uCPlr", "ejDVNrkluy7RON5Csrv431jgILBTdWyW6kUVSGLKrWA="),
        ("nbx_0123456789ABCDEFGHIJKLMNOPQRST4PMbyp", "DUdqXvUsAQsJRX+e+5Bn2zeMoYTh1MqAaOj5uDoPzqA="),
    ];

    #[test]
    fn known_tokens_parse_and_hash() {
        for (text, hash) in VECTORS {
            assert_eq!(ProxyToken::parse(text).expect(text).hash().as_str(), hash);
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let (good, _) = VECTORS[0];
        for bad in ["", "nbx_", &good[1..], &good[..39], &format!("{good}A"), &good.replace("0uCPlr", "0uCP-r")] {
            assert_eq!(ProxyToken::parse(bad).expect_err(bad), MalformedToken::Form);
        }
        for bad in [good.replace("0uCPlr", "0uCPls"), good.replacen('A', "B", 1)] {
            assert_eq!(ProxyToken::parse(&bad).expect_err(&bad), MalformedToken::Checksum);
        }
    }

    #[test]
    fn a_random_token_parses_and_prints_masked() {
        let (a, b) = (ProxyToken::random(), ProxyToken::random());
        assert_ne!(a.hash(), b.hash());
        assert_eq!(format!("{a:?}"), "ProxyToken");
        let text = a.hash();
        assert_eq!(ProxyToken::parse(a.into_secret().expose()).expect("its own").hash(), text);
    }
}
