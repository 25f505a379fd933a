//! boringtun's `Tunn`, and what it must not decide by itself.
//!
//! It stamps all that happens with the time of the last `update_timers`, and that call also starts and abandons handshakes.
//! So all timers are ours, and `update_timers` is called for one purpose: to move its clock right before a handshake message,
//! so that its sessions carry the time they were made. What it wants to send then is ours to send or not. Data packets never
//! touch its clock.
//!
//! Which session it uses for sending is mirrored here, because it does not tell.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use x25519_dalek::PublicKey;

use super::index::PeerIndex;
use super::protocol::{DATA, INITIATION, INITIATION_LEN, REJECT_AFTER, REJECT_AFTER_MESSAGES, counter_of, index_at};
use crate::counters::Drop;
use crate::key::PrivateKey;

/// Sessions that boringtun keeps, found by the low bits of their index.
const SESSIONS: usize = 8;

/// Handshakes and sessions with one peer.
pub(crate) struct Noise {
    tunn: Tunn,
    sessions: [Option<Session>; SESSIONS],
    /// Index of the session that is used for sending, if it is still in its place.
    current: u32,
    /// Sessions made so far.
    made: u64,
    /// Indices of our last initiations, of which boringtun remembers two: what answers none of them is a stranger's.
    asked: [Option<u32>; 2],
}

/// What is known of one of boringtun's sessions.
#[derive(Clone, Copy)]
struct Session {
    index: u32,
    born: Instant,
    /// Counts up: which of two is the younger.
    number: u64,
    initiator: bool,
}

/// What was inside a data message that proved to be the peer's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Inner {
    /// A packet of this length, from this address.
    Packet(usize, IpAddr),
    /// Nothing: a sign of life.
    Keepalive,
    /// Something that is no IP packet.
    Malformed,
}

impl Noise {
    /// Costs one multiplication on the curve. The limiter must be one without a limit: counting is done before, once.
    pub(crate) fn new(key: &PrivateKey, peer: [u8; 32], index: PeerIndex, limiter: Arc<RateLimiter>) -> Self {
        let tunn = Tunn::new(key.secret().clone(), PublicKey::from(peer), None, None, index.0, Some(limiter));
        Self { tunn, sessions: [None; SESSIONS], current: 0, made: 0, asked: [None; 2] }
    }

    /// A handshake's first message.
    pub(crate) fn initiate(&mut self) -> [u8; INITIATION_LEN] {
        let mut out = [0; INITIATION_LEN];
        if !self.move_clock(&mut out) {
            self.tunn.format_handshake_initiation(&mut out, true);
        }
        self.asked = [Some(index_at(&out, 4)), self.asked[0]];
        out
    }

    /// Answers an initiation: the response, and a session that sends once the peer has used it.
    pub(crate) fn answer(&mut self, initiation: &[u8], now: Instant) -> Result<Vec<u8>, Drop> {
        let mut out = [0; INITIATION_LEN];
        self.move_clock(&mut out);
        match self.tunn.decapsulate(None, initiation, &mut out) {
            TunnResult::WriteToNetwork(response) => {
                let response = response.to_vec();
                self.put_session(index_at(&response, 4), false, now);
                Ok(response)
            }
            TunnResult::Err(error) => Err(reason(&error)),
            TunnResult::Done | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {
                Err(Drop::Malformed)
            }
        }
    }

    /// Takes the response to an initiation of ours: the keepalive that lets the peer use the session, which is ours to use.
    pub(crate) fn finish(&mut self, response: &[u8], now: Instant) -> Result<Vec<u8>, Drop> {
        self.answers_us(index_at(response, 8))?;
        let mut out = [0; INITIATION_LEN];
        self.move_clock(&mut out);
        match self.tunn.decapsulate(None, response, &mut out) {
            TunnResult::WriteToNetwork(keepalive) => {
                let keepalive = keepalive.to_vec();
                self.current = index_at(response, 8);
                self.put_session(self.current, true, now);
                Ok(keepalive)
            }
            TunnResult::Err(error) => Err(reason(&error)),
            TunnResult::Done | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {
                Err(Drop::Malformed)
            }
        }
    }

    /// Takes a cookie: the next initiation proves with it that its address is ours. It makes no session, and so needs no clock.
    pub(crate) fn take_cookie(&mut self, reply: &[u8]) -> Result<(), Drop> {
        self.answers_us(index_at(reply, 4))?;
        let mut out = [0; INITIATION_LEN];
        match self.tunn.decapsulate(None, reply, &mut out) {
            TunnResult::Done => Ok(()),
            TunnResult::Err(error) => Err(reason(&error)),
            TunnResult::WriteToNetwork(_) | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {
                Err(Drop::Malformed)
            }
        }
    }

