use std::net::IpAddr;

use http::HeaderMap;
use postern_model::HostName;

/// What a request says, as far as it bears on who may enter.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The client's address.
    pub source: IpAddr,
    /// The headers as the client sent them, credentials included.
    pub headers: &'a HeaderMap,
    /// Whether the connection is to be handed over (WebSocket).
    pub upgrade: bool,
    /// The host asked for.
    pub host: &'a HostName,
    /// The port asked for, where the request names one.
    pub port: Option<u16>,
}
