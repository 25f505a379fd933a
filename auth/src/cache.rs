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

#[cfg(test)]
mod tests {
    use postern_model::{AccountId, HostName, ServiceId, SessionKey};

    use super::*;
    use crate::access::{Access, Sessions};

    fn door() -> Door {
        Door {
            service: ServiceId::parse("svc").expect("an id"),
            account: AccountId::parse("acc").expect("an id"),
            host: HostName::parse("app.example.com").expect("a host"),
            access: Access::Open,
            sessions: Some(Sessions { key: SessionKey([1; 32]), max_age: LIFE }),
            epoch: 1,
        }
    }

    fn principal() -> Arc<Principal> {
        Arc::new(Principal { subject: "u1".to_owned(), email: None, groups: Vec::new(), method: String::new() })
    }

    #[test]
    fn a_verdict_is_kept_for_a_minute_and_no_longer_than_the_token() {
        let (verified, steady, wall) = (Verified::new(), Instant::now(), SystemTime::now());
        let name = verified.name(&door(), Kind::Session, b"a.b.c");
        let second = Duration::from_secs(1);
        assert!(verified.get(&name, steady, wall).is_none());
        verified.put(name, principal(), Some(wall + 10 * second), steady, wall);
        assert!(verified.get(&name, steady + 59 * second, wall + 9 * second).is_some());
        assert!(verified.get(&name, steady + 59 * second, wall + 10 * second).is_none(), "the token has expired");
        assert!(verified.get(&name, steady + LIFE, wall).is_none(), "the calendar went back, the minute is over");
    }

    #[test]
    fn whatever_could_change_a_verdict_changes_its_name() {
        let verified = Verified::new();
        let name = |door: &Door, kind, credential: &[u8]| verified.name(door, kind, credential);
        let plain = name(&door(), Kind::Header("x-key"), b"v");
        assert_eq!(plain, name(&door(), Kind::Header("x-key"), b"v"));
        let mut other_key = door();
        other_key.sessions = Some(Sessions { key: SessionKey([2; 32]), max_age: LIFE });
        let others = [
            name(&Door { epoch: 2, ..door() }, Kind::Header("x-key"), b"v"),
            name(&other_key, Kind::Header("x-key"), b"v"),
            name(&Door { service: ServiceId::parse("svc2").expect("an id"), ..door() }, Kind::Header("x-key"), b"v"),
            name(&Door { account: AccountId::parse("b").expect("an id"), ..door() }, Kind::Header("x-key"), b"v"),
            name(&Door { host: HostName::parse("b.c").expect("a host"), ..door() }, Kind::Header("x-key"), b"v"),
            name(&door(), Kind::Header("x-ke"), b"yv"),
            name(&door(), Kind::Header("x-key"), b"w"),
            name(&door(), Kind::Session, b"v"),
            Verified::new().name(&door(), Kind::Header("x-key"), b"v"),
        ];
        assert!(!others.contains(&plain));
    }

    #[test]
    fn memory_is_bounded() {
        let (verified, steady, wall) = (Verified::new(), Instant::now(), SystemTime::now());
        for n in 0..3 * MOST {
            let name = verified.name(&door(), Kind::Session, &n.to_be_bytes());
            verified.put(name, principal(), None, steady, wall);
            assert!(verified.get(&name, steady, wall).is_some());
        }
        assert!(verified.entries.len() <= MOST);
    }
}
