use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::SystemTime;

use postern_proto::management::AccessLog;
use serde::{Deserialize, Serialize};

use crate::file::Mistake;
use crate::peer_reports::TunnelStatus;

/// How everything stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Of this program.
    pub version: String,
    /// Of the process that answers.
    pub pid: u32,
    /// Seconds since 1970, as every time here.
    pub started: i64,
    /// Grows with each change of what is published.
    pub revision: u64,
    /// Where proxies elsewhere connect to.
    pub listener: Option<SocketAddr>,
    /// What has not worked since this start, one sentence each; usually nothing.
    pub problems: Vec<String>,
    /// The configuration file, where there is one.
    pub file: Option<FileStatus>,
    /// By id.
    pub services: Vec<ServiceStatus>,
    /// Those that are here and those that were lately, by id.
    pub proxies: Vec<ProxyStatus>,
    /// The tunnel.
    pub tunnel: TunnelStatus,
    /// The access log in numbers.
    pub access_log: AccessLogStatus,
}

/// How the configuration file stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStatus {
    /// The file.
    pub path: PathBuf,
    /// What it says now is in force.
    pub in_force: bool,
    /// Why it is not, in one sentence.
    pub problem: Option<String>,
    /// What is wrong in it.
    pub mistakes: Vec<Mistake>,
    /// It has settings that only a new start takes up.
    pub needs_restart: bool,
}

/// Who may enter a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessKind {
    /// Everybody.
    Open,
    /// Users by HTTP Basic.
    Basic,
    /// Peers of the tunnel, by their groups.
    Private,
}

/// How one service stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its id, which is its name in the file.
    pub name: String,
    /// Where it is published.
    pub host: String,
    /// Who may enter.
    pub access: AccessKind,
    /// `error` where a peer is missing that it leads to; `active` on every connected proxy, or the first that is less: `error`, `certificate_failed`,
    /// `tunnel_not_created`, `certificate_pending`, `pending`.
    pub state: String,
    /// Every connected proxy has a certificate that covers the host.
    pub certificate_issued: bool,
    /// Where tunnel peers reach it: one per connected proxy that listens in the tunnel, by proxy.
    pub inbound: Vec<InboundStatus>,
    /// Why it is not active, and what to do; one sentence.
    pub sentence: Option<String>,
}

/// Where a proxy listens in the tunnel (NetBird: `ProxyInboundListener`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboundStatus {
    /// The proxy's id.
    pub proxy: String,
    /// Its address in the tunnel.
    pub address: IpAddr,
    /// The port that speaks TLS.
    pub https: u16,
    /// The port that speaks plain HTTP.
    pub http: u16,
}

/// A proxy that is here or was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// What it calls itself.
    pub id: String,
    /// The domain of its cluster.
    pub address: String,
    /// Of its program.
    pub version: String,
    /// The name of the token that it came with.
    pub token: String,
    /// It has a mapping stream now.
    pub connected: bool,
    /// Since when it is connected, or when it was seen last.
    pub since: i64,
}

/// The access log in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessLogStatus {
    /// Lines since this process has started, each counted once.
    pub total: u64,
}

/// A token, without the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenStatus {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: i64,
    /// When a call last came with it.
    pub last_used: Option<i64>,
}

/// A token that was just made. Shown once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewToken {
    /// Its name.
    pub name: String,
    /// The token itself, for `NB_PROXY_TOKEN`.
    pub token: String,
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One finished request, as a proxy told it (NetBird: `AccessLog`). Long texts are cut, control characters replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Milliseconds since 1970 by the proxy's clock; 0 where it said nothing.
    pub timestamp_ms: u64,
    /// Unique.
    pub id: String,
    /// Empty where no service was found.
    pub service: String,
    /// The host asked for.
    pub host: String,
    /// The path, without query.
    pub path: String,
    /// How long it took.
    pub duration_ms: i64,
    /// The method.
    pub method: String,
    /// The status answered.
    pub status: i32,
    /// The client's address.
    pub source: String,
    /// What let it in or kept it out.
    pub mechanism: String,
    /// Whom a credential named.
    pub user: String,
    /// Not refused by the access rules.
    pub auth_success: bool,
    /// Bytes from the client.
    pub bytes_upload: i64,
    /// Bytes to the client.
    pub bytes_download: i64,
    /// Why the proxy answered itself.
    pub reason: String,
}

impl LogLine {
    pub(crate) fn from_wire(wire: AccessLog) -> Self {
        let at = wire.timestamp.and_then(|at| SystemTime::try_from(at).ok());
        let since = at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
        Self {
            timestamp_ms: since.as_millis().try_into().unwrap_or(u64::MAX),
            id: plain(wire.log_id),
            service: plain(wire.service_id),
            host: plain(wire.host),
            path: plain(wire.path),
            duration_ms: wire.duration_ms,
            method: plain(wire.method),
            status: wire.response_code,
            source: plain(wire.source_ip),
            mechanism: plain(wire.auth_mechanism),
            user: plain(wire.user_id),
            auth_success: wire.auth_success,
            bytes_upload: wire.bytes_upload,
            bytes_download: wire.bytes_download,
            reason: plain(wire.reason),
        }
    }
}

/// What a proxy says is kept in memory, so nothing may be large, and shown on terminals, so nothing may steer one.
pub(crate) fn plain(mut text: String) -> String {
    cut(&mut text);
    if text.contains(char::is_control) {
        text = text.replace(char::is_control, "\u{fffd}");
    }
    text
}

/// Cuts a text to about a kilobyte, and gives back the room.
pub(crate) fn cut(text: &mut String) {
    const LONGEST: usize = 1024;
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
        text.shrink_to_fit();
    }
}
