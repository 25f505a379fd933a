use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use postern_auth::password::Expected;
use postern_auth::session::SigningKey;
use postern_model::{AccountId, Authentication, Challenge, HeaderAuth, Mapping, Mode, ServiceId};

use crate::desired::{Access, Desired, Service};
use crate::store::{Revision, SessionSeed};

/// NetBird's constant, also the life of a session token.
pub(crate) const SESSION_AGE: Duration = Duration::from_secs(86_400);

/// Every published service.
pub(crate) type Catalog = BTreeMap<ServiceId, Arc<Published>>;

/// One published service: what proxies are told, and what its logins are verified with.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) mapping: Mapping,
    /// There is one unless the service is open.
    pub(crate) signing: Option<SigningKey>,
    /// Who may enter by name and password.
    pub(crate) members: BTreeMap<String, Member>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) password: Expected,
    /// Another whenever the password is another.
    pub(crate) revision: Revision,
    pub(crate) groups: Vec<String>,
}

/// How one service differs from before.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Created(Arc<Published>),
    Modified(Arc<Published>),
    /// As it was.
    Removed(Arc<Published>),
}

impl Edit {
    pub(crate) fn published(&self) -> &Arc<Published> {
        match self {
            Self::Created(published) | Self::Modified(published) | Self::Removed(published) => published,
        }
    }
}

/// Turns desired services into published ones. `users` has everybody whom they let in. A session key of before stays as long as
/// its service's users, passwords and groups do; otherwise a new one takes its place, and every session under the old one
/// ends.
pub(crate) fn publish(
    account: &AccountId,
    desired: &Desired,
    users: &BTreeMap<String, Member>,
    before: &BTreeMap<ServiceId, SessionSeed>,
) -> (Catalog, BTreeMap<ServiceId, SessionSeed>) {
    let mut keys = BTreeMap::new();
    let mut catalog = Catalog::new();
    for (id, service) in &desired.services {
        let members = members(service, users);
        let signing = (!members.is_empty()).then(|| {
            let access = fingerprint(&members);
            let kept = before.get(id).filter(|seed| seed.access == access).cloned();
            let seed = kept.unwrap_or_else(|| SessionSeed::new(access, SigningKey::generate_seed()));
            let signing = seed.signing.clone();
            keys.insert(id.clone(), seed);
            signing
        });
        let mapping = mapping(account, id, service, &members, signing.as_ref());
        catalog.insert(id.clone(), Arc::new(Published { mapping, signing, members }));
    }
    (catalog, keys)
}

/// What leads from one catalogue to the next. What goes comes first, so that its host is free for what comes.
pub(crate) fn diff(old: &Catalog, new: &Catalog) -> Vec<Edit> {
    let gone = old.iter().filter(|(id, _)| !new.contains_key(*id)).map(|(_, service)| Edit::Removed(service.clone()));
    let there = new.iter().filter_map(|(id, service)| match old.get(id) {
        None => Some(Edit::Created(service.clone())),
        Some(before) if before.mapping != service.mapping => Some(Edit::Modified(service.clone())),
        Some(_) => None,
    });
    gone.chain(there).collect()
}

fn members(service: &Service, users: &BTreeMap<String, Member>) -> BTreeMap<String, Member> {
    let names = match &service.access {
        Access::Open => &[][..],
        Access::Basic(names) => names,
    };
    let member = |name: &String| users.get(name).expect("access names users that are there").clone();
    names.iter().map(|name| (name.clone(), member(name))).collect()
}

fn mapping(
    account: &AccountId,
    id: &ServiceId,
    service: &Service,
    members: &BTreeMap<String, Member>,
    signing: Option<&SigningKey>,
) -> Mapping {
    let challenge = Challenge::Basic { realm: service.host.to_string() };
    let headers = members.iter().map(|(name, member)| HeaderAuth {
        name: http::header::AUTHORIZATION,
        fingerprint: revision_of(name, member),
        challenge: Some(challenge.clone()),
    });
    let authentication = Authentication {
        session_key: signing.map(SigningKey::public),
        max_session_age: SESSION_AGE,
        password: false,
        pin: false,
        oidc: false,
        headers: headers.collect(),
        deliberately_open: Some(service.access == Access::Open),
    };
    Mapping {
        id: id.clone(),
        account: account.clone(),
        host: service.host.clone(),
        mode: Mode::Http,
        listen_port: 0,
        paths: service.paths.clone(),
        authentication,
        private: false,
        pass_host_header: service.pass_host_header,
        rewrite_redirects: service.rewrite_redirects,
        restrictions: service.restrictions.clone(),
    }
}

/// Changes with anything that a session of the service rests on.
fn fingerprint(members: &BTreeMap<String, Member>) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for (name, member) in members {
        add(&mut context, name, member);
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Tells proxies that a user's credential changed and nothing about it: the revision it is made of is random, or the
/// digest of a salted hash.
fn revision_of(name: &str, member: &Member) -> String {
    let mut context = Context::new(&SHA256);
    add(&mut context, name, member);
    context.finish().as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Each part with its length before it, so that no two members run into the same bytes.
fn add(context: &mut Context, name: &str, member: &Member) {
    let parts = [name.as_bytes(), &member.revision].into_iter().chain(member.groups.iter().map(String::as_bytes));
    context.update(&(member.groups.len() as u64).to_be_bytes());
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
}
