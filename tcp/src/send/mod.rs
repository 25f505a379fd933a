//! The sending half: what the application has written, and which piece of it leaves next.
//!
//! [`Flight`](flight::Flight) knows what is on its way and how much more may be; this file decides what that is: a repair, a
//! probe, new data, the FIN.

mod buffer;
mod delivery;
mod flight;
mod harvest;
mod pacer;
mod peer;
mod piece;
mod rack;
mod range;
mod recovery;
mod report;
mod scoreboard;
mod stuck;
mod timer;
mod transmission;

use crate::clock::{Duration, Instant};
use crate::config::Config;
use crate::counters::{Counters, Ignored};
use crate::ring::{MOST_KEPT, Ring};
use crate::seq::Numbering;
use buffer::Buffer;
use flight::Flight;
use peer::PeerWindow;
pub(crate) use piece::Piece;
use report::Sacked;
pub(crate) use report::{Judgement, Report};
use scoreboard::Records;
use stuck::Stuck;
use timer::Alarm;

/// Our stream. Offsets count from our SYN, which is 0; the first byte is 1 and the FIN one past the last.
#[derive(Debug)]
pub(crate) struct Sender {
    numbering: Numbering,
    ring: Ring,
    /// One past the last byte written: where the FIN goes.
    end: u64,
    shut: bool,
    opened: bool,
    mss: usize,
    flight: Flight,
    peer: PeerWindow,
    buffer: Buffer,
    stuck: Option<Stuck>,
    /// A tail loss probe is due.
    probe: bool,
    /// Acknowledgements in a row that brought nothing, from a peer without SACK.
    duplicates: u32,
    selective: bool,
}

/// What a stream leaves to the next one.
pub(crate) struct Memory {
    ring: Ring,
    records: Records,
}

/// More pieces smaller than a segment than this wait until some are acknowledged: their bookkeeping outweighs them.
const MOST_RANGES_OF_SLIVERS: usize = 256;

impl Sender {
    #[inline(always)]
    pub(crate) fn new(config: &Config, initial: u32, now: Instant) -> Self {
        let mss = config.family.payload(config.mtu);
        Self {
            numbering: Numbering::new(initial),
            ring: Ring::default(),
            end: 1,
            shut: false,
            opened: false,
            mss,
            flight: Flight::new(config, mss as u64, now),
            peer: PeerWindow::closed(),
            buffer: Buffer::new(config.buffers.send),
            stuck: None,
            probe: false,
            duplicates: 0,
            selective: true,
        }
    }

    /// The memory of a stream that is over, without what it held.
    pub(crate) fn take_memory(&mut self) -> Memory {
        Memory { ring: self.ring.take_memory(), records: self.flight.take_records() }
    }

    /// Goes on in the memory of a stream that is over; for one that has not begun.
    pub(crate) fn use_memory(&mut self, memory: Memory) {
        self.ring = memory.ring;
        self.flight.use_records(memory.records);
    }

    /// The peer's SYN has told how it wants to be sent to: `mss` already agreed upon, its window `scale`, whether it sends
    /// SACK blocks.
    pub(crate) fn open(&mut self, mss: usize, scale: u8, selective: bool) {
        self.mss = mss;
        self.flight.set_mss(mss as u64);
        self.peer.open(scale);
        self.selective = selective;
        if !selective {
            self.flight.without_sack();
        }
    }

    /// The peer has not heard our SYN, or did not understand it: sends it again.
    pub(crate) fn repeat_syn(&mut self, now: Instant) {
        if self.flight.board().start() == 0 {
            self.flight.lose_first(now);
        }
    }

    /// Data may be sent.
    pub(crate) fn start(&mut self) {
        self.opened = true;
    }

    /// Most payload in a packet, in bytes.
    pub(crate) fn mss(&self) -> usize {
        self.mss
    }

    /// Changes the most payload in a packet. If it is less than thought, all that is on its way is cut anew and sent again.
    pub(crate) fn change_mss(&mut self, mss: usize, now: Instant) {
        let before = std::mem::replace(&mut self.mss, mss);
        if mss < before {
            self.flight.shrink(mss as u64, now);
        } else {
            self.flight.set_mss(mss as u64);
        }
    }

    /// How many bytes the application may write now.
    pub(crate) fn writable(&self) -> usize {
        if self.shut { 0 } else { self.buffer.size().saturating_sub(self.end - self.ring.start()) as usize }
    }

