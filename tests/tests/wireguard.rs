//! Real WireGuard peers: wireguard-go on machines of their own (network namespaces), with the files that `postern peer add`
//! prints. Each test runs in a namespace too, so that ports and addresses are its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use hyper::body::Frame;
use parking_lot::Mutex;
use postern_tests::netns::{Decoy, Machine, WireGuard, in_namespace, sh};
use postern_tests::process::{Postern, Up, binary};
use postern_tests::upstream::{Received, Upstream, full, streamed};
use postern_tests::{eventually, within};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::sync::mpsc;

/// Each outer test runs its inner one in a namespace.
macro_rules! in_namespaces {
    ($($outer:ident => $inner:ident),* $(,)?) => {$(
        #[tokio::test]
        async fn $outer() {
            in_namespace(stringify!($inner)).await;
        }
    )*};
}

in_namespaces! {
    a_stock_client_opens_the_private_services_of_its_groups_and_nothing_else => opens_its_services,
    a_quarter_of_a_gigabyte_passes_both_ways => large_bodies,
    sixteen_megabytes_pass_at_one_percent_loss => lossy,
    a_peer_that_moves_goes_on => moves,
    either_end_may_die_and_come_back => dies,
    another_key_is_nobody => other_key,
    whoever_loses_what_let_it_in_is_cut_off_at_once_and_alone => revoked,
    wg_quick_takes_the_file_as_printed => wg_quick,
    a_service_reaches_its_upstream_at_a_peer => upstream_at_a_peer,
    an_address_makes_nobody_a_peer => public_sources,
}

/// A running `up` with a tunnel, and a machine beside it.
struct World {
    up: Up,
    machine: Machine,
}

impl World {
    /// `services` are TOML.
    async fn new(services: &str) -> Self {
        let machine = Machine::new(1).await;
        let up = Up::with(&format!("{}{services}", tunnel(&machine))).await;
        Self { up, machine }
    }

    fn data(&self) -> String {
        self.up.ready["data_dir"].as_str().expect("a path").to_owned()
    }

    /// `postern peer …`; what it prints.
    async fn peer(&self, arguments: &[&str]) -> String {
        peer(&self.data(), arguments).await
    }

    /// Adds a peer and keeps its file.
    async fn conf(&self, name: &str, groups: &str) -> Conf {
        let text = self.peer(&["add", name, "--user", "you@example.com", "--groups", groups]).await;
        Conf::kept(self.up.folder.path(), name, text)
    }

    /// curl on the machine, through its tunnel.
    async fn get(&self, conf: &Conf, url: &str) -> Answer {
        self.curl(conf, &format!("-m 10 {url}")).await
    }

    async fn curl(&self, conf: &Conf, arguments: &str) -> Answer {
        curl(&self.machine, &self.up.ca(), conf, arguments).await
    }
}

/// curl as a shell starts it, through the tunnel of a machine.
fn curl_line(ca: &Path, conf: &Conf, arguments: &str) -> String {
    format!("curl -sS --cacert {} {} {arguments}", ca.display(), conf.resolve())
}

async fn curl(machine: &Machine, ca: &Path, conf: &Conf, arguments: &str) -> Answer {
    let line = curl_line(ca, conf, &format!("-w '\\n%{{http_code}}' {arguments}"));
    let output = machine.command("sh").args(["-c", &line]).output().await.expect("sh and curl are installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", "000"));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    Answer { status: status.parse().unwrap_or_default(), body: body.to_owned(), error, ok: output.status.success() }
}

/// Where a machine finds the proxy; it listens on the port that is told.
fn tunnel(machine: &Machine) -> String {
    format!("[tunnel]\nendpoint = \"{}:51820\"\n", machine.gateway())
}

