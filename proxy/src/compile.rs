//! One mapping becomes one service that can be served, or the sentence that says why it cannot.
//!
//! What this version has no answer to is refused here, so that nothing is ever served with less protection than was asked for.

use std::collections::HashMap;
use std::sync::Arc;

use postern_auth::{Access, Door, HeaderScheme, Protected, Rule, Scheme, Sessions};
use postern_model::{Mapping, Mode, PathMapping, Target};

use crate::http::path::Prefix;
use crate::http::stamp::Outbound;
use crate::table::{Compiled, Route, Service, Upstream, UpstreamKey};

/// A mapping and what it was compiled to. What it shares with its successor keeps its epochs.
#[derive(Clone)]
pub(crate) struct Predecessor {
    /// The mapping.
    pub mapping: Arc<Mapping>,
    /// What it became.
    pub compiled: Compiled,
}

/// Compiles `mapping`. Whatever differs from `predecessor` gets `epoch`, which is higher than any given before.
///
/// # Errors
/// One sentence for people: what keeps the service from being served, and what to do.
pub(crate) fn compile(mapping: &Mapping, predecessor: Option<&Predecessor>, epoch: u64) -> Result<Compiled, String> {
    check(mapping)?;
    let access = access(mapping)?;
    let sessions = sessions(mapping, &access)?;
    let service = Arc::new(Service {
        id: mapping.id.clone(),
        account: mapping.account.clone(),
        host: mapping.host.clone(),
        access_epoch: access_epoch(mapping, predecessor, epoch),
        restrictions: mapping.restrictions.clone(),
    });
    let door = Door {
        service: mapping.id.clone(),
        account: mapping.account.clone(),
        host: mapping.host.clone(),
        access,
        sessions,
        epoch: service.access_epoch,
    };
    let earlier = Earlier::of(predecessor);
    let mut routes: HashMap<Prefix, Arc<Route>> = HashMap::with_capacity(mapping.paths.len());
    for path in &mapping.paths {
        let route =
            route(mapping, path, &service, &door, |prefix| earlier.upstream_epoch(prefix, path).unwrap_or(epoch))?;
        if let Some(twin) = routes.insert(route.prefix.clone(), Arc::new(route)) {
            return Err(format!("the path {} is given twice; keep one of them", twin.prefix));
        }
    }
    Ok(Compiled::new(service, routes.into_values().collect()))
}

/// Whether both let in the same people from the same places.
pub(crate) fn same_access(a: &Mapping, b: &Mapping) -> bool {
    a.authentication == b.authentication
        && a.private == b.private
        && a.restrictions == b.restrictions
        && a.account == b.account
        && a.host == b.host
}

/// Whether both lead to the same upstream in the same way, as far as a connection that is already there can tell.
pub(crate) fn same_upstream(a: &PathMapping, b: &PathMapping) -> bool {
    a.target == b.target
        && a.options.skip_tls_verify == b.options.skip_tls_verify
        && a.options.direct_upstream == b.options.direct_upstream
}

/// Refuses what this version cannot do.
fn check(mapping: &Mapping) -> Result<(), String> {
    let missing = |what: &str, remedy: &str| Err(format!("{what}, which this version does not have yet; {remedy}"));
    match mapping.mode {
        Mode::Http => {}
        Mode::Tcp => return missing("mode tcp needs TCP relays", "publish it in mode http"),
        Mode::Udp => return missing("mode udp needs UDP relays", "publish it in mode http"),
        Mode::Tls => return missing("mode tls needs TLS passthrough", "publish it in mode http"),
    }
    if mapping.listen_port != 0 {
        let port = mapping.listen_port;
        return missing(&format!("listen_port {port} needs a listener of its own"), "publish it on the main port");
    }
    if mapping.private {
        return missing("a private service needs the tunnel", "publish it with a login instead");
    }
    if mapping.authentication.password {
        return missing("it asks for the password login", "use header authentication");
    }
    if mapping.authentication.pin {
        return missing("it asks for the PIN login", "use header authentication");
    }
    if mapping.authentication.oidc {
        return missing("it asks for the login at an identity provider (OIDC)", "use header authentication");
    }
    let restrictions = &mapping.restrictions;
    if !restrictions.allowed_countries.is_empty() || !restrictions.blocked_countries.is_empty() {
        return missing("restrictions by country need location data", "restrict it by address ranges (CIDR)");
    }
    if restrictions.crowdsec {
        return missing("crowdsec_mode needs a CrowdSec bouncer", "turn it off");
    }
    if mapping.paths.is_empty() {
        return Err("it has no path; give it a target for the path /".to_owned());
    }
    for path in &mapping.paths {
        let at = &path.path;
        if path.options.needs.middlewares {
            return missing(&format!("the path {at} asks for middlewares"), "remove them from its target");
        }
        if !path.options.direct_upstream {
            return missing(
                &format!("the target of {at} is reached through the tunnel"),
                "set direct_upstream where this proxy can reach the target itself",
            );
        }
    }
    Ok(())
}

