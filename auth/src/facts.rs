use std::net::IpAddr;

use http::HeaderMap;
use postern_model::{HostName, TunnelPeer};

/// Which kind of listener a connection came in by. Nothing that the connection or a request says makes a peer of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// One that anybody can reach.
    Public,
    /// One inside an account's tunnel; this peer opened the connection.
    Tunnel(TunnelPeer),
}

/// What a request says, as far as it bears on who may enter.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The client's address.
    pub source: IpAddr,
    /// Where the connection came in.
    pub origin: &'a Origin,
    /// Whether the client speaks TLS with us.
    pub tls: bool,
    /// The headers as the client sent them, credentials included.
    pub headers: &'a HeaderMap,
    /// Whether the connection is to be handed over (WebSocket).
    pub upgrade: bool,
    /// The host asked for.
    pub host: &'a HostName,
    /// The port asked for, where the request names one.
    pub port: Option<u16>,
}
