use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use postern_model::{
    HostName, PathMapping, PathRewrite, Restrictions, Scheme, Secret, ServiceId, Target, TargetOptions,
};
use proptest::prelude::*;

use super::*;
use crate::desired::{Access, LogLevel, Password, Service, TlsFiles, User};

const GOOD: &str = r#"
[proxy]
https = "127.0.0.1:8443"
trusted_proxies = ["10.0.0.0/8", "192.0.2.7"]

[management]
listen = "[::1]:33073"
tls_cert = "server.pem"
tls_key = "/etc/postern/server-key.pem"
names = ["postern.example.com"]

[tunnel]
network = "10.7.0.0/16"
mtu = 1_280
endpoint = "vpn.example.com:51820"
port = 51820

[log]
level = "debug"

[user.alice]
password = "correct horse"
groups = ["staff", "ops"]

[user."bob@example.com"]
password_hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$r0zIuvRLc1xZ7pgGPkVdWTtMbRLZyGMX7GpNeEgB4AA"

[user.carol]
groups = ["eng"]

[service.inside]
host = "inside.example.com"
upstream = "tunnel://Nas.1:8080/app?x=1"
access = { private = ["eng", "ops"] }

[[service.inside.path]]
path = "/secure"
upstream = "tunnel+https://printer:443"

[service.nobodys]
host = "nobodys.example.com"
upstream = "http://127.0.0.1:3000"
access = { private = [] }

[service.hello]
host = "Hello.Example.com."
upstream = "http://127.0.0.1:3000"
access = "open"

[service.vault]
host = "vault.example.com"
upstream = "https://10.0.0.7/base"
access = { basic = ["alice", "bob@example.com"] }
pass_host_header = true
rewrite_redirects = false
headers = { X-Api-Key = "k", "X-Other" = "o" }
allow = ["10.0.0.0/8"]
block = ["10.6.6.6"]
timeout = "30s"
skip_tls_verify = true

[[service.vault.path]]
path = "/api"
upstream = "http://127.0.0.1:4000"
strip = false
"#;

fn read(text: &str) -> Result<Desired, Vec<Mistake>> {
    parse(text, Path::new("/srv"))
}

#[test]
fn a_good_file_reads_as_it_is_written() {
    let desired = read(GOOD).expect("good");
    assert_eq!(desired.settings.proxy.https, Some("127.0.0.1:8443".parse().expect("address")));
    assert_eq!(desired.settings.proxy.trusted_proxies.len(), 2);
    let files = TlsFiles { certificate: "/srv/server.pem".into(), key: "/etc/postern/server-key.pem".into() };
    assert_eq!(desired.settings.management.tls, Some(files));
    assert_eq!(desired.settings.log_level, Some(LogLevel::Debug));
    let tunnel = &desired.settings.tunnel;
    assert_eq!(tunnel.network, Some("10.7.0.0/16".parse().expect("range")));
    assert_eq!((tunnel.mtu, tunnel.port), (Some(1280), Some(51820)));
    assert_eq!(tunnel.endpoint.as_ref().map(ToString::to_string), Some("vpn.example.com:51820".to_owned()));
    assert_eq!(desired.users["alice"].password, Some(Password::Plain(Secret::from("correct horse"))));
    assert_eq!(desired.users["carol"], User { password: None, groups: vec!["eng".into()] });
    assert_eq!(desired.users["alice"].groups, ["staff", "ops"]);
    let service = |id: &str| &desired.services[&ServiceId::parse(id).expect("id")];
    assert_eq!(service("hello").host.as_str(), "hello.example.com");
    assert_eq!(service("hello").access, Access::Open);
    assert!(service("hello").rewrite_redirects && !service("hello").pass_host_header);
    let inside = service("inside");
    assert_eq!(inside.access, Access::Private(["eng".to_owned(), "ops".to_owned()].into()));
    assert_eq!(service("nobodys").access, Access::Private(BTreeSet::new()), "an empty list lets nobody in");
    let [root, secure] = inside.paths.as_slice() else { panic!("two paths: {:?}", inside.paths) };
    assert_eq!((&*root.target.host, root.target.port, &*root.target.path), ("Nas.1", 8080, "/app"));
    assert_eq!((secure.target.scheme, &*secure.target.host), (Scheme::Https, "printer"));
    assert!(inside.paths.iter().all(|path| !path.options.direct_upstream), "never over the host's network");
    let vault = service("vault");
    assert_eq!(vault.access, Access::Basic(vec!["alice".into(), "bob@example.com".into()]));
    let [root, api] = vault.paths.as_slice() else { panic!("two paths: {:?}", vault.paths) };
    assert_eq!((root.path.as_str(), root.target.to_string().as_str()), ("/", "https://10.0.0.7/base"));
    assert_eq!((api.path.as_str(), api.options.path_rewrite), ("/api", PathRewrite::Preserve));
    for path in &vault.paths {
        assert!(path.options.direct_upstream && path.options.skip_tls_verify);
        assert_eq!(path.options.request_timeout, Some(Duration::from_secs(30)));
        assert_eq!(path.options.custom_headers.len(), 2);
    }
    assert_eq!((vault.restrictions.allowed_cidrs.len(), vault.restrictions.blocked_cidrs.len()), (1, 1));
}

