//! All flows of a netstack, and the rules by which they live and end: everything but WireGuard.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use postern_tcp::{Buffers, Config as FlowConfig, Family, Flow, Segment};

use crate::config::Limits;
use crate::counters::{Counters, Drop};
use crate::ended::Ended;
use crate::engine::PeerIndex;
use crate::event::{Event, ListenerId, StreamError, StreamId};
use crate::flows::{Flows, Role, Slot, Told};
use crate::hash::{Keyed, Secret};
use crate::listeners::Listeners;
use crate::numbers::Numbers;
use crate::outbox::Outbox;
use crate::tuple::FourTuple;
use crate::wheel::Wheel;

/// How long a flow rests before its memory is given back.
const IDLE: Duration = Duration::from_secs(5);
/// How long a flow whose peer has no session waits before that is tried again.
pub(crate) const RETRY: Duration = Duration::from_secs(1);
/// What every flow may hold in each direction, however short memory is: a first flight, or less where that would make all of
/// them together hold more than the budget once again.
const FIRST_FLIGHT: usize = 16 << 10;
/// The least of that: a packet. With less a flow would not get on at all.
const LEAST_BUFFER: usize = 2 << 10;
/// How much room a writer that was refused is told of.
const ROOM: usize = 16 << 10;

/// Flows, listeners and what they owe the application and the peers.
pub(crate) struct Stack {
    pub(crate) limits: Limits,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) mtu: u16,
    pub(crate) flows: Flows,
    pub(crate) ended: Ended,
    pub(crate) listeners: Listeners,
    pub(crate) outbox: Outbox,
    pub(crate) numbers: Numbers,
    pub(crate) events: VecDeque<Event>,
    pub(crate) counters: Counters,
    wheel: Wheel,
    due: Vec<u32>,
}

impl Stack {
    pub(crate) fn new(limits: Limits, addresses: Vec<IpAddr>, mtu: u16, seed: &[u8; 32], now: Instant) -> Self {
        let hasher = Keyed::new(&Secret::new(seed, 0));
        Self {
            addresses,
            mtu,
            flows: Flows::new(hasher),
            ended: Ended::new(hasher, limits.time_waits),
            listeners: Listeners::default(),
            outbox: Outbox::default(),
            numbers: Numbers::new(seed, now),
            events: VecDeque::new(),
            counters: Counters::default(),
            wheel: Wheel::new(now),
            due: Vec::new(),
            limits,
        }
    }

    /// How a flow of `tuple` with `peer` begins.
    pub(crate) fn flow_config(&mut self, tuple: &FourTuple, peer: PeerIndex) -> FlowConfig {
        FlowConfig {
            family: if tuple.remote.is_ipv4() { Family::V4 } else { Family::V6 },
            mtu: self.mtu,
            buffers: self.buffers(usize::MAX),
            control: self.limits.control,
            salt: self.numbers.salt(tuple),
            rtt: self.outbox.line(peer).rtt,
            patience: self.limits.patience,
            keep_alive: Some(self.limits.keep_alive),
            time_wait: Ended::REST,
        }
    }

    /// Adds a flow that has something to send.
    pub(crate) fn insert(
        &mut self,
        flow: Box<Flow>,
        tuple: FourTuple,
        peer: PeerIndex,
        role: Role,
        give_up: Duration,
        now: Instant,
    ) -> u32 {
        let headers = if tuple.remote.is_ipv4() { 40 } else { 60 };
        let index = self.flows.insert(Slot {
            flow,
            tuple,
            peer,
            role,
            mapped: true,
            dirty: false,
            open: false,
            active: role == Role::Held,
            shut: false,
            told: Told::default(),
            give_up: now.checked_add(give_up),
            release_at: None,
            touched: now,
            error: None,
            memory: 0,
            buffers: usize::MAX,
            mtu: self.mtu,
            mss: usize::from(self.mtu).saturating_sub(headers).max(1),
            cut: false,
        });
        self.counters.flows += 1;
        let line = self.outbox.line(peer);
        line.flows += 1;
        if let Role::Embryo(listener) = role {
            line.embryos += 1;
            self.listeners.begin(listener);
        }
        self.touch(index);
        self.settle(index, now);
        index
    }

    /// Gives a segment to the flow it belongs to.
    pub(crate) fn deliver(&mut self, index: u32, segment: &Segment<'_>, now: Instant) {
        let short = self.counters.memory as usize >= self.limits.memory;
        let least = self.least_buffer();
        let Some(slot) = self.flows.get_mut(index) else { return };
        slot.touched = now;
        let room = if short { slot.room(segment.header.seq, least) } else { usize::MAX };
        if segment.payload.len() > room {
            // What it acknowledges counts; the peer sends the rest again, later and slower.
            self.counters.drop(Drop::Memory);
            let mut header = segment.header;
            header.fin = false;
            let payload = &segment.payload[..room];
            slot.flow.handle_segment(&Segment { header, payload, packets: segment.packets }, now);
        } else {
            slot.flow.handle_segment(segment, now);
        }
        self.touch(index);
        self.settle(index, now);
    }

