//! The Internet checksum (RFC 1071), summed wide.

use std::net::IpAddr;

/// A sum of 16-bit words in the order of this machine, not yet folded.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Adds bytes that begin at an even place of what is summed.
    pub(crate) fn add(self, bytes: &[u8]) -> Self {
        let mut lanes = [0u64; 8];
        let mut chunks = bytes.chunks_exact(32);
        for chunk in &mut chunks {
            for (lane, word) in lanes.iter_mut().zip(chunk.chunks_exact(4)) {
                *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
            }
        }
        let mut sum: u64 = lanes.iter().sum();
        for word in chunks.remainder().chunks(2) {
            sum += u64::from(u16::from_ne_bytes([word[0], *word.get(1).unwrap_or(&0)]));
        }
        Self(self.0 + sum)
    }

    /// Adds a number.
    pub(crate) fn add_u16(self, word: u16) -> Self {
        Self(self.0 + u64::from(word.to_be()))
    }

    /// The pseudo-header of TCP, UDP and ICMPv6 (RFC 9293 section 3.1, RFC 8200 section 8.1).
    pub(crate) fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Self {
        let sum = Self::default().add_u16(u16::from(protocol)).add_u16(length as u16);
        [from, to].into_iter().fold(sum, |sum, address| match address {
            IpAddr::V4(address) => sum.add(&address.octets()),
            IpAddr::V6(address) => sum.add(&address.octets()),
        })
    }

    /// The checksum, as it stands in the header.
    pub(crate) fn finish(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_ne_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 section 4.1, word by word.
    fn slow(bytes: &[u8]) -> [u8; 2] {
        let mut sum = 0u32;
        for word in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    }

    proptest! {
        #[test]
        fn is_the_sum_word_by_word(bytes in prop::collection::vec(any::<u8>(), 0..3000), cut in 0..1500usize) {
            let cut = (2 * cut).min(bytes.len() & !1);
            let sum = Sum::default().add(&bytes[..cut]).add(&bytes[cut..]);
            prop_assert_eq!(sum.finish(), slow(&bytes));
        }
    }
}