/// A text with one mistake in it, the line it stands in, and what message and remedy must say.
const MISTAKES: &[(&str, usize, &str, &str)] = &[
    ("", 1, "empty", "add a service"),
    ("\n\n[service.app\n", 3, "not TOML", "toml.io"),
    ("[log]\nlevel = 'info'\nlevel = 'warn'", 3, "not TOML", "toml.io"),
    ("\n[servce.app]\n", 2, "unknown key `servce` in this file", "did you mean `service`?"),
    ("[colour]\n", 1, "unknown key `colour`", "known here: service, user, proxy"),
    ("service = 3", 1, "`service` in this file must be a table, not a number", "[service.app]"),
    ("[service]\napp = 'x'", 2, "must be a table, not a text", "[service.app]"),
    ("[proxy]\nhttps = 8443", 2, "`https` in [proxy] must be a text in quotes, not a number", "127.0.0.1:8443"),
    ("[proxy]\nhttps = 'localhost'", 2, "`localhost` is not an address and a port", "127.0.0.1:8443"),
    ("[proxy]\ntrusted_proxies = ['10.0.0.0/33']", 2, "not an address range", "10.0.0.0/8"),
    ("[proxy]\ntrusted_proxies = ['10.0.0.1/8']", 2, "bits after its prefix", "write \"10.0.0.0/8\""),
    ("[proxy]\ntrusted_proxies = '10.0.0.0/8'", 2, "must be a list of texts", "trusted_proxies = ["),
    ("[proxy]\nhtps = '127.0.0.1:1'", 2, "unknown key `htps` in [proxy]", "did you mean `https`?"),
    ("[proxy]\ntls_cert = 'a.pem'", 1, "[proxy] has no `tls_key`", "private key"),
    ("[management]\ntls_key = 'a.pem'", 1, "[management] has no `tls_cert`", "certificate"),
    ("[management]\ntls_key = ''\ntls_cert = 'c'", 2, "names no file", "PEM"),
    ("[management]\ntls_cert = 'c'\ntls_key = 'k'\nallow_plaintext = true", 4, "allow_plaintext", "keep one"),
    ("[management]\nallow_plaintext = 'yes'", 2, "must be true or false, not a text", "allow_plaintext = true"),
    ("[management]\nnames = ['https://x']", 2, "not a host name", "bare name"),
    ("[log]\nlevel = 'inof'", 2, "`inof` is not a log level", "did you mean \"info\"?"),
    ("[log]\nlevel = 'loud'", 2, "`loud` is not a log level", "error, warn, info"),
    (
        "[user.alice]\n[service.a]\nhost='a.b'\nupstream='http://x'\naccess={basic=['alice']}",
        5,
        "`alice` has no password",
        "password_hash",
    ),
    ("[tunnel]\nnetwork = '8.8.0.0/16'", 2, "cannot be the tunnel's network", "private IPv4 range"),
    ("[tunnel]\nnetwork = '10.0.0.0/30'", 2, "cannot be the tunnel's network", "from /8 to /29"),
    ("[tunnel]\nnetwork = '10.0.0.1/16'", 2, "cannot be the tunnel's network", "private IPv4 range"),
    ("[tunnel]\nmtu = 1279", 2, "not a number from 1280 to 9000", "mtu = 1420"),
    ("[tunnel]\nmtu = '1420'", 2, "must be a number, not a text", "mtu = 1420"),
    ("[tunnel]\nport = 0", 2, "not a number from 1 to 65535", "port = 51820"),
    ("[tunnel]\nport = 65536", 2, "not a number from 1 to 65535", "port = 51820"),
    ("[tunnel]\nendpoint = 'vpn.example.com'", 2, "with a port", "where peers reach"),
    ("[tunnel]\nendpiont = 'x:1'", 2, "unknown key `endpiont` in [tunnel]", "did you mean `endpoint`?"),
    ("[user.alice]\npassword = ''", 2, "the password is empty", "choose one"),
    ("[user.alice]\npassword = 5", 2, "must be a text in quotes", "password = "),
    ("[user.alice]\npassword = 'a'\npassword_hash = 'b'", 3, "cannot be used", "Argon2id"),
    ("[user.alice]\npassword_hash = '$2y$10$abcdefghijklmnopqrstuu'", 2, "cannot be used", "Argon2id"),
    ("[user.alice]\npasword = 'a'\npassword = 'b'", 2, "unknown key `pasword`", "did you mean `password`?"),
    ("[user.alice]\npassword = 'a'\ngroups = 'staff'", 3, "must be a list of texts", "groups = ["),
    ("[user.alice]\npassword = 'a'\ngroups = ['a,b']", 3, "cannot be a group name", "commas"),
    ("[user.'a:b']\npassword = 'a'", 1, "`a:b` cannot be a user name", "colons"),
    ("[user]\nalice = 'x'", 2, "must be a table", "[user.alice]"),
    ("[service.'a b']\nhost='a.b'\nupstream='http://x'\naccess='open'", 1, "cannot name a service", "letters"),
    ("[service.a]\nupstream='http://x'\naccess='open'", 1, "[service.a] has no `host`", "host = "),
    ("[service.a]\nhost='https://a.b'\nupstream='http://x'\naccess='open'", 2, "not a host name", "without scheme"),
    ("[service.a]\nhost='10.0.0.1'\nupstream='http://x'\naccess='open'", 2, "an address, not a name", "bare name"),
    ("[service.a]\nhost='a.b'\naccess='open'", 1, "[service.a] has no `upstream`", "upstream = "),
    ("[service.a]\nhost='a.b'\nupstream='localhost:3000'\naccess='open'", 3, "not an upstream URL", "http://host:port"),
    ("[service.a]\nhost='a.b'\nupstream='ftp://x'\naccess='open'", 3, "neither http nor https", "http://host:port"),
    ("[service.a]\nhost='a.b'\nupstream='tunnel://peer'\naccess='open'", 3, "it has no port", "tunnel://PEER:port"),
    ("[service.a]\nhost='a.b'\nupstream='tunnel://peer:0'\naccess='open'", 3, "its port is not", "tunnel://PEER:port"),
    ("[service.a]\nhost='a.b'\nupstream='tunnel://a@b:1'\naccess='open'", 3, "cannot name a peer", "peer list"),
    ("[service.a]\nhost='a.b'\nupstream='tunnel://:1'\naccess='open'", 3, "cannot name a peer", "peer list"),
    ("[service.a]\nhost='a.b'\nupstream='tcp://x:1'\naccess='open'", 3, "not there yet", "this machine can reach"),
    ("[service.a]\nhost='a.b'\nupstream='http://x'", 1, "[service.a] has no `access`", "nothing is open by accident"),
    ("[service.a]\nhost='a.b'\nupstream='http://x'\naccess='opne'", 4, "`opne` is no access", "did you mean \"open\"?"),
    ("[service.a]\nhost='a.b'\nupstream='http://x'\naccess='everybody'", 4, "no access", "access = \"open\""),
    (
        "[service.a]\nhost='a.b'\nupstream='http://x'\naccess='private'",
        4,
        "`private` is no access",
        "private = [\"eng\"]",
    ),
    ("[service.a]\nhost='a.b'\nupstream='http://x'\naccess={oidc='x'}", 4, "`oidc` is not there yet", "basic"),
    ("[service.a]\nhost='a.b'\nupstream='http://x'\naccess={private=true}", 4, "must be a list of texts", "[\"eng\"]"),
    ("[service.a]\nhost='a.b'\nupstream='http://x'\naccess={private=['a,b']}", 4, "cannot be a group name", "commas"),
    ("[service.a]\nhost='a.b'\nupstream='http://x'\naccess={private=['a','a']}", 4, "named twice", "remove one"),
    ("[service.a]\nhost='a.b'\nupstream='http://x'\naccess={private=[],basic=[]}", 4, "both `basic` and", "remove one"),
    ("[service.a]\nhost='a.b'\nupstream='http://x'\naccess={}", 4, "names nobody", "basic"),
    ("[service.a]\nhost='a.b'\nupstream='http://x'\naccess=true", 4, "\"open\" or a table, not true or false", "basic"),
    (
        "[service.a]\nhost='a.b'\nupstream='http://x'\naccess={basic='alice'}",
        4,
        "a list of texts, not a text",
        "[\"alice\"]",
    ),
    ("[service.a]\nhost='a.b'\nupstream='http://x'\naccess={basic=[]}", 4, "lists no user", "at least one"),
    ("[service.a]\nhost='a.b'\nupstream='http://x'\naccess={basic=['eve']}", 4, "no user `eve`", "add [user.eve]"),
    (
        "[service.a]\nhost='a.b'\nupstream='http://x'\naccess='open'\nallow=['x']",
        5,
        "not an address range",
        "10.0.0.0/8",
    ),
    (
        "[service.a]\nhost='a.b'\nupstream='http://x'\naccess='open'\nallow=[]",
        5,
        "`allow` in [service.a] is empty",
        "remove",
    ),
    ("[service.a]\nhost='a.b'\nupstream='http://x'\naccess='open'\ntimeout='30'", 5, "`30` is not a time", "30s"),
    ("[service.a]\nhost='a.b'\nupstream='http://x'\naccess='open'\ntimeout='0s'", 5, "not a usable time", "30s"),
    ("[service.a]\nhost='a.b'\nupstream='http://x'\naccess='open'\ntimeout='2000m'", 5, "not a usable time", "60m"),
    (
        "[service.a]\nhost='a.b'\nupstream='http://x'\naccess='open'\nheaders={Host='x'}",
        5,
        "set by the proxy itself",
        "remove",
    ),
    (
        "[service.a]\nhost='a.b'\nupstream='http://x'\naccess='open'\nheaders={X-NetBird-User='x'}",
        5,
        "set by the proxy",
        "remove",
    ),
    (
        "[service.a]\nhost='a.b'\nupstream='http://x'\naccess='open'\nheaders={'a b'='x'}",
        5,
        "not a header name",
        "letters",
    ),
    (
        "[service.a]\nhost='a.b'\nupstream='http://x'\naccess='open'\nheaders={A='x', a='y'}",
        5,
        "set twice",
        "remove one",
    ),
    ("[service.a]\nhost='a.b'\nupstream='http://x'\naccess='open'\nheaders={A=\"x\\ny\"}", 5, "line break", "one line"),
    (
        "[service.a]\nhost='a.b'\nupstream='http://x'\naccess='open'\nheaders={A=1}",
        5,
        "must be a table of texts",
        "X-Api-Key",
    ),
    (
        "[service.a]\nhost='a.b'\nupstream='http://x'\naccess='open'\npath='/x'",
        5,
        "must be a list of tables",
        "[[service",
    ),
    (
        "[service.a]\nhost='a.b'\nupstream='http://x'\naccess='open'\n[[service.a.path]]\npath='/x'",
        5,
        "has no `upstream`",
        "add",
    ),
    (
        "[service.a]\nhost='a.b'\naccess='open'\n[[service.a.path]]\npath='x'\nupstream='http://x'",
        5,
        "begin with `/`",
        "\"/api\"",
    ),
    (
        "[service.a]\nhost='a.b'\naccess='open'\n[[service.a.path]]\npath='/a/../b'\nupstream='http://x'",
        5,
        "segment",
        "/api",
    ),
    (
        "[service.a]\nhost='a.b'\naccess='open'\n[[service.a.path]]\npath='/a?b'\nupstream='http://x'",
        5,
        "character",
        "/api",
    ),
    (
        "[service.a]\nhost='a.b'\nupstream='http://x'\naccess='open'\n[[service.a.path]]\npath='/'\nupstream='http://y'",
        5,
        "the path `/` of [service.a] is given twice",
        "once",
    ),
    (
        "[service.a]\nhost='a.b'\nupstream='http://x'\naccess='open'\n[service.b]\nhost='A.b.'\nupstream='http://x'\naccess='open'",
        6,
        "the host `a.b` is already taken by [service.a] in line 2",
        "a host of its own",
    ),
    (
        "[user.alice]\npassword='x'\n[service.a]\nhost='a.b'\nupstream='http://x'\naccess={basic=['alcie']}",
        6,
        "no user `alcie`",
        "did you mean \"alice\"?",
    ),
    (
        "[user.alice]\npassword='x'\n[service.a]\nhost='a.b'\nupstream='http://x'\naccess={basic=['alice','alice']}",
        6,
        "named twice",
        "remove one",
    ),
];

