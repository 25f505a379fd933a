//! Flows with what the netstack knows about each, found by handle and by four-tuple.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use postern_tcp::{Config, Error, Flow, Phase, Segment};

use crate::engine::PeerIndex;
use crate::event::{ListenerId, StreamError, StreamId};
use crate::hash::Keyed;
use crate::tuple::FourTuple;

/// A flow, and what a socket would know of it.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) flow: Box<Flow>,
    pub(crate) tuple: FourTuple,
    pub(crate) peer: PeerIndex,
    pub(crate) role: Role,
    /// Whether segments of its four-tuple reach it.
    pub(crate) mapped: bool,
    /// It stands in its peer's line to be asked what to send.
    pub(crate) dirty: bool,
    /// Both SYNs are through.
    pub(crate) open: bool,
    /// We have opened it.
    pub(crate) active: bool,
    /// Our direction is shut.
    pub(crate) shut: bool,
    pub(crate) told: Told,
    /// When it ends unless what it waits for happens: an answer, an acknowledgement, the peer's end.
    pub(crate) give_up: Option<Instant>,
    /// When to look whether its memory can be given back.
    pub(crate) release_at: Option<Instant>,
    /// When data last went through it.
    pub(crate) touched: Instant,
    /// Why it ended, if the flow does not know.
    pub(crate) error: Option<StreamError>,
    pub(crate) memory: usize,
    /// The bound on buffers that it was told.
    pub(crate) buffers: usize,
    /// Largest packet.
    pub(crate) mtu: u16,
    /// Most payload in a packet, as its last transmission said.
    pub(crate) mss: usize,
    /// That was said after both SYNs were through, so that it is what the peer takes.
    pub(crate) cut: bool,
}

/// Whose a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Nobody's yet: a peer's handshake.
    Embryo(ListenerId),
    /// Nobody's yet: it waits to be accepted.
    Waiting(ListenerId),
    /// The application's.
    Held,
    /// Nobody's any more: it ends by itself.
    Orphan,
}

/// What the application has been told and not yet acted upon.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) readable: bool,
    pub(crate) closed: bool,
    /// A write was refused: tell when there is room.
    pub(crate) wants_room: bool,
}

impl Slot {
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.flow.phase(), Phase::TimeWait | Phase::Closed)
    }

    pub(crate) fn is_synchronised(&self) -> bool {
        !matches!(self.flow.phase(), Phase::SynSent | Phase::SynReceived | Phase::Closed)
    }

    pub(crate) fn has_unread(&self) -> bool {
        !self.flow.peek().0.is_empty()
    }

    /// Whether a writer should be told of room: there is `much`, or there will never be more, because nothing is on its way. A
    /// flow that was told to hold little while memory was short has less than `much` in all.
    pub(crate) fn has_room(&self, much: usize) -> bool {
        let room = self.flow.writable();
        room >= much.max(1) || (room > 0 && self.flow.figures().in_flight == 0)
    }

    /// How much of a segment's payload is taken when no more than `most` may be held: only what comes next, for what lies
    /// beyond a hole takes memory for the hole as well.
    pub(crate) fn room(&self, seq: u32, most: usize) -> usize {
        let (head, tail) = self.flow.peek();
        if seq == self.flow.expected() { most.saturating_sub(head.len() + tail.len()) } else { 0 }
    }

    pub(crate) fn failure(&self) -> Option<StreamError> {
        self.error.or_else(|| {
            self.flow.error().map(|error| match error {
                Error::Refused => StreamError::Refused,
                Error::Reset => StreamError::Reset,
                Error::TimedOut => StreamError::TimedOut,
                Error::Aborted => StreamError::Closed,
            })
        })
    }

    /// What the path says about its round trip, if anything was measured.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.flow.figures().least_rtt
    }
}

/// All flows.
#[derive(Debug)]
pub(crate) struct Flows {
    entries: Vec<Entry>,
    free: Vec<u32>,
    by_tuple: HashMap<FourTuple, u32, Keyed>,
    /// Flows that have ended, whose memory the next ones take.
    #[expect(clippy::vec_box, reason = "they come from slots and go to slots, boxed")]
    spare: Vec<Box<Flow>>,
}

/// Bounds what short connections leave for the next ones: at most 18 KiB each.
const MOST_SPARE: usize = 64;

#[derive(Debug)]
struct Entry {
    epoch: u32,
    slot: Option<Box<Slot>>,
}

