//! The words for [`ServiceState`], as the store keeps them and people read them.

use postern_model::ServiceState;

const WORDS: [(ServiceState, &str); 6] = [
    (ServiceState::Active, "active"),
    (ServiceState::CertificateFailed, "certificate_failed"),
    (ServiceState::CertificatePending, "certificate_pending"),
    (ServiceState::Error, "error"),
    (ServiceState::Pending, "pending"),
    (ServiceState::TunnelNotCreated, "tunnel_not_created"),
];

pub(crate) fn word(state: ServiceState) -> &'static str {
    WORDS.iter().find(|(candidate, _)| *candidate == state).map(|(_, word)| *word).expect("every state has a word")
}

pub(crate) fn parse(word: &str) -> Option<ServiceState> {
    WORDS.iter().find(|(_, candidate)| *candidate == word).map(|(state, _)| *state)
}
