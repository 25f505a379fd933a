//! One mapping becomes one service that can be served, or the sentence that says why it cannot.
//!
//! What this version has no answer to is refused here, so that nothing is ever served with less protection than was asked for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use postern_auth::{Access, Door, HeaderScheme, Protected, Rule, Scheme, Sessions};
use postern_model::{Mapping, Mode, PathMapping};

use crate::http::path::Prefix;
use crate::http::stamp::Outbound;
use crate::table::{Compiled, Route, Service, Upstream, UpstreamKey, Via};

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
        private: mapping.private,
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
    check_login(mapping)?;
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
        if !path.options.direct_upstream && path.target.host.parse::<IpAddr>().is_err() {
            return missing(
                &format!("the target of {at} is reached through the tunnel by a name, which takes DNS there"),
                "give it the peer's address, or set direct_upstream where this proxy can reach the target itself",
            );
        }
    }
    Ok(())
}

/// At a private service no login is offered, so none is missing.
fn check_login(mapping: &Mapping) -> Result<(), String> {
    let authentication = &mapping.authentication;
    let logins = [
        (authentication.password, "it asks for the password login"),
        (authentication.pin, "it asks for the PIN login"),
        (authentication.oidc, "it asks for the login at an identity provider (OIDC)"),
    ];
    match logins.into_iter().find(|(asked, _)| *asked && !mapping.private) {
        Some((_, what)) => missing(what, "use header authentication"),
        None => Ok(()),
    }
}

fn missing(what: &str, remedy: &str) -> Result<(), String> {
    Err(format!("{what}, which this version does not have yet; {remedy}"))
}

/// A private service lets in the peers that management says yes to, and nobody in any other way. Our own management says of every
/// service how one enters; a stock one lets the account's peers in beside those who log in (NetBird).
fn access(mapping: &Mapping) -> Result<Access, String> {
    let authentication = &mapping.authentication;
    if mapping.private {
        return Ok(Access::Rule(Rule::Scheme(Scheme::Private)));
    }
    if !authentication.headers.is_empty() {
        let mut schemes = Vec::new();
        for header in &authentication.headers {
            let scheme = HeaderScheme { name: header.name.clone(), challenge: header.challenge.clone() };
            let rule = Rule::Scheme(Scheme::Header(scheme));
            if !schemes.contains(&rule) {
                schemes.push(rule);
            }
        }
        if authentication.deliberately_open.is_none() {
            schemes.push(Rule::Scheme(Scheme::Private));
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
        (Access::Rule(Rule::Scheme(Scheme::Private)), None) => Ok(None),
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
    let upstream = Upstream { key: key(mapping, path), request_timeout: path.options.request_timeout, outbound };
    Ok(Route {
        service: Arc::clone(service),
        upstream_epoch: upstream_epoch(&prefix),
        prefix,
        log: !path.options.disable_access_log,
        door: Protected::new(door.clone(), upstream),
    })
}

fn key(mapping: &Mapping, path: &PathMapping) -> UpstreamKey {
    let PathMapping { target, options, .. } = path;
    let via = if options.direct_upstream { Via::Direct } else { Via::Tunnel(mapping.account.clone()) };
    UpstreamKey {
        via,
        scheme: target.scheme,
        host: Arc::clone(&target.host),
        port: target.port,
        skip_tls_verify: options.skip_tls_verify,
    }
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
            ("password", |m| m.authentication.password = true),
            ("PIN", |m| m.authentication.pin = true),
            ("OIDC", |m| m.authentication.oidc = true),
            ("country", |m| m.restrictions.allowed_countries = vec!["CH".to_owned()]),
            ("country", |m| m.restrictions.blocked_countries = vec!["CH".to_owned()]),
            ("crowdsec_mode", |m| m.restrictions.crowdsec = true),
            ("no path", |m| m.paths.clear()),
            ("middlewares", |m| m.paths[0].options.needs = Needs { middlewares: true }),
            ("by a name", |m| {
                m.paths = vec![samples::path("/", "http://printer:631")];
                m.paths[0].options.direct_upstream = false;
            }),
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
        assert_eq!(refusal(|m| m.paths[0].options.direct_upstream = false), None);
        assert_eq!(refusal(|m| m.paths = vec![samples::path("/", "http://printer:631")]), None);
    }

    fn rule(change: impl FnOnce(&mut Mapping)) -> Access {
        let mut mapping = sample();
        change(&mut mapping);
        compile(&mapping, None, 1).expect("compiles").routes()[0].door.door().access.clone()
    }

    #[test]
    fn a_private_service_has_one_way_in_whatever_else_is_configured() {
        let private = Access::Rule(Rule::Scheme(Scheme::Private));
        assert_eq!(rule(|m| m.private = true), private);
        assert_eq!(
            rule(|m| {
                m.private = true;
                m.authentication = samples::basic("1");
                m.authentication.deliberately_open = Some(true);
                (m.authentication.password, m.authentication.pin, m.authentication.oidc) = (true, true, true);
            }),
            private
        );
        assert_eq!(
            rule(|m| {
                m.private = true;
                m.authentication.deliberately_open = Some(false);
            }),
            private
        );
    }

    #[test]
    fn peers_come_in_beside_logins_only_where_a_stock_management_says_so() {
        let peers = |access: Access| match access {
            Access::Rule(Rule::Any(rules)) => rules.contains(&Rule::Scheme(Scheme::Private)),
            other => panic!("{other:?}"),
        };
        assert!(!peers(rule(|m| m.authentication = samples::basic("1"))));
        assert!(peers(rule(|m| {
            m.authentication = samples::basic("1");
            m.authentication.deliberately_open = None;
        })));
    }

    #[test]
    fn the_same_address_in_two_accounts_is_two_upstreams() {
        let upstream = |account: &str, direct: bool| {
            let mut mapping = sample();
            mapping.account = postern_model::AccountId::parse(account).expect("an id");
            mapping.paths[0].options.direct_upstream = direct;
            key(&mapping, &mapping.paths[0])
        };
        assert_eq!(upstream("a", false), upstream("a", false));
        assert_eq!(upstream("a", true), upstream("b", true));
        assert_ne!(upstream("a", false), upstream("b", false));
        assert_ne!(upstream("a", false), upstream("a", true));
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
        assert_eq!(epochs(|m| m.private = true), (2, vec![1, 1]));
        assert_eq!(epochs(|m| m.paths[0].options.skip_tls_verify = true), (1, vec![1, 2]));
        assert_eq!(epochs(|m| m.paths[0].options.direct_upstream = false), (1, vec![1, 2]));
        assert_eq!(epochs(|m| m.paths[1] = samples::path("/a/", "http://10.0.0.2")), (1, vec![1, 1]));
        assert_eq!(epochs(|m| m.paths[1] = samples::path("/a/b", "http://10.0.0.2")), (1, vec![2, 1]));
        assert_eq!(epochs(|m| m.pass_host_header = true), (1, vec![1, 1]));
    }
}