impl Flows {
    pub(crate) fn new(hasher: Keyed) -> Self {
        Self { entries: Vec::new(), free: Vec::new(), by_tuple: HashMap::with_hasher(hasher), spare: Vec::new() }
    }

    /// A flow that opens a connection.
    pub(crate) fn connect(&mut self, config: Config, isn: u32, now: Instant) -> Box<Flow> {
        let Some(mut flow) = self.spare.pop() else { return Box::new(Flow::connect(config, isn, now)) };
        flow.reconnect(config, isn, now);
        flow
    }

    /// A flow that answers a SYN; `None` if it is not one.
    pub(crate) fn accept(&mut self, config: Config, syn: &Segment<'_>, isn: u32, now: Instant) -> Option<Box<Flow>> {
        let Some(mut flow) = self.spare.pop() else { return Flow::accept(config, syn, isn, now).map(Box::new) };
        flow.reaccept(config, syn, isn, now).then_some(flow)
    }

    /// Keeps the memory of a flow that nobody asks any more.
    pub(crate) fn keep(&mut self, flow: Box<Flow>) {
        if self.spare.len() < MOST_SPARE {
            self.spare.push(flow);
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(crate) fn find(&self, tuple: &FourTuple) -> Option<u32> {
        self.by_tuple.get(tuple).copied()
    }

    pub(crate) fn get(&self, index: u32) -> Option<&Slot> {
        self.entries.get(index as usize)?.slot.as_deref()
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut Slot> {
        self.entries.get_mut(index as usize)?.slot.as_deref_mut()
    }

    /// The place of a handle that still names something.
    pub(crate) fn index(&self, id: StreamId) -> Option<u32> {
        let entry = self.entries.get(id.index as usize)?;
        (entry.epoch == id.epoch && entry.slot.is_some()).then_some(id.index)
    }

    pub(crate) fn id(&self, index: u32) -> StreamId {
        StreamId { index, epoch: self.entries[index as usize].epoch }
    }

    /// Adds a flow; its four-tuple leads to it.
    pub(crate) fn insert(&mut self, slot: Slot) -> u32 {
        let tuple = slot.tuple;
        let slot = Some(Box::new(slot));
        let index = if let Some(index) = self.free.pop() {
            self.entries[index as usize].slot = slot;
            index
        } else {
            self.entries.push(Entry { epoch: 0, slot });
            self.entries.len() as u32 - 1
        };
        self.by_tuple.insert(tuple, index);
        index
    }

    /// Its four-tuple no longer leads to it.
    pub(crate) fn unmap(&mut self, index: u32) {
        if let Some(slot) = self.entries[index as usize].slot.as_deref_mut().filter(|slot| slot.mapped) {
            slot.mapped = false;
            self.by_tuple.remove(&slot.tuple);
        }
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<Box<Slot>> {
        self.unmap(index);
        let entry = &mut self.entries[index as usize];
        let slot = entry.slot.take()?;
        entry.epoch = entry.epoch.wrapping_add(1);
        self.free.push(index);
        Some(slot)
    }

    /// The places of all flows that `which` picks. Linear: for changes of the network alone.
    pub(crate) fn pick(&self, which: impl Fn(&Slot) -> bool) -> Vec<u32> {
        let picked = self.entries.iter().enumerate().filter(|(_, entry)| entry.slot.as_deref().is_some_and(&which));
        picked.map(|(index, _)| index as u32).collect()
    }
}

#[cfg(test)]
mod tests {
    use postern_tcp::Header;

    use super::*;
    use crate::hash::Secret;

    #[test]
    fn ended_flows_are_used_again_and_few_are_kept() {
        let now = Instant::now();
        let mut flows = Flows::new(Keyed::new(&Secret::new(&[7; 32], 0)));
        for _ in 0..2 * MOST_SPARE {
            flows.keep(Box::new(Flow::connect(Config::default(), 1, now)));
        }
        assert_eq!(flows.spare.len(), MOST_SPARE);
        let flow = flows.connect(Config::default(), 1, now);
        assert_eq!((flow.phase(), flows.spare.len()), (Phase::SynSent, MOST_SPARE - 1));
        let syn = Header { syn: true, ..Header::default() };
        let flow = flows.accept(Config::default(), &Segment::new(syn, b""), 1, now).expect("a SYN");
        assert_eq!((flow.phase(), flows.spare.len()), (Phase::SynReceived, MOST_SPARE - 2));
        let reset = Header { rst: true, ..syn };
        assert!(flows.accept(Config::default(), &Segment::new(reset, b""), 1, now).is_none());
    }
}
