use aws_lc_rs::agreement::{PrivateKey, X25519};
use aws_lc_rs::error::Unspecified;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postern_model::{PublicKey, Secret};
use zeroize::Zeroizing;

/// A WireGuard key pair from the system's randomness, as `wg genkey` makes it.
///
/// # Errors
/// Where the system has none.
pub(crate) fn generate() -> Result<(Secret, PublicKey), Unspecified> {
    let mut private = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(&mut *private)?;
    // X25519 reads every key so (RFC 7748 section 5); tools that compare texts want it written so too.
    private[0] &= 0b1111_1000;
    private[31] = private[31] & 0b0111_1111 | 0b0100_0000;
    let public = public(&private)?;
    Ok((Secret::new(STANDARD.encode(*private)), public))
}

fn public(private: &[u8; 32]) -> Result<PublicKey, Unspecified> {
    let public = PrivateKey::from_private_key(&X25519, private).map_err(|_| Unspecified)?.compute_public_key()?;
    public.as_ref().try_into().map(PublicKey).map_err(|_| Unspecified)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748 section 6.1.
    #[test]
    fn the_public_key_belongs_to_the_private_one() {
        let bytes = |hex: &str| -> [u8; 32] {
            std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex"))
        };
        let bob = bytes("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        let theirs = bytes("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
        assert_eq!(public(&bob).expect("a key"), PublicKey(theirs));
        let (one, other) = (generate().expect("random"), generate().expect("random"));
        assert_ne!(one.1, other.1);
        let decoded = STANDARD.decode(one.0.expose()).expect("base64");
        assert_eq!(public(decoded.as_slice().try_into().expect("32 bytes")).expect("a key"), one.1);
        assert_eq!(PublicKey::parse(&one.1.to_string()), Ok(one.1));
    }
}
