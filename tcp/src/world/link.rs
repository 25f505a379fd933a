//! One direction of a network, as a value.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::random::Random;

/// What a link does to packets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Path {
    /// Bytes per second; `None` for no limit.
    pub rate: Option<u64>,
    /// Time that every packet takes.
    pub delay: Duration,
    /// Up to how much more it takes, at random. Order is kept.
    pub jitter: Duration,
    /// Bytes that may wait for their turn; what is more is dropped. Only with a rate.
    pub queue: usize,
    /// Largest packet carried, in bytes; larger ones are dropped. `None` for no limit.
    pub mtu: Option<usize>,
    /// Probability that a packet is lost.
    pub loss: f64,
    /// Probability that a packet is overtaken, and by how much it is late then.
    pub reorder: (f64, Duration),
    /// Probability that a packet arrives twice.
    pub duplicate: f64,
    /// Probability that a packet is damaged on the way.
    pub corrupt: f64,
}

impl Path {
    /// A path without faults.
    pub fn new(rate: Option<u64>, delay: Duration, queue: usize) -> Self {
        Self {
            rate,
            delay,
            jitter: Duration::ZERO,
            queue,
            mtu: None,
            loss: 0.0,
            reorder: (0.0, Duration::ZERO),
            duplicate: 0.0,
            corrupt: 0.0,
        }
    }
}

/// A link carrying packets of any kind.
#[derive(Debug)]
pub struct Link<P> {
    path: Path,
    /// When everything handed in so far will have left.
    idle_at: Instant,
    /// No packet that keeps its order arrives before this.
    last_arrival: Instant,
    under_way: BTreeMap<(Instant, u64), Arrival<P>>,
    count: u64,
    dropped: u64,
}

/// A packet at the end of a link.
#[derive(Debug, Clone)]
pub struct Arrival<P> {
    /// The packet.
    pub packet: P,
    /// Whether it is damaged: a checksum, or an AEAD, would tell.
    pub corrupt: bool,
}

impl<P: Clone> Link<P> {
    /// An idle link.
    pub fn new(path: Path, now: Instant) -> Self {
        Self { path, idle_at: now, last_arrival: now, under_way: BTreeMap::new(), count: 0, dropped: 0 }
    }

    /// Changes the path for packets from now on.
    pub fn set_path(&mut self, path: Path) {
        self.path = path;
    }

    /// What the link does now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many packets were lost, too large, or found the queue full.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Hands a packet of `bytes` bytes to the link.
    pub fn send(&mut self, packet: P, bytes: usize, now: Instant, random: &mut Random) {
        if self.path.mtu.is_some_and(|mtu| bytes > mtu) {
            self.dropped += 1;
            return;
        }
        let start = self.idle_at.max(now);
        if let Some(rate) = self.path.rate {
            let waiting = start.duration_since(now).as_secs_f64() * rate as f64;
            if waiting as usize + bytes > self.path.queue.max(bytes) {
                self.dropped += 1;
                return;
            }
            self.idle_at = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
        } else {
            self.idle_at = start;
        }
        if random.chance(self.path.loss) {
            self.dropped += 1;
            return;
        }
        let copies = if random.chance(self.path.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let corrupt = random.chance(self.path.corrupt);
            self.carry(Arrival { packet: packet.clone(), corrupt }, random);
        }
    }

    /// When the next packet arrives.
    pub fn deadline(&self) -> Option<Instant> {
        self.under_way.first_key_value().map(|((at, _), _)| *at)
    }

    /// A packet that has arrived by now.
    pub fn receive(&mut self, now: Instant) -> Option<Arrival<P>> {
        let first = self.under_way.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    fn carry(&mut self, arrival: Arrival<P>, random: &mut Random) {
        let mut at = self.idle_at + self.path.delay + random.time(self.path.jitter);
        if random.chance(self.path.reorder.0) {
            at += self.path.reorder.1;
        } else {
            at = at.max(self.last_arrival);
            self.last_arrival = at;
        }
        self.count += 1;
        self.under_way.insert((at, self.count), arrival);
    }
}
