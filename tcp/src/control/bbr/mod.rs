//! BBR: sends at the rate at which the path delivers, and keeps in flight what fills it (draft-ietf-ccwg-bbr, "version 3").
//!
//! Three things are apart: what the path is like ([`path`]), what losses forbid ([`bounds`]), and what to try next, which is
//! this file: start up, drain the queue that this made, then cycle. A cycle drains a little (`Down`), holds (`Cruise`), fills
//! the pipe (`Refill`) and asks for a quarter more (`Up`).

mod aim;
mod bounds;
mod full;
mod path;

use super::controller::{Acked, Controller, initial_window};
use crate::clock::{Duration, Instant, real, whole};
use aim::{Aim, Basis};
use bounds::Bounds;
use full::Full;
use path::Path;

/// The controller.
#[derive(Debug)]
pub(crate) struct Bbr {
    mss: u64,
    window: u64,
    /// The window before it was lowered for a timeout or for measuring the round-trip time.
    window_before: u64,
    path: Path,
    bounds: Bounds,
    mode: Mode,
    full: Full,
    /// Nothing has been sent since the network ran empty: an idle path needs no measurement.
    idle: bool,
    chance: u32,
    before: Option<Before>,
    /// The pacing rate in bytes per second; it changes with acknowledgements only.
    rate: Option<u64>,
    aim: Aim,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Startup,
    Drain,
    Cycle(Cycle),
    ProbeRtt {
        /// When to leave, and not before this round; `None` until the queue is gone.
        until: Option<(Instant, u64)>,
    },
}

/// A probing cycle.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cycle {
    phase: Phase,
    /// When `Down` began.
    since: Instant,
    /// What chance adds to the wait for the next probe, out of [`CHANCES`].
    chance: u64,
    /// The round in which the phase began.
    round: u64,
    /// When the phase began.
    phase_since: Instant,
    /// Whether what is acknowledged now was sent while probing: from `Refill` to the first round of `Down`.
    probing: bool,
    /// Whether startup came before, and losses ended it.
    unsure: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Down,
    Cruise,
    Refill,
    Up,
}

/// What a loss has changed.
#[derive(Debug, Clone, Copy)]
struct Before {
    window: u64,
    long: Option<u64>,
}

/// Gains: draft-ietf-ccwg-bbr section 2.4, but for the window while probing, which is what the rates are to each other. Startup:
/// the least that doubles per round trip.
const STARTUP_GAIN: f64 = 2.77;
/// In startup a window leaves within half a round trip whatever the bandwidth seems to be: that was measured a round ago, and
/// holds back a window that has doubled since.
const STARTUP_SPREAD: f64 = 2.0;
const DRAIN_GAIN: f64 = 0.5;
const DOWN_GAIN: f64 = 0.9;
const UP_GAIN: f64 = 1.25;
const WINDOW_GAIN: f64 = 2.0;
const UP_WINDOW_GAIN: f64 = 2.5;
/// Room left below the long-term bound for others to grow into.
const HEADROOM: f64 = 0.85;
/// Below this, acknowledgements no longer keep the flow going.
const LEAST_SEGMENTS: u64 = 4;
/// How long the queue is kept empty to measure the round-trip time, and with how much of the path filled. Version 3 leaves half;
/// with a quarter, flows that share a queue see it empty whoever of them looks, and come to equal shares.
const PROBE_RTT_TIME: Duration = Duration::from_millis(200);
const PROBE_RTT_GAIN: f64 = 0.25;
/// Least time between probes for bandwidth. Chance adds up to a half to it, and to the rounds below: flows that probe at once
/// mislead each other.
const LEAST_WAIT: Duration = Duration::from_secs(2);
const CHANCES: u64 = 1024;
/// Rounds to wait beside flows that fill a shallow queue: as many as a Reno flow of up to this many segments needs to take back
/// what a probe took from it (draft-ietf-ccwg-bbr section 5.3.3.5.3).
const MOST_WAIT_ROUNDS: u64 = 63;
/// Rounds to wait where losses bound nothing: flows that share a deep queue come to equal shares by probing, version 1 every
/// eight rounds.
const DEEP_WAIT_ROUNDS: u64 = 10;
/// Rounds to wait for the first probe after losses ended startup: the bandwidth may still have been growing, and the bound is a
/// guess from it. Neither is to be lived with for seconds.
const UNSURE_WAIT_ROUNDS: u64 = 2;
/// Losses bound something if they leave less than this many times what fills the path.
const SHALLOW_GAIN: f64 = 1.5;