/// What stands on the output, and nothing of the error stream: as a pipe carries it.
async fn peer(data: &str, arguments: &[&str]) -> String {
    let command = tokio::process::Command::new(binary())
        .arg("peer")
        .args(arguments)
        .args(["--data-dir", data])
        .kill_on_drop(true)
        .output();
    let output = within("postern peer", command).await.expect("it runs");
    assert!(output.status.success(), "{arguments:?}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[derive(Debug)]
struct Answer {
    status: u16,
    body: String,
    error: String,
    ok: bool,
}

impl Answer {
    fn header(&self, name: &str) -> Option<String> {
        let seen: Value = serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("JSON in {self:?}"));
        seen[name].as_str().map(str::to_owned)
    }
}

/// A printed wg-quick file.
struct Conf {
    path: PathBuf,
    text: String,
}

impl Conf {
    fn kept(folder: &Path, name: &str, text: String) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.join(format!("{name}.conf"));
        std::fs::write(&path, &text).expect("the folder is writable");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
        Self { path, text }
    }

    /// The proxy's IPv4 address in the tunnel.
    fn proxy(&self) -> String {
        let allowed = self.text.lines().find_map(|line| line.strip_prefix("AllowedIPs = ")).expect("AllowedIPs");
        allowed.split(['/', ',']).next().expect("an address").to_owned()
    }

    /// The addresses of the device itself, IPv4 first.
    fn own(&self) -> String {
        let own = self.text.lines().find_map(|line| line.strip_prefix("Address = ")).expect("Address");
        own.split(['/', ',']).next().expect("an address").to_owned()
    }

    /// curl's words for every name that any test uses: who may open what is not for the file to decide.
    fn resolve(&self) -> String {
        let proxy = self.proxy();
        let names = ["inside.test", "other.test", "open.test", "nobody.test"];
        names.iter().flat_map(|name| [443, 80].map(|port| format!("--resolve {name}:{port}:{proxy} "))).collect()
    }
}

/// Answers with the headers it received, as JSON.
async fn mirror() -> Upstream {
    Upstream::answering(|received: &Received| {
        let headers: serde_json::Map<String, Value> = received
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
            .collect();
        Response::new(full(Value::from(headers).to_string()))
    })
    .await
}

fn service(name: &str, upstream: &str, access: &str) -> String {
    format!("[service.{name}]\nhost = \"{name}.test\"\nupstream = \"{upstream}\"\naccess = {access}\n")
}

fn private(upstream: &Upstream) -> String {
    service("inside", &upstream.url(), "{ private = [\"eng\"] }")
}

