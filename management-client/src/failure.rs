use std::error::Error;
use std::time::Duration;

use postern_model::ManagementError;
use tonic::{Code, Response, Status};

/// Why a call did not do what it was for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The server cannot be reached, or not now: try again.
    Unreachable(String),
    /// The server answered that something went wrong with it, which may be so for this call alone: try again a few times.
    Unsure(String),
    /// The server answered no.
    Refused(String),
}

impl Failure {
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Unreachable(reason) | Self::Unsure(reason) | Self::Refused(reason) => reason,
        }
    }
}

/// Codes that tonic makes up for a broken connection have a source; those that the server sent have none.
pub(crate) fn is_from_server(status: &Status) -> bool {
    status.source().is_none()
}

/// Why a call gave no answer, for whoever made it.
pub(crate) fn to_error(status: &Status) -> ManagementError {
    match classify(status) {
        Failure::Refused(reason) => ManagementError::Refused(reason),
        Failure::Unreachable(reason) | Failure::Unsure(reason) => ManagementError::Unavailable(reason),
    }
}

/// What a status says about the next try.
pub(crate) fn classify(status: &Status) -> Failure {
    let reason = describe(status);
    if !is_from_server(status) {
        return Failure::Unreachable(reason);
    }
    match status.code() {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Aborted
        | Code::ResourceExhausted
        | Code::Unauthenticated
        // A gateway's "no such page" reads so while the server behind it is away.
        | Code::Unimplemented => Failure::Unreachable(reason),
        Code::Unknown | Code::Internal | Code::DataLoss => Failure::Unsure(reason),
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange => Failure::Refused(reason),
    }
}

/// A status in a sentence: the code's meaning, the server's words, and what to do where that is known.
pub(crate) fn describe(status: &Status) -> String {
    const SHOWN: usize = 200;
    let words: String = status.message().chars().take(SHOWN).flat_map(char::escape_debug).collect();
    let mut text = status.code().description().to_owned();
    if !words.is_empty() {
        text = format!("{text} ({words})");
    }
    // tonic's own words for a broken connection are "transport error"; the root of it says more.
    if let Some(root) = std::iter::successors(status.source(), |error| (*error).source()).last() {
        text = format!("{text}: {root}");
    }
    if status.code() == Code::Unauthenticated {
        text.push_str("; check NB_PROXY_TOKEN");
    }
    text
}

/// A unary call under a deadline.
pub(crate) async fn call<T>(
    deadline: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(deadline, answer).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} seconds", deadline.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_server_said_is_final() {
        assert!(matches!(classify(&Status::not_found("no such service")), Failure::Refused(_)));
        assert!(matches!(classify(&Status::internal("store")), Failure::Unsure(_)));
        assert!(matches!(classify(&Status::unavailable("")), Failure::Unreachable(_)));
        let broken = Status::from_error(Box::new(std::io::Error::other("reset")));
        assert!(matches!(classify(&broken), Failure::Unreachable(_)));
    }

    #[test]
    fn a_servers_words_cannot_break_a_log_line() {
        let text = describe(&Status::unauthenticated("no\n\u{1b}[31mtoken"));
        assert!(text.contains("no\\n\\u{1b}[31mtoken") && text.ends_with("check NB_PROXY_TOKEN"), "{text}");
    }
}
