//! One end of a connection: a flow and an application that checks every byte.

use std::time::{Duration, Instant};

use crate::config::Config;
use crate::flow::Flow;
use crate::segment::{Header, Segment};
use crate::state::Phase;

/// What an application does. Both applications of a pair are told of each other only through the connection.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    /// Bytes to send.
    pub send: u64,
    /// Most bytes written, and read, at once.
    pub chunk: usize,
    /// When to close: after having sent everything, or after the peer has closed too.
    pub close: Close,
    /// Bytes read per second; `None` for as fast as they come.
    pub reads: Option<u64>,
    /// Before which time nothing is written.
    pub starts_after: Duration,
}

/// When an application closes its direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// As soon as everything is written.
    WhenSent,
    /// Not before the peer has closed and everything has been read.
    AfterPeer,
    /// Never.
    Never,
}

impl Script {
    /// Sends `send` bytes as fast as it can, reads as fast as it can, closes when done.
    pub fn bulk(send: u64) -> Self {
        Self { send, chunk: 64 << 10, close: Close::WhenSent, reads: None, starts_after: Duration::ZERO }
    }
}

/// A flow with its application.
#[derive(Debug)]
pub struct End {
    pub(super) config: Config,
    pub(super) isn: u32,
    /// `None` before a SYN has arrived.
    pub(super) flow: Option<Flow>,
    /// A flow of an earlier connection, in whose place this one's begins.
    pub(super) used: Option<Flow>,
    script: Script,
    /// Tells the streams of a world apart.
    stream: u64,
    began: Instant,
    sent: u64,
    received: u64,
}

/// Fills `out` with a stream from `offset` on: what is sent and what is expected, so that nothing needs to be kept.
pub fn fill(stream: u64, offset: u64, out: &mut [u8]) {
    let word = |index: u64| (stream ^ index).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let skip = (offset % 8) as usize;
    let (head, rest) = out.split_at_mut(((8 - skip) % 8).min(out.len()));
    head.copy_from_slice(&word(offset / 8)[skip..skip + head.len()]);
    for (index, bytes) in (offset.div_ceil(8)..).zip(rest.chunks_mut(8)) {
        bytes.copy_from_slice(&word(index)[..bytes.len()]);
    }
}

/// Checks that `bytes` are those of a stream at `offset`.
pub fn check(stream: u64, offset: u64, bytes: &[u8]) {
    let mut expected = [0; 4096];
    for (at, bytes) in (offset..).step_by(expected.len()).zip(bytes.chunks(expected.len())) {
        fill(stream, at, &mut expected[..bytes.len()]);
        assert!(
            bytes == &expected[..bytes.len()],
            "stream {stream} is not itself from {at} to {}",
            at + bytes.len() as u64
        );
    }
}

impl End {
    pub(super) fn new(config: Config, isn: u32, script: Script, stream: u64, now: Instant) -> Self {
        Self { config, isn, flow: None, used: None, script, stream, began: now, sent: 0, received: 0 }
    }

    /// The flow; `None` before the peer's SYN has arrived.
    pub fn flow(&self) -> Option<&Flow> {
        self.flow.as_ref()
    }

    /// The flow, to be acted upon.
    pub fn flow_mut(&mut self) -> Option<&mut Flow> {
        self.flow.as_mut()
    }

    /// Bytes that the application has written.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes that the application has read, each as expected.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether the connection is over on this side.
    pub fn is_over(&self) -> bool {
        self.flow.as_ref().is_some_and(|flow| matches!(flow.phase(), Phase::TimeWait | Phase::Closed))
    }

    /// Whether the peer has closed and everything has been read.
    pub fn has_read_all(&self) -> bool {
        self.flow.as_ref().is_some_and(Flow::is_read_to_end)
    }

    /// Takes a packet; returns the reset with which a host answers what belongs to no flow.
    pub(super) fn handle(&mut self, header: Header, payload: &[u8], packets: u16, now: Instant) -> Option<Header> {
        let segment = Segment { header, payload, packets };
        match &mut self.flow {
            Some(flow) if flow.phase() == Phase::Closed => Header::reset_for(&segment),
            Some(flow) => {
                flow.handle_segment(&segment, now);
                None
            }
            None => {
                let config = self.config.clone();
                self.flow = match self.used.take() {
                    Some(mut flow) => flow.reaccept(config, &segment, self.isn, now).then_some(flow),
                    None => Flow::accept(config, &segment, self.isn, now),
                };
                if self.flow.is_none() { Header::reset_for(&segment) } else { None }
            }
        }
    }

    /// Lets the application write and read what it can. `peer` names the stream that it expects.
    pub(super) fn work(&mut self, now: Instant, peer: u64) {
        let age = now.duration_since(self.began);
        let Some(flow) = &mut self.flow else { return };
        while self.sent < self.script.send && flow.writable() > 0 && age >= self.script.starts_after {
            let n = flow.writable().min(self.script.chunk).min((self.script.send - self.sent) as usize);
            let mut bytes = vec![0; n];
            fill(self.stream, self.sent, &mut bytes);
            self.sent += flow.write(&bytes) as u64;
        }
        let allowed = self.script.reads.map_or(u64::MAX, |rate| (rate as f64 * age.as_secs_f64()) as u64);
        while self.received < allowed {
            let most = (allowed - self.received).min(self.script.chunk as u64) as usize;
            let (head, tail) = flow.peek();
            let n = most.min(head.len() + tail.len());
            if n == 0 {
                break;
            }
            let head = &head[..n.min(head.len())];
            check(peer, self.received, head);
            check(peer, self.received + head.len() as u64, &tail[..n - head.len()]);
            self.received += n as u64;
            flow.consume(n);
        }
        let done = self.sent == self.script.send;
        let close = match self.script.close {
            Close::WhenSent => done,
            Close::AfterPeer => done && flow.is_read_to_end(),
            Close::Never => false,
        };
        if close {
            flow.shutdown();
        }
    }

    /// When the application acts next on its own.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let waits = self.script.starts_after > now.duration_since(self.began) && self.sent < self.script.send;
        let start = waits.then(|| self.began + self.script.starts_after);
        let flow = self.flow.as_ref()?;
        let reads = self.script.reads.filter(|_| !flow.peek().0.is_empty());
        // A slow reader looks a hundred times a second.
        let read = reads.map(|_| now + Duration::from_millis(10));
        start.into_iter().chain(read).min()
    }
}
