//! What is on its way, and what happens to it: the meeting place of scoreboard, loss detection, round-trip times, rate
//! samples and the congestion controller.

use super::delivery::Delivery;
use super::harvest::{Harvest, Newest};
use super::pacer::Pacer;
use super::rack::{Rack, Wait};
use super::recovery::{End, Evidence, Recovery};
use super::scoreboard::{Records, Scoreboard};
use super::timer::{Alarm, Tail, Timer};
use super::transmission::{Delivered, Only, Transmission};
use crate::clock::{Duration, Instant};
use crate::config::Config;
use crate::control::{Acked, Control, Controller, Sample};
use crate::rtt::Rtt;

/// Everything between being handed out and being acknowledged.
#[derive(Debug)]
pub(crate) struct Flight {
    board: Scoreboard,
    rack: Rack,
    recovery: Recovery,
    rtt: Rtt,
    delivery: Delivery,
    control: Control,
    pacer: Pacer,
    mss: u64,
    timer: Timer,
    /// When something was last acknowledged, or sent with nothing on its way.
    progress: Instant,
    /// When loss detection wants to look again.
    reorder: Instant,
    probe: Option<Probe>,
    /// Whether the peer reports what lies beyond a hole.
    selective: bool,
    /// Whether the controller's window was what kept us from sending last.
    window_limited: bool,
}

/// A tail loss probe on its way.
#[derive(Debug, Clone, Copy)]
struct Probe {
    end: u64,
    repeats: bool,
}

impl Flight {
    #[inline(always)]
    pub(crate) fn new(config: &Config, mss: u64, now: Instant) -> Self {
        let rtt = config.rtt.map(Duration::from);
        Self {
            board: Scoreboard::default(),
            rack: Rack::default(),
            recovery: Recovery::default(),
            rtt: Rtt::new(rtt),
            delivery: Delivery::new(now),
            control: Control::new(config.control, mss, config.salt, rtt, now),
            pacer: Pacer::default(),
            mss,
            timer: Timer::new(now),
            progress: now,
            reorder: Instant::NEVER,
            probe: None,
            selective: true,
            window_limited: false,
        }
    }

    /// See [`Scoreboard::take_records`].
    pub(crate) fn take_records(&mut self) -> Records {
        self.board.take_records()
    }

    /// See [`Scoreboard::use_records`].
    pub(crate) fn use_records(&mut self, records: Records) {
        self.board.use_records(records);
    }

    pub(crate) fn board(&self) -> &Scoreboard {
        &self.board
    }

    pub(crate) fn rtt(&self) -> &Rtt {
        &self.rtt
    }

    /// The congestion window in bytes.
    pub(crate) fn window(&self) -> u64 {
        self.control.window()
    }

    /// The pacing rate in bytes per second.
    pub(crate) fn rate(&self) -> Option<u64> {
        self.control.rate()
    }

    pub(crate) fn set_mss(&mut self, mss: u64) {
        self.mss = mss;
        self.control.set_mss(mss);
    }

    /// Since when nothing has moved although something is on its way.
    pub(crate) fn stalled_since(&self) -> Instant {
        if self.board.is_empty() { Instant::NEVER } else { self.progress }
    }

    /// How many bytes the window and the pacing allow to leave now.
    pub(crate) fn allowance(&mut self, now: Instant) -> u64 {
        let window = self.control.window().saturating_sub(self.board.in_flight());
        // A full segment is not held back for a few bytes of window, and none goes out in slivers.
        let window = if window < self.mss && self.board.in_flight() > 0 { 0 } else { window.max(self.mss) };
        self.window_limited = window == 0;
        match self.pacer.allowance(self.control.rate(), self.mss, now) {
            Some(0) => 0,
            // The pacer makes up for what is more than its share.
            Some(paced) => window.min(paced.max(self.mss)),
            None => window,
        }
    }

    /// When pacing allows more.
    pub(crate) fn pacing_deadline(&self) -> Instant {
        self.pacer.deadline()
    }

    /// There is nothing to send.
    pub(crate) fn app_limited(&mut self) {
        if self.board.in_flight() < self.control.window() && !self.board.has_lost() {
            self.delivery.app_limited(self.board.in_flight());
        }
    }

    /// Records that `start..end` leaves now. Inlined, as what it calls: each piece passes here.
    #[inline(always)]
    pub(crate) fn sent(&mut self, start: u64, end: u64, now: Instant) {
        if self.board.is_empty() {
            self.progress = now;
            self.timer.restart(now);
            self.delivery.restart(now);
            self.control.on_restart(now);
            self.reorder = Instant::NEVER;
        }
        self.board.sent(start, end, now, self.delivery.snapshot());
        self.pacer.sent(end - start, self.control.rate(), now);
        self.timer.sent(now);
    }