impl Bbr {
    pub(crate) fn new(mss: u64, salt: u32, rtt: Option<Duration>, now: Instant) -> Self {
        Self {
            mss,
            window: initial_window(mss),
            window_before: 0,
            path: Path::new(now),
            bounds: Bounds::default(),
            mode: Mode::Startup,
            full: Full::default(),
            idle: false,
            chance: salt,
            before: None,
            rate: rtt.map(|rtt| first_rate(mss, rtt)),
            aim: Aim::default(),
        }
    }

    /// The bandwidth to go by: what the path can do, unless losses have shown that it cannot now.
    fn bandwidth(&self) -> u64 {
        let most = self.path.bandwidth();
        self.bounds.bandwidth.map_or(most, |bound| most.min(bound))
    }

    fn volume(&self, gain: f64) -> u64 {
        self.path.volume(self.bandwidth(), gain).unwrap_or(initial_window(self.mss))
    }

    /// The gains of pacing and window.
    fn gains(&self) -> (f64, f64) {
        match self.mode {
            Mode::Startup => (STARTUP_GAIN, WINDOW_GAIN),
            Mode::Drain => (DRAIN_GAIN, WINDOW_GAIN),
            Mode::ProbeRtt { .. } => (1.0, WINDOW_GAIN),
            Mode::Cycle(cycle) => match cycle.phase {
                Phase::Down => (DOWN_GAIN, WINDOW_GAIN),
                Phase::Cruise | Phase::Refill => (1.0, WINDOW_GAIN),
                Phase::Up => (UP_GAIN, UP_WINDOW_GAIN),
            },
        }
    }

    fn look_for_full_pipe(&mut self, ack: &Acked) {
        let app_limited = ack.sample.is_none_or(|sample| sample.app_limited);
        if self.path.round_started() && !app_limited {
            self.full.on_round(self.path.bandwidth());
        }
    }

    fn step(&mut self, ack: &Acked, lossy: bool) {
        match self.mode {
            Mode::Startup => {
                // At once: until its round is over, a window twice what the path holds would be sent again and again.
                if Bounds::overflowed(ack, self.mss) && self.full.on_losses(self.bounds.reports()) {
                    self.bounds.settle(self.volume(1.0));
                }
                if self.full.reached() {
                    self.mode = Mode::Drain;
                }
            }
            Mode::Drain if ack.in_flight <= self.volume(1.0) => self.begin_down(ack.now),
            Mode::Drain => {}
            Mode::Cycle(cycle) => self.cycle(cycle, ack, lossy),
            Mode::ProbeRtt { until } => self.probe_rtt(until, ack),
        }
    }

