//! One peer: its path, its handshakes and sessions, its timers, and what waits for a session.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::index::PeerIndex;
use super::noise::{Inner, Noise};
use super::protocol::{KEEPALIVE_TIMEOUT, OVERHEAD, REJECT_AFTER, REKEY_AFTER, REKEY_ATTEMPT, REKEY_TIMEOUT};
use super::routes::Routes;
use super::shared::Shared;
use super::timers::{Due, Needs, Timers};
use crate::counters::Drop;
use crate::path::Path;
use crate::peer::{Peer, PeerIdentity, PeerStatus};

/// Packets that wait for one peer's session: enough for the first packets of some connections. Those are sent again anyway.
const MOST_WAITING: usize = 32;
/// Initiations that go to where a peer was heard last. The next ones go to where it is said to listen: whoever once sent on a
/// datagram of the peer's from elsewhere does not keep it from us for ever.
const TRIES_BEFORE_HOME: u32 = 3;
/// By how much a session that we began may be older than the protocol says before we begin the next. Two sides that each
/// began a session at the same time would else do so for ever.
const REKEY_JITTER: Duration = Duration::from_secs(3);

/// A peer of the engine.
pub(crate) struct Member {
    index: PeerIndex,
    pub(crate) identity: PeerIdentity,
    allowed: Vec<IpNet>,
    /// Where it is said to listen. It counts when it changes; after that, where the peer was heard from.
    configured: Option<Path>,
    pub(crate) path: Option<Path>,
    /// Made when it is first needed: it costs kilobytes and a multiplication on the curve.
    noise: Option<Box<Noise>>,
    timers: Timers,
    waiting: VecDeque<Waiting>,
    /// The last inner source that was found to be this peer's.
    own_source: Option<IpAddr>,
    rekey_after: Duration,
    last_handshake: Option<Instant>,
    received: u64,
    sent: u64,
    /// When it is to be woken, as the schedule has it.
    pub(crate) wake: Option<Instant>,
    /// The last `set_peers` that named it.
    pub(crate) round: u64,
}

struct Waiting {
    since: Instant,
    packet: Vec<u8>,
}

/// What became of a packet that was to be sent.
#[expect(clippy::enum_variant_names, reason = "that it was sealed is what `seal` hopes to say")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sealed {
    /// It is in the buffer, as a datagram of this length.
    Sealed(usize),
    /// It is sent as soon as there is a session; a handshake is on its way.
    Queued,
    /// Nobody knows where the peer is.
    NoPath,
    /// It is gone.
    Dropped(Drop),
}

impl Member {
    pub(crate) fn new(index: PeerIndex, peer: &Peer, now: Instant) -> Self {
        let mut member = Self {
            index,
            identity: peer.identity(),
            allowed: sorted(&peer.allowed_ips),
            configured: peer.path,
            path: peer.path,
            noise: None,
            timers: Timers::new(now),
            waiting: VecDeque::new(),
            own_source: None,
            rekey_after: REKEY_AFTER,
            last_handshake: None,
            received: 0,
            sent: 0,
            wake: None,
            round: 0,
        };
        member.timers.set_keep_alive(peer.keep_alive, member.needs(now), now);
        member
    }

    /// Takes what is said of the same key now. Whether it stands for somebody else than before.
    pub(crate) fn update(&mut self, peer: &Peer, now: Instant) -> bool {
        let allowed = sorted(&peer.allowed_ips);
        let other = self.identity != peer.identity() || self.allowed != allowed;
        self.identity = peer.identity();
        self.allowed = allowed;
        self.own_source = None;
        if self.configured != peer.path {
            self.configured = peer.path;
            if peer.path.is_some() {
                self.path = peer.path;
                self.timers.forget_silence(now);
            }
        }
        self.timers.set_keep_alive(peer.keep_alive, self.needs(now), now);
        other
    }

    /// Forgets the packets that wait for a session, and gives back what they hold of what is shared.
    pub(crate) fn leave(&mut self, shared: &mut Shared) {
        let packets = self.waiting.len();
        self.waiting.clear();
        shared.end_waiting(packets);
        if packets > 0 {
            shared.dropped(Drop::Stale, packets as u64);
        }
    }

