use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::AUTHORIZATION;
use ipnet::{IpNet, Ipv4Net};
use postern_model::{Authentication, Challenge, HeaderAuth, Restrictions, SessionKey};

use super::invalid::{Invalid, quote};
use super::path::header_name;
use crate::management::{self, AccessRestrictions};

/// What NetBird's proxy takes where nothing is said.
const DEFAULT_SESSION_AGE: Duration = Duration::from_secs(86_400);

/// No browser keeps a cookie longer (RFC 6265bis); longer ages are cut.
const LONGEST_SESSION_AGE: Duration = Duration::from_secs(400 * 86_400);

pub(super) fn authentication_from_wire(wire: management::Authentication) -> Result<Authentication, Invalid> {
    let headers = wire
        .header_auths
        .into_iter()
        .enumerate()
        .map(|(index, wire)| header_auth_from_wire(wire).map_err(|e| e.within(format_args!("header_auths[{index}]"))))
        .collect::<Result<Vec<_>, _>>()?;
    let session_key = session_key(&wire.session_key)?;
    if session_key.is_none() && (wire.password || wire.pin || wire.oidc || !headers.is_empty()) {
        return Err(Invalid::new("session_key", "it is missing, though the service asks for a login"));
    }
    let max_session_age = match u64::try_from(wire.max_session_age_seconds) {
        Ok(0) | Err(_) => DEFAULT_SESSION_AGE,
        Ok(seconds) => Duration::from_secs(seconds).min(LONGEST_SESSION_AGE),
    };
    Ok(Authentication {
        session_key,
        max_session_age,
        password: wire.password,
        pin: wire.pin,
        oidc: wire.oidc,
        headers,
        deliberately_open: wire.open,
    })
}

pub(super) fn authentication_to_wire(authentication: &Authentication) -> management::Authentication {
    management::Authentication {
        session_key: authentication.session_key.map(|key| STANDARD.encode(key.0)).unwrap_or_default(),
        max_session_age_seconds: authentication.max_session_age.as_secs().try_into().unwrap_or(i64::MAX),
        password: authentication.password,
        pin: authentication.pin,
        oidc: authentication.oidc,
        header_auths: authentication.headers.iter().map(header_auth_to_wire).collect(),
        open: authentication.deliberately_open,
    }
}

pub(super) fn restrictions_from_wire(wire: &AccessRestrictions) -> Result<Restrictions, Invalid> {
    let crowdsec = match &*wire.crowdsec_mode {
        "" | "off" => false,
        "enforce" | "observe" => true,
        other => {
            let why = format!("{} is none of off, enforce, observe", quote(other));
            return Err(Invalid::new("crowdsec_mode", why));
        }
    };
    Ok(Restrictions {
        allowed_cidrs: each("allowed_cidrs", &wire.allowed_cidrs, cidr)?,
        blocked_cidrs: each("blocked_cidrs", &wire.blocked_cidrs, cidr)?,
        allowed_countries: each("allowed_countries", &wire.allowed_countries, country)?,
        blocked_countries: each("blocked_countries", &wire.blocked_countries, country)?,
        crowdsec,
    })
}

pub(super) fn restrictions_to_wire(restrictions: &Restrictions) -> Option<AccessRestrictions> {
    if *restrictions == Restrictions::default() {
        return None;
    }
    let cidrs = |cidrs: &[IpNet]| cidrs.iter().map(ToString::to_string).collect();
    Some(AccessRestrictions {
        allowed_cidrs: cidrs(&restrictions.allowed_cidrs),
        blocked_cidrs: cidrs(&restrictions.blocked_cidrs),
        allowed_countries: restrictions.allowed_countries.clone(),
        blocked_countries: restrictions.blocked_countries.clone(),
        crowdsec_mode: if restrictions.crowdsec { "enforce" } else { "" }.to_owned(),
    })
}

fn session_key(wire: &str) -> Result<Option<SessionKey>, Invalid> {
    if wire.is_empty() {
        return Ok(None);
    }
    let bytes = STANDARD.decode(wire).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    bytes.map(|key| Some(SessionKey(key))).ok_or_else(|| Invalid::new("session_key", "it is not base64 of 32 bytes"))
}

fn header_auth_from_wire(wire: management::HeaderAuth) -> Result<HeaderAuth, Invalid> {
    let name = header_name("header", &wire.header)?;
    let challenge = match wire.basic_realm {
        None => None,
        Some(_) if name != AUTHORIZATION => {
            return Err(Invalid::new("basic_realm", format!("HTTP Basic comes in authorization, not in {name}")));
        }
        Some(realm) if !realm.bytes().all(|b| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\')) => {
            let why = format!("{} holds a quote, a backslash or something beyond plain text", quote(&realm));
            return Err(Invalid::new("basic_realm", why));
        }
        Some(realm) => Some(Challenge::Basic { realm }),
    };
    Ok(HeaderAuth { name, fingerprint: fingerprint(&wire.hashed_value), challenge })
}

fn header_auth_to_wire(header: &HeaderAuth) -> management::HeaderAuth {
    management::HeaderAuth {
        header: header.name.to_string(),
        hashed_value: header.fingerprint.clone(),
        basic_realm: header.challenge.as_ref().map(|challenge| match challenge {
            Challenge::Basic { realm } => realm.clone(),
        }),
    }
}

/// A stock server sends the Argon2 hash of the value, which could be attacked wherever it leaks to; its digest cannot.
fn fingerprint(hashed_value: &str) -> String {
    if hashed_value.is_empty() {
        return String::new();
    }
    URL_SAFE_NO_PAD.encode(digest(&SHA256, hashed_value.as_bytes()))
}

fn each<T>(field: &str, texts: &[String], parse: fn(&str) -> Result<T, String>) -> Result<Vec<T>, Invalid> {
    texts
        .iter()
        .enumerate()
        .map(|(index, text)| parse(text).map_err(|why| Invalid::new(format!("{field}[{index}]"), why)))
        .collect()
}

/// Host bits are cleared, and an IPv4 network written as IPv6 is IPv4, as the addresses compared with it are.
fn cidr(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text.parse().map_err(|_| format!("{} is no network such as 10.0.0.0/8", quote(text)))?;
    let IpNet::V6(v6) = net.trunc() else { return Ok(net.trunc()) };
    let mapped = v6.prefix_len().checked_sub(96).zip(v6.addr().to_ipv4_mapped());
    Ok(mapped.and_then(|(length, addr)| Ipv4Net::new(addr, length).ok()).map_or(IpNet::V6(v6), IpNet::V4))
}

fn country(text: &str) -> Result<String, String> {
    if text.len() == 2 && text.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Ok(text.to_ascii_uppercase());
    }
    Err(format!("{} is no country code of two letters", quote(text)))
}
