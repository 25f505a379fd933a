//! How a restart knows whether the passwords that the configuration holds in clear are still those of before.
//!
//! Sessions outlive a restart as long as the passwords behind them do. To know that, something must be kept of each
//! password. An Argon2 hash of each would have to be checked at each start, which takes a minute with a thousand users. A
//! fast keyed hash of each, with its key beside it, would let whoever copies the data folder guess billions of passwords a
//! second; the configuration does hold them in clear, but it lies elsewhere and is backed up elsewhere.
//!
//! So a random revision is kept for each user, and one Argon2 hash, the seal, over all users and passwords together: no
//! easier to guess than any of them, and one Argon2 to check. The price is that a broken seal does not say whose password
//! it was: after a change while nothing ran, every password given in clear counts as changed, and the sessions of the
//! services that they open end.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use postern_auth::password::{Expected, PasswordError, PasswordHash, Passwords};
use postern_model::Secret;

use crate::store::{Credentials, Revision};

/// Passwords by user.
pub(crate) type InClear = BTreeMap<String, Secret>;

/// What is kept of them.
pub(crate) struct Sealed {
    pub(crate) revisions: BTreeMap<String, Revision>,
    pub(crate) seal: Option<PasswordHash>,
}

/// A revision for each password of `now`; that of before where the password is that of before. What was before is known in
/// clear in the same run, and by what was kept at a start.
pub(crate) async fn sealed(
    passwords: &Passwords,
    before: Option<&InClear>,
    kept: &Credentials,
    now: &InClear,
) -> Result<Sealed, PasswordError> {
    let unbroken = match (before, &kept.seal) {
        (Some(before), _) => before == now,
        (None, None) => now.is_empty(),
        (None, Some(seal)) => passwords.verify(text(now), Some(Expected::Hash(seal.clone()))).await?,
    };
    if unbroken {
        return Ok(Sealed { revisions: kept.revisions.clone(), seal: kept.seal.clone() });
    }
    let same = |name: &String, password: &Secret| before.is_some_and(|before| before.get(name) == Some(password));
    let revision = |(name, password): (&String, &Secret)| {
        let kept = kept.revisions.get(name).filter(|_| same(name, password));
        (name.clone(), kept.copied().unwrap_or_else(rand::random))
    };
    let seal = if now.is_empty() { None } else { Some(passwords.hash(text(now)).await?) };
    Ok(Sealed { revisions: now.iter().map(revision).collect(), seal })
}

/// The revision of a password that is given as its hash, which has a salt.
pub(crate) fn revision_of_hash(hash: &Secret) -> Revision {
    digest(&SHA256, hash.expose().as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// All of them, each part with its length before it, so that no two lists are one text.
fn text(passwords: &InClear) -> Secret {
    let longest_length = 20;
    let parts = || passwords.iter().flat_map(|(name, password)| [name.as_str(), password.expose()]);
    // Made in one piece: a text that grows leaves copies behind.
    let mut text = String::with_capacity(parts().map(|part| part.len() + longest_length + 1).sum());
    for part in parts() {
        text.push_str(&part.len().to_string());
        text.push(':');
        text.push_str(part);
    }
    Secret::new(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_clear(users: &[(&str, &str)]) -> InClear {
        users.iter().map(|&(name, password)| (name.to_owned(), Secret::from(password))).collect()
    }

    async fn after(before: Option<&InClear>, kept: &Credentials, now: &InClear) -> Credentials {
        let Sealed { revisions, seal } = sealed(&Passwords::new(1), before, kept, now).await.expect("seals");
        Credentials { revisions, seal, keys: BTreeMap::new() }
    }

    #[tokio::test]
    async fn what_stays_keeps_its_revision() {
        let first = in_clear(&[("alice", "a"), ("bob", "b")]);
        let kept = after(None, &Credentials::default(), &first).await;
        assert_eq!((kept.revisions.len(), kept.seal.is_some()), (2, true));
        assert_ne!(kept.revisions["alice"], kept.revisions["bob"]);
        for before in [None, Some(&first)] {
            assert_eq!(after(before, &kept, &first).await, kept, "nothing has changed");
        }

        let changed = in_clear(&[("alice", "a"), ("bob", "c"), ("carol", "d")]);
        let running = after(Some(&first), &kept, &changed).await;
        assert_eq!(running.revisions["alice"], kept.revisions["alice"]);
        assert_ne!(running.revisions["bob"], kept.revisions["bob"]);
        let restarted = after(None, &kept, &changed).await;
        assert_ne!(restarted.revisions["alice"], kept.revisions["alice"], "nobody knows whose it was");
        assert_eq!(after(None, &restarted, &changed).await, restarted);

        let nobody = after(Some(&first), &kept, &InClear::new()).await;
        assert_eq!(nobody, Credentials::default());
        assert_eq!(after(None, &kept, &InClear::new()).await, nobody);
    }

    #[test]
    fn no_two_lists_are_one_text() {
        let lists = [&[("a", "b")][..], &[("ab", "")], &[("a", ""), ("b", "")], &[("a", "1:b")], &[("a1:b", "")], &[]];
        let texts: std::collections::BTreeSet<_> =
            lists.iter().map(|list| text(&in_clear(list)).expose().to_owned()).collect();
        assert_eq!(texts.len(), lists.len(), "{texts:?}");
    }
}
