//! The state machine as callers see it.

use std::collections::{HashMap, HashSet};
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::config::Config;
use crate::counters::{Counters, Drop};
use crate::egress::{Egress, MOST_MTU};
use crate::engine::{Engine, Opened, PeerIndex, What};
use crate::event::{
    Accepted, ConnectError, Deadline, Event, ListenError, ListenerId, Read, Reason, StreamError, StreamId,
};
use crate::flows::Slot;
use crate::inlet;
use crate::merge::Merge;
use crate::path::Path;
use crate::peer::{Peer, PeerStatus};
use crate::stack::Stack;

/// WireGuard peers, and the TCP connections with them.
///
/// It does no IO and reads no clock. Its methods come in four kinds:
///
/// - *inputs*: [`handle_datagram`](Self::handle_datagram), [`handle_timeout`](Self::handle_timeout), and what the owner
///   decides: [`set_peers`](Self::set_peers), [`set_addresses`](Self::set_addresses);
/// - *the application*: [`listen`](Self::listen), [`accept`](Self::accept), [`connect`](Self::connect), [`read`](Self::read),
///   [`write`](Self::write), [`shutdown`](Self::shutdown), [`close`](Self::close);
/// - *outputs*: [`poll_event`](Self::poll_event) until it returns `None`, [`poll_transmit`](Self::poll_transmit) until it
///   returns false, then [`poll_timeout`](Self::poll_timeout);
/// - *questions*, which change nothing.
///
/// After any input or call of the application, poll all outputs again. `now` never goes back.
pub struct Netstack {
    engine: Engine,
    stack: Stack,
    merge: Merge,
    egress: Egress,
    now: Instant,
}

impl Netstack {
    /// One without peers.
    #[must_use]
    pub fn new(config: Config, now: Instant) -> Self {
        let Config { key, addresses, mtu, limits, seed } = config;
        let mut engine = Engine::new(key, seed, limits.handshakes_per_second, now);
        engine.set_addresses(addresses.clone());
        Self {
            engine,
            stack: Stack::new(limits, addresses, mtu.min(MOST_MTU), &seed, now),
            merge: Merge::new(),
            egress: Egress::new(),
            now,
        }
    }