#[tokio::test]
#[ignore = "run by another test, in a namespace"]
async fn opens_its_services() {
    let upstream = mirror().await;
    let services = [
        private(&upstream),
        service("other", &upstream.url(), "{ private = [\"ops\"] }"),
        service("nobody", &upstream.url(), "{ private = [] }"),
        service("open", &upstream.url(), "\"open\""),
    ];
    let world = World::new(&services.concat()).await;
    let conf = world.conf("laptop", "eng").await;
    assert!(conf.text.contains("inside.test") && !conf.text.contains("other.test"), "{}", conf.text);
    let _device = WireGuard::up(&world.machine, &conf.path).await;

    let claimed = "-H 'X-NetBird-User: root' -H 'X_NetBird-Groups: admin' -H 'X-Forwarded-For: 10.1.2.3'";
    for url in ["https://inside.test/", "http://inside.test/"] {
        let answer = world.curl(&conf, &format!("-m 10 {claimed} {url}")).await;
        assert_eq!(answer.status, 200, "{url}: {answer:?}");
        assert_eq!(answer.header("x-netbird-user").as_deref(), Some("you@example.com"), "{answer:?}");
        assert_eq!(answer.header("x-netbird-groups").as_deref(), Some("eng"), "{answer:?}");
        assert_eq!(answer.header("x-forwarded-for"), Some(conf.own()), "{answer:?}");
        assert!(!answer.body.contains("root") && !answer.body.contains("admin"), "{answer:?}");
    }
    for (url, status) in [("https://other.test/", 403), ("https://nobody.test/", 403), ("https://open.test/", 200)] {
        assert_eq!(world.get(&conf, url).await.status, status, "{url}");
    }
    // S14: what listens on this machine is not reached by way of the proxy's address in the tunnel.
    for listener in ["https", "management", "health"] {
        let address = world.up.ready[listener].as_str().expect("an address");
        let port = address.rsplit(':').next().expect("a port");
        let refused = world.get(&conf, &format!("http://{}:{port}/", conf.proxy())).await;
        assert!(!refused.ok && refused.error.contains("(7)"), "{listener}: {refused:?}");
    }
    // One that the account does not have: the handshake ends there.
    let unknown = world.get(&conf, &format!("--connect-to ::{}:443 https://unknown.test/", conf.proxy())).await;
    assert!(!unknown.ok && unknown.status == 0, "{unknown:?}");

    // The public listener knows nothing of it: neither by SNI nor by Host nor for an address that claims to be a peer's.
    let client = world.up.client();
    assert_eq!(client.get("open.test", "/").await.status, StatusCode::OK);
    let before = upstream.received().len();
    let https = world.up.https();
    let by_sni = format!(
        "curl -sS -k -m 10 --resolve inside.test:{0}:127.0.0.1 https://inside.test:{0}/ 2>&1 || true",
        https.port()
    );
    assert!(sh(&by_sni).await.contains("unrecognized"), "a private name is unknown to the public listener");
    let by_host = |host: &str| {
        let head = format!("-H 'Host: {host}' -H 'X-Forwarded-For: {}'", conf.own());
        let at = format!("--resolve open.test:{0}:127.0.0.1 https://open.test:{0}/", https.port());
        format!("curl -sS -k -m 10 -o /dev/null -w '%{{http_code}}' {head} {at}")
    };
    let (private, unknown) = (sh(&by_host("inside.test")).await, sh(&by_host("unknown.test")).await);
    assert_eq!((private.as_str(), unknown.as_str()), ("421", "421"));
    assert_eq!(upstream.received().len(), before, "nothing of it reached the upstream");
}

#[tokio::test]
#[ignore = "run by another test, in a namespace"]
async fn large_bodies() {
    const SIZE: usize = 256 << 20;
    let whole = pattern(SIZE);
    let answer = whole.clone();
    let upstream = Upstream::answering(move |_| Response::new(full(answer.clone()))).await;
    let world = World::new(&private(&upstream)).await;
    let conf = world.conf("laptop", "eng").await;
    let _device = WireGuard::up(&world.machine, &conf.path).await;
    transfer(&world, &conf, &upstream, &whole).await;
}

#[tokio::test]
#[ignore = "run by another test, in a namespace"]
async fn lossy() {
    let whole = pattern(16 << 20);
    let answer = whole.clone();
    let upstream = Upstream::answering(move |_| Response::new(full(answer.clone()))).await;
    let world = World::new(&private(&upstream)).await;
    let conf = world.conf("laptop", "eng").await;
    let device = WireGuard::up(&world.machine, &conf.path).await;
    // Offloads would let a rule drop whole super-datagrams.
    let off = "gso off gro off tso off tx-udp-segmentation off";
    sh(&format!("ethtool -K {} {off}", world.machine.cable())).await;
    world.machine.sh(&format!("ethtool -K far {off}")).await;
    let rule = "table inet imp { chain in { type filter hook input priority 0; \
        udp length > 200 numgen random mod 100 < 1 counter drop; }; }";
    sh(&format!("nft '{rule}'")).await;
    world.machine.sh(&format!("nft '{rule}'")).await;
    transfer(&world, &conf, &upstream, &whole).await;
    let counted = |text: &str| -> u64 {
        let after = text.split("packets ").nth(1).expect("a counter");
        after.split(' ').next().and_then(|count| count.parse().ok()).expect("a number")
    };
    let (near, far) = (sh("nft list ruleset").await, world.machine.sh("nft list ruleset").await);
    for text in [&near, &far] {
        assert!(counted(text) > 30, "16 MiB are 12,000 packets, about 120 of which are lost:\n{text}");
    }
    drop(device);
}