    /// An initiation that names this peer's key: answers it, if it is the peer's and no old one.
    pub(crate) fn answer(
        &mut self,
        from: Path,
        initiation: &[u8],
        shared: &mut Shared,
        now: Instant,
    ) -> Result<(), Drop> {
        let response = self.noise(shared).answer(initiation, now)?;
        self.heard(from, initiation.len());
        self.timers.session(false, now);
        self.post(response, shared);
        Ok(())
    }

    /// A response to an initiation of ours.
    pub(crate) fn finish(
        &mut self,
        from: Path,
        response: &[u8],
        shared: &mut Shared,
        now: Instant,
    ) -> Result<(), Drop> {
        let could_seal = self.can_seal(now);
        let keepalive = self.noise.as_mut().ok_or(Drop::UnknownIndex)?.finish(response, now)?;
        self.heard(from, response.len());
        self.rekey_after = REKEY_AFTER + shared.jitter(REKEY_JITTER);
        self.timers.session(true, now);
        self.timers.received(false, now);
        self.timers.sent(false, now);
        self.post(keepalive, shared);
        self.agreed(could_seal, shared, now);
        Ok(())
    }

    /// A cookie for an initiation of ours.
    pub(crate) fn take_cookie(&mut self, reply: &[u8]) -> Result<(), Drop> {
        self.noise.as_mut().ok_or(Drop::UnknownIndex)?.take_cookie(reply)
    }

    /// A data message with an index of this peer.
    pub(crate) fn open(
        &mut self,
        from: Path,
        datagram: &[u8],
        out: &mut [u8],
        shared: &mut Shared,
        now: Instant,
    ) -> Result<Inner, Drop> {
        let noise = self.noise.as_mut().ok_or(Drop::UnknownIndex)?;
        let (inner, switched) = noise.open(datagram, out, now)?;
        self.heard(from, datagram.len());
        self.timers.received(inner != Inner::Keepalive, now);
        if let Some(could_seal) = switched {
            self.agreed(could_seal, shared, now);
        }
        // The last moment at which the side that began can have the next session before the keys are too old.
        self.renew(REJECT_AFTER - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT, shared, now);
        Ok(inner)
    }

    /// Whether an address from inside the tunnel is this peer's own.
    pub(crate) fn owns(&mut self, source: IpAddr, routes: &Routes) -> bool {
        if self.own_source == Some(source) {
            return true;
        }
        let own = routes.find(source) == Some(self.index);
        if own {
            self.own_source = Some(source);
        }
        own
    }

    /// Whether there is a session to send with.
    pub(crate) fn can_seal(&self, now: Instant) -> bool {
        self.noise.as_ref().is_some_and(|noise| noise.can_seal(now))
    }

    /// Seals a packet, or has it wait for the handshake that this begins.
    pub(crate) fn seal(&mut self, packet: &[u8], out: &mut [u8], shared: &mut Shared, now: Instant) -> Sealed {
        if let Some(len) = self.noise.as_mut().and_then(|noise| noise.seal(packet, out, now)) {
            self.sent += len as u64;
            self.timers.sent(!packet.is_empty(), now);
            self.renew(self.rekey_after, shared, now);
            return Sealed::Sealed(len);
        }
        if self.path.is_none() {
            return Sealed::NoPath;
        }
        if self.waiting.len() >= MOST_WAITING || !shared.begin_waiting() {
            return Sealed::Dropped(Drop::QueueFull);
        }
        self.waiting.push_back(Waiting { since: now, packet: packet.to_vec() });
        self.call(shared, now);
        Sealed::Queued
    }

    /// Does what is due, one thing for each reason at most. Whether it took a handshake's time.
    pub(crate) fn handle_timeout(&mut self, shared: &mut Shared, now: Instant) -> bool {
        self.forget_stale(shared, now);
        let mut initiated = false;
        while let Some(due) = self.timers.due(self.needs(now), now) {
            match due {
                Due::Erase => {
                    if let Some(noise) = &mut self.noise {
                        noise.erase(now);
                    }
                }
                Due::Handshake => {
                    self.initiate(shared, now);
                    initiated = true;
                }
                Due::Keepalive => self.send_keepalive(shared, now),
            }
        }
        initiated
    }

