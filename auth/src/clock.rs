use std::time::{Instant, SystemTime};

/// The two times a gate lives by. A wall clock that jumps must not prolong what is remembered, so both are asked.
pub trait Clock: Send + Sync + 'static {
    /// What the calendar says: tokens expire by it.
    fn wall(&self) -> SystemTime;

    /// What never goes back: memory fades by it.
    fn steady(&self) -> Instant;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn steady(&self) -> Instant {
        Instant::now()
    }
}
