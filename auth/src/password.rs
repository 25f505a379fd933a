//! Passwords: Argon2id, in a pool with a bound, because each verification takes 19 MiB and a tenth of a second.

use std::fmt;
use std::sync::Arc;

use argon2::password_hash::phc;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use postern_model::Secret;
use tokio::sync::Semaphore;

/// OWASP's choice: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// What a hash from elsewhere may ask of us at most, in KiB and passes.
const MOST_MEMORY_KIB: u32 = 256 * 1024;
const MOST_PASSES: u32 = 16;
const MOST_LANES: u32 = 8;

/// How many may wait for a place in the pool.
const QUEUE: usize = 64;

/// A password as it is stored: a PHC string (`$argon2id$v=19$m=19456,t=2,p=1$salt$hash`), checked.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(Box<phc::PasswordHash>);

/// What a password that is presented must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This one.
    Plain(Secret),
    /// The one behind this hash.
    Hash(PasswordHash),
}

/// A text that is no password hash of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHash {
    /// Not a PHC string with salt and hash.
    #[error("a password hash looks like $argon2id$v=19$m=19456,t=2,p=1$salt$hash")]
    Malformed,
    /// Another algorithm, or the 2012 version of this one.
    #[error("only argon2id, version 19, is understood")]
    Algorithm,
    /// It would take too long, or too much memory.
    #[error("a password hash may ask for 256 MiB (m=262144), t=16 and p=8 at most")]
    Costly,
}

/// Why a password was not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Too many wait already.
    #[error("too many passwords are being verified, try again")]
    Busy,
    /// The system gave no memory or no randomness, or is about to stop.
    #[error("the password could not be processed")]
    Failed,
}

impl PasswordHash {
    /// Reads a PHC string.
    ///
    /// # Errors
    /// [`InvalidHash`] with what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, InvalidHash> {
        let hash = phc::PasswordHash::new(text).map_err(|_| InvalidHash::Malformed)?;
        if hash.salt.is_none() || hash.hash.is_none() {
            return Err(InvalidHash::Malformed);
        }
        if hash.algorithm.as_str() != Algorithm::Argon2id.as_str() || hash.version != Some(Version::V0x13.into()) {
            return Err(InvalidHash::Algorithm);
        }
        let params = Params::try_from(&hash).map_err(|_| InvalidHash::Malformed)?;
        if params.m_cost() > MOST_MEMORY_KIB || params.t_cost() > MOST_PASSES || params.p_cost() > MOST_LANES {
            return Err(InvalidHash::Costly);
        }
        Ok(Self(hash.into()))
    }
}

impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[password hash]")
    }
}

/// The pool. It holds nothing but its bounds; the work is done on the runtime's blocking threads.
#[derive(Debug)]
pub struct Passwords {
    waiting: Arc<Semaphore>,
    working: Arc<Semaphore>,
}

impl Passwords {
    /// A pool that works on so many passwords at once (at least one) and lets 64 more wait.
    #[must_use]
    pub fn new(at_once: usize) -> Self {
        let at_once = at_once.max(1);
        Self { waiting: Arc::new(Semaphore::new(at_once + QUEUE)), working: Arc::new(Semaphore::new(at_once)) }
    }

    /// Hashes a new password with a fresh salt.
    ///
    /// # Errors
    /// [`PasswordError`].
    pub async fn hash(&self, password: Secret) -> Result<PasswordHash, PasswordError> {
        self.run(move || {
            let hash = argon2().hash_password(password.expose().as_bytes());
            hash.map(|hash| PasswordHash(hash.into())).map_err(|_| PasswordError::Failed)
        })
        .await
    }

    /// Whether the password is the one expected. Where none is (no such user), the answer is no. It takes one Argon2 in any
    /// case, needed or not, so that time does not tell who is there.
    ///
    /// # Errors
    /// [`PasswordError`].
    pub async fn verify(&self, password: Secret, expected: Option<Expected>) -> Result<bool, PasswordError> {
        self.run(move || {
            let password = password.expose().as_bytes();
            let in_vain = || argon2().hash_password_with_salt(password, b"nobody's salt");
            match expected {
                None => in_vain().map(|_| false),
                Some(Expected::Plain(expected)) => in_vain().map(|_| same(password, expected.expose().as_bytes())),
                Some(Expected::Hash(hash)) => match argon2().verify_password(password, &*hash.0) {
                    Ok(()) => Ok(true),
                    Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
                    Err(error) => Err(error),
                },
            }
            .map_err(|_| PasswordError::Failed)
        })
        .await
    }

