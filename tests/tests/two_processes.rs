//! `postern management` and `postern proxy` as processes of their own, over real gRPC.

use std::path::Path;

use postern_tests::client::Client;
use postern_tests::process::{Postern, run};
use postern_tests::upstream::Upstream;
use postern_tests::{eventually, lasting_addr};

struct Management {
    folder: tempfile::TempDir,
    process: Postern,
    listen: String,
}

impl Management {
    async fn start(configuration: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listen = lasting_addr().to_string();
        std::fs::write(folder.path().join("postern.toml"), configuration).expect("writable");
        let process = Self::process(folder.path(), &listen);
        process.printed(&listen).await;
        Self { folder, process, listen }
    }

    fn process(folder: &Path, listen: &str) -> Postern {
        let file = folder.join("postern.toml").into_os_string().into_string().expect("UTF-8");
        let data = data(folder);
        Postern::start(&["management", &file, "--data-dir", &data, "--listen", listen], &[])
    }

    async fn token(&self, name: &str) -> String {
        let data = data(self.folder.path());
        let added = || async {
            let (code, output) = run(&["token", "add", name, "--data-dir", &data], &[]).await;
            (code == Some(0)).then_some(output)
        };
        let output = eventually("a token", added).await;
        let token = output.split_whitespace().find(|word| word.starts_with("nbx_")).expect("a token");
        assert_eq!(token.len(), 40, "{token}");
        token.to_owned()
    }

    /// The CA file that `postern management` prints.
    async fn ca(&self) -> String {
        let line = self.process.printed("ca.pem").await;
        line.split(|c: char| c.is_whitespace() || c == '"')
            .find(|word| word.ends_with("ca.pem"))
            .expect("a path")
            .to_owned()
    }
}

fn data(folder: &Path) -> String {
    folder.join("data").into_os_string().into_string().expect("UTF-8")
}

struct Proxy {
    process: Postern,
    client: Client,
    health: String,
    _certs: tempfile::TempDir,
}

async fn proxy(management: &Management, token: &str) -> Proxy {
    let certs = tempfile::tempdir().expect("a folder");
    certificate(certs.path());
    let (addr, health) = (lasting_addr(), lasting_addr().to_string());
    let mgmt = format!("https://{}", management.listen);
    let ca = management.ca().await;
    let cert_dir = certs.path().to_str().expect("UTF-8").to_owned();
    // One dash works as well as two.
    let arguments = [
        "proxy",
        "-mgmt",
        &mgmt,
        "--mgmt-ca",
        &ca,
        "-addr",
        &addr.to_string(),
        "--domain",
        "proxy.test",
        "--cert-dir",
        &cert_dir,
        "--health-addr",
        &health,
    ];
    let process = Postern::start(&arguments, &[("NB_PROXY_TOKEN", token)]);
    let client = Client::new(addr, &certs.path().join("ca.pem"));
    Proxy { process, client, health, _certs: certs }
}

/// `tls.crt` and `tls.key`, where `postern proxy` looks for them, and `ca.pem` that signed them.
fn certificate(folder: &Path) {
    postern_tests::certificate::write(folder, &["app.test", "open.test"]);
}

async fn serves(proxy: &Proxy, host: &str, text: &str) {
    eventually(&format!("{host} to answer {text}"), || async {
        proxy.client.tls(host).await.ok()?;
        (proxy.client.get(host, "/").await.text() == text).then_some(())
    })
    .await;
}

async fn health(proxy: &Proxy, path: &str) -> (u16, String) {
    let text = postern_tests::client::plain_get(&proxy.health, path).await;
    (postern_tests::client::status_of(&text), text)
}

/// `postern status --json` of the management server on this data folder.
async fn status(folder: &Path) -> serde_json::Value {
    let (code, output) = run(&["status", "--json", "--data-dir", &data(folder)], &[]).await;
    assert_eq!(code, Some(0), "{output}");
    serde_json::from_str(&output).expect("JSON")
}

