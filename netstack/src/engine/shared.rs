//! What all peers of an engine share.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use boringtun::noise::rate_limiter::RateLimiter;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::index::PeerIndex;
use crate::counters::Drop;
use crate::key::PrivateKey;
use crate::path::Path;

/// Datagrams of the engine's own that wait to be sent. A driver takes them after each batch it reads, so this many wait only
/// while nothing can be sent at all.
const LONGEST_OUTBOX: usize = 16_384;
/// Packets of all peers that wait for a session: 6 MB.
const MOST_WAITING: usize = 4_096;

/// What a peer needs from outside.
pub(crate) struct Shared {
    pub(crate) key: PrivateKey,
    /// Without a limit; see [`Guard`](super::guard::Guard).
    pub(crate) limiter: Arc<RateLimiter>,
    /// Peers that can be sent to, and could not before.
    pub(crate) ready: VecDeque<PeerIndex>,
    outbox: VecDeque<(Path, Vec<u8>)>,
    waiting: usize,
    drops: Vec<(Drop, u64)>,
    random: StdRng,
}

impl Shared {
    pub(crate) fn new(key: PrivateKey, limiter: Arc<RateLimiter>, seed: [u8; 32]) -> Self {
        Self {
            key,
            limiter,
            ready: VecDeque::new(),
            outbox: VecDeque::new(),
            waiting: 0,
            drops: Vec::new(),
            random: StdRng::from_seed(seed),
        }
    }

    /// Has a datagram sent. Whether it will be.
    pub(crate) fn post(&mut self, path: Path, datagram: Vec<u8>) -> bool {
        let room = self.outbox.len() < LONGEST_OUTBOX;
        if room {
            self.outbox.push_back((path, datagram));
        } else {
            self.dropped(Drop::RepliesFull, 1);
        }
        room
    }

    /// The next datagram to send.
    pub(crate) fn next_post(&mut self) -> Option<(Path, Vec<u8>)> {
        self.outbox.pop_front()
    }

    /// Where the next datagram goes, and its length.
    pub(crate) fn peek_post(&self) -> Option<(Path, usize)> {
        self.outbox.front().map(|(path, datagram)| (*path, datagram.len()))
    }

    /// Asks for room for one more packet that waits for a session.
    pub(crate) fn begin_waiting(&mut self) -> bool {
        let room = self.waiting < MOST_WAITING;
        self.waiting += usize::from(room);
        room
    }

    /// Gives that room back.
    pub(crate) fn end_waiting(&mut self, packets: usize) {
        self.waiting -= packets;
    }

    /// Counts what no return value tells of.
    pub(crate) fn dropped(&mut self, why: Drop, times: u64) {
        match self.drops.iter_mut().find(|(other, _)| *other == why) {
            Some((_, count)) => *count += times,
            None => self.drops.push((why, times)),
        }
    }

    /// What was counted since the last call.
    pub(crate) fn take_drops(&mut self) -> Vec<(Drop, u64)> {
        std::mem::take(&mut self.drops)
    }

    /// Something between nothing and `most`, so that peers do not act in step.
    pub(crate) fn jitter(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.random.random())
    }
}
