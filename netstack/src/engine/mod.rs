//! WireGuard: who may speak with us, whose a datagram is, and what has to be said to keep sessions alive.
//!
//! boringtun's `Tunn` does the cryptography of one peer; everything between peers, and all time, is here. A data packet costs
//! one look into a table on top of it; how many peers there are does not matter.

mod guard;
mod index;
mod member;
mod noise;
mod protocol;
mod routes;
mod schedule;
mod shared;
mod timers;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use boringtun::noise::Packet;
use boringtun::noise::handshake::parse_handshake_anon;
use x25519_dalek::PublicKey;

use self::guard::{Guard, Verdict};
pub(crate) use self::index::PeerIndex;
use self::member::Member;
pub(crate) use self::member::Sealed;
use self::noise::Inner;
use self::protocol::{COOKIE, DATA, OVERHEAD, RESPONSE, index_at};
use self::routes::Routes;
use self::schedule::Schedule;
use self::shared::Shared;
use crate::counters::Drop;
use crate::key::PrivateKey;
use crate::path::Path;
use crate::peer::{Peer, PeerIdentity, PeerStatus};

/// Initiations that one call of `handle_timeout` makes: some milliseconds of work, so that ten thousand peers that want one
/// at once do not stop everything else.
const INITIATIONS_AT_ONCE: usize = 32;

/// The WireGuard side of a netstack.
pub(crate) struct Engine {
    public: [u8; 32],
    guard: Guard,
    shared: Shared,
    members: Vec<Option<Box<Member>>>,
    by_key: HashMap<[u8; 32], PeerIndex>,
    /// Indices that are free again, the longest free first.
    free: VecDeque<PeerIndex>,
    routes: Routes,
    schedule: Schedule,
    round: u64,
    /// Our own addresses inside, which are nobody else's.
    own: Vec<IpAddr>,
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// It held a packet of the peer's, from an address of the peer's: the first `len` bytes of the buffer.
    Packet { peer: PeerIndex, len: usize },
    /// It was WireGuard's own business.
    Nothing,
    /// It was not acted upon.
    Dropped(Drop),
}

/// What `set_peers` did to a peer that was known before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) peer: PeerIndex,
    pub(crate) what: What,
}

/// See [`Change`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Its key is not known any more. The index is not used again before the next `set_peers`.
    Gone,
    /// The key stands for somebody else, or has other addresses. Its session goes on.
    NewIdentity,
}

impl Engine {
    /// `handshakes_per_second`: more than these are answered by cookies.
    pub(crate) fn new(key: PrivateKey, seed: [u8; 32], handshakes_per_second: u32, now: Instant) -> Self {
        let public = key.public();
        let guard = Guard::new(public, handshakes_per_second, now);
        let shared = Shared::new(key, guard.unlimited(), seed);
        Self {
            public,
            guard,
            shared,
            members: Vec::new(),
            by_key: HashMap::new(),
            free: VecDeque::new(),
            routes: Routes::default(),
            schedule: Schedule::default(),
            round: 0,
            own: Vec::new(),
        }
    }

    /// Our own addresses inside: no peer sends from them, and none is sent to there, whatever its allowed IPs are.
    pub(crate) fn set_addresses(&mut self, own: Vec<IpAddr>) {
        self.own = own;
    }

    /// Whether datagrams arrive faster than they are taken.
    pub(crate) fn set_behind(&mut self, behind: bool) {
        self.guard.behind = behind;
    }

    /// What peers know us by.
    pub(crate) fn public_key(&self) -> [u8; 32] {
        self.public
    }

    /// Takes the whole set of peers. A key that comes twice, and a range that another peer has already, count as
    /// [`Drop::Overlap`].
    pub(crate) fn set_peers(&mut self, peers: &[Peer], now: Instant) -> Vec<Change> {
        self.round += 1;
        self.routes = Routes::default();
        let mut changes = Vec::new();
        for peer in peers {
            match self.set_peer(peer, now) {
                Some((index, true)) => changes.push(Change { peer: index, what: What::NewIdentity }),
                Some((_, false)) => {}
                None => self.shared.dropped(Drop::Overlap, 1),
            }
        }
        let round = self.round;
        let gone: Vec<PeerIndex> =
            self.by_key.values().copied().filter(|peer| self.member(*peer).is_some_and(|m| m.round != round)).collect();
        for peer in gone {
            self.remove(peer);
            changes.push(Change { peer, what: What::Gone });
        }
        changes
    }

    /// Whom [`set_peers`](Self::set_peers) would let go.
    pub(crate) fn leaving(&self, peers: &[Peer]) -> Vec<PeerIndex> {
        let staying: HashSet<&[u8; 32]> = peers.iter().map(|peer| &peer.key).collect();
        self.by_key.iter().filter(|(key, _)| !staying.contains(key)).map(|(_, peer)| *peer).collect()
    }

