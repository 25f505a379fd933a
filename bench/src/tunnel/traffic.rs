use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What one end of a connection has moved; it prints it as one line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Traffic {
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    /// CPU seconds of the whole process.
    pub(super) cpu: f64,
}

impl Traffic {
    const MARK: &str = "traffic ";

    pub(super) fn line(&self) -> Result<String> {
        Ok(format!("{}{}", Self::MARK, serde_json::to_string(self)?))
    }

    /// In the output of an end.
    pub(super) fn find(output: &str) -> Result<Self> {
        let line = output.lines().find_map(|line| line.strip_prefix(Self::MARK));
        let line = line.with_context(|| format!("an end of a connection printed no traffic: {output}"))?;
        serde_json::from_str(line).with_context(|| format!("an end's traffic is not understood: {line}"))
    }
}