    /// Opens a data message of at least [`OVERHEAD`](super::protocol::OVERHEAD) bytes into `out`, which is as long at least.
    /// What was inside, and if another session than before is used for sending from here on: whether there was one.
    pub(crate) fn open(
        &mut self,
        datagram: &[u8],
        out: &mut [u8],
        now: Instant,
    ) -> Result<(Inner, Option<bool>), Drop> {
        let index = index_at(datagram, 4);
        let session = self.sessions[place(index)].filter(|session| session.index == index).ok_or(Drop::UnknownIndex)?;
        if session.is_expired(now) || counter_of(datagram) >= REJECT_AFTER_MESSAGES {
            return Err(Drop::KeyExpired);
        }
        let inner = match self.tunn.decapsulate(None, datagram, out) {
            TunnResult::WriteToTunnelV4(packet, source) => Inner::Packet(packet.len(), source.into()),
            TunnResult::WriteToTunnelV6(packet, source) => Inner::Packet(packet.len(), source.into()),
            TunnResult::Done | TunnResult::WriteToNetwork(_) => Inner::Keepalive,
            // The outer form has been checked, so this is about what was inside.
            TunnResult::Err(WireGuardError::InvalidPacket) => Inner::Malformed,
            TunnResult::Err(error) => return Err(reason(&error)),
        };
        if index == self.current || self.current().is_some_and(|current| session.number < current.number) {
            return Ok((inner, None));
        }
        let could_seal = self.can_seal(now);
        self.current = index;
        Ok((inner, Some(could_seal)))
    }

    /// Seals a packet (or nothing, for a keepalive) into `out`: its length, if there is a session for it.
    pub(crate) fn seal(&mut self, packet: &[u8], out: &mut [u8], now: Instant) -> Option<usize> {
        if !self.can_seal(now) {
            return None;
        }
        match self.tunn.encapsulate(packet, out) {
            TunnResult::WriteToNetwork(datagram) if datagram.first() == Some(&DATA) => Some(datagram.len()),
            TunnResult::WriteToNetwork(_)
            | TunnResult::Done
            | TunnResult::Err(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => None,
        }
    }

    /// Whether there is a session to send with.
    pub(crate) fn can_seal(&self, now: Instant) -> bool {
        self.current().is_some_and(|session| !session.is_expired(now))
    }

    /// When the session that is used for sending was made, if it was made by an initiation of ours: the side that began is
    /// the one that begins anew.
    pub(crate) fn begun(&self) -> Option<Instant> {
        self.current().filter(|session| session.initiator).map(|session| session.born)
    }

    /// Lets go of the keys that are too old to be used.
    pub(crate) fn erase(&mut self, now: Instant) {
        self.move_clock(&mut [0; INITIATION_LEN]);
        for session in &mut self.sessions {
            *session = session.filter(|session| !session.is_expired(now));
        }
    }

    fn answers_us(&self, index: u32) -> Result<(), Drop> {
        if self.asked.contains(&Some(index)) { Ok(()) } else { Err(Drop::UnknownIndex) }
    }

    fn current(&self) -> Option<Session> {
        self.sessions[place(self.current)]
    }

    fn put_session(&mut self, index: u32, initiator: bool, now: Instant) {
        self.made += 1;
        self.sessions[place(index)] = Some(Session { index, born: now, number: self.made, initiator });
    }

    /// Moves boringtun's clock, which also lets go of expired sessions. Whether it wrote an initiation to `out`. Anything else
    /// that it wants to send is not wanted.
    fn move_clock(&mut self, out: &mut [u8; INITIATION_LEN]) -> bool {
        let wrote = match self.tunn.update_timers(out) {
            TunnResult::WriteToNetwork(datagram) => datagram.first() == Some(&INITIATION),
            TunnResult::Done
            | TunnResult::Err(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => false,
        };
        if self.tunn.time_since_last_handshake().is_none() {
            self.sessions[place(self.current)] = None;
        }
        wrote
    }
}

impl Session {
    fn is_expired(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.born) >= REJECT_AFTER
    }
}

fn place(index: u32) -> usize {
    index as usize % SESSIONS
}

fn reason(error: &WireGuardError) -> Drop {
    match error {
        WireGuardError::WrongIndex | WireGuardError::NoCurrentSession | WireGuardError::UnexpectedPacket => {
            Drop::UnknownIndex
        }
        WireGuardError::WrongTai64nTimestamp
        | WireGuardError::InvalidTai64nTimestamp
        | WireGuardError::InvalidCounter
        | WireGuardError::DuplicateCounter => Drop::Replayed,
        WireGuardError::InvalidMac => Drop::BadMac,
        WireGuardError::InvalidAeadTag | WireGuardError::WrongKey => Drop::Unauthentic,
        WireGuardError::ConnectionExpired => Drop::KeyExpired,
        WireGuardError::UnderLoad => Drop::UnderLoad,
        WireGuardError::DestinationBufferTooSmall
        | WireGuardError::IncorrectPacketLength
        | WireGuardError::WrongPacketType
        | WireGuardError::InvalidPacket
        | WireGuardError::LockFailed => Drop::Malformed,
    }
}
