use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What a load generator counted; it prints it as one line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    pub(crate) microseconds: u64,
    pub(crate) failed: u64,
}

impl Summary {
    const MARK: &str = "summary ";

    pub(crate) fn line(&self) -> Result<String> {
        Ok(format!("{}{}", Self::MARK, serde_json::to_string(self)?))
    }

    /// Of two threads that ran at the same time.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            bytes: self.bytes + other.bytes,
            microseconds: self.microseconds.max(other.microseconds),
            failed: self.failed + other.failed,
        }
    }

    /// In the output of a load generator.
    pub(crate) fn find(output: &str) -> Result<Self> {
        let line = output.lines().find_map(|line| line.strip_prefix(Self::MARK));
        let line = line.with_context(|| format!("the load generator printed no summary: {output}"))?;
        serde_json::from_str(line).with_context(|| format!("the load generator's summary is not understood: {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_found_among_other_lines() {
        let summary = Summary { requests: 12, bytes: 3400, microseconds: 2_000_123, failed: 1 };
        let output = format!("Running 2s test\n{}\n", summary.line().expect("a line"));
        assert_eq!(Summary::find(&output).expect("a summary"), summary);
        assert!(Summary::find("Running 2s test\n").is_err());
        assert!(Summary::find("summary {}").is_err());
    }
}
