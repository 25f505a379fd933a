//! The routing table: everything a request needs to know, as one immutable value that is swapped as a whole.
//!
//! A route cannot be built without a [`postern_auth::Door`], so there is no host that is routed but not guarded. A request keeps
//! the [`Route`] that admitted it, never the table.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use postern_auth::Protected;
use postern_model::{AccountId, HostName, Restrictions, Scheme, ServiceId};

use crate::error::{Error, Kind};
use crate::http::path::{Path, Prefix};
use crate::http::stamp::Outbound;

/// Where the current table is read; the controller alone writes it.
pub(crate) type Router = Arc<ArcSwap<RoutingTable>>;

/// The side a connection came in from, which decides what exists for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The internet.
    Public,
    /// The tunnel of one account: only that account's services exist, the public ones too.
    Account(AccountId),
}

impl Scope {
    fn sees(&self, service: &Service) -> bool {
        match self {
            Self::Public => !service.private,
            Self::Account(account) => service.account == *account,
        }
    }
}

/// What becomes of a TLS connection for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tls {
    /// We answer it ourselves.
    Terminate,
    /// The name is not published here.
    Unknown,
}

/// Why no route was found. An unknown host and one that this scope must not know of are the same case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteError {
    /// No such host here.
    NoHost,
    /// The host is here, none of its paths matches.
    NoPath,
    /// Two ways in which servers read this path lead to different routes.
    Ambiguous,
}

impl From<RouteError> for Error {
    fn from(error: RouteError) -> Self {
        Self::new(match error {
            RouteError::NoHost | RouteError::NoPath => Kind::NoRoute,
            RouteError::Ambiguous => Kind::AmbiguousPath,
        })
    }
}

/// What all routes of a service share.
#[derive(Debug)]
pub(crate) struct Service {
    /// The service.
    pub id: ServiceId,
    /// Its tenant.
    pub account: AccountId,
    /// Where it is published.
    pub host: HostName,
    /// For the peers of the account's tunnel alone: nobody else can tell that it is there.
    pub private: bool,
    /// Grows with every change of who may enter and from where.
    pub access_epoch: u64,
    /// From where it may be reached.
    pub restrictions: Restrictions,
}

/// One path of a service.
pub(crate) struct Route {
    /// The service it belongs to.
    pub service: Arc<Service>,
    /// What requests must begin with.
    pub prefix: Prefix,
    /// Whether requests are written to the access log.
    pub log: bool,
    /// Grows whenever this path of this service leads elsewhere.
    pub upstream_epoch: u64,
    /// The way to the upstream, and who may take it.
    pub door: Protected<Upstream>,
}

/// Where requests go, reachable with a permit for their route's door alone.
pub(crate) struct Upstream {
    /// What connections to it can be shared by.
    pub key: UpstreamKey,
    /// How long it may take to be reached and to send the head of its answer.
    pub request_timeout: Option<Duration>,
    /// How a request and its answer are rewritten on the way.
    pub outbound: Outbound,
}

/// The network that leads to an upstream. Neither ever stands in for the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Via {
    /// The host's.
    Direct,
    /// The tunnel of this account: two accounts may have the same addresses.
    Tunnel(AccountId),
}

/// Two requests whose upstreams have equal keys may use the same connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UpstreamKey {
    /// How it is reached.
    pub via: Via,
    /// Plain or TLS.
    pub scheme: Scheme,
    /// A name or an IP literal, IPv6 without brackets.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
    /// Accept any certificate.
    pub skip_tls_verify: bool,
}

/// Each request looks for a connection twice, and host and port tell nearly all upstreams apart.
impl Hash for UpstreamKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.host.hash(state);
        self.port.hash(state);
    }
}

/// A service that is ready to be served.
#[derive(Clone)]
pub(crate) struct Compiled {
    service: Arc<Service>,
    /// The longest prefix first.
    routes: Arc<[Arc<Route>]>,
}

impl Compiled {
    /// Puts `routes`, whose prefixes differ, into the order they are tried in.
    pub(crate) fn new(service: Arc<Service>, mut routes: Vec<Arc<Route>>) -> Self {
        routes.sort_by(|a, b| b.prefix.depth().cmp(&a.prefix.depth()).then_with(|| a.prefix.cmp(&b.prefix)));
        Self { service, routes: routes.into() }
    }

