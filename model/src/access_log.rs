use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;

use crate::{AccountId, HostName, RequestId, ServiceId};

/// What let a request in, or kept it out: NetBird's `auth_mechanism`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMechanism {
    /// A header's value, HTTP Basic included (`header`).
    Header,
    /// The source address is not allowed (`ip_restricted`).
    IpRestricted,
    /// No credential was involved (empty text).
    None,
    /// A tunnel peer whom management was asked about; NetBird's word is `oidc`, since a peer is its user.
    TunnelPeer,
}

impl AuthMechanism {
    /// The word NetBird uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::IpRestricted => "ip_restricted",
            Self::None => "",
            Self::TunnelPeer => "oidc",
        }
    }
}

/// One finished request (NetBird: `AccessLog`, protocol `http`). The path carries no query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogLine {
    /// When the request ended.
    pub timestamp: SystemTime,
    /// The request's id, also shown on error pages.
    pub id: RequestId,
    /// `None` where no service was found.
    pub account: Option<AccountId>,
    /// `None` where no service was found.
    pub service: Option<ServiceId>,
    /// The host asked for; `None` where there was none.
    pub host: Option<HostName>,
    /// The canonical path, without query; empty where there was none.
    pub path: Arc<str>,
    /// From the request's head to the last byte of the answer.
    pub duration: Duration,
    /// The request's method.
    pub method: Method,
    /// The status sent; 499 where the client went away before there was one.
    pub status: u16,
    /// The client, after PROXY protocol and trusted forwarders.
    pub source: IpAddr,
    /// What let it in or kept it out.
    pub mechanism: AuthMechanism,
    /// The principal's subject where a credential named somebody; else empty.
    pub user_id: String,
    /// False for what we answered with 401 or 403 ourselves.
    pub auth_success: bool,
    /// Body bytes read from the client, both ways of an upgrade counted.
    pub bytes_upload: u64,
    /// Body bytes written to the client, both ways of an upgrade counted.
    pub bytes_download: u64,
    /// Why we, and not the upstream, answered; one short word (`no_route`, `upstream_refused`), else empty.
    pub reason: &'static str,
}
