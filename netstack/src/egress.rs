//! What leaves: packets are cut from flows straight into the batch and sealed there.

use std::collections::VecDeque;
use std::time::Instant;

use crate::batch::{Batch, MOST_BYTES, MOST_DATAGRAMS};
use crate::counters::Drop;
use crate::engine::{Engine, PeerIndex, Sealed};
use crate::event::StreamId;
use crate::path::Path;
use crate::stack::{RETRY, Stack};
use crate::wire::{emit, tcp};

/// What WireGuard adds to a packet: a header and a tag of 16 bytes each.
const OVERHEAD: usize = 32;
/// WireGuard pads packets to multiples of this (white paper section 5.4.6), which makes lengths alike: more leave at once.
const PADDING: usize = 16;

/// The largest packet that fits into a batch when it is sealed.
pub(crate) const MOST_MTU: u16 = ((MOST_BYTES - OVERHEAD) / PADDING * PADDING) as u16;

/// Between what flows say and what leaves.
pub(crate) struct Egress {
    /// What was cut and did not fit into the batch, because its packets are larger; leaves next.
    carry: Batch,
    carry_peer: Option<PeerIndex>,
    /// A packet before it is sealed.
    packet: Box<[u8]>,
    control: Vec<u8>,
    /// Whether the last batch was the engine's own: then data has the next one, so that a flood of handshakes does not stop it.
    control_left: bool,
    /// The last words to peers that are gone: sealed while they were there.
    farewells: VecDeque<(Path, Box<[u8]>)>,
}

/// Most last words that wait to leave. What is beyond goes unsaid, and the other ends find out by themselves.
const MOST_FAREWELLS: usize = 1024;

/// A batch being filled for a peer.
struct Filling<'a> {
    peer: PeerIndex,
    path: Path,
    batch: &'a mut Batch,
    carry: &'a mut Batch,
    packet: &'a mut [u8],
    now: Instant,
}

impl Egress {
    pub(crate) fn new() -> Self {
        let packet = vec![0; usize::from(u16::MAX) + emit::MOST_HEADERS + PADDING].into_boxed_slice();
        Self {
            carry: Batch::new(),
            carry_peer: None,
            packet,
            control: Vec::new(),
            control_left: false,
            farewells: VecDeque::new(),
        }
    }

    /// Fills a batch. Returns false if there is nothing to send.
    pub(crate) fn poll(&mut self, stack: &mut Stack, engine: &mut Engine, now: Instant, batch: &mut Batch) -> bool {
        batch.clear();
        if let Some((path, datagram)) = self.farewells.pop_front() {
            batch.space()[..datagram.len()].copy_from_slice(&datagram);
            batch.push(path, datagram.len());
            return true;
        }
        while let Some(ready) = engine.take_ready() {
            stack.outbox.unblock(ready);
        }
        if let Some(peer) = self.carry_peer.take() {
            std::mem::swap(batch, &mut self.carry);
            self.carry.clear();
            if engine.can_seal(peer, now) == batch.path() {
                self.fill_for(peer, stack, engine, now, batch);
            }
            return true;
        }
        let control_left = std::mem::take(&mut self.control_left);
        if !control_left && self.fill_control(stack, engine, batch) {
            return true;
        }
        while let Some(peer) = stack.outbox.next() {
            if engine.can_seal(peer, now).is_some() {
                self.fill_for(peer, stack, engine, now, batch);
                stack.outbox.enqueue(peer);
            } else {
                self.knock(peer, stack, engine, now);
            }
            if !batch.is_empty() {
                return true;
            }
        }
        // What gave way to data, and the handshake that begins a session that was asked for.
        self.fill_control(stack, engine, batch)
    }

    /// What waits to leave for a peer that is gone, or that is somebody else now, does not.
    pub(crate) fn forget(&mut self, peer: PeerIndex) {
        if self.carry_peer == Some(peer) {
            self.carry_peer = None;
            self.carry.clear();
        }
    }