/// `whole` down and up, byte for byte.
async fn transfer(world: &World, conf: &Conf, upstream: &Upstream, whole: &Bytes) {
    let folder = world.up.folder.path();
    let (down, up) = (folder.join("down"), folder.join("up"));
    let answer = world.curl(conf, &format!("-m 120 -o {} https://inside.test/", down.display())).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(std::fs::read(&down).expect("it came") == *whole, "every byte came, in order");
    std::fs::write(&up, whole).expect("the folder is writable");
    let answer = world.curl(conf, &format!("-m 120 -o /dev/null -T {} https://inside.test/", up.display())).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let received = upstream.received().pop().expect("an upload");
    assert!(received.body == *whole, "every byte went, in order");
}

/// Bytes of which no two stretches are alike.
fn pattern(size: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.into()
}

#[tokio::test]
#[ignore = "run by another test, in a namespace"]
async fn moves() {
    let whole = pattern(8 << 20);
    let answer = whole.clone();
    let upstream = Upstream::answering(move |_| Response::new(full(answer.clone()))).await;
    let world = World::new(&private(&upstream)).await;
    let conf = world.conf("laptop", "eng").await;
    let device = WireGuard::up(&world.machine, &conf.path).await;
    // Another port in the middle of a download, then another address: as after a change of network.
    let down = world.up.folder.path().join("down");
    let arguments = format!("-m 60 --limit-rate 4M -o {} https://inside.test/", down.display());
    let downloading = world.curl(&conf, &arguments);
    let moving = async {
        let begun = || async { (std::fs::metadata(&down).ok()?.len() > 1 << 20).then_some(()) };
        eventually("the download to be under way", begun).await;
        world.machine.sh(&format!("wg set {} listen-port 40404", device.name())).await;
    };
    let (answer, ()) = tokio::join!(downloading, moving);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(std::fs::read(&down).expect("it came") == whole, "every byte came, in order");
    world.machine.sh("ip addr del 10.77.1.2/24 dev far && ip addr add 10.77.1.9/24 dev far").await;
    let small = "-m 10 -o /dev/null https://inside.test/";
    let moved = || async { (world.curl(&conf, small).await.status == 200).then_some(()) };
    eventually("the peer at its new address", moved).await;
}

#[tokio::test]
#[ignore = "run by another test, in a namespace"]
async fn dies() {
    let upstream = mirror().await;
    let mut world = World::new(&private(&upstream)).await;
    let conf = world.conf("laptop", "eng").await;
    let device = WireGuard::up(&world.machine, &conf.path).await;
    assert_eq!(world.get(&conf, "https://inside.test/").await.status, 200);

    device.kill().await;
    let _device = WireGuard::up(&world.machine, &conf.path).await;
    let back = || async { (world.get(&conf, "https://inside.test/").await.status == 200).then_some(()) };
    eventually("the peer after its own crash", back).await;

    // Port, key and address are as before, so that the file still fits.
    let path = |name: &str| world.up.folder.path().join(name).into_os_string().into_string().expect("UTF-8");
    let arguments = ["up", &path("postern.toml"), "--data-dir", &path("data"), "--https", "127.0.0.1:0"];
    let arguments = [&arguments[..], &["--management", "127.0.0.1:0", "--health-addr", ""]].concat();
    let again = arguments.iter().map(ToString::to_string).collect::<Vec<_>>();
    std::mem::replace(&mut world.up.process, Postern::start(&["--version"], &[])).kill().await;
    world.up.process = Postern::start(&again, &[]);
    let back = || async { (world.get(&conf, "https://inside.test/").await.status == 200).then_some(()) };
    eventually("the proxy after its crash", back).await;
}

