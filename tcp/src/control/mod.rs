//! Congestion control: what an acknowledgement taught comes in, a window and a pacing rate come out.

mod bbr;
mod controller;
mod cubic;

use crate::clock::{Duration, Instant};
use crate::config::Congestion;
use bbr::Bbr;
pub(crate) use controller::{Acked, Controller, Sample};
use cubic::Cubic;

/// The controller of a flow: one of a closed set, so that a flow is one piece of memory.
#[derive(Debug)]
pub(crate) enum Control {
    Bbr(Bbr),
    Cubic(Cubic),
}

impl Control {
    #[inline(always)]
    pub(crate) fn new(which: Congestion, mss: u64, salt: u32, rtt: Option<Duration>, now: Instant) -> Self {
        match which {
            Congestion::Bbr => Self::Bbr(Bbr::new(mss, salt, rtt, now)),
            Congestion::Cubic => Self::Cubic(Cubic::new(mss)),
        }
    }
}

/// Calls what the controller is.
macro_rules! each {
    ($control:ident, $inner:ident => $call:expr) => {
        match $control {
            Self::Bbr($inner) => $call,
            Self::Cubic($inner) => $call,
        }
    };
}

impl Controller for Control {
    fn on_restart(&mut self, now: Instant) {
        each!(self, inner => inner.on_restart(now));
    }

    fn on_ack(&mut self, ack: &Acked) {
        each!(self, inner => inner.on_ack(ack));
    }

    fn on_loss(&mut self, in_flight: u64, now: Instant) {
        each!(self, inner => inner.on_loss(in_flight, now));
    }

    fn on_timeout(&mut self, in_flight: u64, now: Instant) {
        each!(self, inner => inner.on_timeout(in_flight, now));
    }

    fn on_repaired(&mut self, now: Instant) {
        each!(self, inner => inner.on_repaired(now));
    }

    fn on_mistake(&mut self, now: Instant) {
        each!(self, inner => inner.on_mistake(now));
    }

    fn set_mss(&mut self, mss: u64) {
        each!(self, inner => inner.set_mss(mss));
    }

    fn window(&self) -> u64 {
        each!(self, inner => inner.window())
    }

    fn rate(&self) -> Option<u64> {
        each!(self, inner => inner.rate())
    }
}