    /// Whether a deadline was set since the last call: else none has come nearer.
    pub(crate) fn take_moved(&mut self) -> bool {
        self.timers.take_moved()
    }

    /// When it wants to be woken.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        self.path.and_then(|_| self.timers.deadline(self.needs(now)))
    }

    pub(crate) fn status(&self) -> PeerStatus {
        PeerStatus {
            key: self.identity.key,
            path: self.path,
            last_handshake: self.last_handshake,
            received: self.received,
            sent: self.sent,
        }
    }

    fn needs(&self, now: Instant) -> Needs {
        Needs { can_seal: self.can_seal(now), waiting: !self.waiting.is_empty() }
    }

    fn noise(&mut self, shared: &Shared) -> &mut Noise {
        let (key, index) = (self.identity.key, self.index);
        self.noise.get_or_insert_with(|| Box::new(Noise::new(&shared.key, key, index, shared.limiter.clone())))
    }

    /// Something authentic came: the peer is where it came from.
    fn heard(&mut self, from: Path, len: usize) {
        self.path = Some(from);
        self.received += len as u64;
    }

    /// Both sides have a session that we may send with.
    fn agreed(&mut self, could_seal: bool, shared: &mut Shared, now: Instant) {
        self.last_handshake = Some(now);
        self.timers.confirmed();
        for waiting in std::mem::take(&mut self.waiting) {
            shared.end_waiting(1);
            self.send(&waiting.packet, shared, now);
        }
        if !could_seal {
            shared.ready.push_back(self.index);
        }
    }

    /// Begins the next session if the one in use is that old and was begun by us.
    fn renew(&mut self, age: Duration, shared: &mut Shared, now: Instant) {
        let begun = self.noise.as_ref().and_then(|noise| noise.begun());
        if begun.is_some_and(|begun| now >= begun + age) {
            self.call(shared, now);
        }
    }

    /// Begins a handshake, unless one is being tried or the last try was too short ago.
    fn call(&mut self, shared: &mut Shared, now: Instant) {
        if self.timers.want_handshake(now) {
            self.initiate(shared, now);
        }
    }

    pub(crate) fn initiate(&mut self, shared: &mut Shared, now: Instant) {
        if self.timers.tries() >= TRIES_BEFORE_HOME {
            self.path = self.configured.or(self.path);
        }
        let initiation = self.noise(shared).initiate();
        self.post(initiation.to_vec(), shared);
        self.timers.initiated(shared.jitter(Timers::JITTER), now);
    }

    fn send_keepalive(&mut self, shared: &mut Shared, now: Instant) {
        self.send(&[], shared, now);
        self.renew(self.rekey_after, shared, now);
    }

    /// Seals something and has it sent along with the handshake's messages.
    fn send(&mut self, packet: &[u8], shared: &mut Shared, now: Instant) {
        let mut out = vec![0; packet.len() + OVERHEAD];
        if self.noise.as_mut().and_then(|noise| noise.seal(packet, &mut out, now)).is_some() {
            self.timers.sent(!packet.is_empty(), now);
            self.post(out, shared);
        }
    }

    fn post(&mut self, datagram: Vec<u8>, shared: &mut Shared) {
        let Some(path) = self.path else { return };
        let len = datagram.len() as u64;
        if shared.post(path, datagram) {
            self.sent += len;
        }
    }

    fn forget_stale(&mut self, shared: &mut Shared, now: Instant) {
        let fresh =
            self.waiting.iter().position(|waiting| now.saturating_duration_since(waiting.since) < REKEY_ATTEMPT);
        let stale = self.waiting.drain(..fresh.unwrap_or(self.waiting.len())).count();
        if stale > 0 {
            shared.end_waiting(stale);
            shared.dropped(Drop::Stale, stale as u64);
        }
    }
}

fn sorted(ranges: &[IpNet]) -> Vec<IpNet> {
    let mut ranges: Vec<IpNet> = ranges.iter().map(IpNet::trunc).collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}
