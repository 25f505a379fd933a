use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use postern_management_server::desired::{Access, Desired, Password, Service, User};
use postern_model::{HostName, PathMapping, Restrictions, Secret, ServiceId, Target, TargetOptions};
use rand::seq::IndexedRandom;

use super::ready::{Kind, ReadyService};

/// A service as it is told to people and scripts.
pub(super) struct Published {
    id: ServiceId,
    host: HostName,
    kind: Kind,
    user: Option<String>,
    password: Option<Secret>,
    /// Where it is private: the first of the groups that it is for.
    group: Option<String>,
    needs_tunnel: bool,
}

/// What our own proxy calls itself. There is one such proxy, so that `status` does not list those of earlier runs.
pub(super) const OWN_ID: &str = "postern-up";
/// The group that opens the private demo service.
pub(super) const DEMO_GROUP: &str = "demo";
/// Whose the demo's login and its peer are.
pub(super) const DEMO_USER: &str = "guest";

impl Published {
    /// Whether it is reached, or reaches its upstream, through the tunnel.
    pub(super) fn needs_tunnel(&self) -> bool {
        self.needs_tunnel
    }

    /// With the port it is served on, why there is no tunnel, where there is none, and why services lead nowhere.
    pub(super) fn ready(
        &self,
        port: u16,
        without_tunnel: Option<&str>,
        lacks: &BTreeMap<ServiceId, String>,
    ) -> ReadyService {
        let port = match (self.kind, port) {
            // The tunnel's own port, whatever the public one is.
            (Kind::Private, _) | (_, 443) => String::new(),
            (Kind::Open | Kind::Basic, port) => format!(":{port}"),
        };
        ReadyService {
            name: self.id.to_string(),
            kind: self.kind,
            url: format!("https://{}{port}", self.host),
            user: self.user.clone(),
            password: self.password.clone(),
            group: self.group.clone(),
            problem: without_tunnel
                .filter(|_| self.needs_tunnel)
                .map(str::to_owned)
                .or_else(|| self.closed())
                .or_else(|| lacks.get(&self.id).cloned()),
        }
    }

    fn closed(&self) -> Option<String> {
        let id = &self.id;
        (self.kind == Kind::Private && self.group.is_none())
            .then(|| format!("nobody may enter: its list of groups is empty; name one in `access` of [service.{id}]"))
    }
}

/// The services of somebody's own file, whose passwords are not ours to tell.
pub(super) fn configured(desired: &Desired) -> Vec<Published> {
    let published = |(id, service): (&ServiceId, &Service)| {
        let (kind, user, group) = match &service.access {
            Access::Open => (Kind::Open, None, None),
            Access::Basic(users) => (Kind::Basic, users.first().cloned(), None),
            Access::Private(groups) => (Kind::Private, None, groups.first().cloned()),
        };
        let needs_tunnel = kind == Kind::Private || service.paths.iter().any(|path| !path.options.direct_upstream);
        let (id, host) = (id.clone(), service.host.clone());
        Published { id, host, kind, user, password: None, group, needs_tunnel }
    };
    desired.services.iter().map(published).collect()
}

/// Three services in front of the demo upstream: `hello` for everybody, `vault` behind a password of this run, `inside` for
/// peers of the tunnel.
pub(super) fn demo(upstream: SocketAddr) -> (Desired, Vec<Published>) {
    let password = password();
    let user = User { password: Some(Password::Plain(password.clone())), groups: vec![DEMO_GROUP.to_owned()] };
    let mut desired = Desired { users: BTreeMap::from([(DEMO_USER.to_owned(), user)]), ..Desired::default() };
    let mut published = Vec::new();
    for (name, kind, access) in [
        ("hello", Kind::Open, Access::Open),
        ("vault", Kind::Basic, Access::Basic(vec![DEMO_USER.to_owned()])),
        ("inside", Kind::Private, Access::Private(BTreeSet::from([DEMO_GROUP.to_owned()]))),
    ] {
        let host = HostName::parse(&format!("{name}.localhost")).expect("a host name");
        let id = ServiceId::parse(name).expect("a plain word");
        desired.services.insert(id.clone(), service(host.clone(), access, upstream));
        let login = (kind == Kind::Basic).then(|| (DEMO_USER.to_owned(), password.clone()));
        let (user, password) = login.unzip();
        let needs_tunnel = kind == Kind::Private;
        let group = needs_tunnel.then(|| DEMO_GROUP.to_owned());
        published.push(Published { id, host, kind, user, password, group, needs_tunnel });
    }
    (desired, published)
}

