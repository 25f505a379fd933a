//! What a caller sees of a connection.

use std::time::Instant;

use crate::config::{Buffers, Config};
use crate::connection::Connection;
use crate::counters::Counters;
use crate::figures::Figures;
use crate::segment::{Header, Segment, Transmit};
use crate::state::{Error, Phase};
use crate::time_wait::TimeWait;

/// One TCP connection.
///
/// It does no IO and reads no clock. Its methods come in four kinds:
///
/// - *inputs*: [`handle_segment`](Self::handle_segment) and [`handle_timeout`](Self::handle_timeout);
/// - *the application*: [`write`](Self::write), [`read`](Self::read), [`peek`](Self::peek), [`consume`](Self::consume),
///   [`shutdown`](Self::shutdown), [`abort`](Self::abort);
/// - *outputs*: [`poll_transmit`](Self::poll_transmit) until it returns `None` or says that there is no
///   [`more`](Transmit::more), then [`poll_timeout`](Self::poll_timeout);
/// - *questions*, which change nothing.
///
/// After any input or call of the application, poll both outputs again. `now` never goes back.
#[derive(Debug)]
pub struct Flow {
    connection: Connection,
}

impl Flow {
    /// Opens a connection. `isn` is the initial sequence number (RFC 6528: a keyed hash of addresses and ports plus a clock).
    pub fn connect(config: Config, isn: u32, now: Instant) -> Self {
        Self { connection: Connection::connect(config, isn, now) }
    }

    /// Answers a SYN. `None` if `syn` is not one that opens a connection. Whoever calls has decided that the connection is
    /// worth its memory.
    pub fn accept(config: Config, syn: &Segment<'_>, isn: u32, now: Instant) -> Option<Self> {
        if !opens(&syn.header) {
            return None;
        }
        let mut flow = Self::connect(config, isn, now);
        flow.connection.answer(&syn.header);
        Some(flow)
    }

    /// As [`connect`](Self::connect), in the place of a connection that is over. What memory that one had for its data is used
    /// again, up to 16 KiB of it; nothing else is left of it, not even if it was not over.
    pub fn reconnect(&mut self, config: Config, isn: u32, now: Instant) {
        self.connection.reconnect(config, isn, now);
    }

    /// As [`accept`](Self::accept), in the place of a connection that is over: see [`reconnect`](Self::reconnect). False, and
    /// nothing has happened, if `syn` is not one that opens a connection.
    pub fn reaccept(&mut self, config: Config, syn: &Segment<'_>, isn: u32, now: Instant) -> bool {
        let opens = opens(&syn.header);
        if opens {
            self.reconnect(config, isn, now);
            self.connection.answer(&syn.header);
        }
        opens
    }

    /// Takes a segment that arrived, possibly several merged into one. A segment that cannot be right is counted (see
    /// [`counters`](Self::counters)) and otherwise has no effect but an answer where RFC 5961 asks for one.
    pub fn handle_segment(&mut self, segment: &Segment<'_>, now: Instant) {
        let now = self.connection.clock.inside(now);
        self.connection.handle_segment(segment, now);
    }

