use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use postern_model::{Needs, PathMapping, PathRewrite, Secret, Target, TargetOptions, is_framing};

use super::invalid::{Invalid, quote};
use crate::management::{self, PathRewriteMode, PathTargetOptions};

/// Protobuf's own bound, 10,000 years: what is below can be added to a clock.
const LONGEST: Duration = Duration::from_secs(315_576_000_000);

pub(super) fn path_from_wire(wire: management::PathMapping) -> Result<PathMapping, Invalid> {
    let path = if wire.path.is_empty() { "/".to_owned() } else { wire.path };
    check_path(&path).map_err(|why| Invalid::new("path", format!("{} {why}", quote(&path))))?;
    // The URL is not shown: it may carry a key in its query.
    let target = Target::parse(&wire.target).map_err(|e| Invalid::new("target", e))?;
    let options = options_from_wire(wire.options.unwrap_or_default()).map_err(|e| e.within("options"))?;
    Ok(PathMapping { path, target, options })
}

pub(super) fn path_to_wire(path: &PathMapping) -> management::PathMapping {
    management::PathMapping {
        path: path.path.clone(),
        target: path.target.to_string(),
        options: (path.options != TargetOptions::default()).then(|| options_to_wire(&path.options)),
    }
}

/// A header name that a mapping gives, usable on a request without touching its framing.
pub(super) fn header_name(field: &str, text: &str) -> Result<HeaderName, Invalid> {
    let name =
        HeaderName::try_from(text).map_err(|_| Invalid::new(field, format!("{} is no header name", quote(text))))?;
    if is_framing(&name) {
        return Err(Invalid::new(field, format!("{name} belongs to the connection and cannot be given by a mapping")));
    }
    Ok(name)
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if !path.starts_with('/') {
        return Err("does not begin with /");
    }
    if path.chars().any(|c| c.is_control() || matches!(c, '?' | '#' | '\\')) {
        return Err("holds a control character, a query, a fragment or a backslash");
    }
    if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err("holds a dot segment, which no request has, so it would never match");
    }
    Ok(())
}

fn options_from_wire(wire: PathTargetOptions) -> Result<TargetOptions, Invalid> {
    let path_rewrite = match PathRewriteMode::try_from(wire.path_rewrite) {
        Ok(PathRewriteMode::PathRewriteDefault) => PathRewrite::Strip,
        Ok(PathRewriteMode::PathRewritePreserve) => PathRewrite::Preserve,
        Err(_) => return Err(Invalid::new("path_rewrite", format!("{} is not known here", wire.path_rewrite))),
    };
    Ok(TargetOptions {
        skip_tls_verify: wire.skip_tls_verify,
        request_timeout: wire.request_timeout.map(timeout).transpose()?.filter(|timeout| !timeout.is_zero()),
        path_rewrite,
        custom_headers: custom_headers(wire.custom_headers)?,
        direct_upstream: wire.direct_upstream,
        disable_access_log: wire.disable_access_log,
        needs: Needs { middlewares: wire.agent_network || !wire.middlewares.is_empty() },
    })
}

fn options_to_wire(options: &TargetOptions) -> PathTargetOptions {
    PathTargetOptions {
        skip_tls_verify: options.skip_tls_verify,
        request_timeout: options.request_timeout.and_then(|timeout| timeout.try_into().ok()),
        path_rewrite: match options.path_rewrite {
            PathRewrite::Strip => PathRewriteMode::PathRewriteDefault,
            PathRewrite::Preserve => PathRewriteMode::PathRewritePreserve,
        }
        .into(),
        custom_headers: options
            .custom_headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.expose().to_owned()))
            .collect(),
        direct_upstream: options.direct_upstream,
        disable_access_log: options.disable_access_log,
        agent_network: options.needs.middlewares,
        ..PathTargetOptions::default()
    }
}

fn timeout(wire: prost_types::Duration) -> Result<Duration, Invalid> {
    Duration::try_from(wire)
        .ok()
        .filter(|timeout| *timeout <= LONGEST)
        .ok_or_else(|| Invalid::new("request_timeout", "it is negative or longer than 10,000 years"))
}

fn custom_headers(wire: BTreeMap<String, String>) -> Result<Vec<(HeaderName, Secret)>, Invalid> {
    let mut headers: Vec<(HeaderName, Secret)> = Vec::with_capacity(wire.len());
    for (name, value) in wire {
        let name = header_name("custom_headers", &name)?;
        if headers.iter().any(|(other, _)| *other == name) {
            return Err(Invalid::new("custom_headers", format!("{name} is given twice, in different spellings")));
        }
        // The value may be a key for the upstream, so it is not shown.
        HeaderValue::try_from(&*value)
            .map_err(|_| Invalid::new("custom_headers", format!("the value of {name} holds a control character")))?;
        headers.push((name, Secret::new(value)));
    }
    // The map's order is that of the spellings, which say nothing.
    headers.sort_unstable_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    Ok(headers)
}
