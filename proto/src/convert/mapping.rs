use std::collections::HashSet;

use postern_model::{AccountId, HostName, Mapping, Mode, OneTimeToken, PathMapping, ServiceId};

use super::access::{authentication_from_wire, authentication_to_wire, restrictions_from_wire, restrictions_to_wire};
use super::invalid::{Invalid, quote};
use super::path::{path_from_wire, path_to_wire};
use crate::management::{self, ProxyMapping, ProxyMappingUpdateType};

/// Converts a mapping (NetBird: `ProxyMapping`) whose ids are known already.
pub(super) fn mapping_from_wire(id: ServiceId, account: AccountId, wire: ProxyMapping) -> Result<Mapping, Invalid> {
    let host = HostName::parse(&wire.domain).map_err(|e| {
        Invalid::new("domain", format!("{} is no host to publish a service under: {e}", quote(&wire.domain)))
    })?;
    let mode = mode_from_wire(&wire.mode)?;
    let listen_port = u16::try_from(wire.listen_port)
        .map_err(|_| Invalid::new("listen_port", format!("{} is no port", wire.listen_port)))?;
    let paths = match mode {
        Mode::Http => paths_from_wire(wire.path)?,
        Mode::Tcp | Mode::Tls | Mode::Udp => Vec::new(),
    };
    let authentication = authentication_from_wire(wire.auth.unwrap_or_default()).map_err(|e| e.within("auth"))?;
    let restrictions = restrictions_from_wire(&wire.access_restrictions.unwrap_or_default())
        .map_err(|e| e.within("access_restrictions"))?;
    Ok(Mapping {
        id,
        account,
        host,
        mode,
        listen_port,
        paths,
        authentication,
        private: wire.private,
        pass_host_header: wire.pass_host_header,
        rewrite_redirects: wire.rewrite_redirects,
        restrictions,
    })
}

/// A mapping as it goes to a proxy. `token` is `None` for a removed one, which otherwise carries its whole state too:
/// a stock proxy frees what the received state names.
#[must_use]
pub fn mapping_to_wire(kind: ProxyMappingUpdateType, mapping: &Mapping, token: Option<&OneTimeToken>) -> ProxyMapping {
    ProxyMapping {
        r#type: kind.into(),
        id: mapping.id.to_string(),
        account_id: mapping.account.to_string(),
        domain: mapping.host.to_string(),
        path: mapping.paths.iter().map(path_to_wire).collect(),
        auth_token: token.map(|token| token.0.expose().to_owned()).unwrap_or_default(),
        auth: Some(authentication_to_wire(&mapping.authentication)),
        pass_host_header: mapping.pass_host_header,
        rewrite_redirects: mapping.rewrite_redirects,
        mode: mode_to_wire(mapping.mode).to_owned(),
        listen_port: mapping.listen_port.into(),
        access_restrictions: restrictions_to_wire(&mapping.restrictions),
        private: mapping.private,
    }
}

fn mode_from_wire(wire: &str) -> Result<Mode, Invalid> {
    match wire {
        "" | "http" => Ok(Mode::Http),
        "tcp" => Ok(Mode::Tcp),
        "tls" => Ok(Mode::Tls),
        "udp" => Ok(Mode::Udp),
        other => Err(Invalid::new("mode", format!("{} is none of http, tcp, tls, udp", quote(other)))),
    }
}

fn mode_to_wire(mode: Mode) -> &'static str {
    match mode {
        Mode::Http => "http",
        Mode::Tcp => "tcp",
        Mode::Tls => "tls",
        Mode::Udp => "udp",
    }
}

fn paths_from_wire(wire: Vec<management::PathMapping>) -> Result<Vec<PathMapping>, Invalid> {
    if wire.is_empty() {
        return Err(Invalid::new("path", "there is none; a service leads somewhere"));
    }
    let mut seen = HashSet::with_capacity(wire.len());
    wire.into_iter()
        .enumerate()
        .map(|(index, wire)| {
            let path = path_from_wire(wire).map_err(|e| e.within(format_args!("path[{index}]")))?;
            if !seen.insert(path.path.clone()) {
                let why = format!("{} is given twice, so it is unclear which target is meant", quote(&path.path));
                return Err(Invalid::new(format!("path[{index}].path"), why));
            }
            Ok(path)
        })
        .collect()
}