fn service(host: HostName, access: Access, upstream: SocketAddr) -> Service {
    let target = Target::parse(&format!("http://{upstream}")).expect("an address is a target");
    let options = TargetOptions { direct_upstream: true, ..TargetOptions::default() };
    Service {
        host,
        access,
        paths: vec![PathMapping { path: "/".to_owned(), target, options }],
        pass_host_header: true,
        rewrite_redirects: true,
        restrictions: Restrictions::default(),
    }
}

/// 20 letters and digits that nobody mixes up: 98 bits, no quoting in any shell.
fn password() -> Secret {
    const ALPHABET: &[u8] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut random = rand::rng();
    let letters = (0..20).map(|_| char::from(*ALPHABET.choose(&mut random).expect("not empty")));
    Secret::new(letters.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_is_open_behind_a_login_and_in_the_tunnel() {
        let (desired, published) = demo("127.0.0.1:7".parse().unwrap());
        assert_eq!(desired.services.len(), 3);
        let told: Vec<_> =
            published.iter().map(|service| service.ready(8443, Some("no tunnel"), &BTreeMap::new())).collect();
        assert_eq!((told[0].kind, &*told[0].url), (Kind::Open, "https://hello.localhost:8443"));
        assert_eq!((told[1].kind, told[1].user.as_deref()), (Kind::Basic, Some("guest")));
        assert!(told[0].password.is_none() && told[1].password.as_ref().is_some_and(|pw| pw.expose().len() == 20));
        assert_eq!((told[2].kind, &*told[2].url), (Kind::Private, "https://inside.localhost"));
        assert!(told[2].password.is_none());
        let problems: Vec<_> = told.iter().map(|service| service.problem.as_deref()).collect();
        assert_eq!(problems, [None, None, Some("no tunnel")]);
        assert_eq!(published[2].ready(443, None, &BTreeMap::new()).problem, None);
        assert_eq!(published[0].ready(443, None, &BTreeMap::new()).url, "https://hello.localhost");
        let (again, _) = demo("127.0.0.1:7".parse().unwrap());
        assert_ne!(desired.users, again.users, "each run has a password of its own");
    }

    #[test]
    fn what_cannot_work_is_a_problem_and_what_can_is_none() {
        let text = "[service.eng]\nhost = 'eng.x'\nupstream = 'http://x:1'\naccess = { private = ['ops', 'eng'] }\n\
            [service.closed]\nhost = 'closed.x'\nupstream = 'http://x:1'\naccess = { private = [] }\n\
            [service.lab]\nhost = 'lab.x'\nupstream = 'tunnel://lab:1'\naccess = 'open'\n\
            [service.plain]\nhost = 'plain.x'\nupstream = 'http://x:1'\naccess = 'open'\n";
        let desired = postern_management_server::file::parse(text, std::path::Path::new("")).unwrap();
        let lacks = BTreeMap::from([(ServiceId::parse("lab").unwrap(), "there is no peer lab".to_owned())]);
        let told = |without_tunnel| -> BTreeMap<_, _> {
            let ready = |service: &Published| service.ready(443, without_tunnel, &lacks);
            configured(&desired).iter().map(ready).map(|ready| (ready.name.clone(), ready)).collect()
        };
        let problem =
            |told: &BTreeMap<String, ReadyService>, name: &str| told[name].problem.clone().unwrap_or_default();
        let with = told(None);
        assert_eq!((with["eng"].group.as_deref(), problem(&with, "eng")), (Some("eng"), String::new()));
        assert!(problem(&with, "closed").starts_with("nobody may enter: its list of groups is empty"), "{with:?}");
        assert_eq!(
            (problem(&with, "lab"), problem(&with, "plain")),
            ("there is no peer lab".to_owned(), String::new())
        );
        let without = told(Some("no tunnel"));
        assert_eq!(
            ["eng", "closed", "lab", "plain"].map(|name| problem(&without, name)),
            ["no tunnel", "no tunnel", "no tunnel", ""]
        );
    }
}
