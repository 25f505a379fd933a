use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use dashmap::DashMap;
use postern_model::Principal;

use crate::access::Door;

/// How long a verdict is remembered.
const LIFE: Duration = Duration::from_secs(60);

/// How many verdicts are remembered.
const MOST: usize = 16 * 1024;

/// What a credential was found to be, and under which door, service and key: no two of these share a name, and nobody
/// reads a credential out of it.
pub(crate) type Name = [u8; 32];

/// Which kind of credential is named.
#[derive(Clone, Copy)]
pub(crate) enum Kind<'a> {
    Session,
    Header(&'a str),
}

/// Credentials that were found right a moment ago. What is wrong is never kept.
pub(crate) struct Verified {
    key: hmac::Key,
    entries: DashMap<Name, Entry>,
}

struct Entry {
    principal: Arc<Principal>,
    fades: Instant,
    expires: Option<SystemTime>,
}

impl Verified {
    pub(crate) fn new() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).expect("the system has randomness");
        Self { key, entries: DashMap::new() }
    }

    /// The name of a credential at a door. Whatever could change the verdict is part of it.
    pub(crate) fn name(&self, door: &Door, kind: Kind<'_>, credential: &[u8]) -> Name {
        let mut context = hmac::Context::with_key(&self.key);
        let (word, header) = match kind {
            Kind::Session => (0_u8, ""),
            Kind::Header(name) => (1_u8, name),
        };
        context.update(&[word]);
        context.update(&door.epoch.to_be_bytes());
        context.update(&door.sessions.map_or([0; 32], |sessions| sessions.key.0));
        for part in [door.account.as_str(), door.service.as_str(), door.host.as_str(), header] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        context.update(credential);
        context.sign().as_ref().try_into().expect("HMAC-SHA256 has 32 bytes")
    }

    pub(crate) fn get(&self, name: &Name, steady: Instant, wall: SystemTime) -> Option<Arc<Principal>> {
        let entry = self.entries.get(name)?;
        entry.is_live(steady, wall).then(|| entry.principal.clone())
    }

    pub(crate) fn put(
        &self,
        name: Name,
        principal: Arc<Principal>,
        expires: Option<SystemTime>,
        steady: Instant,
        wall: SystemTime,
    ) {
        if self.entries.len() >= MOST {
            self.make_room(steady, wall);
        }
        self.entries.insert(name, Entry { principal, fades: steady + LIFE, expires });
    }

    /// What has faded goes first. If that gives no quarter of the room back, all goes: to look through everything once
    /// per entry put in would cost more than to verify again.
    fn make_room(&self, steady: Instant, wall: SystemTime) {
        self.entries.retain(|_, entry| entry.is_live(steady, wall));
        if self.entries.len() > MOST / 4 * 3 {
            self.entries.clear();
        }
    }
}

impl Entry {
    fn is_live(&self, steady: Instant, wall: SystemTime) -> bool {
        steady < self.fades && self.expires.is_none_or(|expires| wall < expires)
    }
}
