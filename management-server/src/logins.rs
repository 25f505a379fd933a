use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::HeaderValue;
use http::header::AUTHORIZATION;
use parking_lot::Mutex;
use postern_auth::attempts::{Attempts, Begin, CEILING};
use postern_auth::basic;
use postern_auth::password::{PasswordError, Passwords};
use postern_auth::session::SigningKey;
use postern_model::{AccountId, Authenticate, Authenticated, Credential, Group, Principal, Secret, ServiceId};

use crate::catalog::{Member, Published, SESSION_AGE};
use crate::hub::Hub;

/// Verifies what people present, for proxies that ask (NetBird: `Authenticate`).
#[derive(Debug)]
pub(crate) struct Logins {
    hub: Arc<Hub>,
    passwords: Passwords,
    attempts: Mutex<Attempts>,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    #[error("there is no service {0} here")]
    NoService(ServiceId),
    #[error("the service {0} has no login by name and password")]
    NoLogin(ServiceId),
    #[error(transparent)]
    Password(#[from] PasswordError),
}

impl Logins {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        let at_once = std::thread::available_parallelism().map_or(1, usize::from);
        // The seed is random and secret, as a session key's is.
        let attempts = Mutex::new(Attempts::new(&SigningKey::generate_seed()));
        Self { hub, passwords: Passwords::new(at_once), attempts }
    }

    /// One Argon2 for a known user and for an unknown one alike; none for what was found wrong before, for what is no
    /// HTTP Basic, and while there were too many wrong tries.
    pub(crate) async fn verify(&self, account: &AccountId, ask: Authenticate) -> Result<Authenticated, LoginError> {
        let published = self.hub.find(&ask.service).filter(|published| published.mapping.account == *account);
        let published = published.ok_or_else(|| LoginError::NoService(ask.service.clone()))?;
        let Some(signing) = &published.signing else { return Err(LoginError::NoLogin(ask.service)) };
        let Credential::Header { name, value } = &ask.credential;
        let basic = HeaderValue::from_str(value.expose()).ok().and_then(|value| basic::parse(&value));
        let Some(basic) = basic.filter(|_| *name == AUTHORIZATION) else { return Ok(Authenticated::No) };

        let key = signing.public();
        let presented: [&[u8]; 3] = [&key.0, basic.user.as_bytes(), basic.password.expose().as_bytes()];
        let begin = self.attempts.lock().begin(&ask.service, ask.source, &presented, Instant::now());
        let attempt = match begin {
            Begin::Verify(attempt) => attempt,
            Begin::KnownWrong => return Ok(Authenticated::No),
            Begin::TooMany { .. } => return Ok(Authenticated::TooMany),
        };
        let member = published.members.get(&basic.user);
        let hash = member.map(|member| member.password.clone());
        match (self.passwords.verify(basic.password, hash).await, member) {
            (Ok(true), Some(member)) => {
                self.attempts.lock().right(attempt);
                Ok(Authenticated::Yes { session_token: session(&published, signing, &basic.user, member) })
            }
            (Ok(_), _) => {
                if self.attempts.lock().wrong(attempt) {
                    tracing::warn!(
                        service = %ask.service,
                        "{CEILING} wrong passwords within a day: new ones are not looked at until some are a day old"
                    );
                }
                Ok(Authenticated::No)
            }
            (Err(error), _) => {
                self.attempts.lock().unverified(attempt);
                Err(error.into())
            }
        }
    }

    /// Forgets the wrong tries on a service that is no more.
    pub(crate) fn forget(&self, service: &ServiceId) {
        self.attempts.lock().forget(service);
    }
}

fn session(published: &Published, signing: &SigningKey, user: &str, member: &Member) -> Secret {
    let principal = Principal {
        subject: format!("user:{user}"),
        email: Some(user.to_owned()),
        groups: member.groups.iter().map(|name| Group { id: name.clone(), name: name.clone() }).collect(),
        method: "header".to_owned(),
    };
    signing.sign(&principal, &published.mapping.host, SystemTime::now(), SESSION_AGE)
}
