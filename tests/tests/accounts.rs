//! Accounts in one proxy: their tunnels use the same addresses and never meet.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use base64::Engine;
use http::{Request, Response, StatusCode};
use postern_auth::session::SigningKey;
use postern_model::{Group, HostName, Principal};
use postern_proto::management::{
    Authentication, ProxyInboundListener, ProxyMapping, ValidateTunnelPeerRequest, ValidateTunnelPeerResponse,
};
use postern_proto::postern::v1::{MappedPeer, PeerMap};
use postern_tests::edge::Edge;
use postern_tests::eventually;
use postern_tests::netns::{Decoy, Machine, WireGuard, in_namespace, sh};
use postern_tests::stock::{ACTIVE, State, Stock, TUNNEL_NOT_CREATED, mapping};
use postern_tests::upstream::{Received, Upstream, full};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Child;

/// The proxy's address in every account's tunnel.
const PROXY: &str = "100.72.0.1";
/// The address of each account's only peer.
const PEER: &str = "100.72.0.2";

/// Signs the sessions of every private service.
fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

/// A private service.
fn private(id: &str, account: &str, host: &str, upstream: &str) -> ProxyMapping {
    let session_key = base64::engine::general_purpose::STANDARD.encode(key().public().0);
    let auth = Authentication { session_key, max_session_age_seconds: 3600, ..Default::default() };
    let account_id = account.to_owned();
    ProxyMapping { account_id, private: true, auth: Some(auth), ..mapping(id, host, upstream) }
}

/// An open service whose upstream is the account's peer.
fn at_the_peer(id: &str, account: &str, host: &str) -> ProxyMapping {
    let mut mapping = mapping(id, host, &format!("http://{PEER}:8000"));
    account.clone_into(&mut mapping.account_id);
    mapping.path[0].options = None;
    mapping
}

fn proxy(server: &Stock, data: &TempDir) -> Edge {
    Edge::with(server, &["--private", "--data-dir", data.path().to_str().expect("UTF-8")])
}

/// Waits for a status of a service, and returns its reason.
async fn status(server: &Stock, service: &str, wanted: i32) -> String {
    let what = format!("status {wanted} of {service}");
    eventually(&what, || async { server.status(service).filter(|(s, _)| *s == wanted).map(|(_, error)| error) }).await
}

