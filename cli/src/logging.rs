use std::io::{self, IsTerminal};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::proxy::Environment;

/// How much is logged. NetBird's `panic` and `fatal` are our `error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    /// Reads a word; anything else means `info`, and comes with a warning to be logged.
    pub(crate) fn parse_or_info(word: &str) -> (Self, Option<String>) {
        match word {
            "panic" | "fatal" | "error" => (Self::Error, None),
            "warn" | "warning" => (Self::Warn, None),
            "info" => (Self::Info, None),
            "debug" => (Self::Debug, None),
            "trace" => (Self::Trace, None),
            _ => {
                let help = "use panic, fatal, error, warn, info, debug or trace";
                (Self::Info, Some(format!("`{word}` is no log level, info is used; {help}")))
            }
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

/// Sends the log to the error stream: lines for people, or JSON where `NB_LOG_FORMAT` says `json`.
///
/// Libraries say warnings at most: at finer levels they print whole requests, credentials included. boringtun says nothing:
/// what it warns of is every lost handshake of a machine that is asleep.
pub(crate) fn start(level: Level, environment: &Environment) {
    let filter = filter(level.filter());
    let lines = fmt::layer().with_writer(io::stderr);
    let layer = if environment.get("NB_LOG_FORMAT").is_some_and(|format| format == "json") {
        lines.json().flatten_event(true).with_filter(filter).boxed()
    } else {
        lines.with_ansi(colours(environment, &io::stderr())).with_target(false).with_filter(filter).boxed()
    };
    // A second subscriber in one process is only possible in tests, and there the first may stay.
    let _ = tracing_subscriber::registry().with(layer).try_init();
}

fn filter(ours: LevelFilter) -> Targets {
    let libraries = ours.min(LevelFilter::WARN);
    Targets::new().with_default(libraries).with_target("postern", ours).with_target("boringtun", LevelFilter::OFF)
}

/// Colours are for terminals, and for those who did not say no (<https://no-color.org>).
pub(crate) fn colours(environment: &Environment, stream: &impl IsTerminal) -> bool {
    let refused = environment.get("NO_COLOR").is_some_and(|text| !text.is_empty());
    stream.is_terminal() && !refused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_warn_at_most_and_boringtun_not_at_all() {
        let filter = filter(LevelFilter::DEBUG);
        let says = |target, level| filter.would_enable(target, &level);
        assert!(says("postern_proxy", tracing::Level::DEBUG));
        assert!(says("hyper", tracing::Level::WARN) && !says("hyper", tracing::Level::INFO));
        assert!(!says("boringtun::noise", tracing::Level::ERROR));
    }

    #[test]
    fn a_word_that_is_no_level_is_ignored_with_a_warning() {
        assert_eq!(Level::parse_or_info("panic"), (Level::Error, None));
        assert_eq!(Level::parse_or_info("trace"), (Level::Trace, None));
        for word in ["", "loud", "INFO "] {
            let (level, warning) = Level::parse_or_info(word);
            assert_eq!(level, Level::Info);
            assert!(warning.is_some_and(|warning| warning.contains("log level")), "{word}");
        }
    }
}