    /// Takes a datagram. `out` is as long as the datagram at least.
    pub(crate) fn open(&mut self, from: Path, datagram: &[u8], out: &mut [u8], now: Instant) -> Opened {
        if datagram.len() >= OVERHEAD && datagram[..4] == [DATA, 0, 0, 0] {
            return self.open_data(from, datagram, out, now);
        }
        match self.handle_handshake(from, datagram, now) {
            Ok(peer) => {
                self.wake_earlier(peer, now);
                Opened::Nothing
            }
            Err(drop) => Opened::Dropped(drop),
        }
    }

    /// Whose address it is.
    pub(crate) fn route(&self, to: IpAddr) -> Option<PeerIndex> {
        self.routes.find(to).filter(|_| !self.own.contains(&to))
    }

    /// Who a peer is.
    pub(crate) fn identity(&self, peer: PeerIndex) -> Option<&PeerIdentity> {
        self.member(peer).map(|member| &member.identity)
    }

    /// Where a packet for the peer would go, if it can be sealed at this moment.
    pub(crate) fn can_seal(&self, peer: PeerIndex, now: Instant) -> Option<Path> {
        let member = self.member(peer)?;
        member.path.filter(|_| member.can_seal(now))
    }

    /// Seals a packet into `out`, which is 148 bytes longer than the packet at least. Without a session the packet waits and a
    /// handshake begins.
    pub(crate) fn seal(&mut self, peer: PeerIndex, packet: &[u8], out: &mut [u8], now: Instant) -> Sealed {
        let Some(member) = self.members.get_mut(peer.slot()).and_then(Option::as_mut) else {
            return Sealed::Dropped(Drop::UnknownPeer);
        };
        let sealed = member.seal(packet, out, &mut self.shared, now);
        wake_earlier(member, peer, &mut self.schedule, now);
        sealed
    }

    /// A peer that can be sealed for and could not be before; each is said once.
    pub(crate) fn take_ready(&mut self) -> Option<PeerIndex> {
        self.shared.ready.pop_front()
    }

    /// Appends the next datagram of the engine's own to `out`: where it goes.
    pub(crate) fn poll_control(&mut self, out: &mut Vec<u8>) -> Option<Path> {
        let (path, datagram) = self.shared.next_post()?;
        out.extend_from_slice(&datagram);
        Some(path)
    }

    /// Where the next datagram of the engine's own goes, and its length.
    pub(crate) fn next_control(&self) -> Option<(Path, usize)> {
        self.shared.peek_post()
    }