fn access(mapping: &Mapping) -> Result<Access, String> {
    let authentication = &mapping.authentication;
    if !authentication.headers.is_empty() {
        let mut schemes = Vec::new();
        for header in &authentication.headers {
            let scheme = HeaderScheme { name: header.name.clone(), challenge: header.challenge.clone() };
            let rule = Rule::Scheme(Scheme::Header(scheme));
            if !schemes.contains(&rule) {
                schemes.push(rule);
            }
        }
        return Ok(Access::Rule(Rule::Any(schemes)));
    }
    match authentication.deliberately_open {
        None | Some(true) => Ok(Access::Open),
        Some(false) => Err("nobody may enter: it is neither open nor has it a login; give it one of them".to_owned()),
    }
}

fn sessions(mapping: &Mapping, access: &Access) -> Result<Option<Sessions>, String> {
    match (access, mapping.authentication.session_key) {
        (Access::Open, _) => Ok(None),
        (Access::Rule(_), Some(key)) => Ok(Some(Sessions { key, max_age: mapping.authentication.max_session_age })),
        (Access::Rule(_), None) => {
            Err("it has a login but no session_key, so no login can be verified; have management send one".to_owned())
        }
    }
}

fn access_epoch(mapping: &Mapping, predecessor: Option<&Predecessor>, epoch: u64) -> u64 {
    match predecessor {
        Some(earlier) if same_access(&earlier.mapping, mapping) => earlier.compiled.service().access_epoch,
        Some(_) | None => epoch,
    }
}

fn route(
    mapping: &Mapping,
    path: &PathMapping,
    service: &Arc<Service>,
    door: &Door,
    upstream_epoch: impl FnOnce(&Prefix) -> u64,
) -> Result<Route, String> {
    let at = &path.path;
    let prefix = Prefix::parse(at).map_err(|error| format!("the path {at} cannot be served: {error}"))?;
    let outbound = Outbound::new(prefix.clone(), mapping, path, door.credential_headers().cloned())
        .map_err(|error| format!("the custom headers of the path {at} cannot be sent: {error}"))?;
    let upstream = Upstream {
        key: key(&path.target, path.options.skip_tls_verify),
        request_timeout: path.options.request_timeout,
        outbound,
    };
    Ok(Route {
        service: Arc::clone(service),
        upstream_epoch: upstream_epoch(&prefix),
        prefix,
        log: !path.options.disable_access_log,
        door: Protected::new(door.clone(), upstream),
    })
}

fn key(target: &Target, skip_tls_verify: bool) -> UpstreamKey {
    UpstreamKey { scheme: target.scheme, host: Arc::clone(&target.host), port: target.port, skip_tls_verify }
}

/// The paths of a predecessor, by prefix.
struct Earlier<'a>(HashMap<Prefix, (&'a PathMapping, u64)>);

impl<'a> Earlier<'a> {
    fn of(predecessor: Option<&'a Predecessor>) -> Self {
        let mut paths = HashMap::new();
        if let Some(predecessor) = predecessor {
            let epochs: HashMap<&Prefix, u64> =
                predecessor.compiled.routes().iter().map(|route| (&route.prefix, route.upstream_epoch)).collect();
            for path in &predecessor.mapping.paths {
                if let Ok(prefix) = Prefix::parse(&path.path) {
                    let epoch = epochs.get(&prefix).copied();
                    paths.extend(epoch.map(|epoch| (prefix, (path, epoch))));
                }
            }
        }
        Self(paths)
    }

    /// The epoch of the upstream at `prefix`, if it is the one that `path` leads to as well.
    fn upstream_epoch(&self, prefix: &Prefix, path: &PathMapping) -> Option<u64> {
        self.0.get(prefix).filter(|(earlier, _)| same_upstream(earlier, path)).map(|(_, epoch)| *epoch)
    }
}

/// Mappings for tests.
#[cfg(test)]
pub(crate) mod samples {
    use std::time::Duration;

    use http::HeaderName;
    use postern_model::{
        AccountId, Authentication, Challenge, HeaderAuth, HostName, Mapping, Mode, PathMapping, Restrictions,
        ServiceId, SessionKey, Target, TargetOptions,
    };

    /// An open service with one path that leads to `target` directly.
    pub(crate) fn mapping(id: &str, host: &str, target: &str) -> Mapping {
        Mapping {
            id: ServiceId::parse(id).expect("an id"),
            account: AccountId::parse("account").expect("an id"),
            host: HostName::parse(host).expect("a host"),
            mode: Mode::Http,
            listen_port: 0,
            paths: vec![path("/", target)],
            authentication: open(),
            private: false,
            pass_host_header: false,
            rewrite_redirects: false,
            restrictions: Restrictions::default(),
        }
    }

    pub(crate) fn path(path: &str, target: &str) -> PathMapping {
        PathMapping {
            path: path.to_owned(),
            target: Target::parse(target).expect("a target"),
            options: TargetOptions { direct_upstream: true, ..TargetOptions::default() },
        }
    }

    pub(crate) fn open() -> Authentication {
        Authentication {
            session_key: None,
            max_session_age: Duration::from_secs(86_400),
            password: false,
            pin: false,
            oidc: false,
            headers: Vec::new(),
            deliberately_open: None,
        }
    }