    /// Takes bytes from the application; returns how many.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.writable());
        self.ring.write(self.end, &bytes[..n], self.end);
        self.end += n as u64;
        n
    }

    /// Nothing more will be written: a FIN follows the last byte.
    pub(crate) fn shut(&mut self) {
        self.shut = true;
    }

    /// Whether something waits for the peer, or for its window.
    pub(crate) fn is_busy(&self) -> bool {
        !self.flight.board().is_empty() || self.stuck.is_some()
    }

    /// Whether the FIN has been sent.
    pub(crate) fn fin_sent(&self) -> bool {
        self.flight.board().end() > self.end
    }

    /// Whether the FIN, and so everything, has been acknowledged.
    pub(crate) fn finished(&self) -> bool {
        self.flight.board().start() > self.end
    }

    /// The next sequence number to be used (SND.NXT).
    pub(crate) fn next_seq(&self) -> u32 {
        self.numbering.wire(self.flight.board().end())
    }

    /// The sequence number before the first unacknowledged one: what a question carries that the peer must answer.
    pub(crate) fn question_seq(&self) -> u32 {
        self.numbering.wire(self.flight.board().start()).wrapping_sub(1)
    }

    /// Whether an acknowledgement number can be right (RFC 5961 section 5.2).
    pub(crate) fn judge(&self, ack: u32) -> Judgement {
        let board = self.flight.board();
        let offset = self.numbering.offset(ack, board.start());
        if offset > board.end() as i64 {
            return Judgement::Unsent;
        }
        if offset < board.start() as i64 - self.peer.most() as i64 || offset < 0 {
            return Judgement::TooOld;
        }
        Judgement::Good(offset as u64)
    }

    /// Takes what a segment says about our stream.
    pub(crate) fn handle_report(&mut self, report: &Report<'_>, now: Instant, counters: &mut Counters) {
        let before = self.flight.board().start();
        let ack = report.ack.max(before);
        if ack > self.end {
            return self.finish();
        }
        let moved = self.peer.update(report.window, report.syn, report.seq, report.ack);
        let news = if report.sack.is_empty() {
            self.flight.acknowledge(ack, now)
        } else {
            let sacked = self.read_sack(report, ack, counters);
            self.flight.evaluate(ack, sacked.blocks(), sacked.repeated, now)
        };
        if ack > before {
            self.ring.release(ack.clamp(self.ring.start(), self.end));
            self.probe = false;
        }
        self.buffer.grow(self.flight.window());
        if !self.selective {
            self.count_duplicates(ack > before, news || moved || !report.pure, now);
        }
        match &mut self.stuck {
            Some(_) if moved && self.peer.edge() > self.flight.board().end() => self.stuck = None,
            Some(stuck) => stuck.answered(),
            None => {}
        }
    }

    /// Our FIN is acknowledged.
    fn finish(&mut self) {
        self.flight.finish();
        self.ring.release(self.end);
        if self.ring.memory() > MOST_KEPT {
            self.ring.give_back();
        }
        (self.stuck, self.probe) = (None, false);
    }

    /// The next piece to send, at most `max` bytes of payload. What it returns counts as sent.
    pub(crate) fn poll(&mut self, max: usize, now: Instant) -> Option<Piece> {
        let probing = std::mem::take(&mut self.probe);
        let (start, end) = if probing { self.probe_piece()? } else { self.next_piece(max, now)? };
        if probing {
            self.flight.probe(start, end, now);
        }
        self.flight.sent(start, end, now);
        let piece = self.piece(start, end);
        if !probing {
            self.stuck = None;
            if !piece.more {
                self.flight.app_limited();
            }
        }
        Some(piece)
    }

    /// The payload of a piece.
    pub(crate) fn payload(&self, piece: &Piece) -> (&[u8], &[u8]) {
        self.ring.slices(piece.start.max(1), piece.end.min(self.end).max(1))
    }

    /// When [`handle_timeout`](Self::handle_timeout) or [`poll`](Self::poll) has something to do.
    pub(crate) fn deadline(&self) -> Instant {
        let pacing = if self.has_work() { self.flight.pacing_deadline() } else { Instant::NEVER };
        let stuck = self.stuck.as_ref().map_or(Instant::NEVER, |stuck| stuck.ask_at);
        // A probe that is due leaves at the next poll.
        let flight = if self.probe { Instant::NEVER } else { self.flight.deadline() };
        flight.min(pacing).min(stuck)
    }

    /// When the peer has been silent for too long.
    pub(crate) fn expiry(&self, patience: Duration) -> Instant {
        let asked = self.stuck.as_ref().map_or(Instant::NEVER, |stuck| stuck.asked);
        self.flight.stalled_since().min(asked) + patience
    }

    /// Lets due timers ring. Returns whether to ask the peer for its window.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> bool {
        if !self.probe && self.flight.ring(now) == Some(Alarm::Probe) {
            self.probe = self.probe_piece().is_some();
            if !self.probe {
                self.flight.skip_probe();
            }
        }
        let open = self.peer.edge() > self.flight.board().end();
        let Some(stuck) = self.stuck.as_mut().filter(|stuck| stuck.ask_at <= now) else { return false };
        stuck.act(open, self.flight.rtt(), now);
        !open
    }

    /// Bounds the buffer from now on. What has been written stays.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.buffer.set_limit(limit);
    }

    /// Bytes of memory taken by the ring.
    pub(crate) fn memory(&self) -> usize {
        self.ring.memory()
    }

    /// How many records the scoreboard holds.
    pub(crate) fn ranges(&self) -> usize {
        self.flight.board().ranges()
    }

    /// Figures for people and tests.
    pub(crate) fn flight(&self) -> &Flight {
        &self.flight
    }

    /// Gives memory back that holds nothing.
    pub(crate) fn release_idle_memory(&mut self) {
        if self.ring.start() == self.end {
            self.ring.give_back();
        }
        self.flight.release_idle_memory();
    }

    /// Gives back what only a stream that goes on needs, or the next one.
    pub(crate) fn rest(&mut self) {
        self.ring.give_back();
    }

    /// Checks what must always hold; for tests.
    #[cfg(any(test, feature = "world"))]
    pub(crate) fn audit(&self) {
        self.flight.audit();
        let board = self.flight.board();
        assert!(board.end() <= self.end + u64::from(self.shut), "only what was written is sent");
        assert_eq!(self.ring.start(), board.start().clamp(1, self.end), "the ring holds what is not acknowledged");
    }

    /// Whether something waits to be sent, allowed or not.
    fn has_work(&self) -> bool {
        let board = self.flight.board();
        board.has_lost() || board.end() < self.limit()
    }

    /// One past the last offset that exists by now.
    fn limit(&self) -> u64 {
        if self.opened { self.end + u64::from(self.shut) } else { 1 }
    }

    fn piece(&self, start: u64, end: u64) -> Piece {
        Piece {
            seq: self.numbering.wire(start),
            start,
            end,
            syn: start == 0,
            fin: end > self.end,
            push: end >= self.end && end > 1,
            more: self.has_work(),
        }
    }

    /// Where a piece that begins at `start` and could go to `end` has to stop for `room` bytes: whole segments, unless it is
    /// the rest. The SYN goes alone, the FIN costs nothing.
    fn cut(&self, start: u64, end: u64, room: u64) -> u64 {
        let last = end.min(self.end.max(1));
        if start + room >= last && room > 0 {
            return end;
        }
        let mss = self.mss as u64;
        start + if room < mss { room } else { room - room % mss }
    }

    /// What leaves next, with at most `max` bytes of payload: a repair, or new data.
    fn next_piece(&mut self, max: usize, now: Instant) -> Option<(u64, u64)> {
        if !self.has_work() {
            self.flight.app_limited();
            return None;
        }
        let room = self.flight.allowance(now).min(max as u64);
        let (start, end) = match self.flight.board().first_lost() {
            Some((start, end)) => (start, self.cut(start, end, room)),
            None => self.new_piece(room, self.mss.min(max) as u64, now)?,
        };
        (start < end).then_some((start, end))
    }

    /// New data for `room` bytes; less than `full` is a sliver.
    fn new_piece(&mut self, room: u64, full: u64, now: Instant) -> Option<(u64, u64)> {
        let (start, limit) = (self.flight.board().end(), self.limit());
        let end = limit.min(self.peer.edge().max(start));
        let cut = self.cut(start, end, room);
        let sliver = cut - start < full;
        if sliver && self.flight.board().ranges() >= MOST_RANGES_OF_SLIVERS {
            return None;
        }
        // Silly window avoidance (RFC 9293 section 3.8.6.2.1): a sliver goes if it is all there is, half the window, or asked for.
        let forced = self.stuck.as_ref().is_some_and(|stuck| stuck.force);
        if end < limit && sliver && cut - start < (self.peer.most() / 2).max(1) && !forced && room > 0 {
            self.flight.app_limited();
            if self.flight.board().is_empty() && self.stuck.is_none() {
                self.stuck = Some(Stuck::new(self.flight.rtt(), now));
            }
            return None;
        }
        Some((start, cut))
    }

    /// What a tail loss probe sends: a segment of new data, or the last one again.
    fn probe_piece(&self) -> Option<(u64, u64)> {
        let (board, mss) = (self.flight.board(), self.mss as u64);
        let (start, limit) = (board.end(), self.limit().min(self.peer.edge()));
        if start < limit && start > 0 {
            return Some((start, self.cut(start, limit, mss)));
        }
        board.last_unreported(mss)
    }

    /// The SACK blocks of a report, as long as they describe what was sent with no more records than that can need.
    #[inline(never)]
    fn read_sack(&self, report: &Report<'_>, ack: u64, counters: &mut Counters) -> Sacked {
        let board = self.flight.board();
        let mut sacked = Sacked::read(report, self.numbering, ack, board.end(), self.peer.most());
        let most = MOST_RANGES_OF_SLIVERS as u64 + 4 * (board.end() - board.start()) / self.mss as u64;
        if !self.selective || (board.ranges() as u64 > most && !sacked.blocks().is_empty()) {
            sacked = Sacked::refused();
        }
        for _ in 0..sacked.bad {
            counters.ignore(Ignored::BadSack);
        }
        sacked
    }

    /// Loss detection for a peer without SACK (RFC 5681 section 3.2, RFC 6582).
    fn count_duplicates(&mut self, progress: bool, other: bool, now: Instant) {
        if progress {
            self.duplicates = 0;
            if self.flight.recovering() {
                self.flight.lose_first(now);
            }
        } else if !other && !self.flight.board().is_empty() {
            self.duplicates += 1;
            if self.duplicates == 3 {
                self.flight.lose_first(now);
            }
        }
    }
}
