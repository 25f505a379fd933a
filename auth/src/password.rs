//! Passwords: Argon2id, in a pool with a bound, because each verification takes 19 MiB and a tenth of a second.

use std::sync::Arc;

use argon2::password_hash::phc;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
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
pub struct PasswordHash(phc::PasswordHash);

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
        Ok(Self(hash))
    }
}

impl std::fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
            hash.map(PasswordHash).map_err(|_| PasswordError::Failed)
        })
        .await
    }

    /// Whether the password is the one behind the hash. Without a hash (no such user) the answer is no, and it takes as
    /// long as with one.
    ///
    /// # Errors
    /// [`PasswordError`].
    pub async fn verify(&self, password: Secret, hash: Option<PasswordHash>) -> Result<bool, PasswordError> {
        self.run(move || {
            let password = password.expose().as_bytes();
            match hash {
                None => argon2().hash_password_with_salt(password, b"nobody's salt").map(|_| false),
                Some(hash) => match argon2().verify_password(password, &hash.0) {
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

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("constants within Argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}