#[tokio::test]
async fn two_proxies_serve_what_one_management_server_says_and_outlive_it() {
    let upstream = Upstream::named("app").await;
    let service = format!("[service.app]\nhost = \"app.test\"\nupstream = \"{}\"\naccess = \"open\"\n", upstream.url());
    let management = Management::start(&service).await;
    let token = management.token("first").await;
    let (one, two) = (proxy(&management, &token).await, proxy(&management, &token).await);
    for proxy in [&one, &two] {
        serves(proxy, "app.test", "app").await;
        assert_eq!(health(proxy, "/healthz/ready").await.0, 200);
        let metrics = health(proxy, "/metrics").await.1;
        assert!(metrics.contains("proxy_http_request_counter_total"), "{metrics}");
    }
    eventually("both proxies in the status", || async {
        let status = status(management.folder.path()).await;
        let connected = status["proxies"].as_array()?.iter().filter(|proxy| proxy["connected"] == true).count();
        (connected == 2 && status["services"][0]["state"] == "active").then_some(())
    })
    .await;

    // Management goes away: services, sessions and readiness stay. It comes back: changes arrive again.
    let Management { folder, process, listen } = management;
    process.kill().await;
    serves(&one, "app.test", "app").await;
    assert_eq!(health(&one, "/healthz/ready").await.0, 200, "a management outage is no site outage");
    std::fs::write(
        folder.path().join("postern.toml"),
        format!("{service}{}", service.replace("app.test", "open.test").replace("service.app", "service.open")),
    )
    .expect("writable");
    let again = Management { process: Management::process(folder.path(), &listen), folder, listen };
    serves(&one, "open.test", "app").await;
    serves(&two, "open.test", "app").await;

    let (code, output) = run(&["token", "remove", "first", "--data-dir", &data(again.folder.path())], &[]).await;
    assert_eq!(code, Some(0), "{output}");
    let (code, output) = one.process.stop().await;
    assert_eq!(code, Some(0), "{output}");
    assert!(!output.contains(&token), "the token is in no log");
}

#[tokio::test]
async fn a_wrong_token_and_a_plaintext_channel_are_refused_in_words() {
    let management = Management::start("# no services\n").await;
    let folder = tempfile::tempdir().expect("a folder");
    certificate(folder.path());
    let certs = folder.path().to_str().expect("UTF-8");
    let common = ["--addr", "127.0.0.1:0", "--domain", "proxy.test", "--cert-dir", certs, "--health-addr", ""];

    let plaintext = format!("http://{}", management.listen);
    let arguments = [&["proxy", "--mgmt", &plaintext], &common[..]].concat();
    let (code, output) = run(&arguments, &[("NB_PROXY_TOKEN", "nbx_wrong")]).await;
    assert!(code.is_some_and(|code| code != 0), "{output}");
    assert!(output.contains("NB_PROXY_ALLOW_INSECURE"), "{output}");

    let (code, output) =
        run(&[&["proxy", "--mgmt", "https://127.0.0.1:1"], &common[..]].concat(), &[("NB_PROXY_TOKEN", "")]).await;
    assert!(code.is_some_and(|code| code != 0), "{output}");
    assert!(output.contains("NB_PROXY_TOKEN"), "{output}");

    let ca = management.ca().await;
    let mgmt = format!("https://{}", management.listen);
    let arguments = [&["proxy", "--mgmt", &mgmt, "--mgmt-ca", &ca], &common[..]].concat();
    let process = Postern::start(&arguments, &[("NB_PROXY_TOKEN", "nbx_0123456789abcdefghijklmnopqrst000000")]);
    process.printed("token").await;
    assert!(!process.output().contains("0123456789abcdef"), "{}", process.output());
}

#[tokio::test]
async fn what_is_not_there_yet_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    certificate(folder.path());
    let certs = folder.path().to_str().expect("UTF-8");
    let common = [
        "proxy",
        "--mgmt",
        "https://127.0.0.1:1",
        "--addr",
        "127.0.0.1:0",
        "--domain",
        "proxy.test",
        "--cert-dir",
        certs,
        "--health-addr",
        "",
    ];
    for (flags, named) in [
        (&["--acme-certs"][..], "--acme-certs"),
        (&["--preshared-key", "x"], "--preshared-key"),
        (&["-proxy-protocol"], "--proxy-protocol"),
        (&["--oidc-secret", "x"], "oidc"),
        (&["--crowdsec-api-url", "http://127.0.0.1:1"], "crowdsec"),
        (&["--forwarded-proto", "ftp"], "forwarded-proto"),
        (&["--trusted-proxies", "10.0.0.0/33"], "trusted-proxies"),
    ] {
        let (code, output) = run(&[&common[..], flags].concat(), &[("NB_PROXY_TOKEN", "nbx_x")]).await;
        assert_eq!(code, Some(2), "{flags:?}: {output}");
        assert!(output.contains(named), "{flags:?}: {output}");
        assert_eq!(output.trim().lines().count(), 1, "one sentence: {output}");
    }
}