    fn cycle(&mut self, mut cycle: Cycle, ack: &Acked, lossy: bool) {
        let rounds = self.path.rounds() - cycle.round;
        if cycle.probing && Bounds::overflowed(ack, self.mss) {
            let sample = ack.sample.expect("an overflow is seen in a sample");
            if !sample.app_limited {
                self.bounds.overflow(sample.in_flight, self.volume(1.0).min(self.window));
            }
            if matches!(cycle.phase, Phase::Refill | Phase::Up) {
                return self.begin_down(ack.now);
            }
            cycle.probing = false;
            self.path.advance_cycle();
        } else if cycle.probing {
            self.bounds.raise(ack, self.window, self.path.round_started(), self.mss);
        } else if lossy {
            self.bounds.lower(self.path.bandwidth(), self.window);
        }
        let asked = matches!(cycle.phase, Phase::Refill | Phase::Up);
        if cycle.probing && !asked && self.path.round_started() && rounds >= 1 {
            cycle.probing = false;
            self.path.advance_cycle();
        }
        let next = match cycle.phase {
            Phase::Down | Phase::Cruise if self.time_to_probe(&cycle, ack.now) => {
                self.bounds.forget_short();
                self.path.restart_round(ack.delivered);
                Some(Phase::Refill)
            }
            Phase::Down => (ack.in_flight <= self.calm()).then_some(Phase::Cruise),
            Phase::Cruise => None,
            Phase::Refill if self.path.round_started() && rounds >= 1 => Some(Phase::Up),
            Phase::Refill => None,
            Phase::Up => {
                let tried = ack.now.duration_since(cycle.phase_since) >= self.path.least_rtt().unwrap_or_default();
                let held = ack.window_limited && self.bounds.long.is_some_and(|long| self.window >= long);
                if tried && rounds >= 1 && !held && ack.was_in_flight >= self.volume(UP_GAIN) {
                    return self.begin_down(ack.now);
                }
                None
            }
        };
        if let Some(phase) = next {
            cycle.probing |= phase == Phase::Refill;
            cycle = Cycle { phase, round: self.path.rounds(), phase_since: ack.now, ..cycle };
        }
        self.mode = Mode::Cycle(cycle);
    }

    fn begin_down(&mut self, now: Instant) {
        // Numerical Recipes' generator: all that is asked of it is that flows differ.
        self.chance = self.chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.mode = Mode::Cycle(Cycle {
            phase: Phase::Down,
            since: now,
            chance: u64::from(self.chance >> 16) % CHANCES,
            round: self.path.rounds(),
            phase_since: now,
            probing: matches!(self.mode, Mode::Cycle(_)),
            unsure: self.mode == Mode::Drain && self.full.by_losses(),
        });
    }

    fn time_to_probe(&self, cycle: &Cycle, now: Instant) -> bool {
        if cycle.unsure {
            return self.path.rounds() - cycle.round >= UNSURE_WAIT_ROUNDS;
        }
        let segments = self.volume(1.0) / self.mss;
        let shallow = self.bounds.long.is_some_and(|long| long < self.volume(SHALLOW_GAIN));
        let rounds = segments.clamp(1, if shallow { MOST_WAIT_ROUNDS } else { DEEP_WAIT_ROUNDS });
        let part = 2 * CHANCES + cycle.chance;
        self.path.rounds() - cycle.round >= rounds * part / (2 * CHANCES)
            || now.duration_since(cycle.since) >= LEAST_WAIT * part as u32 / (2 * CHANCES as u32)
    }

    /// Bytes in flight with which there is no queue, and room for others.
    fn calm(&self) -> u64 {
        let headroom = self.bounds.long.map(|long| (long as f64 * HEADROOM) as u64);
        self.volume(1.0).min(headroom.unwrap_or(u64::MAX)).max(LEAST_SEGMENTS * self.mss)
    }

    fn probe_rtt(&mut self, until: Option<(Instant, u64)>, ack: &Acked) {
        match until {
            None if ack.in_flight <= self.probe_rtt_window() => {
                self.path.restart_round(ack.delivered);
                self.mode = Mode::ProbeRtt { until: Some((ack.now + PROBE_RTT_TIME, self.path.rounds() + 1)) };
            }
            Some((at, round)) if ack.now >= at && self.path.rounds() >= round => {
                self.path.renew_least_rtt(ack.now);
                self.window = self.window.max(self.window_before);
                self.mode = Mode::Startup;
                if self.full.reached() {
                    self.bounds.forget_short();
                    self.begin_down(ack.now);
                }
            }
            None | Some(_) => {}
        }
    }

    fn take_aim(&mut self) {
        let (pacing_gain, window_gain) = self.gains();
        let basis = Basis {
            bandwidth: self.bandwidth(),
            least_rtt: self.path.least_rtt(),
            clumping: self.path.clumping(),
            mss: self.mss,
            pacing_gain,
            window_gain,
        };
        self.aim.follow(basis);
    }

