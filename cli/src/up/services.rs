use std::collections::BTreeMap;
use std::net::SocketAddr;

use postern_management_server::desired::{Access, Desired, Password, Service, User};
use postern_model::{HostName, PathMapping, Restrictions, Secret, ServiceId, Target, TargetOptions};
use rand::seq::IndexedRandom;

use super::ready::{Kind, ReadyService};

/// A service as it is told to people and scripts.
pub(super) struct Published {
    name: String,
    host: HostName,
    user: Option<String>,
    password: Option<Secret>,
}

impl Published {
    /// With the port it is served on.
    pub(super) fn ready(&self, port: u16) -> ReadyService {
        let port = if port == 443 { String::new() } else { format!(":{port}") };
        ReadyService {
            name: self.name.clone(),
            kind: if self.user.is_some() { Kind::Basic } else { Kind::Open },
            url: format!("https://{}{port}", self.host),
            user: self.user.clone(),
            password: self.password.clone(),
        }
    }
}

/// The services of somebody's own file, whose passwords are not ours to tell.
pub(super) fn configured(desired: &Desired) -> Vec<Published> {
    let published = |(id, service): (&ServiceId, &Service)| {
        let user = match &service.access {
            Access::Open => None,
            Access::Basic(users) => users.first().cloned(),
        };
        Published { name: id.to_string(), host: service.host.clone(), user, password: None }
    };
    desired.services.iter().map(published).collect()
}

/// Two services in front of the demo upstream: `hello` for everybody, `vault` behind a password of this run.
pub(super) fn demo(upstream: SocketAddr) -> (Desired, Vec<Published>) {
    const USER: &str = "guest";
    let password = password();
    let user = User { password: Password::Plain(password.clone()), groups: vec!["demo".to_owned()] };
    let mut desired = Desired { users: BTreeMap::from([(USER.to_owned(), user)]), ..Desired::default() };
    let mut published = Vec::new();
    for (name, user) in [("hello", None), ("vault", Some(USER.to_owned()))] {
        let host = HostName::parse(&format!("{name}.localhost")).expect("a host name");
        let access = user.clone().map_or(Access::Open, |user| Access::Basic(vec![user]));
        let id = ServiceId::parse(name).expect("a plain word");
        desired.services.insert(id, service(host.clone(), access, upstream));
        let password = user.is_some().then(|| password.clone());
        published.push(Published { name: name.to_owned(), host, user, password });
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
    fn the_demo_is_one_open_service_and_one_behind_a_login() {
        let (desired, published) = demo("127.0.0.1:7".parse().unwrap());
        assert_eq!(desired.services.len(), 2);
        let told: Vec<_> = published.iter().map(|service| service.ready(8443)).collect();
        assert_eq!((told[0].kind, &*told[0].url), (Kind::Open, "https://hello.localhost:8443"));
        assert_eq!((told[1].kind, told[1].user.as_deref()), (Kind::Basic, Some("guest")));
        assert!(told[0].password.is_none() && told[1].password.as_ref().is_some_and(|pw| pw.expose().len() == 20));
        assert_eq!(published[0].ready(443).url, "https://hello.localhost");
        let (again, _) = demo("127.0.0.1:7".parse().unwrap());
        assert_ne!(desired.users, again.users, "each run has a password of its own");
    }
}
