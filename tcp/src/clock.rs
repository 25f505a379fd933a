//! Time inside a flow: nanoseconds since it began, in one word, which makes arithmetic on it cheap. `std::time` is for callers
//! only; [`Connection`](crate::connection::Connection) is where one becomes the other.

use std::ops::{Add, Div, Mul, Sub};

/// A moment of a flow's life. Arithmetic saturates: what is further away than five centuries never comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(u64);

/// A span of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Duration(u64);

impl Instant {
    /// When the flow began.
    pub(crate) const START: Self = Self(0);

    /// The time from `earlier` to this; none if it is later.
    pub(crate) fn duration_since(self, earlier: Self) -> Duration {
        Duration(self.0.saturating_sub(earlier.0))
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

    /// How long `bytes` take at `rate` bytes per second.
    pub(crate) fn of(bytes: u64, rate: u64) -> Self {
        Self((bytes as f64 * 1e9 / rate as f64) as u64)
    }

    /// How many bytes fit into it at `rate` bytes per second.
    pub(crate) fn at(self, rate: u64) -> f64 {
        rate as f64 * self.as_secs_f64()
    }

    pub(crate) fn as_secs_f64(self) -> f64 {
        self.0 as f64 * 1e-9
    }

    pub(crate) fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn abs_diff(self, other: Self) -> Self {
        Self(self.0.abs_diff(other.0))
    }
}

impl From<std::time::Duration> for Duration {
    fn from(outside: std::time::Duration) -> Self {
        Self(outside.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(outside.subsec_nanos())))
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
