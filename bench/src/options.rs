use std::time::Duration;

use clap::Args;

/// How long and how often a suite measures.
#[derive(Args, Clone, Copy)]
pub(crate) struct Options {
    /// Interleaved rounds; a row is the median of them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub(crate) rounds: u32,
    /// Seconds per load, side and round.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub(crate) seconds: u32,
}

impl Options {
    pub(crate) fn duration(self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}