    /// What leaves next, `start..end`, is a tail loss probe.
    pub(crate) fn probe(&mut self, start: u64, end: u64, now: Instant) {
        self.probe = Some(Probe { end, repeats: start < self.board.end() });
        self.timer.restart(now);
    }

    /// Evaluates an acknowledgement without SACK blocks: everything before `ack` has arrived. Returns whether it brought
    /// anything.
    pub(crate) fn acknowledge(&mut self, ack: u64, now: Instant) -> bool {
        if self.probe.is_none()
            && !self.recovering()
            && let Some(only) = self.board.take_only(ack)
        {
            self.conclude(&only, now);
            return true;
        }
        self.evaluate(ack, &[], 0, now)
    }

    /// Evaluates an acknowledgement: everything before `ack` and each of `blocks` has arrived. `repeated` is how many bytes a
    /// DSACK reports. Returns whether it brought anything. Never inlined, so that the usual way is short.
    #[inline(never)]
    pub(crate) fn evaluate(&mut self, ack: u64, blocks: &[(u64, u64)], repeated: u64, now: Instant) -> bool {
        let was_in_flight = self.board.in_flight();
        let progress = ack > self.board.start();
        let opening = self.board.start() == 0;
        let harvest = Harvest::gather(&mut self.board, &mut self.rack, &self.rtt, (ack, blocks), now);
        if harvest.bytes == 0 && !progress && repeated == 0 {
            return false;
        }
        self.delivery.deliver(harvest.bytes, now);
        let rtt = self.take_rtt(&harvest, now);
        let newest = harvest.newest.as_ref().filter(|_| !opening);
        let sample = newest.map(|newest| self.delivery.sample(newest, self.rtt.least(), now));
        if progress {
            self.progress = now;
            self.timer.progress(now);
        }
        if repeated > 0 {
            self.rack.repeated(&self.board);
        }
        self.conclude_probe(ack, &harvest, repeated, now);
        let evidence = Evidence { mistaken: harvest.evidence.mistaken + repeated, ..harvest.evidence };
        self.conclude_recovery(evidence, now);
        self.detect(now);
        if !opening {
            self.teach(was_in_flight, harvest.bytes, rtt, sample, now);
        }
        true
    }

    /// Everything is acknowledged and nothing more will be sent: there is nothing to learn.
    pub(crate) fn finish(&mut self) {
        self.board.finish();
        (self.probe, self.recovery) = (None, Recovery::default());
    }

    /// When the timer rings.
    pub(crate) fn deadline(&self) -> Instant {
        self.next_alarm().map_or(Instant::NEVER, |(at, _)| at)
    }

    /// Lets the timer ring if it is due. Returns what for; the caller sends the probe.
    pub(crate) fn ring(&mut self, now: Instant) -> Option<Alarm> {
        let (_, alarm) = self.next_alarm().filter(|(at, _)| *at <= now)?;
        match alarm {
            Alarm::Reorder => {
                self.detect(now);
            }
            Alarm::Probe => {}
            Alarm::Retransmit => self.time_out(now),
        }
        Some(alarm)
    }

    /// No probe could be sent: the timeout it is.
    pub(crate) fn skip_probe(&mut self) {
        self.probe = Some(Probe { end: self.board.end(), repeats: false });
    }

    /// The peer does not report what lies beyond a hole, so that loss shows in what it repeats (RFC 5681 section 3.2).
    pub(crate) fn without_sack(&mut self) {
        self.selective = false;
    }

    /// The first segment is lost, by the third repetition of an acknowledgement, or because one in the middle of a recovery
    /// went no further (RFC 6582).
    pub(crate) fn lose_first(&mut self, now: Instant) {
        let first = self.board.start();
        let lost = self.board.lose(first, first + self.mss);
        if first > 0 {
            self.lose(lost, now);
        }
    }

    /// Whether a loss is being repaired.
    pub(crate) fn recovering(&self) -> bool {
        self.recovery.under_way()
    }

    /// The path has carried fewer bytes than was thought: what is on its way in larger pieces will not arrive.
    pub(crate) fn shrink(&mut self, mss: u64, now: Instant) {
        self.set_mss(mss);
        let lost = self.board.lose(self.board.start(), self.board.end());
        if lost > 0 {
            self.timer.restart(now);
        }
    }

    pub(crate) fn release_idle_memory(&mut self) {
        self.board.release_idle_memory();
    }