#[tokio::test]
async fn without_peer_maps_there_is_no_tunnel_and_what_needs_one_is_not_served() {
    let upstream = Upstream::named("app").await;
    let mut tunnelled = mapping("2", "more.test", &upstream.url());
    tunnelled.path[0].options = None;
    let snapshot =
        vec![private("1", "one", "app.test", &upstream.url()), tunnelled, mapping("3", "vault.test", &upstream.url())];
    let server = Stock::start(State { snapshot, ..State::default() }).await;
    let data = tempfile::tempdir().expect("a folder");
    let proxy = proxy(&server, &data);
    for service in ["1", "2"] {
        let reason = status(&server, service, TUNNEL_NOT_CREATED).await;
        assert!(reason.contains("this management server sends no peer maps"), "{reason}");
    }
    proxy.serves("vault.test", "app").await;
    let before = upstream.received().len();
    assert!(proxy.client.tls("app.test").await.is_err(), "the public listener does not know it");
    let by_host = Request::get("/").header("host", "app.test").body(Default::default()).expect("a request");
    assert_eq!(proxy.client.send("vault.test", by_host).await.status, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(proxy.client.get("more.test", "/").await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(upstream.received().len(), before, "and nothing is dialled over the host's network");
    let state = server.state.lock();
    assert!(state.statuses.iter().all(|status| status.inbound_listener.is_none()), "{:?}", state.statuses);
    assert!(!state.registered.is_empty() && state.visits.is_empty(), "NetBird's part of the conversation takes place");
}

#[tokio::test]
async fn two_accounts_with_the_same_addresses_never_meet() {
    in_namespace("never_meet").await;
}

#[tokio::test]
#[ignore = "run by another test, in a namespace"]
async fn never_meet() {
    let (first, second) = (Machine::new(1).await, Machine::new(2).await);
    let upstreams = [mirror("one").await, mirror("two").await];
    let keys = [Keys::new(&first).await, Keys::new(&second).await];
    let (server, data) = (management(&upstreams, &keys).await, tempfile::tempdir().expect("a folder"));
    let proxy = proxy(&server, &data);
    let one = Member::new(&first, "one", &keys[0], &server, &data).await;
    let two = Member::new(&second, "two", &keys[1], &server, &data).await;
    assert_ne!(one.proxy_key, two.proxy_key, "a key for each account");
    let (device, _other_device) = (one.device().await, two.device().await);
    let edge = (&proxy, &server);

    announced(&server, &[("1", "one"), ("2", "two")]).await;
    for (member, own, other) in [(&one, "app.test", "more.test"), (&two, "more.test", "app.test")] {
        serves_its_own(edge, member, own).await;
        knows_nothing_else(edge, member, own, other).await;
    }
    visits_name_the_account(&server, &keys);
    public_knows_none(&proxy, &upstreams).await;
    reaches_its_own_origin(&proxy, [&one, &two]).await;

    // A peer of the one is nobody at the other's port, whatever it knows of it.
    device.kill().await;
    let spy = one.conf("spy", &two.proxy_key, two.port);
    let spying = WireGuard::up(&first, &spy).await;
    let silent = one.curl(&proxy, "-m 3 --resolve more.test:443:100.72.0.1 https://more.test/").await;
    assert!(!silent.ok && silent.status == 0, "{silent:?}");
    spying.kill().await;

    // What becomes of the one is nothing to the other.
    let _device = one.device().await;
    serves_its_own(edge, &one, "app.test").await;
    server.map("two", &map(&[]));
    let cut = || async { (!two.get(&proxy, "-m 1 https://more.test/").await.ok).then_some(()) };
    eventually("the only peer of the second account to be nobody", cut).await;
    serves_its_own(edge, &one, "app.test").await;
}

/// One private service in each account, and one whose upstream is the account's peer.
async fn management(upstreams: &[Upstream; 2], keys: &[Keys; 2]) -> Stock {
    let snapshot = vec![
        private("1", "one", "app.test", &upstreams[0].url()),
        private("2", "two", "more.test", &upstreams[1].url()),
        at_the_peer("3", "one", "vault.test"),
        at_the_peer("4", "two", "far.test"),
    ];
    let maps = [("one", &keys[0]), ("two", &keys[1])].map(|(name, keys)| (name.to_owned(), map(&[keys])));
    let (maps, doorkeeper) = (Some(BTreeMap::from(maps)), Some(Box::new(doorkeeper) as Box<_>));
    Stock::start(State { snapshot, maps, doorkeeper, ..State::default() }).await
}

/// Answers as a stock server does that holds a peer to be who its address says in the account of the service: it is the
/// proxy alone that keeps the accounts apart.
fn doorkeeper(request: &ValidateTunnelPeerRequest) -> ValidateTunnelPeerResponse {
    let account = if request.domain == "app.test" { "one" } else { "two" };
    let (user, group) = (format!("ada@{account}.example"), format!("staff-of-{account}"));
    let groups = vec![Group { id: group.clone(), name: group.clone() }];
    let principal = Principal { subject: user.clone(), email: Some(user.clone()), groups, method: "oidc".to_owned() };
    let host = HostName::parse(&request.domain).expect("a host");
    let token = key().sign(&principal, &host, SystemTime::now(), Duration::from_secs(600));
    ValidateTunnelPeerResponse {
        valid: request.tunnel_ip == PEER,
        user_id: user.clone(),
        user_email: user,
        session_token: token.expose().to_owned(),
        peer_group_ids: vec![group.clone()],
        peer_group_names: vec![group],
        denied_reason: String::new(),
    }
}

fn map(peers: &[&Keys]) -> PeerMap {
    let peer = |keys: &&Keys| MappedPeer {
        name: "laptop".to_owned(),
        public_key: keys.public.clone(),
        generation: 1,
        allowed_ips: vec![format!("{PEER}/32")],
        ..Default::default()
    };
    PeerMap { addresses: vec![PROXY.to_owned()], mtu: 1420, peers: peers.iter().map(peer).collect() }
}

/// Answers with its name and the headers it received, as JSON.
async fn mirror(name: &'static str) -> Upstream {
    Upstream::answering(move |received: &Received| {
        let text = |value: &http::HeaderValue| Value::from(String::from_utf8_lossy(value.as_bytes()));
        let mut all: serde_json::Map<_, _> =
            received.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        all.insert("upstream".to_owned(), name.into());
        Response::new(full(Value::from(all).to_string()))
    })
    .await
}

/// A WireGuard key pair.
struct Keys {
    private: String,
    public: String,
}

impl Keys {
    async fn new(machine: &Machine) -> Self {
        let pair = machine.sh("key=$(wg genkey); echo $key; echo $key | wg pubkey").await;
        let (private, public) = pair.trim().split_once('\n').expect("two lines");
        Self { private: private.to_owned(), public: public.to_owned() }
    }
}

/// The peer of an account, on a machine of its own.
struct Member<'a> {
    machine: &'a Machine,
    account: &'static str,
    private: &'a str,
    folder: PathBuf,
    /// The proxy's key in the account's tunnel.
    proxy_key: String,
    /// The proxy's UDP port.
    port: u32,
}

impl<'a> Member<'a> {
    /// Learns where the proxy is in its account's tunnel.
    async fn new(machine: &'a Machine, account: &'static str, keys: &'a Keys, server: &Stock, data: &TempDir) -> Self {
        let proxy = server.registered(account).await;
        assert_eq!(proxy.cluster, "proxy.test");
        let (proxy_key, port, folder) = (proxy.wireguard_public_key, proxy.listen_port, data.path().to_owned());
        Self { machine, account, private: &keys.private, folder, proxy_key, port }
    }

    async fn device(&self) -> WireGuard<'a> {
        WireGuard::up(self.machine, &self.conf(self.account, &self.proxy_key, self.port)).await
    }

    /// A wg-quick file with its own key, for a proxy with this key at this port.
    fn conf(&self, name: &str, key: &str, port: u32) -> PathBuf {
        let own = format!("[Interface]\nPrivateKey = {}\nAddress = {PEER}/32\nMTU = 1420\n", self.private);
        let at = self.machine.gateway();
        let proxy = format!("PublicKey = {key}\nAllowedIPs = {PROXY}/32\nEndpoint = {at}:{port}\n");
        let path = self.folder.join(format!("{name}.conf"));
        std::fs::write(&path, format!("{own}[Peer]\n{proxy}PersistentKeepalive = 25\n")).expect("it is writable");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
        path
    }

    /// curl on its machine; the names of both accounts lead to the proxy in its own tunnel.
    async fn get(&self, proxy: &Edge, arguments: &str) -> Answer {
        let names = ["app.test", "more.test", "vault.test", "far.test"]
            .map(|name| [443, 80].map(|port| format!("--resolve {name}:{port}:{PROXY}")).join(" "));
        self.curl(proxy, &format!("-m 10 {} {arguments}", names.join(" "))).await
    }

    async fn curl(&self, proxy: &Edge, arguments: &str) -> Answer {
        let line = format!("curl -sS --cacert {} -w '\\n%{{http_code}}' {arguments}", proxy.ca().display());
        let output = self.machine.command("sh").args(["-c", &line]).output().await.expect("curl is installed");
        let [text, error] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let (body, status) = text.rsplit_once('\n').unwrap_or(("", "000"));
        let status = status.parse().unwrap_or_default();
        Answer { ok: output.status.success(), status, body: body.to_owned(), error }
    }

    /// Serves its name on port 8000 of its address in the tunnel.
    fn origin(&self) -> Child {
        let script = format!(
            "from http.server import *\nclass H(BaseHTTPRequestHandler):\n def do_GET(s):\n  s.send_response(200)\n  \
             s.send_header('Content-Length','3')\n  s.end_headers()\n  s.wfile.write(b'{}')\n \
             def log_message(*a): pass\nHTTPServer(('{PEER}',8000),H).serve_forever()",
            self.account
        );
        self.machine.command("python3").args(["-c", &script]).spawn().expect("python3 is installed")
    }
}