#[tokio::test]
#[ignore = "run by another test, in a namespace"]
async fn other_key() {
    let upstream = mirror().await;
    let world = World::new(&private(&upstream)).await;
    let conf = world.conf("laptop", "eng").await;
    let device = WireGuard::up(&world.machine, &conf.path).await;
    assert_eq!(world.get(&conf, "https://inside.test/").await.status, 200);

    let set = "umask 077; wg genkey > /tmp/pt-key-$$; wg set DEVICE private-key /tmp/pt-key-$$; \
        wg pubkey < /tmp/pt-key-$$; rm /tmp/pt-key-$$";
    let public = world.machine.sh(&set.replace("DEVICE", device.name())).await;
    let refused = world.curl(&conf, "-m 3 https://inside.test/").await;
    assert!(!refused.ok, "an unknown key gets no answer: {refused:?}");

    // The device makes its key itself and tells only the public half.
    world.peer(&["remove", "laptop"]).await;
    let text = world
        .peer(&["add", "laptop", "--user", "you@example.com", "--groups", "eng", "--public-key", public.trim()])
        .await;
    assert!(!text.lines().any(|line| line.starts_with("PrivateKey")), "{text}");
    let fresh = Conf::kept(world.up.folder.path(), "fresh", text);
    world.machine.sh(&format!("ip addr flush dev {0} && ip addr add {1}/32 dev {0}", device.name(), fresh.own())).await;
    world.machine.sh(&format!("ip route replace {}/32 dev {}", fresh.proxy(), device.name())).await;
    assert_ne!(fresh.own(), conf.own(), "an address is not given again at once");
    let known = || async { (world.curl(&fresh, "-m 3 https://inside.test/").await.status == 200).then_some(()) };
    eventually("the new key to be known", known).await;
}

/// S16, by way of the file and by way of `postern peer`, with four machines. Each is told another endpoint.
#[tokio::test]
#[ignore = "run by another test, in a namespace"]
async fn revoked() {
    let holds = Holds::default();
    let upstream = endless(&holds).await;
    let user = |name: &str, groups: &str| format!("[user.{name}]\ngroups = [{groups}]\n");
    let (alice, bob, dave) = (user("alice", "'eng'"), user("bob", "'eng'"), user("dave", "'eng'"));
    let file = |users: &[&str]| format!("[tunnel]\nport = 51820\n{}{}", users.concat(), private(&upstream));
    let up = Up::with(&file(&[&alice, &bob, &dave])).await;
    let mut machines = Vec::new();
    for number in 1..=4 {
        machines.push(Machine::new(number).await);
    }
    let mut guests = Vec::new();
    for (machine, who) in machines.iter().zip(["--user alice", "--user bob", "--groups eng", "--user dave"]) {
        guests.push(Guest::new(&up, machine, who).await);
    }
    let mut downloads = Vec::new();
    for guest in &guests {
        downloads.push(Download::begin(guest, &holds, &guest.conf.own()).await);
    }
    let [of_alice, of_bob, of_carol, mut of_dave] = <[_; 4]>::try_from(downloads).ok().expect("four");

    up.configure(&file(&[&bob, &dave]));
    of_alice.breaks_off("whose user is removed").await;
    of_dave.goes_on().await;
    up.configure(&file(&[&user("bob", ""), &dave]));
    of_bob.breaks_off("whose user has lost the group").await;
    of_dave.goes_on().await;
    peer(&guests[2].data, &["remove", "guest3"]).await;
    of_carol.breaks_off("which is removed").await;
    of_dave.goes_on().await;

    // And nothing new begins.
    let nobody = "-m 3 https://inside.test/again";
    assert!(!guests[0].curl(nobody).await.ok && !guests[2].curl(nobody).await.ok);
    let refused = || async { (guests[1].curl("-m 3 https://inside.test/again").await.status == 403).then_some(()) };
    eventually("the one without the group to be refused", refused).await;
    assert!(!holds.lock().contains_key("/again"), "the upstream has not heard of it");
    let _twin = Download::begin(&guests[3], &holds, "again").await;
}

/// What the upstream says to whom it answers, by path.
type Holds = Arc<Mutex<BTreeMap<String, mpsc::Sender<Result<Frame<Bytes>, std::convert::Infallible>>>>>;

