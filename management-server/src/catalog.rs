use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use postern_auth::password::Expected;
use postern_auth::session::SigningKey;
use postern_model::{AccountId, Authentication, Challenge, HeaderAuth, Mapping, Mode, PathMapping, ServiceId, Target};

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
    /// The groups whose peers may enter, where it is private; if there is none, nobody may.
    pub(crate) private: Option<BTreeSet<String>>,
    /// Why a path of it leads nowhere, and what to do; one sentence.
    pub(crate) lacks: Option<String>,
}

/// What comes of a desired state.
#[derive(Debug)]
pub(crate) struct Publication {
    pub(crate) catalog: Catalog,
    pub(crate) keys: BTreeMap<ServiceId, SessionSeed>,
}

/// Where a peer is reached by its name. Where it is not, that is an address which nobody has, and why, and what to do.
pub(crate) type Reach<'r> = dyn Fn(&str) -> (Ipv4Addr, Option<String>) + 'r;

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

/// Turns desired services into published ones. `users` has everybody whom they let in by a password. A session key of
/// before stays as long as its service's users, passwords and groups do; otherwise a new one takes its place, and every
/// session under the old one ends.
pub(crate) fn publish(
    account: &AccountId,
    desired: &Desired,
    users: &BTreeMap<String, Member>,
    before: &BTreeMap<ServiceId, SessionSeed>,
    reach: &Reach<'_>,
) -> Publication {
    let mut made = Publication { catalog: Catalog::new(), keys: BTreeMap::new() };
    for (id, service) in &desired.services {
        let members = members(service, users);
        let signing = fingerprint(&service.access, &members).map(|access| {
            let kept = before.get(id).filter(|seed| seed.access == access).cloned();
            let seed = kept.unwrap_or_else(|| SessionSeed::new(access, SigningKey::generate_seed()));
            let signing = seed.signing.clone();
            made.keys.insert(id.clone(), seed);
            signing
        });
        let (paths, lacks) = paths(service, reach);
        let mapping = mapping(account, id, service, paths, &members, signing.as_ref());
        let private = match &service.access {
            Access::Private(groups) => Some(groups.clone()),
            Access::Open | Access::Basic(_) => None,
        };
        made.catalog.insert(id.clone(), Arc::new(Published { mapping, signing, members, private, lacks }));
    }
    made
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

/// What services lack that they did not lack before, by service.
pub(crate) fn newly_lacking<'n>(old: &Catalog, new: &'n Catalog) -> Vec<(&'n ServiceId, &'n str)> {
    let known = |id, sentence: &str| old.get(id).is_some_and(|before| before.lacks.as_deref() == Some(sentence));
    let lacks = new.iter().filter_map(|(id, service)| Some((id, service.lacks.as_deref()?)));
    lacks.filter(|(id, sentence)| !known(*id, sentence)).collect()
}

fn members(service: &Service, users: &BTreeMap<String, Member>) -> BTreeMap<String, Member> {
    let names = match &service.access {
        Access::Open | Access::Private(_) => &[][..],
        Access::Basic(names) => names,
    };
    let member = |name: &String| users.get(name).expect("access names users that are there").clone();
    names.iter().map(|name| (name.clone(), member(name))).collect()
}

/// The paths of a service, with addresses in place of the names of peers, and what the first of them lacks. Where a peer
/// is not reached, its path is there all the same: what it would have led to must not go to another path, and a proxy
/// opens a tunnel, without which no peer can come, only for a service that needs one.
fn paths(service: &Service, reach: &Reach<'_>) -> (Vec<PathMapping>, Option<String>) {
    let mut lacks = None;
    let reached = |path: &PathMapping| {
        if path.options.direct_upstream {
            return path.clone();
        }
        let (address, missing) = reach(&path.target.host);
        lacks = lacks.take().or(missing);
        let target = Target { host: address.to_string().into(), ..path.target.clone() };
        PathMapping { target, ..path.clone() }
    };
    let paths = service.paths.iter().map(reached).collect();
    (paths, lacks)
}

fn mapping(
    account: &AccountId,
    id: &ServiceId,
    service: &Service,
    paths: Vec<PathMapping>,
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
        paths,
        authentication,
        private: matches!(service.access, Access::Private(_)),
        pass_host_header: service.pass_host_header,
        rewrite_redirects: service.rewrite_redirects,
        restrictions: service.restrictions.clone(),
    }
}