#[derive(Debug)]
struct Answer {
    ok: bool,
    status: u16,
    body: String,
    error: String,
}

/// Management is told where each account's peers find the services.
async fn announced(server: &Stock, services: &[(&str, &str)]) {
    for (service, account) in services {
        status(server, service, ACTIVE).await;
        let state = server.state.lock();
        let newest = state.statuses.iter().rev().find(|status| status.service_id == *service).expect("there is one");
        let at = ProxyInboundListener { tunnel_ip: PROXY.to_owned(), https_port: 443, http_port: 80 };
        assert_eq!((&*newest.account_id, newest.inbound_listener.as_ref()), (*account, Some(&at)));
    }
}

/// The member's own service answers over TLS and in plain HTTP, and its upstream hears who asked.
async fn serves_its_own((proxy, _): (&Edge, &Stock), member: &Member<'_>, own: &str) {
    for scheme in ["https", "http"] {
        let url = format!("-H 'X-NetBird-User: root' {scheme}://{own}/");
        let up = || async { Some(member.get(proxy, &url).await).filter(|answer| answer.status == 200) };
        let answer = eventually(&format!("{} to open {scheme}://{own}", member.account), up).await;
        let heard: Value = serde_json::from_str(&answer.body).expect("JSON");
        let said =
            ["upstream", "x-netbird-user", "x-netbird-groups", "x-forwarded-for"].map(|name| heard[name].as_str());
        let (user, group) = (format!("ada@{}.example", member.account), format!("staff-of-{}", member.account));
        assert_eq!(said, [member.account, &user, &group, PEER].map(Some), "{answer:?}");
    }
}