    /// The straight way through [`acknowledge`](Self::acknowledge): all that was on its way has arrived, and nothing was in doubt.
    fn conclude(&mut self, only: &Only, now: Instant) {
        let &Only { start, number, transmission } = only;
        let Transmission { at, end, .. } = transmission;
        let opening = start == 0;
        let delivered =
            Delivered { start, end, number, transmission: Some(&transmission), resent: false, was_lost: false };
        self.rack.delivered(&delivered, &self.rtt, now);
        let (bytes, rtt) = (end - start, now.duration_since(at));
        self.delivery.deliver(bytes, now);
        self.rtt.sample(rtt, now);
        self.progress = now;
        self.timer.progress(now);
        if let Some(newest) = Newest::of(&delivered).filter(|_| !opening) {
            let sample = self.delivery.sample(&newest, self.rtt.least(), now);
            self.teach(bytes, bytes, Some(rtt), Some(sample), now);
        }
    }

    /// A round-trip time, unless it is unknown which transmission was acknowledged (Karn).
    fn take_rtt(&mut self, harvest: &Harvest, now: Instant) -> Option<Duration> {
        let newest = harvest.newest.as_ref().filter(|newest| !newest.resent)?;
        let rtt = now.duration_since(newest.at);
        self.rtt.sample(rtt, now);
        Some(rtt)
    }

    /// A probe that repeated the last segment has hidden its loss: the controller should know (RFC 8985 section 7.4).
    fn conclude_probe(&mut self, ack: u64, harvest: &Harvest, repeated: u64, now: Instant) {
        let Some(probe) = self.probe.filter(|probe| ack >= probe.end) else { return };
        self.probe = None;
        let needed = repeated == 0 && harvest.evidence.mistaken == 0;
        if probe.repeats && needed && !self.recovering() {
            self.control.on_loss(self.board.in_flight(), now);
            self.control.on_repaired(now);
        }
    }

    fn conclude_recovery(&mut self, evidence: Evidence, now: Instant) {
        match self.recovery.progressed(evidence, self.board.start()) {
            None => {}
            Some(End::Repaired) => {
                self.rack.recovered();
                self.control.on_repaired(now);
            }
            Some(End::Mistake) => {
                self.board.revive();
                self.control.on_mistake(now);
            }
        }
    }

    fn detect(&mut self, now: Instant) {
        let wait = self.wait();
        let (lost, reorder) = self.rack.detect(&mut self.board, wait, now);
        self.reorder = reorder;
        self.lose(lost, now);
    }

    fn lose(&mut self, lost: u64, now: Instant) {
        if lost == 0 {
            return;
        }
        self.delivery.lose(lost);
        if self.recovery.lost(lost, self.board.end()) {
            self.control.on_loss(self.board.in_flight(), now);
        }
    }

    fn teach(&mut self, was_in_flight: u64, bytes: u64, rtt: Option<Duration>, sample: Option<Sample>, now: Instant) {
        self.control.on_ack(&Acked {
            now,
            bytes,
            delivered: self.delivery.delivered(),
            was_in_flight,
            in_flight: self.board.in_flight(),
            lost: self.delivery.take_lost(),
            rtt,
            smoothed: self.rtt.smoothed().unwrap_or_default(),
            sample,
            recovering: self.recovering(),
            window_limited: self.window_limited,
        });
    }

    fn time_out(&mut self, now: Instant) {
        let rto = self.timer.back_off(&self.rtt, now);
        (self.probe, self.reorder) = (None, Instant::NEVER);
        if self.board.reneged() {
            self.board.forget_sacks();
        }
        let wait = self.wait();
        let lost = self.rack.detect_at_timeout(&mut self.board, wait, rto, now);
        // A SYN that nobody answers says nothing about how much the path can carry.
        if self.board.start() > 0 {
            self.delivery.lose(lost);
            self.recovery.timed_out(lost, self.board.end());
            self.control.on_timeout(self.board.in_flight(), now);
        }
    }

    /// When the timer rings and what for: it follows from what is on its way.
    fn next_alarm(&self) -> Option<(Instant, Alarm)> {
        if self.board.is_empty() {
            return None;
        }
        let quiet = !self.recovering() && self.probe.is_none() && self.board.sacked() == 0 && self.selective;
        let tail = match quiet {
            false => Tail::Leave,
            true if self.board.in_flight() <= self.mss => Tail::Single,
            true => Tail::Several,
        };
        Some(self.timer.next(self.reorder, tail, &self.rtt))
    }

    fn wait(&self) -> Wait {
        Wait {
            mss: self.mss,
            recovering: self.recovering(),
            least: self.rtt.least().unwrap_or_default(),
            smoothed: self.rtt.smoothed().unwrap_or_default(),
        }
    }

    /// Checks what must always hold; for tests.
    #[cfg(any(test, feature = "world"))]
    pub(crate) fn audit(&self) {
        self.board.audit();
        assert!(
            self.board.is_empty() || self.deadline() < Instant::NEVER,
            "something is on its way and nobody waits for it"
        );
        assert!(!self.recovering() || !self.board.is_empty(), "a recovery outlives what it repairs");
    }
}
