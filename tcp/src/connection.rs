//! The state machine of a connection (RFC 9293): what a segment, a deadline and an abort do to it, and what leaves next.

use crate::admission::{Position, Verdict, admit};
use crate::alive::Alive;
use crate::clock::{Clock, Duration, Instant};
use crate::config::{Buffers, Config, Family};
use crate::counters::{Counters, Ignored};
use crate::owed::Owed;
use crate::recv::{Arrival, Receiver};
use crate::segment::{Header, Segment, Transmit};
use crate::send::{Judgement, Piece, Report, Sender};
use crate::state::{Error, Phase};
use crate::terms::{self, Terms};
use crate::time_wait::{Straggler, TimeWait};

/// Both directions of a connection, and what binds them.
#[derive(Debug)]
pub(crate) struct Connection {
    family: Family,
    mtu: u16,
    /// The most ever allowed.
    pub(crate) buffers: Buffers,
    patience: Duration,
    time_wait: Duration,
    pub(crate) clock: Clock,
    stage: Stage,
    /// What the peer's SYN said; `None` before it.
    terms: Option<Terms>,
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
    pub(crate) owed: Owed,
    alive: Alive,
    /// Our FIN was sent after the peer's had arrived: the peer waits, not we.
    closed_second: bool,
    pub(crate) error: Option<Error>,
    pub(crate) counters: Counters,
}

/// Where a connection stands. Of the eleven states of RFC 9293, those that follow from what was sent and acknowledged are
/// not stored: see [`Connection::phase`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    SynSent,
    SynReceived,
    Open,
    /// Until then.
    TimeWait(Instant),
    Closed,
}

/// Where an admitted segment stands: in the peer's stream, and in ours what it acknowledges.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: i64,
    ack: u64,
}

impl Connection {
    /// Opens a connection. Inlined, as all that it calls, so that each field is written once, where it belongs.
    #[inline(always)]
    #[expect(clippy::needless_pass_by_value, reason = "a connection is told once; what it keeps of that is its own")]
    pub(crate) fn connect(config: Config, isn: u32, began: std::time::Instant) -> Self {
        let now = Instant::START;
        let sender = Sender::new(&config, isn, now);
        let Config { family, mtu, buffers, patience, keep_alive, time_wait, .. } = config;
        Self {
            family,
            mtu,
            buffers,
            patience: patience.into(),
            time_wait: time_wait.into(),
            clock: Clock::new(began),
            stage: Stage::SynSent,
            terms: None,
            sender,
            receiver: Receiver::new(buffers.receive),
            owed: Owed::nothing(),
            alive: Alive::new(keep_alive, now),
            closed_second: false,
            error: None,
            counters: Counters::default(),
        }
    }

    /// What was just opened answers a SYN instead of sending one.
    pub(crate) fn answer(&mut self, syn: &Header) {
        self.stage = Stage::SynReceived;
        self.synchronise(syn);
    }

    /// Opens a connection in the memory of one that is over.
    pub(crate) fn reconnect(&mut self, config: Config, isn: u32, began: std::time::Instant) {
        let (send, receive) = (self.sender.take_memory(), self.receiver.take_memory());
        *self = Self::connect(config, isn, began);
        self.sender.use_memory(send);
        self.receiver.use_memory(receive);
    }

    /// Takes a segment.
    pub(crate) fn handle_segment(&mut self, segment: &Segment<'_>, now: Instant) {
        let admitted = match self.stage {
            Stage::Open => self.handle_synchronised(segment, now),
            Stage::SynSent => self.handle_in_syn_sent(segment, now),
            Stage::SynReceived if segment.header.syn && !segment.header.rst => self.handle_syn_again(segment, now),
            Stage::SynReceived => self.handle_synchronised(segment, now),
            Stage::TimeWait(until) => return self.handle_in_time_wait(segment, until, now),
            Stage::Closed => return self.counters.ignore(Ignored::Closed),
        };
        if let Some(place) = admitted {
            self.take(segment, place, now);
            self.settle(now);
        }
    }