/// The other account's service is unknown in the member's tunnel: by SNI, by Host, and by address.
async fn knows_nothing_else((proxy, server): (&Edge, &Stock), member: &Member<'_>, own: &str, other: &str) {
    let visits = server.state.lock().visits.len();
    let public = if member.account == "one" { "far.test" } else { "vault.test" };
    for name in [other, public, "unknown.test"] {
        let by_sni = member.get(proxy, &format!("--connect-to {name}:443:{PROXY}:443 https://{name}/")).await;
        assert!(!by_sni.ok && by_sni.error.contains("unrecognized"), "{name}: {by_sni:?}");
        let by_host = member.get(proxy, &format!("-H 'Host: {name}' https://{own}/")).await;
        assert_eq!(by_host.status, 421, "{name}: {by_host:?}");
        let plainly = member.get(proxy, &format!("-H 'Host: {name}' http://{own}/")).await;
        assert_eq!(plainly.status, 404, "{name}: {plainly:?}");
    }
    for url in [format!("https://{PROXY}/"), format!("http://{PROXY}/")] {
        let by_address = member.get(proxy, &url).await;
        assert!(!(200..400).contains(&by_address.status), "{url}: {by_address:?}");
    }
    assert_eq!(server.state.lock().visits.len(), visits, "management is not even asked");
}

/// Each question names the account whose tunnel the peer came through, and its key.
fn visits_name_the_account(server: &Stock, keys: &[Keys; 2]) {
    let state = server.state.lock();
    for (account, host, keys) in [("one", "app.test", &keys[0]), ("two", "more.test", &keys[1])] {
        let of: Vec<_> = state.visits.iter().filter(|visit| visit.domain == host).collect();
        assert_eq!(of.len(), 1, "a peer is asked about once: {of:?}");
        let said = (&*of[0].tunnel_ip, &*of[0].account_id, &of[0].peer_public_key, of[0].generation);
        assert_eq!(said, (PEER, account, &keys.public, 1));
    }
}

/// The public listener knows no private service, neither by SNI nor by Host.
async fn public_knows_none(proxy: &Edge, upstreams: &[Upstream; 2]) {
    let before = upstreams.each_ref().map(|upstream| upstream.received().len());
    for host in ["app.test", "more.test"] {
        assert!(proxy.client.tls(host).await.is_err(), "{host}");
        let request = Request::get("/").header("host", host).header("x-forwarded-for", PEER);
        let request = request.body(Default::default()).expect("a request");
        assert_eq!(proxy.client.send("vault.test", request).await.status, StatusCode::MISDIRECTED_REQUEST);
    }
    assert_eq!(upstreams.each_ref().map(|upstream| upstream.received().len()), before);
}

/// S36: the same upstream URL in two accounts is two origins, and neither is the host's own at this address.
async fn reaches_its_own_origin(proxy: &Edge, members: [&Member<'_>; 2]) {
    let decoy = Decoy::at(format!("{PEER}:8000").parse().expect("an address")).await;
    let _origins = members.map(Member::origin);
    for _ in 0..5 {
        proxy.serves("vault.test", "one").await;
        proxy.serves("far.test", "two").await;
    }
    decoy.assert_nobody_came();
    drop(decoy);
    sh(&format!("ip addr del {PEER}/32 dev lo")).await;
}