    fn set_rate(&mut self, ack: &Acked) {
        // The first samples see a window that was still being sent: until the path is full, the rate only rises. Losses can end
        // startup before there is any sample.
        let settled = self.full.reached() && self.bandwidth() > 0;
        let least = if settled {
            0
        } else {
            let spread = whole(real(per_round_trip(self.window, ack.smoothed)) * STARTUP_SPREAD);
            self.rate.unwrap_or_else(|| first_rate(self.mss, ack.smoothed)).max(spread)
        };
        let rate = self.aim.rate().max(least);
        // A sample that a probe alone made in minutes is a few bytes per second. Acknowledgements would let the least window
        // leave once in a round trip, and pacing is not there to let less.
        let crawls = ack.smoothed.at(rate) < real(LEAST_SEGMENTS * self.mss);
        let least = if crawls { per_round_trip(LEAST_SEGMENTS * self.mss, ack.smoothed) } else { 0 };
        self.rate = Some(rate.max(least));
    }

    fn probe_rtt_window(&self) -> u64 {
        self.volume(PROBE_RTT_GAIN).max(LEAST_SEGMENTS * self.mss)
    }

    fn set_window(&mut self, ack: &Acked) {
        let most = self.aim.window();
        self.window = if self.full.reached() {
            (self.window + ack.bytes).min(most)
        } else if self.window < most || ack.delivered < initial_window(self.mss) {
            self.window + ack.bytes
        } else {
            self.window
        };
        let bound = match self.mode {
            Mode::Startup | Mode::Drain => None,
            Mode::ProbeRtt { .. } => Some(self.probe_rtt_window()),
            Mode::Cycle(Cycle { phase: Phase::Cruise, .. }) => {
                self.bounds.long.map(|long| (long as f64 * HEADROOM) as u64)
            }
            Mode::Cycle(_) => self.bounds.long,
        };
        let bounds = [bound, self.bounds.short];
        let bound = bounds.into_iter().flatten().min().unwrap_or(u64::MAX);
        self.window = self.window.min(bound).max(LEAST_SEGMENTS * self.mss);
    }
}

impl Controller for Bbr {
    fn on_restart(&mut self, now: Instant) {
        self.idle = true;
        self.path.restart_clumping(now);
    }

    fn on_ack(&mut self, ack: &Acked) {
        let expired = self.path.least_rtt_expired(ack.now);
        let measuring = matches!(self.mode, Mode::ProbeRtt { .. });
        if !self.full.reached() {
            // While the rate doubles, more comes back than the bandwidth of a round ago explains.
            self.path.restart_clumping(ack.now);
        }
        self.path.on_ack(ack, self.idle || measuring);
        let lossy = self.bounds.on_ack(ack, self.mss);
        self.look_for_full_pipe(ack);
        self.step(ack, lossy);
        if expired && !self.idle && !measuring {
            self.window_before = self.window;
            self.mode = Mode::ProbeRtt { until: None };
        }
        if ack.bytes > 0 {
            self.idle = false;
        }
        self.take_aim();
        self.set_window(ack);
        self.set_rate(ack);
    }

    fn on_loss(&mut self, _in_flight: u64, _now: Instant) {
        self.before = Some(Before { window: self.window, long: self.bounds.long });
    }

    fn on_timeout(&mut self, in_flight: u64, _now: Instant) {
        self.before = Some(Before { window: self.window, long: self.bounds.long });
        self.window = (in_flight + self.mss).max(self.mss);
    }

    fn on_repaired(&mut self, _now: Instant) {
        self.before = None;
    }

    fn on_mistake(&mut self, _now: Instant) {
        if let Some(before) = self.before.take() {
            self.window = self.window.max(before.window);
            self.bounds.long = before.long;
            self.bounds.short = None;
            self.bounds.bandwidth = None;
        }
    }

    fn set_mss(&mut self, mss: u64) {
        self.mss = mss;
        self.window = self.window.max(LEAST_SEGMENTS * mss);
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn rate(&self) -> Option<u64> {
        self.rate
    }
}

/// The rate before anything is known but the round-trip time: what startup makes of the initial window.
fn first_rate(mss: u64, rtt: Duration) -> u64 {
    whole(real(per_round_trip(initial_window(mss), rtt)) * STARTUP_GAIN)
}

/// The rate that sends `bytes` in a round-trip time; it is not zero.
fn per_round_trip(bytes: u64, rtt: Duration) -> u64 {
    whole(real(bytes) / rtt.max(Duration::from_millis(1)).as_secs_f64()) + 1
}

#[cfg(test)]
mod tests {
    use super::super::controller::Sample;
    use super::*;