#[test]
fn each_mistake_has_its_line_and_remedy() {
    for (text, line, message, remedy) in MISTAKES {
        let mistakes = read(text).expect_err(text);
        let hit = |m: &Mistake| m.line == *line && m.message.contains(message) && m.remedy.contains(remedy);
        assert!(mistakes.iter().any(hit), "{text}\nwanted line {line}: {message}; {remedy}\ngot {mistakes:#?}");
    }
}

#[test]
fn all_mistakes_come_at_once_in_order() {
    let text =
        "[user.alice]\npassword = 1\n[service.a]\nhost = 'a b'\nupstream = 'x'\nacess = 'open'\n[log]\nlevel = 'x'";
    let lines: Vec<usize> = read(text).expect_err("bad").iter().map(|mistake| mistake.line).collect();
    assert_eq!(lines, [2, 3, 4, 5, 6, 8]);
}

#[test]
fn a_mistake_repeats_no_secret() {
    let text = "[user.alice]\npassword = \"hush\\n1\"\npassword_hash = 'hush2'\n[service.a]\nhost='a.b'\n\
                upstream='http://u:hush3@x'\naccess='open'\nheaders={A=\"hush4\\n\"}\n";
    let mistakes = read(text).expect_err("bad");
    assert!(mistakes.len() >= 4, "{mistakes:?}");
    assert!(!format!("{mistakes:?}").contains("hush"), "{mistakes:?}");
    let broken = read("[user.alice]\npassword = \"hush\n").expect_err("broken");
    assert!(!format!("{broken:?}").contains("hush"), "{broken:?}");
}

