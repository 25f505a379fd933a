//! The session token: NetBird's JWT, signed by management for one service, verified by the proxy.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use postern_model::{Group, HostName, Principal, Secret, SessionKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cookie::looks_like_token;

/// Who signs: NetBird's `iss`.
const ISSUER: &str = "netbird-management";

/// How far the clock of a management that has this moment signed a token may run ahead of ours.
const FRESH_LEEWAY: Duration = Duration::from_secs(30);

/// A session that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Whose it is.
    pub principal: Principal,
    /// When it ends; NetBird's tokens say so always, but need not.
    pub expires: Option<SystemTime>,
}

/// Why a token is no session here. Which of its parts is wrong is nobody's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session token is not valid here")]
pub struct InvalidSession;

/// Verifies a token as NetBird does: EdDSA with the service's key, `iss`, `aud` with this very host, `exp` and `nbf`
/// without leeway where they are given, and a `sub` that is not empty. Critical extensions (RFC 7515 section 4.1.11)
/// are refused, there is none that we know.
///
/// # Errors
/// [`InvalidSession`] for anything else.
pub fn verify(token: &str, key: &SessionKey, host: &HostName, now: SystemTime) -> Result<Session, InvalidSession> {
    check(token, key, host, now, now)
}

/// As [`verify`], for a token that management has just given us: its `nbf` is *now* by a clock that may be ahead.
///
/// # Errors
/// As [`verify`].
pub fn verify_fresh(
    token: &str,
    key: &SessionKey,
    host: &HostName,
    now: SystemTime,
) -> Result<Session, InvalidSession> {
    check(token, key, host, now, now + FRESH_LEEWAY)
}

fn check(
    token: &str,
    key: &SessionKey,
    host: &HostName,
    now: SystemTime,
    begun_by: SystemTime,
) -> Result<Session, InvalidSession> {
    if !looks_like_token(token.as_bytes()) {
        return Err(InvalidSession);
    }
    let key = DecodingKey::from_ed_der(&key.0);
    let data = jsonwebtoken::decode::<Claims>(token, &key, &validation(host)).map_err(|_| InvalidSession)?;
    let claims = data.claims;
    let (exp, nbf) = (instant(claims.exp)?, instant(claims.nbf)?);
    let expired = exp.is_some_and(|exp| exp <= now);
    let early = nbf.is_some_and(|nbf| begun_by < nbf);
    if data.header.crit.is_some() || claims.sub.is_empty() || expired || early {
        return Err(InvalidSession);
    }
    let groups = groups(&claims.groups, &claims.group_names);
    let email = claims.email.filter(|email| !email.is_empty());
    Ok(Session {
        principal: Principal { subject: claims.sub, email, groups, method: claims.method.unwrap_or_default() },
        expires: exp,
    })
}

/// Times are compared by [`check`] with the caller's clock, so the library's own checks of them are off.
fn validation(host: &HostName) -> Validation {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_required_spec_claims(&["iss", "aud", "sub"]);
    validation.set_issuer(&[ISSUER]);
    validation.set_audience(&[host.as_str()]);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation
}

/// A JSON number of seconds since 1970, possibly with a fraction (RFC 7519 section 2).
fn instant(seconds: Option<f64>) -> Result<Option<SystemTime>, InvalidSession> {
    let Some(seconds) = seconds else { return Ok(None) };
    let since = Duration::try_from_secs_f64(seconds).map_err(|_| InvalidSession)?;
    UNIX_EPOCH.checked_add(since).map(Some).ok_or(InvalidSession)
}

/// Names belong to the ids at the same place; what is no text or empty among the ids is skipped with its name.
fn groups(ids: &Value, names: &Value) -> Vec<Group> {
    let none = Vec::new();
    let (ids, names) = (ids.as_array().unwrap_or(&none), names.as_array().unwrap_or(&none));
    ids.iter()
        .enumerate()
        .filter_map(|(at, id)| {
            let id = id.as_str().filter(|id| !id.is_empty())?.to_owned();
            let name = names.get(at).and_then(Value::as_str).unwrap_or_default().to_owned();
            Some(Group { id, name })
        })
        .collect()
}

/// Unknown claims are ignored, known ones that come twice refused.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: Option<f64>,
    nbf: Option<f64>,
    #[serde(rename = "iss")]
    _iss: String,
    #[serde(rename = "aud")]
    _aud: Value,
    method: Option<String>,
    email: Option<String>,
    #[serde(default)]
    groups: Value,
    #[serde(default)]
    group_names: Value,
}

/// Signs the sessions of one service: an Ed25519 key.
#[derive(Clone)]
pub struct SigningKey {
    encoding: EncodingKey,
    public: SessionKey,
}

impl SigningKey {
    /// The key that grows from 32 secret bytes.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are an Ed25519 seed");
        let public = pair.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes");
        // RFC 8410 section 7: this prefix and the seed are the key in PKCS#8, the one form that jsonwebtoken takes.
        let mut pkcs8 = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20................................";
        pkcs8[16..].copy_from_slice(seed);
        Self { encoding: EncodingKey::from_ed_der(&pkcs8), public: SessionKey(public) }
    }

    /// A fresh seed from the system's randomness.
    ///
    /// # Panics
    /// If the system has no randomness.
    #[must_use]
    pub fn generate_seed() -> zeroize::Zeroizing<[u8; 32]> {
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        rand::fill(&mut *seed).expect("the system has randomness");
        seed
    }

    /// What verifies its signatures.
    #[must_use]
    pub fn public(&self) -> SessionKey {
        self.public
    }

    /// A token that says who somebody is at `host`, from `now` on for `lifetime`; claims as NetBird writes them.
    #[must_use]
    pub fn sign(&self, principal: &Principal, host: &HostName, now: SystemTime, lifetime: Duration) -> Secret {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = SignedClaims {
            iss: ISSUER,
            sub: &principal.subject,
            aud: [host.as_str()],
            exp: now.saturating_add(lifetime.as_secs()),
            iat: now,
            nbf: now,
            method: &principal.method,
            email: principal.email.as_deref(),
            groups: principal.groups.iter().map(|group| group.id.as_str()).collect(),
            group_names: principal.groups.iter().map(|group| group.name.as_str()).collect(),
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &self.encoding);
        Secret::new(token.expect("texts and numbers are JSON, and the key is an Ed25519 key"))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct SignedClaims<'a> {
    iss: &'static str,
    sub: &'a str,
    aud: [&'a str; 1],
    exp: u64,
    iat: u64,
    nbf: u64,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    group_names: Vec<&'a str>,
}
