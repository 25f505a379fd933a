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
        for Scheme::Header(header) in self.schemes() {
            if !names.contains(&&header.name) {
                names.push(&header.name);
            }
        }
        names.into_iter()
    }

    fn schemes(&self) -> Vec<&Scheme> {
        let mut schemes = Vec::new();
        match self {
            Self::Open => {}
            Self::Rule(rule) => rule.collect_schemes(&mut schemes),
        }
        schemes
    }
}

impl Rule {
    /// Whether whichever one of its schemes is proved meets the whole rule. Only then can a session, which proves one
    /// scheme without saying which, stand in for it.
    pub(crate) fn one_proof_suffices(&self) -> bool {
        match self {
            Self::Scheme(_) => true,
            Self::Any(rules) => !rules.is_empty() && rules.iter().all(Self::one_proof_suffices),
            Self::All(rules) => rules.len() == 1 && rules[0].one_proof_suffices(),
        }
    }

    /// The values of `WWW-Authenticate` that ask for its schemes, each once.
    pub(crate) fn challenges(&self) -> Vec<HeaderValue> {
        let mut schemes = Vec::new();
        self.collect_schemes(&mut schemes);
        let mut values = Vec::new();
        for Scheme::Header(header) in schemes {
            let Some(Challenge::Basic { realm }) = &header.challenge else { continue };
            let text = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
            match HeaderValue::try_from(text) {
                Ok(value) if !values.contains(&value) => values.push(value),
                Ok(_) | Err(_) => {}
            }
        }
        values
    }

    fn collect_schemes<'a>(&'a self, schemes: &mut Vec<&'a Scheme>) {
        match self {
            Self::Any(rules) | Self::All(rules) => {
                for rule in rules {
                    rule.collect_schemes(schemes);
                }
            }
            Self::Scheme(scheme) => schemes.push(scheme),
        }
    }
}