#[test]
fn a_file_that_is_not_text_says_so() {
    let error = parse_bytes(Path::new("x.toml"), b"a = 1\nb = \"\xff\"").expect_err("bad");
    assert!(error.to_string().contains("line 2, column 6: the file is not UTF-8"), "{error}");
    let error = load(Path::new("/nonexistent/postern.toml")).expect_err("missing");
    assert!(error.to_string().starts_with("cannot read /nonexistent/postern.toml"), "{error}");
}

/// What is written for `desired` by the rules that people read.
fn render(desired: &Desired) -> String {
    let mut out = String::from("# rendered\n");
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let list = |items: &[String]| format!("[{}]", items.iter().map(|i| quoted(i)).collect::<Vec<_>>().join(", "));
    for (name, user) in &desired.users {
        writeln!(out, "[user.{}]\ngroups = {}", quoted(name), list(&user.groups)).expect("text");
        match &user.password {
            Some(Password::Plain(plain)) => writeln!(out, "password = {}", quoted(plain.expose())).expect("text"),
            Some(Password::Hash(_)) => panic!("hashes are not generated"),
            None => {}
        }
    }
    for (id, service) in &desired.services {
        writeln!(out, "[service.{}]\nhost = {}", quoted(id.as_str()), quoted(service.host.as_str())).expect("text");
        let access = match &service.access {
            Access::Open => "\"open\"".to_owned(),
            Access::Basic(names) => format!("{{ basic = {} }}", list(names)),
            Access::Private(groups) => {
                format!("{{ private = {} }}", list(&groups.iter().cloned().collect::<Vec<_>>()))
            }
        };
        writeln!(out, "access = {access}").expect("text");
        writeln!(out, "pass_host_header = {}", service.pass_host_header).expect("text");
        writeln!(out, "rewrite_redirects = {}", service.rewrite_redirects).expect("text");
        for path in &service.paths {
            let strip = path.options.path_rewrite == PathRewrite::Strip;
            let target = path.target.to_string();
            let target = if path.options.direct_upstream { target } else { target.replacen("http", "tunnel", 1) };
            let (from, to) = (quoted(&path.path), quoted(&target));
            let name = quoted(id.as_str());
            writeln!(out, "[[service.{name}.path]]\npath = {from}\nupstream = {to}\nstrip = {strip}").expect("text");
        }
    }
    out
}

