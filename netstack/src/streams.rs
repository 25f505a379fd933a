//! What an application does with flows.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_tcp::Phase;

use crate::engine::PeerIndex;
use crate::event::{ConnectError, Event, ListenerId, Read, StreamError, StreamId};
use crate::flows::{Role, Slot};
use crate::numbers::Use;
use crate::stack::Stack;

impl Stack {
    /// Takes the connection that has waited longest.
    pub(crate) fn accept(
        &mut self,
        listener: ListenerId,
        now: Instant,
    ) -> Option<(StreamId, PeerIndex, [SocketAddr; 2])> {
        let id = self.listeners.accept(listener)?;
        let index = self.flows.index(id)?;
        let slot = self.flows.get_mut(index)?;
        slot.role = Role::Held;
        let taken = (id, slot.peer, [slot.tuple.remote(), slot.tuple.local()]);
        self.counters.accepted += 1;
        self.settle(index, now);
        Some(taken)
    }

    /// Opens a connection to `peer`.
    pub(crate) fn connect(
        &mut self,
        peer: PeerIndex,
        remote: SocketAddr,
        patience: Duration,
        now: Instant,
    ) -> Result<StreamId, ConnectError> {
        let same = |own: &&std::net::IpAddr| own.is_ipv4() == remote.is_ipv4();
        let local = *self.addresses.iter().find(same).ok_or(ConnectError::NoAddress)?;
        if self.flows.len() >= self.limits.flows as usize || self.outbox.line(peer).flows >= self.limits.flows_per_peer
        {
            return Err(ConnectError::TooMany);
        }
        let (flows, ended) = (&self.flows, &self.ended);
        let used = |tuple: &_| match (flows.find(tuple), ended.rests(tuple, now)) {
            (Some(_), _) | (None, Some(true)) => Use::Taken,
            (None, Some(false)) => Use::Rests,
            (None, None) => Use::Free,
        };
        let tuple = self.numbers.port(local, remote, used).ok_or(ConnectError::NoPort)?;
        self.ended.remove(&tuple);
        let isn = self.numbers.isn(&tuple, None, now);
        let config = self.flow_config(&tuple, peer);
        let flow = self.flows.connect(config, isn, now);
        let index = self.insert(flow, tuple, peer, Role::Held, patience, now);
        Ok(self.flows.id(index))
    }

    pub(crate) fn unread(&mut self, id: StreamId) -> usize {
        self.held(id).map_or(0, |(_, slot)| {
            let (head, tail) = slot.flow.peek();
            head.len() + tail.len()
        })
    }

    pub(crate) fn read(&mut self, id: StreamId, out: &mut [u8], now: Instant) -> Result<Read, StreamError> {
        let (index, slot) = self.held(id)?;
        let n = slot.flow.read(out);
        if n > 0 {
            slot.touched = now;
            slot.told.readable = slot.has_unread();
            if !slot.is_over() {
                self.touch(index);
            }
            self.settle(index, now);
            return Ok(Read::Bytes(n));
        }
        if slot.has_unread() {
            return Ok(Read::Pending);
        }
        if slot.flow.is_read_to_end() {
            return Ok(Read::End);
        }
        if let Some(error) = slot.failure() {
            return Err(error);
        }
        slot.told.readable = false;
        Ok(Read::Pending)
    }

    pub(crate) fn write(&mut self, id: StreamId, pieces: &[IoSlice<'_>], now: Instant) -> Result<usize, StreamError> {
        let (index, slot) = self.held(id)?;
        if let Some(error) = slot.failure() {
            return Err(error);
        }
        if slot.shut || slot.is_over() {
            return Err(StreamError::Closed);
        }
        // It may have been told how much it may hold while there was more.
        self.account(index, now);
        let (index, slot) = self.held(id)?;
        let mut n = 0;
        for piece in pieces {
            let taken = slot.flow.write(piece);
            n += taken;
            if taken < piece.len() {
                break;
            }
        }
        if n == 0 {
            slot.told.wants_room |= pieces.iter().any(|piece| !piece.is_empty());
            return Ok(0);
        }
        slot.touched = now;
        self.touch(index);
        self.settle(index, now);
        Ok(n)
    }

    pub(crate) fn shutdown(&mut self, id: StreamId, now: Instant) {
        let Ok((index, slot)) = self.held(id) else { return };
        if !std::mem::replace(&mut slot.shut, true) {
            slot.flow.shutdown();
            self.touch(index);
            self.settle(index, now);
        }
    }

    /// The handle is gone. Unread data makes it a reset (RFC 2525 section 2.17); else what was written is sent to its end,
    /// within a bound.
    pub(crate) fn close(&mut self, id: StreamId, now: Instant) {
        let linger = self.limits.linger;
        let Ok((index, slot)) = self.held(id) else { return };
        slot.role = Role::Orphan;
        if !slot.is_over() {
            slot.give_up = now.checked_add(linger);
            match slot.flow.phase() {
                Phase::SynSent | Phase::SynReceived => slot.flow.abort(),
                _ if slot.has_unread() => slot.flow.abort(),
                _ => slot.flow.shutdown(),
            }
            self.touch(index);
        }
        self.settle(index, now);
    }

    pub(crate) fn abort(&mut self, id: StreamId, now: Instant) {
        let Ok((index, slot)) = self.held(id) else { return };
        slot.flow.abort();
        self.touch(index);
        self.settle(index, now);
    }

    /// What the application has to hear next.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        while let Some(event) = self.events.pop_front() {
            match event {
                Event::Connected(id) | Event::Readable(id) | Event::Writable(id) | Event::Closed(id) => {
                    if self.held(id).is_ok() {
                        return Some(event);
                    }
                }
                Event::Incoming(_) => return Some(event),
            }
        }
        None
    }

    pub(crate) fn local(&self, id: StreamId) -> Option<SocketAddr> {
        let slot = self.flows.get(self.flows.index(id)?)?;
        Some(slot.tuple.local())
    }

    /// The flow of a handle that the application holds.
    fn held(&mut self, id: StreamId) -> Result<(u32, &mut Slot), StreamError> {
        let index = self.flows.index(id).ok_or(StreamError::Closed)?;
        let slot = self.flows.get_mut(index).filter(|slot| slot.role == Role::Held).ok_or(StreamError::Closed)?;
        Ok((index, slot))
    }
}
