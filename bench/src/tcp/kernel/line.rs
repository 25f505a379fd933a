//! The link, in real time.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postern_tcp::world::{Link, Path, Random};

use super::flows::Flows;
use super::packet::{PORT, carries_data, source_port, swap_addresses};
use super::tun::Tun;

/// 300 Mbit/s in bytes per second.
const RATE: u64 = 300_000_000 / 8;
/// Bytes that wait in front of the link.
const QUEUE: usize = 1_000_000;
/// How long the line waits for nothing in particular.
const LOOK: Duration = Duration::from_millis(20);

/// What varies from load to load.
#[derive(Clone, Copy)]
pub(super) struct Network {
    pub(super) rtt: Duration,
    /// Of the packets that carry data.
    pub(super) loss: f64,
    pub(super) seed: u64,
}

/// Two directions between the kernel's client and a server: `flows`, or the kernel again.
pub(super) struct Line {
    tun: Tun,
    /// To the server: nothing but delay.
    requests: Link<Vec<u8>>,
    answers: Answers,
    flows: Option<Flows>,
}

/// The direction that is measured.
struct Answers {
    link: Link<Vec<u8>>,
    random: Random,
    loss: f64,
}

impl Answers {
    fn send(&mut self, packet: Vec<u8>, now: Instant) {
        if carries_data(&packet) && self.random.chance(self.loss) {
            return;
        }
        let bytes = packet.len();
        self.link.send(packet, bytes, now, &mut self.random);
    }
}

impl Line {
    pub(super) fn new(tun: Tun, network: Network, flows: Option<Flows>) -> Self {
        let now = Instant::now();
        let path = Path::new(Some(RATE), network.rtt / 2, QUEUE);
        let answers = Answers { link: Link::new(path, now), random: Random::new(network.seed), loss: network.loss };
        let requests = Link::new(Path::new(None, network.rtt / 2, 0), now);
        Self { tun, requests, answers, flows }
    }

    /// Carries packets until `done`, within `limit`.
    pub(super) fn run(mut self, limit: Duration, done: impl Fn() -> bool) -> Result<()> {
        // The kernel may be late with a timer by this many nanoseconds; its default is 50 microseconds.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1)).context("cannot ask for exact timers")?;
        let start = Instant::now();
        while !done() {
            ensure!(start.elapsed() < limit, "a measurement was not over after {} s", limit.as_secs());
            self.take()?;
            self.deliver()?;
            if let Some(flows) = &mut self.flows {
                let now = Instant::now();
                flows.work(now, |packet| self.answers.send(packet, now));
            }
            let deadlines =
                [self.requests.deadline(), self.answers.link.deadline(), self.flows.as_ref().and_then(Flows::deadline)];
            let wait =
                deadlines.into_iter().flatten().min().map_or(LOOK, |at| at.saturating_duration_since(Instant::now()));
            if !wait.is_zero() {
                self.tun.wait(wait.min(LOOK)).context("cannot wait for packets")?;
            }
        }
        Ok(())
    }

    /// Takes what the kernel has sent.
    fn take(&mut self) -> Result<()> {
        let now = Instant::now();
        while let Some(packet) = self.tun.receive().context("cannot read packets")? {
            if packet.first().is_none_or(|first| first >> 4 != 4) {
                continue;
            }
            let packet = packet.to_vec();
            if source_port(&packet) == PORT {
                self.answers.send(swap_addresses(packet), now);
            } else {
                let bytes = packet.len();
                self.requests.send(packet, bytes, now, &mut self.answers.random);
            }
        }
        Ok(())
    }

    /// Hands over what has arrived.
    fn deliver(&mut self) -> Result<()> {
        let now = Instant::now();
        while let Some(arrival) = self.requests.receive(now) {
            match &mut self.flows {
                Some(flows) => flows.handle(&arrival.packet, now),
                None => self.tun.send(&swap_addresses(arrival.packet)).context("the kernel takes no request")?,
            }
        }
        while let Some(arrival) = self.answers.link.receive(now) {
            self.tun.send(&arrival.packet).context("the kernel takes no answer")?;
        }
        Ok(())
    }
}
