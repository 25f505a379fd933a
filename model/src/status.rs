use std::net::IpAddr;

use crate::{AccountId, ServiceId};

/// NetBird's `ProxyStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceState {
    /// The service answers.
    Active,
    /// Its certificate could not be had.
    CertificateFailed,
    /// Its certificate is being ordered.
    CertificatePending,
    /// It is not served; the reason stands in `error`.
    Error,
    /// Nothing is known yet.
    Pending,
    /// It needs a tunnel that does not exist.
    TunnelNotCreated,
}

/// What the proxy tells management about one service (NetBird: `SendStatusUpdateRequest`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusUpdate {
    /// The service meant.
    pub service: ServiceId,
    /// Its account.
    pub account: AccountId,
    /// How it stands.
    pub state: ServiceState,
    /// Whether a certificate covers its host.
    pub certificate_issued: bool,
    /// One sentence for people, with the next action where there is one.
    pub error: Option<String>,
    /// Where tunnel peers reach it, while they can.
    pub inbound: Option<InboundListener>,
}

/// The listeners of an account's tunnel (NetBird: `ProxyInboundListener`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InboundListener {
    /// Our address in the tunnel.
    pub address: IpAddr,
    /// The port that speaks TLS.
    pub https: u16,
    /// The port that speaks plain HTTP.
    pub http: u16,
}