    /// Seals what waits for peers that are about to go: the resets of their connections, so that their programs are not left
    /// waiting.
    pub(crate) fn part(&mut self, peers: &[PeerIndex], stack: &mut Stack, engine: &mut Engine, now: Instant) {
        let mut speaking = peers.iter().filter(|peer| stack.outbox.waits(**peer)).copied().collect::<VecDeque<_>>();
        if speaking.is_empty() {
            return;
        }
        let (others, mut batch) = (std::mem::take(&mut self.carry), Batch::new());
        while let Some(peer) = speaking.front().copied().filter(|_| self.farewells.len() < MOST_FAREWELLS) {
            batch.clear();
            self.fill(peer, stack, engine, now, &mut batch);
            for full in [&batch, &self.carry] {
                let said = full.datagrams().filter_map(|datagram| Some((full.path()?, datagram.into())));
                self.farewells.extend(said);
            }
            if batch.is_empty() && self.carry.is_empty() {
                speaking.pop_front();
            }
            self.carry.clear();
        }
        self.carry = others;
    }

    fn fill_control(&mut self, stack: &mut Stack, engine: &mut Engine, batch: &mut Batch) -> bool {
        loop {
            self.control.clear();
            let Some(path) = engine.poll_control(&mut self.control) else { return false };
            let size = self.control.len();
            if size == 0 || size > MOST_BYTES {
                stack.counters.drop(Drop::Unsealed);
                continue;
            }
            batch.space()[..size].copy_from_slice(&self.control);
            batch.push(path, size);
            break;
        }
        while let Some((path, size)) = engine.next_control()
            && Some(path) == batch.path()
            && batch.room(size) > 0
        {
            self.control.clear();
            engine.poll_control(&mut self.control);
            batch.space()[..size].copy_from_slice(&self.control);
            batch.push(path, size);
        }
        self.control_left = true;
        true
    }

    fn fill_for(&mut self, peer: PeerIndex, stack: &mut Stack, engine: &mut Engine, now: Instant, batch: &mut Batch) {
        self.fill(peer, stack, engine, now, batch);
        if !self.carry.is_empty() {
            self.carry_peer = Some(peer);
        }
    }

    /// What does not fit is in `carry` afterwards.
    fn fill(&mut self, peer: PeerIndex, stack: &mut Stack, engine: &mut Engine, now: Instant, batch: &mut Batch) {
        let Some(path) = engine.can_seal(peer, now) else { return };
        let (carry, packet) = (&mut self.carry, &mut self.packet[..]);
        let mut filling = Filling { peer, path, batch, carry, packet, now };
        filling.run(stack, engine);
    }

    /// Gives the engine one packet for a peer without a session: it begins one and sends the packet when there is one. The
    /// rest waits where it is.
    fn knock(&mut self, peer: PeerIndex, stack: &mut Stack, engine: &mut Engine, now: Instant) {
        let length = if let Some(answer) = stack.outbox.pop_answer(peer) {
            self.packet[..answer.len()].copy_from_slice(&answer);
            Some(answer.len())
        } else {
            self.cut_one(peer, stack, now)
        };
        let Some(length) = length else { return };
        match engine.seal(peer, &self.packet[..length], self.carry.space(), now) {
            Sealed::Queued => {}
            Sealed::Sealed(_) => stack.counters.drop(Drop::Unsealed),
            Sealed::NoPath => stack.counters.drop(Drop::NoPath),
            Sealed::Dropped(reason) => stack.counters.drop(reason),
        }
        stack.outbox.block(peer, now + RETRY);
        let waiting: Vec<u32> = stack.outbox.flows(peer).filter_map(|id| stack.flows.index(id)).collect();
        for index in waiting {
            stack.arm(index, now);
        }
    }