    /// The permits travel with the work: a caller that hangs up does not make room while its work still runs.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let place = self.waiting.clone().try_acquire_owned().map_err(|_| PasswordError::Busy)?;
        let turn = self.working.clone().acquire_owned().await.map_err(|_| PasswordError::Failed)?;
        let work = move || {
            let _held = (place, turn);
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| PasswordError::Failed)?
    }
}

/// In a time that does not depend on where they differ: digests of equal length are compared.
fn same(a: &[u8], b: &[u8]) -> bool {
    let digest = |bytes| digest(&SHA256, bytes);
    verify_slices_are_equal(digest(a).as_ref(), digest(b).as_ref()).is_ok()
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("constants within Argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_found_right_or_wrong() {
        let passwords = Passwords::new(1);
        let hash = passwords.hash(Secret::from("hunter2")).await.expect("hashes");
        assert!(hash.to_string().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_eq!(PasswordHash::parse(&hash.to_string()), Ok(hash.clone()));
        assert_eq!(format!("{hash:?}"), "[password hash]");
        for expected in [Expected::Hash(hash), Expected::Plain(Secret::from("hunter2"))] {
            assert!(!format!("{expected:?}").contains("hunter2"));
            assert_eq!(passwords.verify(Secret::from("hunter2"), Some(expected.clone())).await, Ok(true));
            for wrong in ["hunter3", "hunter", "hunter22", ""] {
                assert_eq!(passwords.verify(Secret::from(wrong), Some(expected.clone())).await, Ok(false));
            }
        }
        assert_eq!(passwords.verify(Secret::from("hunter2"), None).await, Ok(false));
    }

    #[tokio::test]
    async fn the_vector_of_the_reference_implementation_verifies() {
        let text = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let hash = PasswordHash::parse(text).expect("a hash");
        assert_eq!(Passwords::new(1).verify(Secret::from("password"), Some(Expected::Hash(hash))).await, Ok(true));
    }

    #[test]
    fn other_hashes_are_refused() {
        let with = |head: &str| format!("{head}$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc");
        assert!(PasswordHash::parse(&with("$argon2id$v=19$m=19456,t=2,p=1")).is_ok());
        for (head, error) in [
            ("$argon2i$v=19$m=65536,t=2,p=1", InvalidHash::Algorithm),
            ("$argon2id$v=16$m=65536,t=2,p=1", InvalidHash::Algorithm),
            ("$argon2id$m=65536,t=2,p=1", InvalidHash::Algorithm),
            ("$argon2id$v=19$m=4194304,t=2,p=1", InvalidHash::Costly),
            ("$argon2id$v=19$m=65536,t=1000,p=1", InvalidHash::Costly),
            ("$argon2id$v=19$m=65536,t=2,p=64", InvalidHash::Costly),
            ("$argon2id$v=19$m=x", InvalidHash::Malformed),
        ] {
            assert_eq!(PasswordHash::parse(&with(head)), Err(error), "{head}");
        }
        for text in ["", "hunter2", "$argon2id$v=19$m=65536,t=2,p=1", "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ"] {
            assert_eq!(PasswordHash::parse(text), Err(InvalidHash::Malformed), "{text}");
        }
    }

    #[tokio::test]
    async fn more_than_the_queue_holds_are_turned_away() {
        let passwords = Passwords::new(1);
        let turn = passwords.working.clone().acquire_owned().await.expect("open");
        let mut waiting: Vec<_> = (0..=QUEUE).map(|_| Box::pin(passwords.hash(Secret::from("x")))).collect();
        for one in &mut waiting {
            assert!(futures_util::poll!(one).is_pending());
        }
        assert_eq!(passwords.hash(Secret::from("x")).await, Err(PasswordError::Busy));
        waiting.truncate(1);
        drop(turn);
        assert!(waiting.remove(0).await.is_ok());
    }
}
