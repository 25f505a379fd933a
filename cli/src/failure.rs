use std::fmt;
use std::process::ExitCode;

/// Why the process ends: sentences for people, and whether they concern what was asked for or what happened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    kind: Kind,
    sentences: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Flags, variables or files ask for what cannot be: exit code 2.
    Configuration,
    /// The machine or the network does not play along: exit code 1.
    Running,
}

impl Failure {
    /// One mistake in what was asked for.
    pub(crate) fn configuration(sentence: impl fmt::Display) -> Self {
        Self::mistakes(vec![sentence.to_string()])
    }

    /// Several mistakes in what was asked for, all at once.
    pub(crate) fn mistakes(sentences: Vec<String>) -> Self {
        Self { kind: Kind::Configuration, sentences }
    }

    /// Something that went wrong while running.
    pub(crate) fn running(sentence: impl fmt::Display) -> Self {
        Self { kind: Kind::Running, sentences: vec![sentence.to_string()] }
    }

    /// Prints each sentence to the error stream.
    #[expect(clippy::print_stderr, reason = "the last words of a command")]
    pub(crate) fn print(&self) {
        for sentence in &self.sentences {
            eprintln!("postern: {sentence}");
        }
    }

    /// 2 for the configuration, 1 for the rest.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.kind {
            Kind::Configuration => ExitCode::from(2),
            Kind::Running => ExitCode::from(1),
        }
    }

    #[cfg(test)]
    pub(crate) fn sentences(&self) -> &[String] {
        &self.sentences
    }
}