    /// Writes the next packet of the first flow in the line that has one; returns its length.
    fn cut_one(&mut self, peer: PeerIndex, stack: &mut Stack, now: Instant) -> Option<usize> {
        loop {
            let id = stack.outbox.pop_flow(peer)?;
            let Some(index) = stack.flows.index(id) else { continue };
            let Some(slot) = stack.flows.get_mut(index).filter(|slot| slot.dirty) else { continue };
            let tuple = slot.tuple;
            stack.counters.polls += 1;
            let Some(transmit) = slot.flow.poll_transmit(now, slot.mss) else {
                slot.dirty = false;
                stack.settle(index, now);
                continue;
            };
            slot.mss = transmit.mss;
            let first = transmit.packets().next();
            let length = first.map(|(header, payload)| emit::segment(&mut self.packet, &tuple, &header, payload));
            // There may be more: it stays in the line.
            stack.outbox.push_flow(peer, id);
            return length;
        }
    }
}

impl Filling<'_> {
    /// Answers first, then flows in turn, until the batch is full or nothing waits.
    fn run(&mut self, stack: &mut Stack, engine: &mut Engine) {
        while self.carry.is_empty() && self.batch.room(0) > 0 {
            if let Some(answer) = stack.outbox.pop_answer(self.peer) {
                self.packet[..answer.len()].copy_from_slice(&answer);
                self.seal(answer.len(), stack, engine);
            } else if let Some(id) = stack.outbox.pop_flow(self.peer) {
                self.pump(id, stack, engine);
            } else {
                return;
            }
        }
    }

    /// Lets a flow send until it has nothing to or the batch is full; then it goes to the end of the line.
    fn pump(&mut self, id: StreamId, stack: &mut Stack, engine: &mut Engine) {
        let Some(index) = stack.flows.index(id) else { return };
        let mtu = usize::from(stack.mtu);
        while self.carry.is_empty() && self.batch.room(0) > 0 {
            let Some(slot) = stack.flows.get_mut(index).filter(|slot| slot.dirty) else { return };
            let tuple = slot.tuple;
            debug_assert_eq!(engine.route(tuple.remote), Some(self.peer), "flows end with their routes");
            let full = padded(emit::ip_length(tuple.local) + tcp::HEADER + slot.mss, mtu) + OVERHEAD;
            let most = match self.batch.room(full) {
                // The first time, the peer may have asked for far smaller packets.
                _ if !slot.cut => 1,
                // All of it goes into `carry`, which is empty.
                0 => MOST_DATAGRAMS.min(MOST_BYTES / full),
                room => room,
            };
            stack.counters.polls += 1;
            slot.cut = slot.open;
            let Some(transmit) = slot.flow.poll_transmit(self.now, most.max(1) * slot.mss) else {
                slot.dirty = false;
                return stack.settle(index, self.now);
            };
            slot.mss = transmit.mss;
            for (header, payload) in transmit.packets() {
                let length = emit::segment(self.packet, &tuple, &header, payload);
                let padded = padded(length, mtu);
                self.packet[length..padded].fill(0);
                if let Some(reason) = self.seal_into(padded, engine) {
                    stack.counters.drop(reason);
                }
            }
        }
        stack.outbox.push_flow(self.peer, id);
    }

    fn seal(&mut self, length: usize, stack: &mut Stack, engine: &mut Engine) {
        if let Some(reason) = self.seal_into(length, engine) {
            stack.counters.drop(reason);
        }
    }

    /// Seals the packet to where it fits. What fits nowhere is lost, and its flow sends it again.
    fn seal_into(&mut self, length: usize, engine: &mut Engine) -> Option<Drop> {
        let size = length + OVERHEAD;
        let fits = self.carry.is_empty() && self.batch.room(size) > 0;
        let target: &mut Batch = if fits { self.batch } else { self.carry };
        if target.room(size) == 0 {
            return Some(Drop::Unsealed);
        }
        match engine.seal(self.peer, &self.packet[..length], target.space(), self.now) {
            Sealed::Sealed(size) => {
                target.push(self.path, size);
                None
            }
            Sealed::Queued => None,
            Sealed::NoPath => Some(Drop::NoPath),
            Sealed::Dropped(reason) => Some(reason),
        }
    }
}

/// How long a packet is when it is sealed.
fn padded(length: usize, mtu: usize) -> usize {
    length.next_multiple_of(PADDING).min(mtu.max(length))
}
