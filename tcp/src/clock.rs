//! Time inside a flow: nanoseconds since it began, in one word, which makes arithmetic on it cheap. `std::time` is for callers
//! only; a [`Clock`] turns one into the other.

use std::ops::{Add, Div, Mul, Sub};

/// A moment of a flow's life. Arithmetic saturates: what is further away than five centuries never comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(u64);

/// Where a flow's time meets its caller's.
#[derive(Debug)]
pub(crate) struct Clock {
    began: std::time::Instant,
    /// The moment translated last: a caller does many things at one.
    last: (std::time::Instant, Instant),
}

/// A span of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Duration(u64);

impl Instant {
    /// When the flow began.
    pub(crate) const START: Self = Self(0);
    /// The deadline of what is not waited for.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    /// The time from `earlier` to this; none if it is later.
    pub(crate) fn duration_since(self, earlier: Self) -> Duration {
        Duration(self.0.saturating_sub(earlier.0))
    }
}

impl Clock {
    /// The clock of a flow that begins now.
    pub(crate) fn new(began: std::time::Instant) -> Self {
        Self { began, last: (began, Instant::START) }
    }

    /// A caller's moment. One before the beginning is the beginning.
    pub(crate) fn inside(&mut self, at: std::time::Instant) -> Instant {
        if at != self.last.0 {
            self.last = (at, Instant::START + at.duration_since(self.began).into());
        }
        self.last.1
    }

    /// A moment for the caller.
    pub(crate) fn outside(&self, at: Instant) -> std::time::Instant {
        self.began + at.duration_since(Instant::START).into()
    }
}

impl Duration {
    pub(crate) const ZERO: Self = Self(0);

    pub(crate) const fn from_secs(secs: u64) -> Self {
        Self::from_millis(secs * 1000)
    }

    pub(crate) const fn from_millis(millis: u64) -> Self {
        Self::from_micros(millis * 1000)
    }

    pub(crate) const fn from_micros(micros: u64) -> Self {
        Self(micros * 1000)
    }

    /// How long `bytes` take at `rate` bytes per second, which is not zero.
    pub(crate) fn of(bytes: u64, rate: u64) -> Self {
        Self(bytes.saturating_mul(NANOS) / rate)
    }

    /// The rate in bytes per second at which it takes `bytes`; it is not zero itself.
    pub(crate) fn rate(self, bytes: u64) -> u64 {
        bytes.saturating_mul(NANOS) / self.0
    }

    /// How many bytes fit into it at `rate` bytes per second.
    pub(crate) fn at(self, rate: u64) -> f64 {
        real(rate) * self.as_secs_f64()
    }

    pub(crate) fn as_secs_f64(self) -> f64 {
        real(self.0) * 1e-9
    }

    pub(crate) fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn abs_diff(self, other: Self) -> Self {
        Self(self.0.abs_diff(other.0))
    }
}

const NANOS: u64 = 1_000_000_000;

/// Spans, rates and volumes of a flow fit into 63 bits: signed, they are converted by one instruction instead of ten.
pub(crate) fn real(number: u64) -> f64 {
    number as i64 as f64
}

/// The whole part of a number that is not negative; see [`real`].
pub(crate) fn whole(number: f64) -> u64 {
    number as i64 as u64
}

impl From<std::time::Duration> for Duration {
    fn from(outside: std::time::Duration) -> Self {
        Self(outside.as_secs().saturating_mul(NANOS).saturating_add(u64::from(outside.subsec_nanos())))
    }
}

impl From<Duration> for std::time::Duration {
    fn from(inside: Duration) -> Self {
        Self::from_nanos(inside.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span.0))
    }
}

impl Add for Duration {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Mul<u32> for Duration {
    type Output = Self;

    fn mul(self, times: u32) -> Self {
        Self(self.0.saturating_mul(u64::from(times)))
    }
}

impl Div<u32> for Duration {
    type Output = Self;

    fn div(self, by: u32) -> Self {
        Self(self.0 / u64::from(by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_time_comes_back() {
        let began = std::time::Instant::now();
        let mut clock = Clock::new(began);
        assert_eq!(clock.inside(began), Instant::START);
        let later = began + std::time::Duration::new(7, 42);
        for _ in 0..2 {
            assert_eq!(clock.inside(later), Instant::START + Duration(7_000_000_042));
        }
        assert_eq!(clock.inside(began), Instant::START);
        assert_eq!(clock.outside(Instant::START + Duration(7_000_000_042)), later);
    }

    #[test]
    fn bytes_spans_and_rates_belong_together() {
        let span = Duration::of(3_000_000, 1_500_000);
        assert_eq!(span, Duration::from_secs(2));
        assert_eq!(span.rate(3_000_000), 1_500_000);
        assert_eq!(whole(span.at(1_500_000)), 3_000_000);
        assert_eq!(Duration::of(u64::MAX, u64::MAX), Duration(1));
    }
}