fn users() -> impl Strategy<Value = Vec<(String, User)>> {
    let user = (
        "[a-z][a-z.@ ]{0,8}[a-z]",
        prop::option::weighted(0.8, "[^\\x00-\\x1f\\x7f\u{80}-\u{9f}]{1,20}"),
        prop::collection::vec("[a-z]{1,5}", 0..3),
    );
    prop::collection::vec(
        user.prop_map(|(name, password, groups)| {
            (name, User { password: password.map(|plain| Password::Plain(Secret::new(plain))), groups })
        }),
        0..4,
    )
}

type Drawn = (bool, bool, bool, Vec<(String, u16, bool)>);

fn services() -> impl Strategy<Value = Vec<(String, Drawn)>> {
    let path = ("(/[a-z]{1,3}){1,2}", 1u16..9999, any::<bool>());
    let service = (any::<bool>(), any::<bool>(), any::<bool>(), prop::collection::vec(path, 1..4));
    prop::collection::vec(("[a-z][a-z0-9_.-]{0,8}", service), 0..4)
}

fn desired(users: Vec<(String, User)>, services: Vec<(String, Drawn)>) -> Desired {
    let users: std::collections::BTreeMap<_, _> = users.into_iter().collect();
    let names: Vec<_> =
        users.iter().filter(|(_, user)| user.password.is_some()).map(|(name, _)| name.clone()).collect();
    let service = |n: usize, (open, pass_host_header, rewrite_redirects, paths): Drawn| {
        let paths: std::collections::BTreeMap<_, _> = paths.into_iter().map(|(p, port, s)| (p, (port, s))).collect();
        let mapping = |(path, (port, strip)): (String, (u16, bool))| PathMapping {
            path,
            target: Target::parse(&format!("http://h:{port}/x?y=1")).expect("url"),
            options: TargetOptions {
                direct_upstream: port % 2 == 0,
                path_rewrite: if strip { PathRewrite::Strip } else { PathRewrite::Preserve },
                ..TargetOptions::default()
            },
        };
        Service {
            host: HostName::parse(&format!("h{n}.example")).expect("host"),
            access: match (open, pass_host_header) {
                (true, true) => Access::Private((0..n).map(|group| format!("group {group}")).collect()),
                (false, _) if !names.is_empty() => Access::Basic(names.clone()),
                (true | false, _) => Access::Open,
            },
            paths: paths.into_iter().map(mapping).collect(),
            pass_host_header,
            rewrite_redirects,
            restrictions: Restrictions::default(),
        }
    };
    let services = services
        .into_iter()
        .enumerate()
        .map(|(n, (id, drawn))| (ServiceId::parse(&id).expect("id"), service(n, drawn)))
        .collect();
    Desired { users, services, ..Desired::default() }
}

proptest! {
    #[test]
    fn what_is_rendered_reads_back(users in users(), services in services()) {
        let desired = desired(users, services);
        let text = render(&desired);
        prop_assert_eq!(read(&text), Ok(desired), "{}", text);
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = read(&text);
    }

    /// Cuts and splices of a good file come deeper than random characters.
    #[test]
    fn no_damage_panics(from in 0usize..1500, to in 0usize..1500, put in "[\\[\\]{}='\",.a-z0-9\n ü]{0,12}") {
        let floor = |at: usize| (0..=at.min(GOOD.len())).rev().find(|&at| GOOD.is_char_boundary(at)).unwrap_or(0);
        let (from, to) = (floor(from.min(to)), floor(from.max(to)));
        let text = format!("{}{put}{}", &GOOD[..from], &GOOD[to..]);
        if let Err(mistakes) = read(&text) {
            prop_assert!(mistakes.iter().all(|m| m.line <= text.lines().count().max(1) + 1 && !m.remedy.is_empty()));
        }
    }
}
