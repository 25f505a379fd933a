//! Two hashes keyed by the seed: a fast one for tables, a strong one for what strangers see.

use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;

/// Builds the hashers of our tables. The key keeps a peer, who chooses its ports, from choosing where its flows lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keyed {
    key: [u64; 2],
}

/// Multiplies and folds (as wyhash does): a few nanoseconds for a four-tuple.
#[derive(Debug)]
pub(crate) struct Folding {
    state: u64,
    key: u64,
}

impl Keyed {
    pub(crate) fn new(secret: &Secret) -> Self {
        Self { key: [secret.hash(&[0]), secret.hash(&[1]) | 1] }
    }
}

impl BuildHasher for Keyed {
    type Hasher = Folding;

    fn build_hasher(&self) -> Folding {
        Folding { state: self.key[0], key: self.key[1] }
    }
}

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u16(&mut self, word: u16) {
        self.write_u64(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.state ^ word).wrapping_mul(u128::from(self.key));
        self.state = (product as u64) ^ (product >> 64) as u64 ^ self.key.rotate_left(23);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

/// A key for hashes that strangers see the results of (RFC 6528 section 3, RFC 6056 section 3.3.4).
#[derive(Clone)]
pub(crate) struct Secret {
    key: [u64; 2],
}

impl Secret {
    /// Two secrets of one seed differ if `purpose` does.
    pub(crate) fn new(seed: &[u8; 32], purpose: u64) -> Self {
        let word = |index: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&seed[8 * index..8 * index + 8]);
            u64::from_le_bytes(bytes)
        };
        let outer = Self { key: [word(0), word(1)] };
        Self { key: [outer.hash(&[purpose, word(2)]), outer.hash(&[purpose, word(3), 1])] }
    }

    /// SipHash-2-4 (Aumasson, Bernstein 2012) of whole words.
    pub(crate) fn hash(&self, words: &[u64]) -> u64 {
        let [k0, k1] = self.key;
        let mut v = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        let length = (words.len() as u64 * 8) << 56;
        for word in words.iter().copied().chain([length]) {
            v[3] ^= word;
            round(&mut v);
            round(&mut v);
            v[0] ^= word;
        }
        v[2] ^= 0xff;
        for _ in 0..4 {
            round(&mut v);
        }
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }
}

/// An address as words for [`Secret::hash`].
pub(crate) fn words(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of the reference implementation whose input is whole words.
    #[test]
    fn is_siphash() {
        let secret = Secret { key: [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908] };
        assert_eq!(secret.hash(&[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(secret.hash(&[0x0706_0504_0302_0100]), 0x93f5_f579_9a93_2462);
    }

    #[test]
    fn another_seed_is_another_hash() {
        let one = Secret::new(&[1; 32], 0);
        let other = Secret::new(&[2; 32], 0);
        assert_ne!(one.hash(&[7]), other.hash(&[7]));
        assert_ne!(one.hash(&[7]), Secret::new(&[1; 32], 1).hash(&[7]));
        assert_ne!(Keyed::new(&one).hash_one(7u64), Keyed::new(&other).hash_one(7u64));
    }
}
