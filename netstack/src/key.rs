//! Our own key.

use std::fmt;

use rand::TryRng;
use rand::rngs::SysRng;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// A WireGuard private key (Curve25519). It is overwritten in memory when it is dropped and never shown.
#[derive(Clone)]
pub struct PrivateKey(StaticSecret);

impl PrivateKey {
    /// A key that nobody has had, from the system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        SysRng.try_fill_bytes(bytes.as_mut()).expect("the system has randomness");
        Self::from_bytes(*bytes)
    }

    /// Any 32 bytes are a key.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(StaticSecret::from(bytes))
    }

    /// What others know us by.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        PublicKey::from(&self.0).to_bytes()
    }

    /// For the handshake.
    pub(crate) fn secret(&self) -> &StaticSecret {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> [u8; 32] {
        std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
    }

    #[test]
    fn the_public_key_is_that_of_rfc_7748() {
        // §5.2: the iterated test after one iteration, where the scalar and the base point are both 9.
        let mut nine = [0; 32];
        nine[0] = 9;
        let key = PrivateKey::from_bytes(nine);
        assert_eq!(key.public(), bytes("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"));
        assert_eq!(format!("{key:?}"), "PrivateKey(..)");
    }

    #[test]
    fn no_two_generated_keys_are_alike() {
        assert_ne!(PrivateKey::generate().public(), PrivateKey::generate().public());
    }
}
