//! WireGuard's constants (whitepaper §6.1) and message sizes (§5.4).

use std::time::Duration;

/// After this the side that began a session begins another one as soon as it sends.
pub(crate) const REKEY_AFTER: Duration = Duration::from_secs(120);
/// After this nothing is sealed or opened with a session's keys.
pub(crate) const REJECT_AFTER: Duration = Duration::from_secs(180);
/// From this counter on nothing is opened with a session's keys.
pub(crate) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// How long a handshake is tried at a steady pace.
pub(crate) const REKEY_ATTEMPT: Duration = Duration::from_secs(90);
/// The time between two initiations.
pub(crate) const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// Whoever has received something and sent nothing for so long says that it is there.
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// First byte of an initiation.
pub(crate) const INITIATION: u8 = 1;
/// First byte of a response.
pub(crate) const RESPONSE: u8 = 2;
/// First byte of a cookie reply.
pub(crate) const COOKIE: u8 = 3;
/// First byte of a data message.
pub(crate) const DATA: u8 = 4;

/// Bytes of an initiation: the largest of the handshake's messages.
pub(crate) const INITIATION_LEN: usize = 148;
/// Bytes of a cookie reply.
pub(crate) const COOKIE_LEN: usize = 64;
/// What a data message is longer than the packet inside.
pub(crate) const OVERHEAD: usize = 32;

/// The counter of a data message; the length has been checked.
pub(crate) fn counter_of(datagram: &[u8]) -> u64 {
    u64::from_le_bytes(datagram[8..16].try_into().expect("eight bytes"))
}

/// The receiver or sender index that stands at `offset`; the length has been checked.
pub(crate) fn index_at(datagram: &[u8], offset: usize) -> u32 {
    let bytes = datagram[offset..offset + 4].try_into().expect("four bytes");
    u32::from_le_bytes(bytes)
}
