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
        let mut pkcs8 =
            *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20................................";
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

#[cfg(test)]
mod tests {
    use aws_lc_rs::hmac;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    const SEED: [u8; 32] = [9; 32];
    const NOW: u64 = 1_800_000_000;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn host() -> HostName {
        HostName::parse("app.example.com").expect("a host")
    }

    fn alice() -> Principal {
        let group = |id: &str, name: &str| Group { id: id.to_owned(), name: name.to_owned() };
        Principal {
            subject: "user:alice".to_owned(),
            email: Some("alice".to_owned()),
            groups: vec![group("g1", "Staff"), group("g2", "")],
            method: "header".to_owned(),
        }
    }

    /// A token of any header and claims, signed as ours are.
    fn forge(header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let pair = Ed25519KeyPair::from_seed_unchecked(&SEED).expect("a seed");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(pair.sign(message.as_bytes())))
    }

    fn verified(token: &str) -> Result<Session, InvalidSession> {
        verify(token, &SigningKey::from_seed(&SEED).public(), &host(), at(NOW))
    }

    const HEADER: &str = r#"{"alg":"EdDSA","typ":"JWT"}"#;

    fn claims(more: &str) -> String {
        format!(r#"{{"iss":"netbird-management","aud":["app.example.com"],"sub":"u1"{more}}}"#)
    }

    #[test]
    fn a_seed_gives_the_key_of_rfc_8032() {
        let hex = |text: &str| -> [u8; 32] {
            std::array::from_fn(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).expect("hex"))
        };
        let seed = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let public = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(SigningKey::from_seed(&seed).public(), SessionKey(public));
        assert_ne!(*SigningKey::generate_seed(), *SigningKey::generate_seed());
    }

    #[test]
    fn what_is_signed_is_verified_until_it_expires() {
        let key = SigningKey::from_seed(&SEED);
        let token = key.sign(&alice(), &host(), at(NOW), Duration::from_secs(60));
        let verify = |now| verify(token.expose(), &key.public(), &host(), at(now));
        let session = verify(NOW).expect("valid");
        assert_eq!(session, Session { principal: alice(), expires: Some(at(NOW + 60)) });
        assert!(verify(NOW + 59).is_ok());
        assert_eq!(verify(NOW + 60), Err(InvalidSession));
        assert_eq!(verify(NOW - 1), Err(InvalidSession), "not before it was signed");
        let fresh = |now| verify_fresh(token.expose(), &key.public(), &host(), at(now));
        assert!(fresh(NOW - 30).is_ok(), "management's clock may be ahead");
        assert_eq!(fresh(NOW - 31), Err(InvalidSession));
        assert_eq!(fresh(NOW + 60), Err(InvalidSession));
        assert_eq!(format!("{key:?}").matches("encoding").count(), 0);
    }

    #[test]
    fn the_token_reads_as_netbirds() {
        let token = SigningKey::from_seed(&SEED).sign(&alice(), &host(), at(NOW), Duration::from_secs(86_400));
        let parts: Vec<Value> = token
            .expose()
            .split('.')
            .take(2)
            .map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON"))
            .collect();
        assert_eq!(parts[0], serde_json::json!({"alg": "EdDSA", "typ": "JWT"}));
        assert_eq!(
            parts[1],
            serde_json::json!({
                "iss": "netbird-management", "sub": "user:alice", "aud": ["app.example.com"], "exp": NOW + 86_400,
                "iat": NOW, "nbf": NOW, "method": "header", "email": "alice", "groups": ["g1", "g2"],
                "group_names": ["Staff", ""],
            })
        );
    }

    #[test]
    fn another_host_or_key_is_not_ours() {
        let key = SigningKey::from_seed(&SEED);
        let token = key.sign(&alice(), &host(), at(NOW), Duration::from_secs(60));
        let other = HostName::parse("example.com").expect("a host");
        assert_eq!(verify(token.expose(), &key.public(), &other, at(NOW)), Err(InvalidSession));
        let stranger = SigningKey::from_seed(&[1; 32]).public();
        assert_eq!(verify(token.expose(), &stranger, &host(), at(NOW)), Err(InvalidSession));
        assert_eq!(verify(token.expose(), &SessionKey([0; 32]), &host(), at(NOW)), Err(InvalidSession));
    }

    #[test]
    fn netbirds_leniencies_are_kept() {
        let session = verified(&forge(HEADER, &claims(""))).expect("exp may be missing");
        assert_eq!((session.expires, session.principal.email), (None, None));
        for fine in [
            claims(r#","exp":1800000000.5,"nbf":1799999999.9"#),
            claims(r#","unknown":{"a":1},"method":"oidc""#),
            claims("").replace(r#"["app.example.com"]"#, r#"["x","app.example.com"]"#),
            claims("").replace(r#"["app.example.com"]"#, r#""app.example.com""#),
            claims(r#","groups":"g1","group_names":7"#),
        ] {
            assert!(verified(&forge(HEADER, &fine)).is_ok(), "{fine}");
        }
        let mixed = claims(r#","email":"","groups":["a",1,"","b","c"],"group_names":["A","no","no",null]"#);
        let principal = verified(&forge(HEADER, &mixed)).expect("valid").principal;
        let groups: Vec<_> = principal.groups.iter().map(|group| (&*group.id, &*group.name)).collect();
        assert_eq!((principal.email, groups), (None, vec![("a", "A"), ("b", ""), ("c", "")]));
    }

    #[test]
    fn wrong_claims_are_refused() {
        for bad in [
            claims(r#","exp":1800000000"#),
            claims(r#","exp":-1"#),
            claims(r#","exp":1e400"#),
            claims(r#","exp":1e300"#),
            claims(r#","exp":"1900000000""#),
            claims(r#","nbf":1800000001"#),
            claims(r#","sub":"u2""#),
            claims(r#","iss":"netbird-management""#),
            claims(r#","aud":["app.example.com"]"#),
            claims(r#","exp":1900000000,"exp":1900000001"#),
            claims(r#","email":7"#),
            claims("").replace("\"u1\"", "\"\""),
            claims("").replace("\"u1\"", "7"),
            claims("").replace("\"u1\"", "null"),
            claims("").replace(r#","sub":"u1""#, ""),
            claims("").replace(r#""iss":"netbird-management","#, ""),
            claims("").replace("netbird-management", "Netbird-management"),
            claims("").replace(r#""netbird-management""#, r#"["x"]"#),
            claims("").replace(r#""aud":["app.example.com"],"#, ""),
            claims("").replace(r#"["app.example.com"]"#, "[]"),
            claims("").replace(r#"["app.example.com"]"#, r#"["app.example.com."]"#),
            claims("").replace(r#"["app.example.com"]"#, r#"["example.com"]"#),
            "[]".to_owned(),
            "null".to_owned(),
            String::new(),
        ] {
            assert_eq!(verified(&forge(HEADER, &bad)), Err(InvalidSession), "{bad}");
        }
    }

    #[test]
    fn wrong_headers_are_refused() {
        for bad in [
            r#"{"alg":"none","typ":"JWT"}"#,
            r#"{"alg":"None"}"#,
            r#"{"alg":"HS256"}"#,
            r#"{"alg":"RS256"}"#,
            r#"{"alg":"eddsa"}"#,
            r#"{"typ":"JWT"}"#,
            r#"{"alg":"EdDSA","alg":"HS256"}"#,
            r#"{"alg":"HS256","alg":"EdDSA"}"#,
            r#"{"alg":"EdDSA","crit":["b64"],"b64":false}"#,
            r#"{"alg":"EdDSA","crit":[]}"#,
            "{}",
            "",
        ] {
            assert_eq!(verified(&forge(bad, &claims(""))), Err(InvalidSession), "{bad}");
        }
        let pointing = r#"{"alg":"EdDSA","kid":"../../etc/passwd","jku":"https://evil.example/jwks"}"#;
        assert!(verified(&forge(pointing, &claims(""))).is_ok(), "where a key might be found is never looked at");
    }

    #[test]
    fn algorithms_are_not_confused() {
        let message =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#), URL_SAFE_NO_PAD.encode(claims("")));
        let public = SigningKey::from_seed(&SEED).public();
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &public.0), message.as_bytes());
        let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag));
        assert_eq!(verified(&token), Err(InvalidSession));
    }

    #[test]
    fn damaged_tokens_are_refused() {
        let token = forge(HEADER, &claims(""));
        assert!(verified(&token).is_ok());
        let (message, _) = token.rsplit_once('.').expect("three parts");
        for bad in [
            String::new(),
            "..".to_owned(),
            message.to_owned(),
            format!("{message}."),
            format!("{token}."),
            format!("{token}.x"),
            format!("{token}="),
            format!(" {token}"),
            format!("{token}\n"),
            forge(HEADER, &claims(&format!(",\"x\":\"{}\"", "a".repeat(9000)))),
        ] {
            assert_eq!(verified(&bad), Err(InvalidSession), "{bad}");
        }
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            assert!(verified(&changed).is_err(), "byte {at}");
        }
    }
}