/// Changes with anything that a session of the service rests on; an open one has none.
fn fingerprint(access: &Access, members: &BTreeMap<String, Member>) -> Option<[u8; 32]> {
    let mut context = Context::new(&SHA256);
    match access {
        Access::Open => return None,
        Access::Basic(_) => members.iter().for_each(|(name, member)| add(&mut context, name, member)),
        Access::Private(groups) => {
            // No list of members begins so: it would be longer than any memory.
            context.update(&u64::MAX.to_be_bytes());
            groups.iter().for_each(|group| add_part(&mut context, group.as_bytes()));
        }
    }
    Some(context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
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
    parts.for_each(|part| add_part(context, part));
}

fn add_part(context: &mut Context, part: &[u8]) {
    context.update(&(part.len() as u64).to_be_bytes());
    context.update(part);
}

/// For tests without peers.
#[cfg(test)]
pub(crate) fn no_peers(name: &str) -> (Ipv4Addr, Option<String>) {
    (Ipv4Addr::new(100, 72, 0, 0), Some(format!("no peer {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const MIXED: &str = "[service.nas]\nhost = 'nas.example'\naccess = 'open'\n\
        [[service.nas.path]]\npath = '/'\nupstream = 'http://x:1'\n\
        [[service.nas.path]]\npath = '/files'\nupstream = 'tunnel://nas:5000/share'\n\
        [[service.nas.path]]\npath = '/tls'\nupstream = 'tunnel+https://other:5001'\n";

    fn publish_with(reach: &Reach<'_>) -> Catalog {
        let desired = crate::file::parse(MIXED, Path::new("")).expect("good");
        let account = AccountId::parse("default").expect("id");
        publish(&account, &desired, &BTreeMap::new(), &BTreeMap::new(), reach).catalog
    }

    fn ways(catalog: &Catalog) -> Vec<(String, bool)> {
        let published = catalog.values().next().expect("published");
        let way = |path: &PathMapping| (path.target.host.to_string(), path.options.direct_upstream);
        published.mapping.paths.iter().map(way).collect()
    }

    #[test]
    fn a_path_to_a_peer_that_is_not_there_leads_nowhere_and_never_another_way() {
        let there = publish_with(&|name| (if name == "nas" { [100, 72, 0, 5] } else { [100, 72, 0, 6] }.into(), None));
        let way = |host: &str, direct| (host.to_owned(), direct);
        assert_eq!(ways(&there), [way("x", true), way("100.72.0.5", false), way("100.72.0.6", false)]);
        let missing = publish_with(&no_peers);
        assert_eq!(ways(&missing), [way("x", true), way("100.72.0.0", false), way("100.72.0.0", false)]);
        let lacks = |catalog: &Catalog| catalog.values().next().and_then(|published| published.lacks.clone());
        assert_eq!((lacks(&there), lacks(&missing).as_deref()), (None, Some("no peer nas")));
        let one = publish_with(&|name| if name == "nas" { ([100, 72, 0, 5].into(), None) } else { no_peers(name) });
        assert_eq!(ways(&one), [way("x", true), way("100.72.0.5", false), way("100.72.0.0", false)]);
        assert_eq!(lacks(&one).as_deref(), Some("no peer other"));
        assert!(matches!(&*diff(&missing, &one), [Edit::Modified(_)]));
    }

    #[test]
    fn what_a_service_lacks_is_new_once() {
        let told = |old: &Catalog, new: &Catalog| -> Vec<_> {
            newly_lacking(old, new).into_iter().map(|(id, sentence)| format!("{id}: {sentence}")).collect()
        };
        let (nothing, missing) = (Catalog::new(), publish_with(&no_peers));
        let disabled = publish_with(&|name| (no_peers(name).0, Some("it is disabled".to_owned())));
        let there = publish_with(&|name| (no_peers(name).0, None));
        assert_eq!(told(&nothing, &missing), ["nas: no peer nas"]);
        assert_eq!(told(&missing, &missing), [""; 0]);
        assert_eq!(told(&missing, &disabled), ["nas: it is disabled"]);
        assert_eq!(told(&disabled, &there), [""; 0]);
        assert_eq!(told(&there, &missing), ["nas: no peer nas"]);
    }
}