/// Begins an answer to every request, and ends none.
async fn endless(holds: &Holds) -> Upstream {
    let holds = Arc::clone(holds);
    Upstream::answering(move |received: &Received| {
        let (hold, body) = streamed();
        hold.try_send(Ok(Frame::data(Bytes::from_static(b"begun\n")))).expect("there is room");
        holds.lock().insert(received.target.clone(), hold);
        Response::new(body)
    })
    .await
}

/// A peer on a machine of its own.
struct Guest<'a> {
    machine: &'a Machine,
    conf: Conf,
    ca: PathBuf,
    data: String,
    _device: WireGuard<'a>,
}

impl<'a> Guest<'a> {
    /// `who` are arguments of `postern peer add`.
    async fn new(up: &Up, machine: &'a Machine, who: &str) -> Self {
        let data = up.ready["data_dir"].as_str().expect("a path").to_owned();
        let (name, endpoint) = (format!("guest{}", machine.number()), format!("{}:51820", machine.gateway()));
        let arguments = [&["add", &name, "--endpoint", &endpoint][..], &who.split(' ').collect::<Vec<_>>()].concat();
        let conf = Conf::kept(up.folder.path(), &name, peer(&data, &arguments).await);
        let device = WireGuard::up(machine, &conf.path).await;
        Self { machine, conf, ca: up.ca(), data, _device: device }
    }

    async fn curl(&self, arguments: &str) -> Answer {
        curl(self.machine, &self.ca, &self.conf, arguments).await
    }
}

/// A download that the upstream never ends, and curl not before minutes have passed.
struct Download {
    curl: Child,
    lines: Lines<BufReader<ChildStdout>>,
    hold: mpsc::Sender<Result<Frame<Bytes>, std::convert::Infallible>>,
}

impl Download {
    async fn begin(guest: &Guest<'_>, holds: &Holds, path: &str) -> Self {
        let line = curl_line(&guest.ca, &guest.conf, &format!("-N -m 300 https://inside.test/{path}"));
        let mut curl = guest.machine.command("sh");
        let mut curl = curl.args(["-c", &format!("exec {line}")]).stdout(Stdio::piped()).spawn().expect("curl runs");
        let mut lines = BufReader::new(curl.stdout.take().expect("piped")).lines();
        let first = within("the download to begin", lines.next_line()).await.expect("UTF-8");
        assert_eq!(first.as_deref(), Some("begun"));
        let hold = holds.lock().get(&format!("/{path}")).expect("the upstream was asked").clone();
        Self { curl, lines, hold }
    }

    async fn goes_on(&mut self) {
        self.hold.send(Ok(Frame::data(Bytes::from_static(b"more\n")))).await.expect("the upstream is still asked");
        let line = within("the download to go on", self.lines.next_line()).await.expect("UTF-8");
        assert_eq!(line.as_deref(), Some("more"));
    }

    /// Within a second, of which a busy machine makes a few; nothing else ends it so soon.
    async fn breaks_off(mut self, why: &str) {
        let ended = tokio::time::timeout(Duration::from_secs(5), self.curl.wait()).await;
        let status =
            ended.unwrap_or_else(|_| panic!("the download of the peer {why} goes on")).expect("it was started");
        assert!(!status.success(), "the download of the peer {why} is not whole");
    }
}