    /// One user of HTTP Basic; `fingerprint` stands for the password.
    pub(crate) fn basic(fingerprint: &str) -> Authentication {
        let header = HeaderAuth {
            name: HeaderName::from_static("authorization"),
            fingerprint: fingerprint.to_owned(),
            challenge: Some(Challenge::Basic { realm: "app".to_owned() }),
        };
        Authentication {
            session_key: Some(SessionKey([7; 32])),
            headers: vec![header],
            deliberately_open: Some(false),
            ..open()
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use postern_model::{HeaderAuth, Needs};

    use super::*;

    fn sample() -> Mapping {
        samples::mapping("svc", "app.example", "http://10.0.0.1:3000")
    }

    fn refusal(change: impl FnOnce(&mut Mapping)) -> Option<String> {
        let mut mapping = sample();
        change(&mut mapping);
        compile(&mapping, None, 1).err()
    }

    #[test]
    fn what_is_not_there_is_refused_with_its_name() {
        type Change = fn(&mut Mapping);
        let cases: &[(&str, Change)] = &[
            ("mode tcp", |m| m.mode = Mode::Tcp),
            ("mode udp", |m| m.mode = Mode::Udp),
            ("mode tls", |m| m.mode = Mode::Tls),
            ("listen_port 8022", |m| m.listen_port = 8022),
            ("private", |m| m.private = true),
            ("password", |m| m.authentication.password = true),
            ("PIN", |m| m.authentication.pin = true),
            ("OIDC", |m| m.authentication.oidc = true),
            ("country", |m| m.restrictions.allowed_countries = vec!["CH".to_owned()]),
            ("country", |m| m.restrictions.blocked_countries = vec!["CH".to_owned()]),
            ("crowdsec_mode", |m| m.restrictions.crowdsec = true),
            ("no path", |m| m.paths.clear()),
            ("middlewares", |m| m.paths[0].options.needs = Needs { middlewares: true }),
            ("tunnel", |m| m.paths[0].options.direct_upstream = false),
            ("/a/../b", |m| m.paths[0].path = "/a/../b".to_owned()),
            ("given twice", |m| m.paths = vec![samples::path("/a", "http://x"), samples::path("/a/", "http://y")]),
            ("session_key", |m| {
                m.authentication = samples::basic("1");
                m.authentication.session_key = None;
            }),
            ("nobody may enter", |m| m.authentication.deliberately_open = Some(false)),
        ];
        for (word, change) in cases {
            let reason = refusal(change).unwrap_or_else(|| panic!("{word} is served"));
            assert!(reason.contains(word), "{word}: {reason}");
        }
        assert_eq!(refusal(|_| ()), None);
        assert_eq!(refusal(|m| m.authentication = samples::basic("1")), None);
    }

    #[test]
    fn a_scheme_wins_over_openness_and_equal_schemes_are_one() {
        let mut mapping = sample();
        mapping.authentication = samples::basic("1");
        mapping.authentication.headers.extend(samples::basic("2").headers);
        let key = HeaderName::from_static("x-api-key");
        mapping.authentication.headers.push(HeaderAuth { name: key, fingerprint: String::new(), challenge: None });
        mapping.authentication.deliberately_open = Some(true);
        let compiled = compile(&mapping, None, 1).expect("compiles");
        let door = compiled.routes()[0].door.door();
        match &door.access {
            Access::Rule(Rule::Any(rules)) => assert_eq!(rules.len(), 2, "{rules:?}"),
            other => panic!("{other:?}"),
        }
        assert!(door.sessions.is_some());
    }

    #[test]
    fn epochs_change_with_what_they_stand_for() {
        let mut mapping = sample();
        mapping.paths.push(samples::path("/a", "http://10.0.0.2"));
        let first = Predecessor { compiled: compile(&mapping, None, 1).expect("compiles"), mapping: Arc::new(mapping) };
        let epochs = |change: fn(&mut Mapping)| {
            let mut mapping = Mapping::clone(&first.mapping);
            change(&mut mapping);
            let compiled = compile(&mapping, Some(&first), 2).expect("compiles");
            let routes: Vec<u64> = compiled.routes().iter().map(|route| route.upstream_epoch).collect();
            (compiled.service().access_epoch, routes)
        };
        assert_eq!(epochs(|_| ()), (1, vec![1, 1]));
        assert_eq!(epochs(|m| m.authentication = samples::basic("1")), (2, vec![1, 1]));
        assert_eq!(epochs(|m| m.restrictions.blocked_cidrs = vec!["10.0.0.0/8".parse().unwrap()]), (2, vec![1, 1]));
        assert_eq!(epochs(|m| m.paths[0].options.skip_tls_verify = true), (1, vec![1, 2]));
        assert_eq!(epochs(|m| m.paths[1] = samples::path("/a/", "http://10.0.0.2")), (1, vec![1, 1]));
        assert_eq!(epochs(|m| m.paths[1] = samples::path("/a/b", "http://10.0.0.2")), (1, vec![2, 1]));
        assert_eq!(epochs(|m| m.pass_host_header = true), (1, vec![1, 1]));
    }
}