    /// What peers know us by.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.engine.public_key()
    }

    /// Changes our addresses and the largest packet in bytes (see [`Config::mtu`]). Flows of an address that is gone end, and
    /// those with a peer's address that is ours from here on.
    pub fn set_addresses(&mut self, addresses: Vec<IpAddr>, mtu: u16, now: Instant) {
        self.advance(now);
        let mtu = mtu.min(MOST_MTU);
        let taken = |slot: &Slot| addresses.contains(&slot.tuple.remote);
        for index in self.stack.flows.pick(|slot| taken(slot) || !addresses.contains(&slot.tuple.local)) {
            let say = self.stack.flows.get(index).is_some_and(|slot| !taken(slot));
            self.stack.end(index, say, now);
        }
        self.engine.set_addresses(addresses.clone());
        self.stack.addresses = addresses;
        if std::mem::replace(&mut self.stack.mtu, mtu) != mtu {
            for index in self.stack.flows.pick(|slot| slot.mapped && !slot.is_over()) {
                self.stack.shrink(index, mtu, now);
            }
        }
    }

    /// Replaces the whole set of peers.
    ///
    /// A key with the same generation and allowed IPs keeps its session, path and flows. A key with another generation, or
    /// other allowed IPs, keeps its session, but its flows, what waits to be accepted and what waits to be sent end at once. With
    /// a key that is gone everything of it ends at once, the other ends told. Where allowed IPs overlap, the longer prefix wins;
    /// of equal ones the first, and the other is counted as [`Drop::Overlap`].
    pub fn set_peers(&mut self, peers: &[Peer], now: Instant) {
        self.advance(now);
        self.part_from(&self.engine.leaving(peers), now);
        let changes = self.engine.set_peers(peers, now);
        self.count_drops();
        let changes: HashMap<PeerIndex, What> = changes.iter().map(|change| (change.peer, change.what)).collect();
        for (peer, what) in &changes {
            self.egress.forget(*peer);
            match what {
                What::Gone => self.stack.outbox.forget(*peer),
                What::NewIdentity => self.stack.outbox.forget_answers(*peer),
            }
        }
        if !changes.is_empty() {
            self.stack.ended.forget(|peer| changes.contains_key(&peer));
        }
        let engine = &self.engine;
        let lost = |slot: &Slot| engine.route(slot.tuple.remote) != Some(slot.peer);
        for index in self.stack.flows.pick(|slot| changes.contains_key(&slot.peer) || lost(slot)) {
            let Some(slot) = self.stack.flows.get(index) else { continue };
            let say = changes.get(&slot.peer) != Some(&What::Gone) && !lost(slot);
            self.stack.end(index, say, now);
        }
    }

    /// Resets the connections of peers that are about to go, while they can still hear it.
    fn part_from(&mut self, leaving: &[PeerIndex], now: Instant) {
        if leaving.is_empty() {
            return;
        }
        let going: HashSet<PeerIndex> = leaving.iter().copied().collect();
        for index in self.stack.flows.pick(|slot| going.contains(&slot.peer)) {
            self.stack.end(index, true, now);
        }
        self.egress.part(leaving, &mut self.stack, &mut self.engine, now);
    }

    /// Says whether datagrams arrive faster than they are taken. Then few cookies are made (see
    /// [`Limits::handshakes_per_second`](crate::Limits::handshakes_per_second)), so that a flood of handshakes does not have the
    /// system drop data.
    pub fn set_behind(&mut self, behind: bool) {
        self.engine.set_behind(behind);
    }

    /// Takes a datagram that arrived. Segments that follow each other are merged; what is held back for that is passed on by
    /// any other call.
    pub fn handle_datagram(&mut self, from: Path, datagram: &[u8], now: Instant) {
        self.now = now;
        if !self.merge.has_room(datagram.len()) {
            self.flush();
        }
        if !self.merge.has_room(datagram.len()) {
            return self.stack.counters.drop(Drop::Malformed);
        }
        match self.engine.open(from, datagram, self.merge.space(), now) {
            Opened::Packet { peer, len } => {
                inlet::handle_packet(&mut self.merge, &mut self.stack, peer, len, now);
            }
            Opened::Nothing => {}
            Opened::Dropped(reason) => self.stack.counters.drop(reason),
        }
    }

    /// Lets every due deadline happen.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        self.engine.handle_timeout(now);
        self.count_drops();
        self.stack.handle_timeout(now);
    }

    /// What has happened. Nothing is said of a stream that was given back.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.flush();
        self.stack.next_event()
    }

    /// Fills `batch` with what is to be sent next, for one path. Returns false if there is nothing for now. What is in the
    /// batch counts as sent.
    pub fn poll_transmit(&mut self, now: Instant, batch: &mut Batch) -> bool {
        self.advance(now);
        let some = self.egress.poll(&mut self.stack, &mut self.engine, now, batch);
        self.count_drops();
        some
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) and then poll everything; `None` if only a datagram or the
    /// application can change anything.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let at = |at: Option<Instant>, reason| at.map(|at| Deadline { at, reason });
        let merge = at(self.merge.held_since(), Reason::Merge);
        let engine = at(self.engine.poll_timeout(), Reason::WireGuard);
        let flow = at(self.stack.poll_timeout(), Reason::Flow);
        [merge, engine, flow].into_iter().flatten().min_by_key(|deadline| deadline.at)
    }

    /// Listens on a port of all our addresses.
    ///
    /// # Errors
    /// [`ListenError`] if somebody does already, or for port 0.
    pub fn listen(&mut self, port: u16) -> Result<ListenerId, ListenError> {
        self.stack.listeners.add(port)
    }

    /// Ends a listener. What was accepted goes on; what waits is reset.
    pub fn close_listener(&mut self, listener: ListenerId, now: Instant) {
        self.advance(now);
        self.stack.close_listener(listener, now);
    }

    /// The next connection that a peer has opened; `None` if none waits.
    pub fn accept(&mut self, listener: ListenerId) -> Option<Accepted> {
        self.flush();
        let (stream, peer, [remote, local]) = self.stack.accept(listener, self.now)?;
        let peer = *self.engine.identity(peer)?;
        Some(Accepted { stream, peer, remote, local })
    }

    /// Opens a connection to an address of a peer; `patience` is how long that may take. [`Event::Connected`] or
    /// [`Event::Closed`] follows.
    ///
    /// # Errors
    /// [`ConnectError`] if it cannot even be tried.
    pub fn connect(&mut self, remote: SocketAddr, patience: Duration, now: Instant) -> Result<StreamId, ConnectError> {
        self.advance(now);
        let peer = self.engine.route(remote.ip()).ok_or(ConnectError::NoPeer)?;
        self.stack.connect(peer, remote, patience, now)
    }

    /// How many bytes of a connection have arrived and can be [`read`](Self::read).
    pub fn unread(&mut self, stream: StreamId, now: Instant) -> usize {
        self.advance(now);
        self.stack.unread(stream)
    }

    /// Moves what has arrived into `out`.
    ///
    /// # Errors
    /// How the connection ended, after everything that arrived before has been read.
    pub fn read(&mut self, stream: StreamId, out: &mut [u8], now: Instant) -> Result<Read, StreamError> {
        self.advance(now);
        self.stack.read(stream, out, now)
    }

    /// Takes bytes to send; returns how many. None means that there is no room: [`Event::Writable`] tells when there is.
    ///
    /// # Errors
    /// How the connection ended, or [`StreamError::Closed`] after [`shutdown`](Self::shutdown).
    pub fn write(&mut self, stream: StreamId, bytes: &[u8], now: Instant) -> Result<usize, StreamError> {
        self.write_vectored(stream, &[IoSlice::new(bytes)], now)
    }

    /// The same for bytes that lie in pieces.
    ///
    /// # Errors
    /// Those of [`write`](Self::write).
    pub fn write_vectored(
        &mut self,
        stream: StreamId,
        pieces: &[IoSlice<'_>],
        now: Instant,
    ) -> Result<usize, StreamError> {
        self.advance(now);
        self.stack.write(stream, pieces, now)
    }

    /// Ends our direction after what has been written. The peer may go on sending.
    pub fn shutdown(&mut self, stream: StreamId, now: Instant) {
        self.advance(now);
        self.stack.shutdown(stream, now);
    }

    /// Gives a handle back. If something that arrived has not been read, the connection is reset; else what was written is
    /// sent and the connection ends by itself, within a bound.
    pub fn close(&mut self, stream: StreamId, now: Instant) {
        self.advance(now);
        self.stack.close(stream, now);
    }

    /// Resets a connection: the peer is told that it broke off, and what was written and not yet sent is gone. The handle stays
    /// to be [closed](Self::close).
    pub fn abort(&mut self, stream: StreamId, now: Instant) {
        self.advance(now);
        self.stack.abort(stream, now);
    }

    /// Resets every connection. [`poll_transmit`](Self::poll_transmit) tells the peers, as far as there are sessions.
    pub fn close_all(&mut self, now: Instant) {
        self.advance(now);
        for index in self.stack.flows.pick(|slot| !slot.is_over()) {
            self.stack.end(index, true, now);
        }
    }

    /// Our end of a connection.
    #[must_use]
    pub fn local_addr(&self, stream: StreamId) -> Option<SocketAddr> {
        self.stack.local(stream)
    }

    /// The peers.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> + '_ {
        self.engine.peers()
    }

    /// Whose allowed IPs contain an address; of several the longest prefix.
    #[must_use]
    pub fn peer_at(&self, address: IpAddr) -> Option<PeerStatus> {
        self.engine.status(self.engine.route(address)?)
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.stack.counters
    }

    /// For tests that send packets no flow would.
    #[cfg(all(test, feature = "sim"))]
    pub(crate) fn parts(&mut self) -> (&mut Stack, &Engine) {
        (&mut self.stack, &self.engine)
    }

    fn advance(&mut self, now: Instant) {
        self.now = now;
        self.flush();
    }

    fn flush(&mut self) {
        inlet::flush(&mut self.merge, &mut self.stack, self.now);
    }

    fn count_drops(&mut self) {
        for (reason, count) in self.engine.take_drops() {
            self.stack.counters.drop_many(reason, count);
        }
    }
}
