//! Everything that can end a request without an upstream's answer.

use std::fmt;

use postern_auth::Refusal;

/// What a step of the pipeline returns.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request ended here. `http/rescue.rs` is the one place that turns it into a status and a page.
#[derive(Debug)]
pub(crate) struct Error {
    /// What happened.
    pub(crate) kind: Kind,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error that explains itself.
    pub(crate) fn new(kind: Kind) -> Self {
        Self { kind, source: None }
    }

    /// An error and what caused it; the cause is for the log only.
    pub(crate) fn with(kind: Kind, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { kind, source: Some(source.into()) }
    }
}

impl From<Kind> for Error {
    fn from(kind: Kind) -> Self {
        Self::new(kind)
    }
}

impl From<BadRequest> for Error {
    fn from(bad: BadRequest) -> Self {
        Self::new(Kind::BadRequest(bad))
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(Kind::Refused(refusal))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.reason())?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// What ended the request.
#[derive(Debug)]
pub(crate) enum Kind {
    /// The request is malformed, or servers could read it in different ways.
    BadRequest(BadRequest),
    /// The Host is not the name the TLS connection was made for (RFC 9110 §15.5.20).
    Misdirected,
    /// No service has this host, or none of its paths matches.
    NoRoute,
    /// Servers could read the path in ways that belong to different routes.
    AmbiguousPath,
    /// The client's address may not enter.
    Restricted,
    /// The gate said no.
    Refused(Refusal),
    /// The service went away, or who may enter it changed, while the request was under way.
    Revoked,
    /// No connection to the upstream.
    UpstreamConnect(Connect),
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// The upstream broke off, or its answer is not HTTP.
    UpstreamBroken,
    /// The client stopped sending its body.
    ClientStalled,
    /// The client went away.
    ClientGone,
}

/// Who has to change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Whoever sent the request.
    Client,
    /// We, or whoever configured us.
    Proxy,
    /// The service behind us.
    Upstream,
}

impl Kind {
    /// Whose fault it is.
    pub(crate) fn side(&self) -> Side {
        match self {
            Self::BadRequest(_)
            | Self::Misdirected
            | Self::NoRoute
            | Self::AmbiguousPath
            | Self::Restricted
            | Self::ClientStalled
            | Self::ClientGone => Side::Client,
            Self::Refused(refusal) => match refusal {
                Refusal::Unavailable => Side::Proxy,
                Refusal::Challenge { .. } | Refusal::Denied(_) | Refusal::CrossOrigin | Refusal::TooMany => {
                    Side::Client
                }
            },
            Self::Revoked => Side::Proxy,
            Self::UpstreamConnect(_) | Self::UpstreamTimeout | Self::UpstreamBroken => Side::Upstream,
        }
    }

    /// The word the access log and the metrics know it by.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::BadRequest(bad) => bad.as_str(),
            Self::Misdirected => "misdirected",
            Self::NoRoute => "no_route",
            Self::AmbiguousPath => "path_ambiguous",
            Self::Restricted => "ip_restricted",
            Self::Refused(refusal) => refusal.reason(),
            Self::Revoked => "revoked",
            Self::UpstreamConnect(failure) => failure.as_str(),
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamBroken => "upstream_broken",
            Self::ClientStalled => "client_stalled",
            Self::ClientGone => "client_gone",
        }
    }
}

/// Why a request has no canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum BadRequest {
    /// Neither a Host header nor an authority in the target.
    HostMissing,
    /// More than one Host header.
    HostRepeated,
    /// Not `name`, `name:port` or an IP literal.
    HostInvalid,
    /// The target names another host or port than the Host header.
    HostConflict,
    /// A request target that its method cannot have: `*` without OPTIONS, CONNECT other than RFC 8441's.
    Target,
    /// A `%` without two hexadecimal digits.
    PathEscape,
    /// A control character, encoded or not.
    PathControl,
    /// A `.` or `..` segment, in any way that some server would read one.
    PathDots,
    /// UTF-8 in a longer form than it needs, behind which some decoders find a slash.
    PathOverlong,
    /// An `Expect` other than `100-continue`.
    Expectation,
    /// An upgrade with a body: what follows the head would be read in two ways.
    UpgradeBody,
}

impl BadRequest {
    /// The word the access log and the metrics know it by.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::HostMissing => "host_missing",
            Self::HostRepeated => "host_repeated",
            Self::HostInvalid => "host_invalid",
            Self::HostConflict => "host_conflict",
            Self::Target => "target_invalid",
            Self::PathEscape => "path_escape",
            Self::PathControl => "path_control",
            Self::PathDots => "path_dots",
            Self::PathOverlong => "path_overlong",
            Self::Expectation => "expectation",
            Self::UpgradeBody => "upgrade_body",
        }
    }
}

/// Why there is no connection to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Connect {
    /// Nothing listens there.
    Refused,
    /// There is no way to that address.
    Unreachable,
    /// It took too long.
    Timeout,
    /// The name does not resolve.
    Dns,
    /// The TLS handshake failed, its certificate included.
    Tls,
    /// The tunnel that leads there is down.
    TunnelDown,
    /// Anything else.
    Other,
}

impl Connect {
    /// The word the access log and the metrics know it by.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "upstream_refused",
            Self::Unreachable => "upstream_unreachable",
            Self::Timeout => "upstream_connect_timeout",
            Self::Dns => "upstream_dns",
            Self::Tls => "upstream_tls",
            Self::TunnelDown => "tunnel_down",
            Self::Other => "upstream_connect",
        }
    }
}