    /// What its routes share.
    pub(crate) fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Its routes, the longest prefix first.
    pub(crate) fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Whether both are the work of one compilation.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.routes, &other.routes)
    }

    fn select(&self, path: &Path) -> Result<&Arc<Route>, RouteError> {
        let chosen = self.longest(|prefix| path.starts_with(prefix));
        // With nothing but `/` every reading ends at the same route.
        let only_root = matches!(&*self.routes, [route] if route.prefix.is_root());
        if !only_root {
            for reading in path.readings().ok_or(RouteError::Ambiguous)? {
                if self.longest(|prefix| reading.starts_with(prefix)) != chosen {
                    return Err(RouteError::Ambiguous);
                }
            }
        }
        chosen.map(|index| &self.routes[index]).ok_or(RouteError::NoPath)
    }

    fn longest(&self, matches: impl Fn(&Prefix) -> bool) -> Option<usize> {
        self.routes.iter().position(|route| matches(&route.prefix))
    }
}

/// All that is published, found by host in constant time.
#[derive(Clone, Default)]
pub(crate) struct RoutingTable {
    hosts: HashMap<HostName, Compiled>,
}

impl RoutingTable {
    /// What to do with a ClientHello that names `host`.
    pub(crate) fn tls(&self, scope: &Scope, host: &HostName) -> Tls {
        match self.find(scope, host) {
            Some(_) => Tls::Terminate,
            None => Tls::Unknown,
        }
    }

    /// The route with the longest prefix of `path`, matched by whole segments.
    ///
    /// # Errors
    /// [`RouteError`]: no such host, no such path, or a path that servers read in ways that lead to different routes.
    pub(crate) fn route(&self, scope: &Scope, host: &HostName, path: &Path) -> Result<&Arc<Route>, RouteError> {
        self.find(scope, host).ok_or(RouteError::NoHost)?.select(path)
    }

    /// Publishes a service under its host, in place of whatever was there.
    pub(crate) fn insert(&mut self, compiled: Compiled) {
        self.hosts.insert(compiled.service.host.clone(), compiled);
    }

    /// Ends `service`'s hold on `host`. Another service that has taken the host over stays.
    pub(crate) fn remove(&mut self, host: &HostName, service: &ServiceId) {
        if self.hosts.get(host).is_some_and(|compiled| compiled.service.id == *service) {
            self.hosts.remove(host);
        }
    }

    /// Everything published, in no order.
    #[cfg(test)]
    pub(crate) fn services(&self) -> impl Iterator<Item = &Compiled> {
        self.hosts.values()
    }

    /// How many hosts are published.
    pub(crate) fn host_count(&self) -> usize {
        self.hosts.len()
    }

    /// How many routes there are.
    pub(crate) fn route_count(&self) -> usize {
        self.hosts.values().map(|compiled| compiled.routes.len()).sum()
    }

    fn find(&self, scope: &Scope, host: &HostName) -> Option<&Compiled> {
        self.hosts.get(host).filter(|compiled| scope.sees(&compiled.service))
    }
}

#[cfg(test)]
mod tests {
    use postern_model::Mapping;
    use proptest::prelude::*;

    use super::*;
    use crate::compile::{compile, samples};

    fn table(mappings: &[Mapping]) -> RoutingTable {
        let mut table = RoutingTable::default();
        for mapping in mappings {
            table.insert(compile(mapping, None, 1).expect("compiles"));
        }
        table
    }

    fn with_paths(paths: &[&str]) -> RoutingTable {
        let mut mapping = samples::mapping("svc", "app.example", "http://10.0.0.1");
        mapping.paths = paths.iter().map(|path| samples::path(path, "http://10.0.0.1")).collect();
        table(&[mapping])
    }