    /// A flow may have something to send: it is asked when its peer's turn comes.
    pub(crate) fn touch(&mut self, index: u32) {
        let id = self.flows.id(index);
        if let Some(slot) = self.flows.get_mut(index)
            && !std::mem::replace(&mut slot.dirty, true)
        {
            self.outbox.push_flow(slot.peer, id);
        }
    }

    /// Lets due deadlines happen.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(now, &mut due);
        for index in due.drain(..) {
            self.ring(index, now);
        }
        self.due = due;
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.wheel.next()
    }

    /// Ends a flow that the network no longer has. `say` is whether the peer can and may be told.
    pub(crate) fn end(&mut self, index: u32, say: bool, now: Instant) {
        let Some(slot) = self.flows.get_mut(index) else { return };
        if !slot.is_over() {
            slot.error = Some(StreamError::Ended);
            slot.flow.abort();
        }
        if say {
            self.touch(index);
        } else if let Some(slot) = self.flows.get_mut(index) {
            // Its place in the line is passed over.
            slot.dirty = false;
        }
        self.settle(index, now);
    }

    /// After anything that happened to a flow: tells the application, and lets go of what has ended.
    pub(crate) fn settle(&mut self, index: u32, now: Instant) {
        self.promote(index);
        self.announce(index);
        self.account(index, now);
        if !self.conclude(index, now) {
            self.arm(index, now);
        }
    }

    /// Sets the deadline of a flow. One that stands in a moving line has none: it is asked soon anyway.
    pub(crate) fn arm(&mut self, index: u32, now: Instant) {
        let Some(slot) = self.flows.get_mut(index) else { return };
        if slot.dirty && !self.outbox.is_blocked(slot.peer) {
            return;
        }
        let flow = if slot.is_over() { None } else { slot.flow.poll_timeout() };
        let flow = if slot.dirty { flow.map(|at| at.max(now + RETRY)) } else { flow };
        let at = [flow, slot.give_up, slot.release_at].into_iter().flatten().min();
        self.wheel.set(index, at);
    }

    /// Lets go of a flow.
    pub(crate) fn free(&mut self, index: u32) {
        let id = self.flows.id(index);
        let Some(slot) = self.flows.remove(index) else { return };
        self.wheel.set(index, None);
        self.counters.flows -= 1;
        self.counters.memory -= slot.memory as u64;
        self.outbox.line(slot.peer).flows -= 1;
        self.disown(slot.role, slot.peer, id);
        self.flows.keep(slot.flow);
    }

    /// A role that a listener counts is over.
    fn disown(&mut self, role: Role, peer: PeerIndex, id: StreamId) {
        match role {
            Role::Embryo(listener) => {
                self.outbox.line(peer).embryos -= 1;
                self.listeners.gone(listener, id);
            }
            Role::Waiting(listener) => self.listeners.gone(listener, id),
            Role::Held | Role::Orphan => {}
        }
    }

    fn ring(&mut self, index: u32, now: Instant) {
        let Some(slot) = self.flows.get_mut(index) else { return };
        self.counters.polls += 1;
        if slot.release_at.is_some_and(|at| at <= now) {
            let idle = slot.touched + IDLE;
            slot.release_at = Some(idle).filter(|idle| *idle > now);
            if slot.release_at.is_none() {
                slot.flow.release_idle_memory();
            }
        }
        let over = slot.is_over();
        let mut asked = false;
        if slot.give_up.is_some_and(|at| at <= now) {
            slot.give_up = None;
            if over {
                slot.dirty = false;
            } else {
                slot.error = Some(StreamError::TimedOut);
                slot.flow.abort();
                asked = true;
            }
        } else if !over && slot.flow.poll_timeout().is_some_and(|at| at <= now) {
            slot.flow.handle_timeout(now);
            asked = true;
        }
        let peer = slot.peer;
        if asked {
            self.touch(index);
        }
        self.outbox.retry(peer, now);
        self.settle(index, now);
    }

    /// A handshake may be through.
    fn promote(&mut self, index: u32) {
        let id = self.flows.id(index);
        let Some(slot) = self.flows.get_mut(index).filter(|slot| !slot.open && slot.is_synchronised()) else { return };
        slot.open = true;
        slot.give_up = None;
        let (peer, rtt) = (slot.peer, slot.rtt());
        match slot.role {
            Role::Embryo(listener) => {
                slot.role = Role::Waiting(listener);
                self.outbox.line(peer).embryos -= 1;
                if self.listeners.ready(listener, id) {
                    self.events.push_back(Event::Incoming(listener));
                }
            }
            Role::Held => {
                self.counters.connected += 1;
                self.events.push_back(Event::Connected(id));
            }
            Role::Waiting(_) | Role::Orphan => {}
        }
        let line = self.outbox.line(peer);
        line.rtt = rtt.or(line.rtt);
    }

    fn announce(&mut self, index: u32) {
        let id = self.flows.id(index);
        let Some(slot) = self.flows.get_mut(index) else { return };
        if slot.role != Role::Held || slot.told.closed {
            return;
        }
        if !slot.told.readable && (slot.has_unread() || slot.flow.is_read_to_end()) {
            slot.told.readable = true;
            self.events.push_back(Event::Readable(id));
        }
        if slot.told.wants_room && slot.has_room(ROOM.min(slot.buffers.min(self.limits.buffers.send) / 4)) {
            slot.told.wants_room = false;
            self.events.push_back(Event::Writable(id));
        }
        if slot.is_over() {
            slot.told.closed = true;
            self.events.push_back(Event::Closed(id));
        }
    }

    /// Counts a flow's memory, and tells it how much it may have.
    pub(crate) fn account(&mut self, index: u32, now: Instant) {
        let Some(slot) = self.flows.get_mut(index) else { return };
        let memory = slot.flow.memory();
        self.counters.memory = self.counters.memory + memory as u64 - slot.memory as u64;
        slot.memory = memory;
        if memory > 0 && slot.release_at.is_none() {
            slot.release_at = Some(slot.touched + IDLE).filter(|at| *at > now);
        }
        let allowed = self.allowance();
        let Some(slot) = self.flows.get_mut(index).filter(|slot| slot.buffers != allowed) else { return };
        let first = slot.buffers == usize::MAX;
        slot.buffers = allowed;
        let buffers = self.buffers(allowed);
        if let Some(slot) = self.flows.get_mut(index).filter(|_| !first) {
            slot.flow.set_buffers(buffers);
        }
    }

    /// What a flow may hold in each direction: all that the limits say while half of the memory is free, then ever less.
    fn allowance(&self) -> usize {
        let used = self.counters.memory as usize;
        let most = self.limits.buffers.send.max(self.limits.buffers.receive);
        if used < self.limits.memory / 2 {
            return most;
        }
        let share = self.limits.memory.saturating_sub(used) / 16;
        // In steps of two, so that flows are not told at every turn.
        (1 << share.checked_ilog2().unwrap_or(0)).max(self.least_buffer()).min(most)
    }

    /// What a flow may hold in each direction while all of them hold as much as they may.
    fn least_buffer(&self) -> usize {
        (self.limits.memory / 2 / self.limits.flows.max(1) as usize).clamp(LEAST_BUFFER, FIRST_FLIGHT)
    }

    fn buffers(&self, allowed: usize) -> Buffers {
        let allowed = allowed.min(self.allowance());
        let Buffers { send, receive } = self.limits.buffers;
        Buffers { send: send.min(allowed), receive: receive.min(allowed) }
    }

    /// Lets go of a flow that is over and has nothing more to send. Returns whether it is gone or has nothing to wait for.
    fn conclude(&mut self, index: u32, now: Instant) -> bool {
        let id = self.flows.id(index);
        let Some(slot) = self.flows.get_mut(index) else { return true };
        if slot.role == Role::Orphan && !slot.is_over() && slot.has_unread() {
            // Nobody will read it: the peer should know (RFC 2525 section 2.17).
            slot.flow.abort();
            self.touch(index);
        }
        let Some(slot) = self.flows.get_mut(index).filter(|slot| slot.is_over()) else { return false };
        let (role, peer) = (slot.role, slot.peer);
        if matches!(role, Role::Embryo(_) | Role::Waiting(_)) {
            slot.role = Role::Orphan;
            self.disown(role, peer, id);
        }
        let Some(slot) = self.flows.get_mut(index) else { return true };
        // Without a session nothing can be said.
        slot.dirty &= !self.outbox.is_blocked(peer);
        if slot.dirty {
            slot.give_up = slot.give_up.or(now.checked_add(self.limits.linger));
            return false;
        }
        slot.give_up = None;
        if slot.mapped {
            let (wait, tuple, active) = (slot.flow.time_wait(), slot.tuple, slot.active);
            let ignored =
                postern_tcp::Ignored::ALL.iter().map(|reason| u64::from(slot.flow.counters().ignored(*reason)));
            self.counters.ignored += ignored.sum::<u64>();
            if wait.is_some() || active {
                self.ended.insert(tuple, peer, wait, now);
            }
            self.flows.unmap(index);
        }
        if role == Role::Held {
            return false;
        }
        self.free(index);
        true
    }

    /// Ends what waits at a listener.
    pub(crate) fn close_listener(&mut self, id: ListenerId, now: Instant) {
        let waiting = self.flows.pick(|slot| slot.role == Role::Embryo(id) || slot.role == Role::Waiting(id));
        for index in waiting {
            self.end(index, true, now);
        }
        self.listeners.remove(id);
    }
}
