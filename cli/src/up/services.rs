use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use postern_management_server::desired::{Access, Desired, Password, Service, User};
use postern_model::{HostName, PathMapping, Restrictions, Secret, ServiceId, Target, TargetOptions};
use rand::seq::IndexedRandom;

use super::ready::{Kind, ReadyService};

/// A service as it is told to people and scripts.
pub(super) struct Published {
    name: String,
    host: HostName,
    kind: Kind,
    user: Option<String>,
    password: Option<Secret>,
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

    /// With the port it is served on, and why there is no tunnel, where there is none.
    pub(super) fn ready(&self, port: u16, without_tunnel: Option<&str>) -> ReadyService {
        let port = match (self.kind, port) {
            // The tunnel's own port, whatever the public one is.
            (Kind::Private, _) | (_, 443) => String::new(),
            (Kind::Open | Kind::Basic, port) => format!(":{port}"),
        };
        ReadyService {
            name: self.name.clone(),
            kind: self.kind,
            url: format!("https://{}{port}", self.host),
            user: self.user.clone(),
            password: self.password.clone(),
            problem: without_tunnel.filter(|_| self.needs_tunnel).map(str::to_owned),
        }
    }
}

/// The services of somebody's own file, whose passwords are not ours to tell.
pub(super) fn configured(desired: &Desired) -> Vec<Published> {
    let published = |(id, service): (&ServiceId, &Service)| {
        let (kind, user) = match &service.access {
            Access::Open => (Kind::Open, None),
            Access::Basic(users) => (Kind::Basic, users.first().cloned()),
            Access::Private(_) => (Kind::Private, None),
        };
        let needs_tunnel = kind == Kind::Private || service.paths.iter().any(|path| !path.options.direct_upstream);
        Published { name: id.to_string(), host: service.host.clone(), kind, user, password: None, needs_tunnel }
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
        desired.services.insert(id, service(host.clone(), access, upstream));
        let login = (kind == Kind::Basic).then(|| (DEMO_USER.to_owned(), password.clone()));
        let (user, password) = login.unzip();
        let needs_tunnel = kind == Kind::Private;
        published.push(Published { name: name.to_owned(), host, kind, user, password, needs_tunnel });
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
        let told: Vec<_> = published.iter().map(|service| service.ready(8443, Some("no tunnel"))).collect();
        assert_eq!((told[0].kind, &*told[0].url), (Kind::Open, "https://hello.localhost:8443"));
        assert_eq!((told[1].kind, told[1].user.as_deref()), (Kind::Basic, Some("guest")));
        assert!(told[0].password.is_none() && told[1].password.as_ref().is_some_and(|pw| pw.expose().len() == 20));
        assert_eq!((told[2].kind, &*told[2].url), (Kind::Private, "https://inside.localhost"));
        assert!(told[2].password.is_none());
        let problems: Vec<_> = told.iter().map(|service| service.problem.as_deref()).collect();
        assert_eq!(problems, [None, None, Some("no tunnel")]);
        assert_eq!(published[2].ready(443, None).problem, None);
        assert_eq!(published[0].ready(443, None).url, "https://hello.localhost");
        let (again, _) = demo("127.0.0.1:7".parse().unwrap());
        assert_ne!(desired.users, again.users, "each run has a password of its own");
    }
}