    fn found(table: &RoutingTable, path: &str) -> Result<String, RouteError> {
        let host = HostName::parse("app.example").expect("a host");
        let path = Path::parse(path).expect("a path");
        table.route(&Scope::Public, &host, &path).map(|route| route.prefix.to_string())
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let table = with_paths(&["/", "/api", "/api/v1", "/apix"]);
        for (path, prefix) in [
            ("/", "/"),
            ("/ap", "/"),
            ("/api", "/api"),
            ("/api/", "/api"),
            ("/api/v1/x", "/api/v1"),
            ("/api/v10", "/api"),
            ("/apix", "/apix"),
            ("/apixy", "/"),
            ("/API", "/"),
        ] {
            assert_eq!(found(&table, path), Ok(prefix.to_owned()), "{path}");
        }
        assert_eq!(found(&with_paths(&["/api"]), "/apix"), Err(RouteError::NoPath));
    }

    #[test]
    fn a_path_that_servers_read_differently_is_refused_only_where_it_matters() {
        let table = with_paths(&["/", "/admin"]);
        for path in ["/%2Fadmin", "//admin", "/admin%2Fx", "/admin;x/y", "/x%2Fadmin"] {
            let expected = if path == "/x%2Fadmin" { Ok("/".to_owned()) } else { Err(RouteError::Ambiguous) };
            assert_eq!(found(&table, path), expected, "{path}");
        }
        assert_eq!(found(&table, "/admin/a%2Fb"), Ok("/admin".to_owned()));
        assert_eq!(found(&with_paths(&["/"]), "/admin%2Fx"), Ok("/".to_owned()));
    }

    #[test]
    fn foreign_and_unknown_hosts_answer_alike() {
        let table = table(&[samples::mapping("svc", "app.example", "http://10.0.0.1")]);
        let own = Scope::Account(AccountId::parse("account").expect("an id"));
        let foreign = Scope::Account(AccountId::parse("other").expect("an id"));
        let app = HostName::parse("app.example").expect("a host");
        let unknown = HostName::parse("nothing.example").expect("a host");
        let root = Path::parse("/").expect("a path");
        for scope in [&Scope::Public, &own] {
            assert_eq!(table.tls(scope, &app), Tls::Terminate);
            assert!(table.route(scope, &app, &root).is_ok());
        }
        for (scope, host) in [(&foreign, &app), (&foreign, &unknown), (&Scope::Public, &unknown), (&own, &unknown)] {
            assert_eq!(table.tls(scope, host), Tls::Unknown);
            assert_eq!(table.route(scope, host, &root).err(), Some(RouteError::NoHost));
        }
    }

    #[test]
    fn a_private_service_exists_for_its_own_tunnel_alone() {
        let mut private = samples::mapping("inside", "inside.example", "http://10.0.0.1");
        private.private = true;
        let table = table(&[private, samples::mapping("app", "app.example", "http://10.0.0.1")]);
        let own = Scope::Account(AccountId::parse("account").expect("an id"));
        let foreign = Scope::Account(AccountId::parse("other").expect("an id"));
        let inside = HostName::parse("inside.example").expect("a host");
        let root = Path::parse("/").expect("a path");
        assert_eq!(table.tls(&own, &inside), Tls::Terminate);
        assert!(table.route(&own, &inside, &root).is_ok_and(|route| route.service.private));
        for scope in [&Scope::Public, &foreign] {
            assert_eq!(table.tls(scope, &inside), Tls::Unknown);
            assert_eq!(table.route(scope, &inside, &root).err(), Some(RouteError::NoHost));
        }
    }

    fn segments() -> impl Strategy<Value = Vec<&'static str>> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "c.d"]), 0..4)
    }

    proptest! {
        #[test]
        fn matching_is_the_longest_common_list_of_segments(
            prefixes in prop::collection::btree_set(segments(), 1..6),
            path in segments(),
        ) {
            let text = |segments: &[&str]| format!("/{}", segments.join("/"));
            let texts: Vec<String> = prefixes.iter().map(|prefix| text(prefix)).collect();
            let table = with_paths(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            let expected = prefixes.iter().filter(|prefix| path.starts_with(prefix)).max_by_key(|prefix| prefix.len());
            prop_assert_eq!(found(&table, &text(&path)).ok(), expected.map(|prefix| text(prefix)));
        }
    }
}
