use http::{HeaderValue, StatusCode};
use postern_model::AuthMechanism;

/// Why somebody stays out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A credential is missing, or wrong (401).
    Challenge {
        /// One `WWW-Authenticate` each; empty where the schemes have none.
        www_authenticate: Vec<HeaderValue>,
        /// A credential was there, and it was wrong.
        wrong: bool,
    },
    /// No credential would help (403).
    Denied(DenyReason),
    /// A page of another origin wants to open a WebSocket with this browser's credentials (403).
    CrossOrigin,
    /// Too many wrong tries; this one was not looked at (429).
    TooMany,
    /// Nobody could say whether the credential is right (502).
    Unavailable,
}

/// Why no credential helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenyReason {
    /// The rule names no scheme at all.
    NoScheme,
    /// Only tunnel peers may enter, and the connection came in by a public listener.
    NotAPeer,
    /// The peer is of another account.
    OtherAccount,
    /// Management does not let the peer in.
    PeerDenied,
    /// Nobody could say whether the peer may enter.
    PeerUnverified,
}

impl DenyReason {
    fn word(self) -> &'static str {
        match self {
            Self::NoScheme => "no_scheme",
            Self::NotAPeer => "not_a_peer",
            Self::OtherAccount => "other_account",
            Self::PeerDenied => "peer_denied",
            Self::PeerUnverified => "peer_unverified",
        }
    }

    fn mechanism(self) -> AuthMechanism {
        match self {
            Self::NoScheme | Self::NotAPeer => AuthMechanism::None,
            Self::OtherAccount | Self::PeerDenied | Self::PeerUnverified => AuthMechanism::TunnelPeer,
        }
    }
}

impl Refusal {
    /// The status to answer with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Challenge { .. } => StatusCode::UNAUTHORIZED,
            Self::Denied(_) | Self::CrossOrigin => StatusCode::FORBIDDEN,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::BAD_GATEWAY,
        }
    }

    /// One word for the access log.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Challenge { wrong: false, .. } => "credential_missing",
            Self::Challenge { wrong: true, .. } => "credential_wrong",
            Self::Denied(reason) => reason.word(),
            Self::CrossOrigin => "cross_origin",
            Self::TooMany => "too_many_tries",
            Self::Unavailable => "auth_unavailable",
        }
    }

    /// One `WWW-Authenticate` each, to send along.
    #[must_use]
    pub fn www_authenticate(&self) -> &[HeaderValue] {
        match self {
            Self::Challenge { www_authenticate, .. } => www_authenticate,
            Self::Denied(_) | Self::CrossOrigin | Self::TooMany | Self::Unavailable => &[],
        }
    }

    /// What kept them out, as the access log names it: the header where one was presented, the peer where it was judged.
    #[must_use]
    pub fn mechanism(&self) -> AuthMechanism {
        match self {
            Self::Challenge { wrong: true, .. } | Self::TooMany | Self::Unavailable => AuthMechanism::Header,
            Self::Challenge { wrong: false, .. } | Self::CrossOrigin => AuthMechanism::None,
            Self::Denied(reason) => reason.mechanism(),
        }
    }
}