    const MSS: u64 = 1000;
    const RTT: Duration = Duration::from_millis(50);

    /// A round begins after `delivered` bytes, and in it acknowledgements report so many bytes lost each.
    fn round(bbr: &mut Bbr, delivered: u64, rate: u64, lost: &[u64]) {
        let now = Instant::START + RTT * (delivered / MSS) as u32;
        let sample = Sample {
            rate: Some(rate),
            delivered: MSS,
            prior_delivered: delivered,
            lost: 0,
            in_flight: 10 * MSS,
            app_limited: false,
        };
        let ack = Acked {
            now,
            bytes: MSS,
            delivered: delivered + MSS,
            was_in_flight: 10 * MSS,
            in_flight: 9 * MSS,
            lost: 0,
            rtt: Some(RTT),
            smoothed: RTT,
            sample: Some(sample),
            recovering: false,
            window_limited: true,
        };
        bbr.on_ack(&ack);
        let mut sum = 0;
        for lost in lost {
            sum += lost;
            let inside = Sample { prior_delivered: 0, lost: sum, ..sample };
            bbr.on_ack(&Acked { bytes: 0, lost: *lost, sample: Some(inside), ..ack });
        }
    }

    /// Whether startup is over after a round of which acknowledgements reported so many bytes lost.
    fn startup_ends_by(lost: &[u64]) -> bool {
        let mut bbr = Bbr::new(MSS, 0, None, Instant::START);
        round(&mut bbr, 0, 1_000_000, lost);
        round(&mut bbr, MSS, 2_000_000, &[]);
        bbr.mode != Mode::Startup
    }

    #[test]
    fn startup_ends_by_many_losses_and_not_by_a_few_nor_by_one_gap() {
        assert!(startup_ends_by(&[MSS; 6]));
        assert!(!startup_ends_by(&[MSS; 5]));
        assert!(!startup_ends_by(&[6 * MSS]));
    }

    /// Whether there is a probe within five rounds of the cycle that follows startup.
    fn probes_soon(bbr: &mut Bbr, delivered: u64) -> bool {
        let mut phases = (0..8).map(|number| {
            round(bbr, delivered + number * MSS, 1_000_000, &[]);
            bbr.mode
        });
        phases.any(|mode| matches!(mode, Mode::Cycle(Cycle { phase: Phase::Refill, .. })))
    }

    #[test]
    fn what_startup_found_is_looked_at_soon_if_losses_ended_it() {
        let mut lossy = Bbr::new(MSS, 0, None, Instant::START);
        round(&mut lossy, 0, 1_000_000, &[MSS; 6]);
        assert!(probes_soon(&mut lossy, MSS));
        let mut fine = Bbr::new(MSS, 0, None, Instant::START);
        for number in 0..4 {
            round(&mut fine, number * MSS, 1_000_000, &[]);
        }
        assert!(fine.full.reached());
        assert!(!probes_soon(&mut fine, 4 * MSS));
    }

    #[test]
    fn a_sample_of_a_few_bytes_does_not_stop_the_flow() {
        let mut bbr = Bbr::new(MSS, 0, None, Instant::START);
        round(&mut bbr, 0, 3, &[MSS; 6]);
        round(&mut bbr, MSS, 3, &[]);
        assert!(bbr.full.reached());
        let least = per_round_trip(LEAST_SEGMENTS * MSS, RTT);
        assert_eq!(bbr.rate(), Some(least));
        // A path of more than that is paced as it is.
        let mut bbr = Bbr::new(MSS, 0, None, Instant::START);
        round(&mut bbr, 0, 10 * least, &[MSS; 6]);
        round(&mut bbr, MSS, 10 * least, &[]);
        assert!(bbr.rate().is_some_and(|rate| rate > least));
    }
}
