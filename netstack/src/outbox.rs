//! What waits to be sent, peer by peer.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::engine::PeerIndex;
use crate::event::StreamId;

/// A line for each peer, and the peers whose lines move, in turn.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    lines: Vec<Line>,
    ring: VecDeque<PeerIndex>,
}

/// What is counted and waits for one peer.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// Flows to be asked what to send.
    dirty: VecDeque<StreamId>,
    /// Packets of our own: RST and ICMP.
    answers: VecDeque<Vec<u8>>,
    queued: bool,
    /// There is no session: nothing can leave, and until then nothing more is tried.
    blocked: Option<Instant>,
    /// When the second began in which so many answers were given.
    answered: Option<(Instant, u32)>,
    /// Flows with this peer.
    pub(crate) flows: u32,
    /// Unfinished handshakes that the peer has opened.
    pub(crate) embryos: u32,
    /// The round trip that flows have measured.
    pub(crate) rtt: Option<Duration>,
}

/// Answers that wait for a peer: as many as leave at once.
const MOST_ANSWERS: usize = 64;

impl Outbox {
    pub(crate) fn line(&mut self, peer: PeerIndex) -> &mut Line {
        let index = peer.slot();
        if index >= self.lines.len() {
            self.lines.resize_with(index + 1, Line::default);
        }
        &mut self.lines[index]
    }

    /// A flow may have something to send.
    pub(crate) fn push_flow(&mut self, peer: PeerIndex, flow: StreamId) {
        self.line(peer).dirty.push_back(flow);
        self.enqueue(peer);
    }

    /// Adds an answer, if the peer gets one more in this second; at most `most`.
    pub(crate) fn push_answer(&mut self, peer: PeerIndex, packet: Vec<u8>, most: u32, now: Instant) -> bool {
        let line = self.line(peer);
        let given = match line.answered {
            Some((since, given)) if now.saturating_duration_since(since) < Duration::from_secs(1) => given,
            Some(_) | None => {
                line.answered = Some((now, 0));
                0
            }
        };
        if given >= most || line.answers.len() >= MOST_ANSWERS {
            return false;
        }
        line.answered = line.answered.map(|(since, given)| (since, given + 1));
        line.answers.push_back(packet);
        self.enqueue(peer);
        true
    }

    /// The peer whose turn it is.
    pub(crate) fn next(&mut self) -> Option<PeerIndex> {
        let peer = self.ring.pop_front()?;
        self.line(peer).queued = false;
        Some(peer)
    }

    /// Gives a peer another turn if something waits for it.
    pub(crate) fn enqueue(&mut self, peer: PeerIndex) {
        let line = self.line(peer);
        let waits = !line.dirty.is_empty() || !line.answers.is_empty();
        if waits && !line.queued && line.blocked.is_none() {
            line.queued = true;
            self.ring.push_back(peer);
        }
    }

    /// Whether anything stands in a peer's line.
    pub(crate) fn waits(&self, peer: PeerIndex) -> bool {
        self.lines.get(peer.slot()).is_some_and(|line| !line.dirty.is_empty() || !line.answers.is_empty())
    }

    /// The peer is somebody else now: what answers the one before is not for it.
    pub(crate) fn forget_answers(&mut self, peer: PeerIndex) {
        self.line(peer).answers.clear();
    }

    pub(crate) fn pop_answer(&mut self, peer: PeerIndex) -> Option<Vec<u8>> {
        self.line(peer).answers.pop_front()
    }

    pub(crate) fn pop_flow(&mut self, peer: PeerIndex) -> Option<StreamId> {
        self.line(peer).dirty.pop_front()
    }

    /// What stands in a peer's line.
    pub(crate) fn flows(&self, peer: PeerIndex) -> impl Iterator<Item = StreamId> + '_ {
        self.lines.get(peer.slot()).into_iter().flat_map(|line| line.dirty.iter().copied())
    }

    /// Nothing can leave for this peer, and before `until` nothing is tried again.
    pub(crate) fn block(&mut self, peer: PeerIndex, until: Instant) {
        self.line(peer).blocked = Some(until);
    }

    pub(crate) fn is_blocked(&self, peer: PeerIndex) -> bool {
        self.lines.get(peer.slot()).is_some_and(|line| line.blocked.is_some())
    }

    /// There is a session.
    pub(crate) fn unblock(&mut self, peer: PeerIndex) {
        self.line(peer).blocked = None;
        self.enqueue(peer);
    }

    /// There is no session yet, but it may be asked for again.
    pub(crate) fn retry(&mut self, peer: PeerIndex, now: Instant) {
        if self.line(peer).blocked.is_some_and(|until| until <= now) {
            self.unblock(peer);
        }
    }

    /// The peer is gone; its flows have ended.
    pub(crate) fn forget(&mut self, peer: PeerIndex) {
        let line = self.line(peer);
        let queued = line.queued;
        *line = Line { queued, flows: line.flows, embryos: line.embryos, ..Line::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_take_turns_and_a_blocked_one_has_none() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        let (one, two) = (PeerIndex(0), PeerIndex(5));
        for _ in 0..2 {
            outbox.push_flow(one, StreamId { index: 1, epoch: 0 });
            outbox.push_flow(two, StreamId { index: 2, epoch: 0 });
        }
        assert_eq!((outbox.next(), outbox.next(), outbox.next()), (Some(one), Some(two), None));
        outbox.block(one, now);
        outbox.enqueue(one);
        outbox.enqueue(two);
        assert_eq!((outbox.next(), outbox.next()), (Some(two), None));
        outbox.unblock(one);
        assert_eq!(outbox.next(), Some(one));
    }

    #[test]
    fn answers_are_counted_by_the_second() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        let peer = PeerIndex(0);
        let mut given = 0;
        for ms in 0..3000 {
            given += u32::from(outbox.push_answer(peer, Vec::new(), 10, now + Duration::from_millis(ms)));
            outbox.pop_answer(peer);
        }
        assert_eq!(given, 30);
        let waiting = (0..100).filter(|_| outbox.push_answer(peer, Vec::new(), 1000, now + Duration::from_secs(9)));
        assert_eq!(waiting.count(), MOST_ANSWERS);
    }
}