#[tokio::test]
#[ignore = "run by another test, in a namespace"]
async fn wg_quick() {
    let upstream = mirror().await;
    let world = World::new(&private(&upstream)).await;
    // wg-quick takes the name of the device from the file's.
    let name = format!("ptq{}", std::process::id());
    let conf = world.conf(&name, "eng").await;
    let path = conf.path.display();
    let up = format!("WG_QUICK_USERSPACE_IMPLEMENTATION=wireguard-go wg-quick up {path} 2>&1");
    world.machine.sh(&up).await;
    let answer = world.get(&conf, "https://inside.test/").await;
    world.machine.sh(&format!("wg-quick down {path} 2>&1")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
#[ignore = "run by another test, in a namespace"]
async fn upstream_at_a_peer() {
    let machine = Machine::new(1).await;
    let far = service("far", "tunnel://origin:8000", "\"open\"\ntimeout = \"5s\"");
    let up = Up::with(&format!("{}{far}", tunnel(&machine))).await;
    let world = World { up, machine };
    let client = world.up.client();
    assert_eq!(client.get("far.test", "/").await.status, StatusCode::BAD_GATEWAY, "no peer, no answer, no other way");
    let conf = world.conf("origin", "").await;
    let device = WireGuard::up(&world.machine, &conf.path).await;
    let serve = format!(
        "from http.server import *\nclass H(BaseHTTPRequestHandler):\n def do_GET(s):\n  s.send_response(200)\n  \
         s.send_header('Content-Length','3')\n  s.end_headers()\n  s.wfile.write(b'far')\nHTTPServer(('{}',8000),H).serve_forever()",
        conf.own()
    );
    let _server = world.machine.command("python3").args(["-c", &serve]).spawn().expect("python3 is installed");
    eventually("the upstream through the tunnel", || async {
        (client.get("far.test", "/").await.text() == "far").then_some(())
    })
    .await;
    // S36: gone, and not reached in any other way.
    device.kill().await;
    let decoy = Decoy::at(format!("{}:8000", conf.own()).parse().expect("an address")).await;
    let gone = || async {
        let answer = client.get("far.test", "/").await;
        matches!(answer.status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT).then_some(answer)
    };
    eventually("the tunnel to be found down", gone).await;
    decoy.assert_nobody_came();
}

/// S13: who comes to the public listener is nobody's peer, whatever address it comes from or claims.
#[tokio::test]
#[ignore = "run by another test, in a namespace"]
async fn public_sources() {
    let upstream = mirror().await;
    let machine = Machine::new(1).await;
    let listener = "[proxy]\nhttps = \"[::]:8443\"\n";
    let open = service("open", &upstream.url(), "\"open\"");
    let up = Up::with_flags(&format!("{listener}{}{open}{}", tunnel(&machine), private(&upstream)), &[]).await;
    let world = World { up, machine };
    let conf = world.conf("laptop", "eng").await;
    let _device = WireGuard::up(&world.machine, &conf.path).await;
    let inside = world.get(&conf, "https://inside.test/").await;
    assert_eq!(
        inside.header("x-netbird-user").as_deref(),
        Some("you@example.com"),
        "through the tunnel it is: {inside:?}"
    );

    let own = conf.own();
    for source in ["10.1.2.3", "100.64.0.7", &own, "192.168.7.7", "fd7a:706f:7374::2", "fc00::1"] {
        // An IPv6 address cannot be used while it is looked for elsewhere, on loopback too.
        let bits = if source.contains(':') { "128 nodad" } else { "32" };
        sh(&format!("ip addr add {source}/{bits} dev lo")).await;
        let to = if source.contains(':') { "[::1]" } else { "127.0.0.1" };
        let curl = |host: &str, url: &str| {
            let claims = format!("-H 'X-Forwarded-For: {own}' -H 'X-Real-IP: {own}' -H 'Forwarded: for={own}'");
            format!(
                "curl -sS -k -m 10 --interface {source} --resolve {host}:8443:{to} {claims} -H 'X-NetBird-User: root' {url} 2>&1 || true"
            )
        };
        let answer = sh(&curl("open.test", "https://open.test:8443/")).await;
        let seen: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{source}: what came: {answer}"));
        assert_eq!(
            (&seen["x-netbird-user"], &seen["x-netbird-groups"]),
            (&Value::Null, &Value::Null),
            "{source}: {seen}"
        );
        assert_eq!(seen["x-forwarded-for"], source, "{seen}");
        let refused = sh(&curl("inside.test", "https://inside.test:8443/")).await;
        assert!(refused.contains("unrecognized"), "{source}: {refused}");
        let host = "-H 'Host: inside.test' -o /dev/null -w '%{http_code}' https://open.test:8443/";
        assert!(sh(&curl("open.test", host)).await.contains("421"), "{source}");
    }
}
