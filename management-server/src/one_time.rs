use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use parking_lot::Mutex;
use postern_model::{AccountId, OneTimeToken, Secret, ServiceId};

/// NetBird's.
const LIFE: Duration = Duration::from_secs(5 * 60);
/// A proxy redeems one of all that a snapshot brings it, at once. Of more than these the oldest are good for nothing.
const MOST: usize = 1 << 16;

/// The tokens in mappings, each good for one [`create_proxy_peer`](crate::grpc) by its account for its service.
#[derive(Debug, Default)]
pub(crate) struct OneTimeTokens(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    known: HashMap<Hash, Bound>,
    /// Oldest first.
    ends: VecDeque<(Instant, Hash)>,
}

type Hash = [u8; 32];

#[derive(Debug)]
struct Bound {
    account: AccountId,
    service: ServiceId,
    redeemed: bool,
}

/// The system has no randomness.
#[derive(Debug)]
pub(crate) struct NoRandomness;

impl OneTimeTokens {
    /// 32 random bytes in URL-safe base64 with padding, as NetBird's.
    pub(crate) fn make(
        &self,
        account: &AccountId,
        service: &ServiceId,
        now: Instant,
    ) -> Result<OneTimeToken, NoRandomness> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
        let token = Secret::new(URL_SAFE.encode(bytes));
        let mut inner = self.0.lock();
        inner.expire(now);
        let hash = hash(token.expose());
        inner.known.insert(hash, Bound { account: account.clone(), service: service.clone(), redeemed: false });
        inner.ends.push_back((now + LIFE, hash));
        Ok(OneTimeToken(token))
    }

    /// Whether the token is good for this; then it never is again, unless it is given back. Asked for something else, it
    /// stays.
    pub(crate) fn redeem(&self, token: &str, account: &AccountId, service: &ServiceId, now: Instant) -> bool {
        let mut inner = self.0.lock();
        inner.expire(now);
        let Some(bound) = inner.known.get_mut(&hash(token)) else { return false };
        let good = !bound.redeemed && bound.account == *account && bound.service == *service;
        bound.redeemed |= good;
        good
    }

    /// What it was redeemed for did not come about: it is good again for what is left of its time.
    pub(crate) fn give_back(&self, token: &str) {
        if let Some(bound) = self.0.lock().known.get_mut(&hash(token)) {
            bound.redeemed = false;
        }
    }
}

impl Inner {
    fn expire(&mut self, now: Instant) {
        while self.ends.len() >= MOST || self.ends.front().is_some_and(|(end, _)| *end <= now) {
            let Some((_, hash)) = self.ends.pop_front() else { return };
            self.known.remove(&hash);
        }
    }
}

/// What is looked up is not the token, so that no look-up tells how much of one is right.
fn hash(token: &str) -> Hash {
    digest(&SHA256, token.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> AccountId {
        AccountId::parse(name).expect("id")
    }

    fn service(name: &str) -> ServiceId {
        ServiceId::parse(name).expect("id")
    }

    #[test]
    fn a_token_is_good_once_for_its_account_and_service_in_its_time() {
        let (tokens, now) = (OneTimeTokens::default(), Instant::now());
        let make = || tokens.make(&account("a"), &service("s"), now).expect("random").0;
        let redeem = |token: &Secret, a: &str, s: &str, after: u64| {
            tokens.redeem(token.expose(), &account(a), &service(s), now + Duration::from_secs(after))
        };
        let token = make();
        assert_eq!(token.expose().len(), 44);
        assert!(!redeem(&token, "b", "s", 0) && !redeem(&token, "a", "t", 0), "bound to both");
        assert!(redeem(&token, "a", "s", 299), "and not used up by that");
        assert!(!redeem(&token, "a", "s", 299), "once");
        tokens.give_back(token.expose());
        assert!(redeem(&token, "a", "s", 299) && !redeem(&token, "a", "s", 299), "once again");
        tokens.give_back(token.expose());
        assert!(!redeem(&token, "a", "s", 300), "too old, given back or not");
        tokens.give_back(token.expose());
        assert!(!redeem(&token, "a", "s", 300));
        let late = make();
        assert!(!redeem(&late, "a", "s", 300), "too old");
        assert!(!redeem(&Secret::from(""), "a", "s", 0));
        let inner = tokens.0.lock();
        assert!(inner.known.is_empty() && inner.ends.is_empty(), "nothing is left behind");
    }

    #[test]
    fn however_many_are_made_memory_is_bounded_and_the_newest_are_good() {
        let (tokens, now) = (OneTimeTokens::default(), Instant::now());
        let first = tokens.make(&account("a"), &service("s"), now).expect("random").0;
        let mut last = first.clone();
        for _ in 0..MOST {
            last = tokens.make(&account("a"), &service("s"), now).expect("random").0;
        }
        let inner = tokens.0.lock();
        assert_eq!((inner.known.len(), inner.ends.len()), (MOST, MOST));
        drop(inner);
        assert!(!tokens.redeem(first.expose(), &account("a"), &service("s"), now));
        assert!(tokens.redeem(last.expose(), &account("a"), &service("s"), now));
    }
}
