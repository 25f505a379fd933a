use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use http::header::AUTHORIZATION;
use parking_lot::Mutex;
use postern_auth::attempts::{Attempts, Begin, CEILING, Try};
use postern_auth::basic;
use postern_auth::password::{PasswordError, Passwords};
use postern_auth::session::SigningKey;
use postern_model::{AccountId, Authenticate, Authenticated, Credential, Group, Principal, Secret, ServiceId};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::catalog::{Member, Published, SESSION_AGE};
use crate::hub::Hub;

/// How many may wait for the verdicts of others, and how long: a proxy gives up after 10 s.
const WAITING: usize = 256;
const PATIENCE: Duration = Duration::from_secs(5);

/// Verifies what people present, for proxies that ask (NetBird: `Authenticate`).
#[derive(Debug)]
pub(crate) struct Logins {
    hub: Arc<Hub>,
    passwords: Passwords,
    attempts: Mutex<Attempts>,
    /// Told of each verdict.
    verdicts: Notify,
    waiting: Semaphore,
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
        let (verdicts, waiting) = (Notify::new(), Semaphore::new(WAITING));
        Self { hub, passwords: Passwords::new(at_once), attempts, verdicts, waiting }
    }

    /// One Argon2 for a known user and for an unknown one alike; none for what was found wrong before, for what is no
    /// HTTP Basic, and while there were too many wrong tries. It comes to its end even if the caller hangs up, or a right
    /// password that nobody waited for would stay counted as a wrong one.
    pub(crate) async fn verify(
        self: &Arc<Self>,
        account: &AccountId,
        ask: Authenticate,
    ) -> Result<Authenticated, LoginError> {
        let (logins, account) = (self.clone(), account.clone());
        let verdict = tokio::spawn(async move { logins.verdict(&account, ask).await });
        verdict.await.map_err(|_| PasswordError::Failed)?
    }

    async fn verdict(&self, account: &AccountId, ask: Authenticate) -> Result<Authenticated, LoginError> {
        let published = self.hub.find(&ask.service).filter(|published| published.mapping.account == *account);
        let published = published.ok_or_else(|| LoginError::NoService(ask.service.clone()))?;
        let Some(signing) = &published.signing else { return Err(LoginError::NoLogin(ask.service)) };
        let Credential::Header { name, value } = &ask.credential;
        let basic = HeaderValue::from_str(value.expose()).ok().and_then(|value| basic::parse(&value));
        let Some(basic) = basic.filter(|_| *name == AUTHORIZATION) else { return Ok(Authenticated::No) };

        let key = signing.public();
        let presented: [&[u8]; 3] = [&key.0, basic.user.as_bytes(), basic.password.expose().as_bytes()];
        let attempt = match self.begin(&ask, &presented).await {
            Ok(attempt) => attempt,
            Err(unseen) => return Ok(unseen),
        };
        let member = published.members.get(&basic.user);
        let expected = member.map(|member| member.password.clone());
        let verified = self.passwords.verify(basic.password, expected).await;
        let _told = Told(&self.verdicts);
        match (verified, member) {
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

    /// A try that may be verified, or what to answer instead. Waits while that depends on the verdicts of others: many
    /// people behind one address come at once after a change, and all of them are right.
    async fn begin(&self, ask: &Authenticate, presented: &[&[u8]]) -> Result<Try, Authenticated> {
        let give_up = Instant::now() + PATIENCE;
        let mut place = None;
        loop {
            // From before the question on, so that no verdict slips by in between.
            let mut verdict = pin!(self.verdicts.notified());
            verdict.as_mut().enable();
            let now = Instant::now().into_std();
            let begin = self.attempts.lock().begin(&ask.service, ask.source, presented, now);
            match begin {
                Begin::Verify(attempt) => return Ok(attempt),
                Begin::KnownWrong => return Err(Authenticated::No),
                Begin::TooMany { .. } => return Err(Authenticated::TooMany),
                Begin::Wait => {}
            }
            if place.is_none() {
                place = Some(self.waiting.try_acquire().map_err(|_| Authenticated::TooMany)?);
            }
            timeout_at(give_up, verdict).await.map_err(|_| Authenticated::TooMany)?;
        }
    }

    /// Forgets the wrong tries on a service that is no more.
    pub(crate) fn forget(&self, service: &ServiceId) {
        self.attempts.lock().forget(service);
    }
}

/// Dropped once there is a verdict, it tells those who wait.
struct Told<'v>(&'v Notify);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.notify_waiters();
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use futures_util::FutureExt;
    use futures_util::future::join_all;
    use postern_auth::password::{Expected, PasswordHash};

    use super::*;
    use crate::catalog::{no_peers, publish};
    use crate::tests::until;

    /// `password`, made cheaply.
    const HASH: &str = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

    fn logins() -> (Arc<Logins>, AccountId) {
        let account = AccountId::parse("default").expect("id");
        let user = format!("[user.alice]\npassword_hash = '{HASH}'\n");
        let text = user + "[service.vault]\nhost = 'v.x'\nupstream = 'http://x'\naccess = { basic = ['alice'] }";
        let desired = crate::file::parse(&text, Path::new("")).expect("good");
        let password = Expected::Hash(PasswordHash::parse(HASH).expect("a hash"));
        let users = [("alice".to_owned(), Member { password, revision: [0; 32], groups: Vec::new() })].into();
        let hub = Arc::new(Hub::new(0));
        hub.publish(publish(&account, &desired, &users, &BTreeMap::new(), &no_peers).catalog, 1);
        (Arc::new(Logins::new(hub)), account)
    }

    fn ask(password: &str) -> Authenticate {
        let value = basic::build("alice", &Secret::from(password)).expect("builds");
        Authenticate {
            service: ServiceId::parse("vault").expect("id"),
            account: AccountId::parse("default").expect("id"),
            credential: Credential::Header { name: AUTHORIZATION, value: Secret::from(value.to_str().expect("ascii")) },
            source: [192, 0, 2, 1].into(),
        }
    }

    fn counted(logins: &Logins) -> bool {
        !format!("{:?}", logins.attempts.lock()).contains("services: 0")
    }

    /// Asks, and hangs up once the try is being verified.
    async fn hang_up(logins: &Arc<Logins>, account: &AccountId, password: &str) {
        let mut verdict = Box::pin(logins.verify(account, ask(password)));
        while !counted(logins) {
            assert!((&mut verdict).now_or_never().is_none(), "Argon2 takes its time");
            tokio::task::yield_now().await;
        }
    }

    /// A health check that is impatient and right must not lock everybody out.
    #[tokio::test]
    async fn who_hangs_up_early_counts_only_if_wrong() {
        let (logins, account) = logins();
        for _ in 0..7 {
            hang_up(&logins, &account, "password").await;
            until("found right, so not counted", || async { !counted(&logins) }).await;
        }
        hang_up(&logins, &account, "wrong").await;
        assert!(matches!(logins.verify(&account, ask("password")).await, Ok(Authenticated::Yes { .. })));
        assert!(counted(&logins), "the wrong one stays");
    }

    async fn burst(people: usize, password: impl Fn(usize) -> String) -> Vec<Authenticated> {
        let (logins, account) = logins();
        let all = (0..people).map(|n| logins.verify(&account, ask(&password(n)))).collect::<Vec<_>>();
        join_all(all).await.into_iter().map(|answer| answer.expect("a verdict")).collect()
    }

    /// Twenty times Argon2 take seconds of a busy machine. This clock stands still while one is at work, so that patience
    /// runs out only for those whom no verdict wakes, and nobody gets another try by the passing of time.
    #[tokio::test(start_paused = true)]
    async fn an_office_that_comes_at_once_gets_in_and_a_burst_of_guesses_has_five() {
        let office = burst(20, |_| "password".into()).await;
        assert!(office.iter().all(|answer| matches!(answer, Authenticated::Yes { .. })), "{office:?}");
        let guesses = burst(20, |n| format!("guess {n}")).await;
        let seen = guesses.iter().filter(|answer| matches!(answer, Authenticated::No)).count();
        let unseen = guesses.iter().filter(|answer| matches!(answer, Authenticated::TooMany)).count();
        assert_eq!((seen, unseen), (5, 15), "{guesses:?}");
    }

    /// Neither forever nor in any number.
    #[tokio::test(start_paused = true)]
    async fn who_waits_waits_within_bounds() {
        let (logins, account) = logins();
        let hopeless: Vec<_> = (0..5_u8)
            .map(|n| logins.attempts.lock().begin(&ask("").service, ask("").source, &[&[n]], Instant::now().into_std()))
            .collect();
        assert!(hopeless.iter().all(|begin| matches!(begin, Begin::Verify(_))), "{hopeless:?}");
        let all = logins.waiting.try_acquire_many(WAITING.try_into().expect("small")).expect("nobody waits yet");
        let begun = Instant::now();
        assert!(matches!(logins.verify(&account, ask("password")).await, Ok(Authenticated::TooMany)));
        assert!(begun.elapsed().is_zero());
        drop(all);
        assert!(matches!(logins.verify(&account, ask("password")).await, Ok(Authenticated::TooMany)));
        assert!(begun.elapsed() >= PATIENCE);
    }
}
