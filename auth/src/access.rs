use std::time::Duration;

use http::{HeaderName, HeaderValue};
use postern_model::{AccountId, Challenge, HostName, ServiceId, SessionKey};

/// Who may enter. There is no default: whoever builds a door says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody, on purpose.
    Open,
    /// Whoever meets the rule.
    Rule(Rule),
}

/// What must be proved. Empty lists prove nothing and therefore let nobody in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// One of these. The first for which the request carries anything decides, right or wrong, as in NetBird.
    Any(Vec<Self>),
    /// Each of these; who it is, the first says. No session comes of it: a session proves one thing.
    All(Vec<Self>),
    /// This one.
    Scheme(Scheme),
}

/// One way of proving who one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// A header whose value management knows; HTTP Basic is one.
    Header(HeaderScheme),
    /// Being a peer of the account's tunnel that management lets in. Nothing that a request carries proves it, so it is
    /// never asked for, and no session comes of it: a cookie would outlive the peer.
    Private,
}

/// A header that carries a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderScheme {
    /// The header.
    pub name: HeaderName,
    /// How to ask for it where it is missing or wrong.
    pub challenge: Option<Challenge>,
}

/// All that the gate needs to know of a place that somebody wants to enter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// The service behind it.
    pub service: ServiceId,
    /// The service's account.
    pub account: AccountId,
    /// The host it is published at: the audience of its sessions.
    pub host: HostName,
    /// Who may enter.
    pub access: Access,
    /// How its sessions are verified; without it no credential can be either.
    pub sessions: Option<Sessions>,
    /// Changes whenever the access of the service does, so that no verdict outlives what it was given under.
    pub epoch: u64,
}

/// The sessions of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// Verifies them.
    pub key: SessionKey,
    /// How long a browser keeps the cookie.
    pub max_age: Duration,
}

impl Door {
    /// The headers that carry credentials, each once. They are removed before a request is forwarded.
    pub fn credential_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.access.credential_headers()
    }
}

impl Access {
    /// The headers that carry credentials, each once. They are removed before a request is forwarded.
    pub fn credential_headers(&self) -> impl Iterator<Item = &HeaderName> {
        let mut names = Vec::new();
        for header in self.headers() {
            if !names.contains(&&header.name) {
                names.push(&header.name);
            }
        }
        names.into_iter()
    }

    fn headers(&self) -> Vec<&HeaderScheme> {
        let mut headers = Vec::new();
        match self {
            Self::Open => {}
            Self::Rule(rule) => rule.collect_headers(&mut headers),
        }
        headers
    }
}

impl Rule {
    /// Whether whichever one of its schemes that start sessions is proved meets the whole rule. Only then can a session,
    /// which proves one of them without saying which, stand in for it.
    pub(crate) fn one_proof_suffices(&self) -> bool {
        self.worth_of_a_session() == Some(true)
    }

    /// `None` if none of its schemes starts a session.
    fn worth_of_a_session(&self) -> Option<bool> {
        match self {
            Self::Scheme(Scheme::Header(_)) => Some(true),
            Self::Scheme(Scheme::Private) => None,
            Self::Any(rules) => rules.iter().filter_map(Self::worth_of_a_session).reduce(|a, b| a && b),
            Self::All(rules) => {
                let worth = rules.iter().filter_map(Self::worth_of_a_session).reduce(|a, b| a && b)?;
                Some(worth && rules.len() == 1)
            }
        }
    }

    /// The values of `WWW-Authenticate` that ask for its schemes, each once.
    pub(crate) fn challenges(&self) -> Vec<HeaderValue> {
        let mut headers = Vec::new();
        self.collect_headers(&mut headers);
        let mut values = Vec::new();
        for header in headers {
            let Some(Challenge::Basic { realm }) = &header.challenge else { continue };
            let text = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
            match HeaderValue::try_from(text) {
                Ok(value) if !values.contains(&value) => values.push(value),
                Ok(_) | Err(_) => {}
            }
        }
        values
    }

    fn collect_headers<'a>(&'a self, headers: &mut Vec<&'a HeaderScheme>) {
        match self {
            Self::Any(rules) | Self::All(rules) => {
                for rule in rules {
                    rule.collect_headers(headers);
                }
            }
            Self::Scheme(Scheme::Header(header)) => headers.push(header),
            Self::Scheme(Scheme::Private) => {}
        }
    }
}