    /// Lets every due deadline happen.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.connection.clock.inside(now);
        self.connection.handle_timeout(now);
    }

    /// What to send next, with at most `max` bytes of payload; `None` if there is nothing for now. What is returned counts as
    /// sent.
    pub fn poll_transmit(&mut self, now: Instant, max: usize) -> Option<Transmit<'_>> {
        let now = self.connection.clock.inside(now);
        self.connection.poll_transmit(now, max)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) and then [`poll_transmit`](Self::poll_transmit); `None` if only a
    /// segment or the application can change anything.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.connection.poll_timeout()
    }

    /// Takes bytes to send; returns how many there was room for. None after [`shutdown`](Self::shutdown) or the end.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        if self.connection.is_over() { 0 } else { self.connection.sender.write(bytes) }
    }

    /// How many bytes [`write`](Self::write) would take.
    pub fn writable(&self) -> usize {
        if self.connection.is_over() { 0 } else { self.connection.sender.writable() }
    }

    /// Moves received bytes into `out`; returns how many. Zero means none for now, or for ever: see
    /// [`is_read_to_end`](Self::is_read_to_end).
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        let (head, tail) = self.connection.receiver.peek();
        let first = head.len().min(out.len());
        let second = tail.len().min(out.len() - first);
        out[..first].copy_from_slice(&head[..first]);
        if second > 0 {
            out[first..first + second].copy_from_slice(&tail[..second]);
        }
        self.consume(first + second);
        first + second
    }

    /// The bytes that can be read, in order, in place.
    pub fn peek(&self) -> (&[u8], &[u8]) {
        self.connection.receiver.peek()
    }

    /// Marks the first `n` bytes of [`peek`](Self::peek) as read.
    pub fn consume(&mut self, n: usize) {
        if self.connection.receiver.consume(n) {
            self.connection.announce_window();
        }
    }

    /// The next sequence number that is expected of the peer (RCV.NXT).
    pub fn expected(&self) -> u32 {
        self.connection.receiver.ack()
    }

    /// Whether the peer has sent its FIN and everything before it has been read.
    pub fn is_read_to_end(&self) -> bool {
        self.connection.receiver.drained()
    }

    /// Ends our direction: a FIN follows what has been written. The peer may go on sending.
    pub fn shutdown(&mut self) {
        self.connection.sender.shut();
    }

    /// Ends the connection at once, with a reset.
    pub fn abort(&mut self) {
        self.connection.abort();
    }

    /// The state of the connection.
    pub fn phase(&self) -> Phase {
        self.connection.phase()
    }

    /// Why the connection ended out of order; `None` if it has not.
    pub fn error(&self) -> Option<Error> {
        self.connection.error
    }

    /// In TIME-WAIT, what has to be kept of it: the flow itself can go once everything has been read.
    pub fn time_wait(&self) -> Option<TimeWait> {
        self.connection.time_wait()
    }

    /// The path's largest packet has changed, to `mtu` bytes. What is on its way in larger ones is sent again.
    pub fn set_mtu(&mut self, mtu: u16, now: Instant) {
        let now = self.connection.clock.inside(now);
        self.connection.set_mtu(mtu, now);
    }

    /// Changes the bounds on memory. What is already held or promised to the peer stays.
    pub fn set_buffers(&mut self, buffers: Buffers) {
        let held = self.connection.buffers;
        // The most ever allowed: what the audit measures memory by.
        self.connection.buffers =
            Buffers { send: held.send.max(buffers.send), receive: held.receive.max(buffers.receive) };
        self.connection.sender.set_limit(buffers.send);
        self.connection.receiver.set_limit(buffers.receive);
    }

    /// Gives back memory that holds no data; for a flow that has been idle for a while.
    pub fn release_idle_memory(&mut self) {
        self.connection.sender.release_idle_memory();
        self.connection.receiver.release_idle_memory();
    }

    /// Bytes of memory that the flow takes for data, in both directions.
    pub fn memory(&self) -> usize {
        self.connection.sender.memory() + self.connection.receiver.memory()
    }

    /// What has been ignored, by reason.
    pub fn counters(&self) -> &Counters {
        &self.connection.counters
    }

    /// Figures about the path and the sender.
    pub fn figures(&self) -> Figures {
        let flight = self.connection.sender.flight();
        Figures {
            smoothed_rtt: flight.rtt().smoothed().map(Into::into),
            least_rtt: flight.rtt().least().map(Into::into),
            window: flight.window(),
            rate: flight.rate(),
            in_flight: flight.board().in_flight(),
            mss: self.connection.sender.mss(),
            records: self.connection.sender.ranges(),
            steps: flight.board().steps(),
        }
    }

    /// Checks what must always hold; for tests.
    #[cfg(any(test, feature = "world"))]
    pub fn audit(&self) {
        if !self.connection.is_over() {
            self.connection.sender.audit();
            let limit = 2 * (self.connection.buffers.receive.max(4096) + self.connection.buffers.send.max(4096));
            assert!(self.memory() <= limit, "{} bytes of {limit}", self.memory());
        }
    }
}

/// Whether a segment opens a connection.
fn opens(header: &Header) -> bool {
    header.syn && !header.rst && !header.fin && header.ack.is_none()
}
