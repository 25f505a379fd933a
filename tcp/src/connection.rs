//! The state machine of a connection (RFC 9293): what a segment, a deadline and an abort do to it, and what leaves next.

use crate::admission::{Position, Verdict, admit};
use crate::alive::Alive;
use crate::clock::{Clock, Instant};
use crate::config::Config;
use crate::counters::{Counters, Ignored};
use crate::owed::Owed;
use crate::recv::{Arrival, Receiver};
use crate::ring::Ring;
use crate::segment::{Header, Segment, Transmit};
use crate::send::{self, Judgement, Piece, Report, Sender};
use crate::state::{Error, Phase};
use crate::terms::{self, Terms};
use crate::time_wait::{Straggler, TimeWait};

/// Both directions of a connection, and what binds them.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) config: Config,
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

/// What a connection leaves to the next one.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    send: send::Memory,
    receive: Ring,
}

/// Where a connection stands. Of the eleven states of RFC 9293, those that follow from what was sent and acknowledged are
/// not stored: see [`Connection::phase`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    SynSent,
    SynReceived,
    Open,
    TimeWait(TimeWait),
    Closed,
}

impl Connection {
    /// Opens a connection. Inlined, as all that it calls, so that each field is written once, where it belongs.
    #[inline(always)]
    pub(crate) fn connect(config: Config, isn: u32, memory: Memory, began: std::time::Instant) -> Self {
        let now = Instant::START;
        Self {
            clock: Clock::new(began),
            stage: Stage::SynSent,
            terms: None,
            sender: Sender::new(&config, isn, memory.send, now),
            receiver: Receiver::new(config.buffers.receive, memory.receive),
            owed: Owed::nothing(),
            alive: Alive::new(now),
            closed_second: false,
            error: None,
            counters: Counters::default(),
            config,
        }
    }

    /// What was just opened answers a SYN instead of sending one.
    pub(crate) fn answer(&mut self, syn: &Header) {
        self.stage = Stage::SynReceived;
        self.synchronise(syn);
    }

    /// The memory of a connection that is over, without what it held.
    pub(crate) fn take_memory(&mut self) -> Memory {
        Memory { send: self.sender.take_memory(), receive: self.receiver.take_memory() }
    }

    /// Takes a segment.
    pub(crate) fn handle_segment(&mut self, segment: &Segment<'_>, now: Instant) {
        match self.stage {
            Stage::SynSent => self.handle_in_syn_sent(segment, now),
            Stage::SynReceived if segment.header.syn && !segment.header.rst => self.handle_syn_again(segment, now),
            Stage::SynReceived | Stage::Open => self.handle_synchronised(segment, now),
            Stage::TimeWait(wait) => match wait.handle_segment(segment) {
                Straggler::Answer(_) if self.owed.may_answer(now) => self.owed.ack_now(),
                Straggler::Answer(_) | Straggler::Nothing | Straggler::Reopen { .. } => {}
            },
            Stage::Closed => self.counters.ignore(Ignored::Closed),
        }
        self.settle(now);
    }

    /// Lets every due deadline happen.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        match self.stage {
            Stage::Closed => return,
            Stage::TimeWait(wait) => {
                if self.clock.inside(wait.until()) <= now {
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
            let asked = self.alive.ask();
            if self.config.keep_alive.is_some_and(|keep| asked > u16::from(keep.probes)) {
                return self.fail(Error::TimedOut);
            }
        }
        if self.sender.expiry(self.config.patience.into()) <= now {
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
            Stage::TimeWait(wait) => Some(wait.until()),
            Stage::SynSent | Stage::SynReceived | Stage::Open => {
                let expiry = self.sender.expiry(self.config.patience.into());
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
        self.config.mtu = mtu;
        let mss = self.config.family.payload(mtu).min(self.terms.map_or(usize::MAX, |terms| terms.mss));
        self.sender.change_mss(mss, now);
    }

    /// In TIME-WAIT, what has to be kept.
    pub(crate) fn time_wait(&self) -> Option<TimeWait> {
        match self.stage {
            Stage::TimeWait(wait) => Some(wait),
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

    fn handle_in_syn_sent(&mut self, segment: &Segment<'_>, now: Instant) {
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
                self.open(segment, 0, ack, now);
                self.owed.ack_now();
            }
        }
    }

    /// A SYN while ours is not acknowledged: the peer's again, or its half of a simultaneous open.
    fn handle_syn_again(&mut self, segment: &Segment<'_>, now: Instant) {
        let header = &segment.header;
        let ack = header.ack.map(|ack| self.sender.judge(ack));
        match (self.receiver.offset(header.seq), ack) {
            (0, Some(Judgement::Good(ack @ 1..))) if !header.fin => {
                self.open(segment, 0, ack, now);
                self.owed.ack_now();
            }
            (0, None) if self.owed.may_answer(now) => self.sender.repeat_syn(now),
            _ => self.counters.ignore(Ignored::UnexpectedSyn),
        }
    }

    fn handle_synchronised(&mut self, segment: &Segment<'_>, now: Instant) {
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
            Verdict::Take(ack) if self.stage == Stage::SynReceived => self.open(segment, offset, ack, now),
            Verdict::Take(ack) => self.take(segment, offset, ack, now),
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
    }

    /// Takes the peer's SYN.
    fn synchronise(&mut self, syn: &Header) {
        let terms = Terms::of(syn, &self.config);
        self.receiver.begin(syn.seq, terms.scale.is_some());
        let mss = terms.mss.min(self.config.family.payload(self.config.mtu));
        self.sender.open(mss, terms.scale.unwrap_or(0), terms.sack);
        self.terms = Some(terms);
    }

    /// Our SYN is acknowledged.
    fn open(&mut self, segment: &Segment<'_>, offset: i64, ack: u64, now: Instant) {
        self.stage = Stage::Open;
        self.sender.start();
        self.take(segment, offset, ack, now);
    }

    /// Takes an admitted segment.
    fn take(&mut self, segment: &Segment<'_>, offset: i64, ack: u64, now: Instant) {
        let Segment { header, payload, packets } = segment;
        self.alive = Alive::new(now);
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
        self.stage = if self.closed_second {
            Stage::Closed
        } else {
            let until = self.clock.outside(now + self.config.time_wait.into());
            Stage::TimeWait(TimeWait::new(self.sender.next_seq(), self.receiver.ack(), until))
        };
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
        match &self.config.keep_alive {
            Some(keep) if self.stage == Stage::Open && !self.sender.is_busy() => self.alive.ask_at(keep),
            Some(_) | None => Instant::NEVER,
        }
    }

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
            Header { seq: piece.seq, ack, window, ..terms::offer(&self.config, self.receiver.scale(), self.terms) }
        } else {
            self.owed.acked();
            Header { seq: piece.seq, fin: piece.fin, psh: piece.push, ..self.header() }
        };
        let more = self.sender.has_work();
        Transmit { header, payload: self.sender.payload(&piece), mss: self.sender.mss(), more }
    }
}