    /// Lets every due deadline happen.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        match self.stage {
            Stage::Closed => return,
            Stage::TimeWait(until) => {
                if until <= now {
                    self.stage = Stage::Closed;
                    self.owed.clear();
                }
                return;
            }
            Stage::SynSent | Stage::SynReceived | Stage::Open => {}
        }
        self.owed.handle_timeout(now);
        if self.sender.handle_timeout(now) {
            self.owed.ask();
        }
        if self.keep_alive_at() <= now {
            self.owed.ask();
            if self.alive.ask() {
                return self.fail(Error::TimedOut);
            }
        }
        if self.sender.expiry(self.patience) <= now {
            self.fail(Error::TimedOut);
        }
    }

    /// What leaves next.
    pub(crate) fn poll_transmit(&mut self, now: Instant, max: usize) -> Option<Transmit<'_>> {
        if let Some(header) = self.owed.take_reset() {
            return Some(self.bare(header, false));
        }
        match self.stage {
            Stage::Closed => return None,
            Stage::TimeWait(_) => return self.owed.acks_now().then(|| self.acknowledgement(false)),
            Stage::SynSent | Stage::SynReceived | Stage::Open => {}
        }
        if self.stage == Stage::Open {
            if self.owed.take_question() {
                let seq = self.sender.question_seq();
                let header = Header { seq, ..self.header() };
                return Some(self.bare(header, true));
            }
            // SACK blocks do not fit beside a full payload: they travel alone, and first.
            if self.owed.acks_now() && self.receiver.has_sack() {
                return Some(self.acknowledgement(true));
            }
        }
        let fin_sent = self.sender.fin_sent();
        if let Some(piece) = self.sender.poll(max, now) {
            self.closed_second |= piece.fin && !fin_sent && self.receiver.finished();
            return Some(self.data(piece));
        }
        (self.owed.acks_now() && self.stage == Stage::Open).then(|| self.acknowledgement(false))
    }

    /// The next deadline.
    pub(crate) fn poll_timeout(&self) -> Option<std::time::Instant> {
        match self.stage {
            Stage::Closed => None,
            Stage::TimeWait(until) => Some(self.clock.outside(until)),
            Stage::SynSent | Stage::SynReceived | Stage::Open => {
                let expiry = self.sender.expiry(self.patience);
                let at = self.owed.deadline().min(self.sender.deadline()).min(expiry).min(self.keep_alive_at());
                (at < Instant::NEVER).then(|| self.clock.outside(at))
            }
        }
    }

    /// Ends the connection at once.
    pub(crate) fn abort(&mut self) {
        match self.stage {
            // Nobody knows of it, or everybody knows that it is over.
            Stage::SynSent | Stage::TimeWait(_) | Stage::Closed => self.owed.clear(),
            Stage::SynReceived | Stage::Open => self.send_reset(),
        }
        self.end(Error::Aborted);
    }

    /// The state of the connection.
    pub(crate) fn phase(&self) -> Phase {
        match self.stage {
            Stage::SynSent => Phase::SynSent,
            Stage::SynReceived => Phase::SynReceived,
            Stage::TimeWait(_) => Phase::TimeWait,
            Stage::Closed => Phase::Closed,
            Stage::Open => {
                let (sent, acknowledged) = (self.sender.fin_sent(), self.sender.finished());
                Phase::of_fins(sent, acknowledged, self.receiver.finished(), self.closed_second)
            }
        }
    }

    /// Cuts by another size of packets from now on, and again what is on its way in larger ones.
    pub(crate) fn set_mtu(&mut self, mtu: u16, now: Instant) {
        self.mtu = mtu;
        let mss = self.payload().min(self.terms.map_or(usize::MAX, |terms| terms.mss));
        self.sender.change_mss(mss, now);
    }

    /// In TIME-WAIT, what has to be kept.
    pub(crate) fn time_wait(&self) -> Option<TimeWait> {
        match self.stage {
            Stage::TimeWait(until) => Some(self.remains(until)),
            Stage::SynSent | Stage::SynReceived | Stage::Open | Stage::Closed => None,
        }
    }

    /// The application has read so much that the peer should know.
    pub(crate) fn announce_window(&mut self) {
        if self.stage == Stage::Open {
            self.owed.ack_now();
        }
    }

    /// Whether nothing more is sent or received.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::TimeWait(_) | Stage::Closed)
    }

    fn handle_in_syn_sent(&mut self, segment: &Segment<'_>, now: Instant) -> Option<Place> {
        let header = &segment.header;
        let ack = header.ack.map(|ack| self.sender.judge(ack));
        match (header.rst, ack) {
            (true, Some(Judgement::Good(1))) => self.end(Error::Refused),
            (true, _) => self.counters.ignore(Ignored::BlindReset),
            (false, Some(Judgement::Good(0) | Judgement::Unsent | Judgement::TooOld)) => {
                self.answer_with_reset(segment, now);
            }
            (false, None | Some(Judgement::Good(_))) if header.fin || !header.syn => {
                self.counters.ignore(Ignored::BadFlags);
            }
            (false, None) => {
                self.synchronise(header);
                self.stage = Stage::SynReceived;
                self.sender.repeat_syn(now);
            }
            (false, Some(Judgement::Good(ack))) => {
                self.synchronise(header);
                self.open();
                self.owed.ack_now();
                return Some(Place { offset: 0, ack });
            }
        }
        None
    }

    /// A SYN while ours is not acknowledged: the peer's again, or its half of a simultaneous open.
    fn handle_syn_again(&mut self, segment: &Segment<'_>, now: Instant) -> Option<Place> {
        let header = &segment.header;
        let ack = header.ack.map(|ack| self.sender.judge(ack));
        match (self.receiver.offset(header.seq), ack) {
            (0, Some(Judgement::Good(ack @ 1..))) if !header.fin => {
                self.open();
                self.owed.ack_now();
                return Some(Place { offset: 0, ack });
            }
            (0, None) if self.owed.may_answer(now) => self.sender.repeat_syn(now),
            _ => self.counters.ignore(Ignored::UnexpectedSyn),
        }
        None
    }

    /// Inlined, so that in an open connection nothing is asked that only the handshake needs.
    #[inline(always)]
    fn handle_synchronised(&mut self, segment: &Segment<'_>, now: Instant) -> Option<Place> {
        let header = &segment.header;
        let offset = self.receiver.offset(header.seq);
        let verdict = admit(
            segment,
            Position {
                exact: offset == self.receiver.next() as i64,
                in_window: self.receiver.in_window(offset),
                acceptable: self.receiver.accepts(offset, segment.length()),
                ack: header.ack.map(|ack| self.sender.judge(ack)),
            },
        );
        match verdict {
            Verdict::Take(0) => self.answer_with_reset(segment, now),
            Verdict::Take(ack) => {
                if self.stage == Stage::SynReceived {
                    self.open();
                }
                return Some(Place { offset, ack });
            }
            Verdict::Reset if self.stage == Stage::SynReceived => self.end(Error::Refused),
            Verdict::Reset => self.end(Error::Reset),
            Verdict::Challenge(Ignored::AckOfUnsent) if self.stage == Stage::SynReceived => {
                self.answer_with_reset(segment, now);
            }
            Verdict::Challenge(reason) => {
                self.counters.ignore(reason);
                self.owed.challenge(now);
            }
            Verdict::Refuse => {
                // A repetition means that an acknowledgement was lost; anything else may be a stranger's.
                if self.receiver.refuse(offset, segment.length(), &mut self.counters) {
                    self.owed.ack_now();
                } else {
                    self.owed.challenge(now);
                }
            }
            Verdict::Drop(reason) => self.counters.ignore(reason),
        }
        None
    }

    fn handle_in_time_wait(&mut self, segment: &Segment<'_>, until: Instant, now: Instant) {
        match self.remains(until).handle_segment(segment) {
            Straggler::Answer(_) if self.owed.may_answer(now) => self.owed.ack_now(),
            Straggler::Answer(_) | Straggler::Nothing | Straggler::Reopen { .. } => {}
        }
    }

    /// Takes the peer's SYN.
    fn synchronise(&mut self, syn: &Header) {
        let terms = Terms::of(syn, self.family);
        self.receiver.begin(syn.seq, terms.scale.is_some());
        let mss = terms.mss.min(self.payload());
        self.sender.open(mss, terms.scale.unwrap_or(0), terms.sack);
        self.terms = Some(terms);
    }

    /// Our SYN is acknowledged.
    fn open(&mut self) {
        self.stage = Stage::Open;
        self.sender.start();
    }

    /// Takes an admitted segment.
    fn take(&mut self, segment: &Segment<'_>, Place { offset, ack }: Place, now: Instant) {
        let Segment { header, payload, packets } = segment;
        self.alive.hear(now);
        let pure = segment.length() == 0;
        let report = Report { ack, seq: offset, window: header.window, syn: header.syn, pure, sack: &header.sack };
        self.sender.handle_report(&report, now, &mut self.counters);
        // What rides on a SYN comes again: RFC 9293 allows to leave it.
        if header.syn {
            return;
        }
        match self.receiver.receive(offset, payload, header.fin, &mut self.counters) {
            Arrival::Nothing => {}
            Arrival::InOrder => self.owed.ack_soon(*packets, now),
            Arrival::Notable => self.owed.ack_now(),
        }
    }

    /// Our direction, or both, may have ended.
    fn settle(&mut self, now: Instant) {
        if self.stage != Stage::Open || !self.sender.finished() {
            return;
        }
        if !self.receiver.finished() {
            return self.sender.rest();
        }
        self.stage = if self.closed_second { Stage::Closed } else { Stage::TimeWait(now + self.time_wait) };
    }

    /// What remains of it in TIME-WAIT.
    fn remains(&self, until: Instant) -> TimeWait {
        TimeWait::new(self.sender.next_seq(), self.receiver.ack(), self.clock.outside(until))
    }

    fn answer_with_reset(&mut self, segment: &Segment<'_>, now: Instant) {
        self.counters.ignore(Ignored::AckOfUnsent);
        if let Some(reset) = Header::reset_for(segment).filter(|_| self.owed.may_answer(now)) {
            self.owed.reset(reset.seq, reset.ack);
        }
    }

    fn send_reset(&mut self) {
        self.owed.reset(self.sender.next_seq(), Some(self.receiver.ack()));
    }

    fn fail(&mut self, error: Error) {
        match self.stage {
            Stage::SynSent => self.owed.clear(),
            Stage::SynReceived | Stage::Open | Stage::TimeWait(_) | Stage::Closed => self.send_reset(),
        }
        self.end(error);
    }

    fn end(&mut self, error: Error) {
        if self.stage != Stage::Closed {
            self.error = Some(error);
        }
        self.stage = Stage::Closed;
        self.owed.clear();
    }

    fn keep_alive_at(&self) -> Instant {
        let idle = self.stage == Stage::Open && !self.sender.is_busy();
        if idle { self.alive.ask_at() } else { Instant::NEVER }
    }

    /// Most payload in a packet that the path carries, in bytes.
    fn payload(&self) -> usize {
        self.family.payload(self.mtu)
    }

    /// Inlined, as [`acknowledgement`](Self::acknowledgement), so that it is written where the caller expects it: what was written
    /// in small pieces a moment ago is expensive to copy in large ones.
    #[inline(always)]
    fn header(&mut self) -> Header {
        Header {
            seq: self.sender.next_seq(),
            ack: Some(self.receiver.ack()),
            window: self.receiver.offer(false),
            ..Header::default()
        }
    }

    fn bare(&self, header: Header, more: bool) -> Transmit<'static> {
        Transmit { header, payload: (&[], &[]), mss: self.sender.mss(), more }
    }

    #[inline(always)]
    fn acknowledgement(&mut self, more: bool) -> Transmit<'static> {
        self.owed.acked();
        let mut header = self.header();
        if self.receiver.has_sack() {
            let sack = self.receiver.take_sack();
            header.sack = if self.terms.is_some_and(|terms| terms.sack) { sack } else { header.sack };
        }
        self.bare(header, more)
    }

    fn data(&mut self, piece: Piece) -> Transmit<'_> {
        let header = if piece.syn {
            let ack = self.terms.map(|_| self.receiver.ack());
            let window = self.receiver.offer(true);
            Header { seq: piece.seq, ack, window, ..terms::offer(self.payload(), self.receiver.scale(), self.terms) }
        } else {
            self.owed.acked();
            Header { seq: piece.seq, fin: piece.fin, psh: piece.push, ..self.header() }
        };
        Transmit { header, payload: self.sender.payload(&piece), mss: self.sender.mss(), more: piece.more }
    }
}