    /// Does what is due. When much is, `poll_timeout` still lies in the past afterwards.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let mut initiations = 0;
        while initiations < INITIATIONS_AT_ONCE
            && let Some(peer) = self.schedule.due(now)
        {
            let Some(member) = self.members.get_mut(peer.slot()).and_then(Option::as_mut) else { return };
            initiations += usize::from(member.handle_timeout(&mut self.shared, now));
            self.wake_exactly(peer, now);
        }
    }

    /// When something is due; `None` while nobody has anything to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.schedule.next()
    }

    /// What is known of a peer.
    pub(crate) fn status(&self, peer: PeerIndex) -> Option<PeerStatus> {
        self.member(peer).map(Member::status)
    }

    /// All peers.
    pub(crate) fn peers(&self) -> impl Iterator<Item = PeerStatus> {
        self.members.iter().flatten().map(|member| member.status())
    }

    /// What was dropped without a return value that told, since the last call.
    pub(crate) fn take_drops(&mut self) -> Vec<(Drop, u64)> {
        self.shared.take_drops()
    }

    fn open_data(&mut self, from: Path, datagram: &[u8], out: &mut [u8], now: Instant) -> Opened {
        let peer = PeerIndex::of_receiver(index_at(datagram, 4));
        let Some(member) = self.members.get_mut(peer.slot()).and_then(Option::as_mut) else {
            return Opened::Dropped(Drop::UnknownIndex);
        };
        let inner = match member.open(from, datagram, out, &mut self.shared, now) {
            Ok(inner) => inner,
            Err(drop) => return Opened::Dropped(drop),
        };
        wake_earlier(member, peer, &mut self.schedule, now);
        match inner {
            Inner::Packet(len, source) if !self.own.contains(&source) && member.owns(source, &self.routes) => {
                Opened::Packet { peer, len }
            }
            Inner::Packet(..) => Opened::Dropped(Drop::ForeignSource),
            Inner::Keepalive => Opened::Nothing,
            Inner::Malformed => Opened::Dropped(Drop::InnerMalformed),
        }
    }

    fn handle_handshake(&mut self, from: Path, datagram: &[u8], now: Instant) -> Result<PeerIndex, Drop> {
        let packet = match self.guard.check(from, datagram, now) {
            Verdict::Pass(packet) => packet,
            Verdict::Cookie(cookie) => {
                self.shared.post(from, cookie.to_vec());
                return Err(Drop::UnderLoad);
            }
            Verdict::Refuse(drop) => return Err(drop),
        };
        let (peer, found) = match packet {
            Packet::HandshakeInit(initiation) => {
                let half = parse_handshake_anon(self.shared.key.secret(), &PublicKey::from(self.public), &initiation)
                    .map_err(|_| Drop::Unauthentic)?;
                (self.by_key.get(&half.peer_static_public).copied(), Drop::UnknownPeer)
            }
            Packet::HandshakeResponse(response) => {
                (Some(PeerIndex::of_receiver(response.receiver_idx)), Drop::UnknownIndex)
            }
            Packet::PacketCookieReply(reply) => (Some(PeerIndex::of_receiver(reply.receiver_idx)), Drop::UnknownIndex),
            Packet::PacketData(_) => return Err(Drop::Malformed),
        };
        let peer = peer.ok_or(found)?;
        let member = self.members.get_mut(peer.slot()).and_then(Option::as_mut).ok_or(found)?;
        match datagram[0] {
            RESPONSE => member.finish(from, datagram, &mut self.shared, now)?,
            COOKIE => member.take_cookie(datagram)?,
            _ => member.answer(from, datagram, &mut self.shared, now)?,
        }
        Ok(peer)
    }

    /// The peer, and whether it became somebody else; `None` if it cannot be had.
    fn set_peer(&mut self, peer: &Peer, now: Instant) -> Option<(PeerIndex, bool)> {
        if peer.key == self.public {
            return None;
        }
        let index = match self.by_key.get(&peer.key) {
            Some(index) => *index,
            None => self.add(peer, now)?,
        };
        let member = self.members[index.slot()].as_mut().expect("what is found by its key is there");
        if member.round == self.round {
            return None;
        }
        let known = member.round != 0;
        member.round = self.round;
        let other = known && member.update(peer, now);
        if other {
            member.leave(&mut self.shared);
        }
        for range in &peer.allowed_ips {
            if !self.routes.insert(*range, index) {
                self.shared.dropped(Drop::Overlap, 1);
            }
        }
        self.wake_exactly(index, now);
        Some((index, other))
    }

    fn add(&mut self, peer: &Peer, now: Instant) -> Option<PeerIndex> {
        let index = match self.free.pop_front() {
            Some(index) => index,
            None if self.members.len() < PeerIndex::COUNT => {
                let index = u32::try_from(self.members.len()).expect("24 bits fit");
                self.members.push(None);
                PeerIndex(index)
            }
            None => return None,
        };
        self.members[index.slot()] = Some(Box::new(Member::new(index, peer, now)));
        self.by_key.insert(peer.key, index);
        Some(index)
    }

    fn remove(&mut self, peer: PeerIndex) {
        let Some(mut member) = self.members[peer.slot()].take() else { return };
        self.schedule.set(peer, member.wake, None);
        self.by_key.remove(&member.identity.key);
        self.shared.ready.retain(|other| *other != peer);
        member.leave(&mut self.shared);
        self.free.push_back(peer);
    }

    fn member(&self, peer: PeerIndex) -> Option<&Member> {
        self.members.get(peer.slot())?.as_deref()
    }

    fn wake_exactly(&mut self, peer: PeerIndex, now: Instant) {
        let Some(member) = self.members.get_mut(peer.slot()).and_then(Option::as_mut) else { return };
        let at = member.deadline(now);
        self.schedule.set(peer, member.wake, at);
        member.wake = at;
    }

    fn wake_earlier(&mut self, peer: PeerIndex, now: Instant) {
        let Some(member) = self.members.get_mut(peer.slot()).and_then(Option::as_mut) else { return };
        wake_earlier(member, peer, &mut self.schedule, now);
    }
}

/// A packet mostly puts a peer's deadline off. The schedule learns of that when the old one comes, so that packets do not
/// touch it.
fn wake_earlier(member: &mut Member, peer: PeerIndex, schedule: &mut Schedule, now: Instant) {
    if !member.take_moved() {
        return;
    }
    let at = member.deadline(now);
    if at.is_some_and(|at| member.wake.is_none_or(|wake| at < wake)) {
        schedule.set(peer, member.wake, at);
        member.wake = at;
    }
}

#[cfg(test)]
mod cost;
#[cfg(all(test, feature = "sim"))]
mod sim;
#[cfg(test)]
mod tests;