/// Nothing is lost and nothing counted twice when management is killed and started again under way. A count begins anew with
/// the process, so the lines of the first have to be in before it goes, and the rest is what the second counts.
#[tokio::test]
async fn log_lines_are_counted_exactly_over_a_restart_of_our_own_server() {
    let upstream = Upstream::named("app").await;
    let service = format!("[service.app]\nhost = \"app.test\"\nupstream = \"{}\"\naccess = \"open\"\n", upstream.url());
    let management = Management::start(&service).await;
    let token = management.token("first").await;
    let proxy = proxy(&management, &token).await;
    serves(&proxy, "app.test", "app").await;
    let ask = async |times: u64| {
        for _ in 0..times {
            assert_eq!(proxy.client.get("app.test", "/").await.status, 200);
        }
    };
    ask(100).await;
    let Management { folder, process, listen } = management;
    let lines = async |wanted: u64| {
        let what = format!("{wanted} lines to be counted");
        eventually(&what, || async {
            let count = status(folder.path()).await["access_log"]["total"].as_u64().expect("a number");
            assert!(count <= wanted, "{count} lines for {wanted} requests");
            (count == wanted).then_some(())
        })
        .await;
    };
    // Those by which the test waited for the service count too.
    lines(upstream.received().len() as u64).await;
    process.kill().await;
    ask(50).await;
    let _again = Management::process(folder.path(), &listen);
    eventually("management to be back", || async {
        let socket = folder.path().join("data/admin.sock");
        std::os::unix::net::UnixStream::connect(socket).ok()
    })
    .await;
    ask(50).await;
    lines(100).await;
    let metrics = health(&proxy, "/metrics").await.1;
    assert!(metrics.contains("postern_access_log_dropped_lines_total 0\n"), "{metrics}");
}

#[tokio::test]
async fn a_red_state_comes_with_one_sentence() {
    let upstream = Upstream::named("app").await;
    let service = |name: &str, host: &str| {
        format!("[service.{name}]\nhost = \"{host}\"\nupstream = \"{}\"\naccess = \"open\"\n", upstream.url())
    };
    let text = format!("{}{}", service("good", "app.test"), service("uncovered", "elsewhere.test"));
    let management = Management::start(&text).await;
    let folder = management.folder.path().to_owned();
    let state = |name: &'static str| {
        let folder = folder.clone();
        async move {
            let status = status(&folder).await;
            let services = status["services"].as_array().expect("services").clone();
            let service = services.into_iter().find(|service| service["name"] == name).expect("it is listed");
            let word = |key: &str| service[key].as_str().unwrap_or_default().to_owned();
            (word("state"), word("sentence"))
        }
    };
    management.process.printed("ca.pem").await;
    let (word, sentence) = state("good").await;
    assert!(word == "pending" && sentence.contains("postern proxy"), "{word}: {sentence}");

    let token = management.token("first").await;
    let proxy = proxy(&management, &token).await;
    serves(&proxy, "app.test", "app").await;
    for name in ["good", "uncovered"] {
        eventually("it to be active", || async { (state(name).await.0 == "active").then_some(()) }).await;
        assert_eq!(state(name).await.1, "", "{name}");
    }
    // Served, but under a certificate that no client takes.
    let (code, output) = run(&["status", "--data-dir", &data(&folder)], &[]).await;
    assert_eq!(code, Some(0), "{output}");
    let line = |host: &str| output.lines().find(|line| line.contains(host)).unwrap_or_else(|| panic!("{output}"));
    assert!(line("elsewhere.test").contains("no certificate for elsewhere.test"), "{output}");
    assert!(line("app.test").trim_end().ends_with("active"), "{output}");
}
