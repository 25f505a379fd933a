//! The attack corpus: what real proxies fell for, sent to a real `postern up`, each refusal beside its succeeding twin.
//! The letters S1, S2 … are the cases' numbers in the project's list of incidents, named in each test's comment.

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::Full;
use postern_tests::client::{Client, basic, status_of};
use postern_tests::process::Up;
use postern_tests::upstream::{Upstream, full};
use postern_tests::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// One service `app.test` with `/` → web and `/api` → api, and a protected one.
struct House {
    up: Up,
    web: Upstream,
    api: Upstream,
    client: Client,
}

async fn house() -> House {
    let (web, api) = (Upstream::named("web").await, Upstream::named("api").await);
    let text = format!(
        "[service.app]\nhost = \"app.test\"\nupstream = \"{}\"\naccess = \"open\"\n\
         [[service.app.path]]\npath = \"/api\"\nupstream = \"{}\"\nstrip = false\n\
         [service.vault]\nhost = \"vault.test\"\nupstream = \"{}\"\naccess = {{ basic = [\"alice\"] }}\n\
         [user.alice]\npassword = \"wonder land\"\n",
        web.url(),
        api.url(),
        web.url()
    );
    let up = Up::with(&text).await;
    let client = up.client();
    House { up, web, api, client }
}

impl House {
    /// A raw request with these lines after the request line, on a fresh connection; its status and the whole answer.
    async fn raw(&self, target: &str, lines: &str) -> (u16, String) {
        let text = format!("GET {target} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n");
        let answer = self.client.raw("app.test", text.as_bytes()).await;
        (status_of(&answer), answer)
    }

    fn reached(&self) -> usize {
        self.web.received().len() + self.api.received().len()
    }
}

/// S6, S7, S9: no spelling of a path reaches another route than the one its plain reading names.
#[tokio::test]
async fn a_path_has_one_meaning() {
    let house = house().await;
    for (target, upstream, seen) in [
        ("/api/x", "api", "/api/x"),
        ("/api", "api", "/api"),
        ("/%61pi/x", "api", "/api/x"),
        ("/apifoo", "web", "/apifoo"),
        ("/a%2Fb?x=1;y=%zz&x=1", "web", "/a%2Fb?x=1;y=%zz&x=1"),
        ("/a?redirect=/../admin", "web", "/a?redirect=/../admin"),
        ("/caf%C3%A9", "web", "/caf%C3%A9"),
    ] {
        let (status, answer) = house.raw(target, "Host: app.test\r\n").await;
        assert_eq!(status, 200, "{target}: {answer}");
        assert!(answer.ends_with(upstream), "{target} reaches {upstream}: {answer}");
        let last = if upstream == "api" { house.api.last() } else { house.web.last() };
        assert_eq!(last.target, seen);
    }
    let before = house.reached();
    for target in [
        "/public/../api",
        "/public/..%2fapi",
        "/public%2f..%2fapi",
        "/public/%2e%2e/api",
        "/public/%252e%252e/api",
        "/./api",
        "/x%00",
        "/x%0a",
        "/x%zz",
        "/%2Fapi",
        "//api",
        "/%5Capi",
        "/\\api",
        "/api;/x",
        "/..",
        "/%c0%ae%c0%ae/api",
    ] {
        let (status, answer) = house.raw(target, "Host: app.test\r\n").await;
        assert_eq!(status, 400, "{target}: {answer}");
    }
    assert_eq!(house.reached(), before, "nothing refused reached an upstream");
}

/// S10, S12: spellings of a host fold; what is ambiguous is refused; what disagrees with the handshake is 421.
#[tokio::test]
async fn a_host_has_one_meaning() {
    let house = house().await;
    let port = house.up.https().port();
    for host in
        ["app.test", "APP.TEST", "app.test.", "App.Test.", &format!("app.test:{port}"), &format!("APP.test.:{port}")]
    {
        let (status, answer) = house.raw("/", &format!("Host: {host}\r\n")).await;
        assert_eq!(status, 200, "{host}: {answer}");
    }
    assert_eq!(house.raw("https://app.test/", "Host: app.test\r\n").await.0, 200, "absolute form that agrees");
    let before = house.reached();
    for (target, lines, expected) in [
        ("/", "", 400),
        ("/", "Host: \r\n", 400),
        ("/", "Host: app.test\r\nHost: app.test\r\n", 400),
        ("/", "Host: app.test\r\nHost: vault.test\r\n", 400),
        ("/", "Host: user@app.test\r\n", 400),
        ("/", "Host: app.test:x\r\n", 400),
        ("/", "Host: app.test:99999\r\n", 400),
        ("/", "Host: app.test/\r\n", 400),
        ("https://vault.test/", "Host: app.test\r\n", 400),
        ("https://user@app.test/", "Host: app.test\r\n", 400),
        ("*", "Host: app.test\r\n", 400),
        ("/", "Host: vault.test\r\n", 421),
        ("/", "Host: unknown.test\r\n", 421),
        ("/", "Host: 127.0.0.1\r\n", 421),
        ("/", "Host: [::1]\r\n", 421),
    ] {
        let (status, answer) = house.raw(target, lines).await;
        assert_eq!(status, expected, "{target} {lines:?}: {answer}");
    }
    // Known, protected and unknown hosts get the very same answer but for the request's id.
    let (_, known) = house.raw("/", "Host: vault.test\r\n").await;
    let (_, unknown) = house.raw("/", "Host: unknown.test\r\n").await;
    assert_eq!(known.len(), unknown.len(), "{known}\n{unknown}");
    assert_eq!(house.reached(), before);
}

/// S11, S12, S34: a name nobody published ends the handshake, with and without a published twin.
#[tokio::test]
async fn an_unknown_name_ends_the_handshake() {
    let house = house().await;
    assert!(house.client.tls("app.test").await.is_ok());
    for sni in ["unknown.test", "api.app.test", "test", "127.0.0.1"] {
        assert!(house.client.tls(sni).await.is_err(), "{sni}");
    }
}

/// S11, S12: a connection made for one host serves no other, as browsers that share connections (RFC 9113 §9.1.1) would have it.
#[tokio::test]
async fn a_connection_for_one_host_serves_no_other_over_h2() {
    let house = house().await;
    let client = house.up.client_h2();
    let request = |host: &str| {
        let uri = format!("https://{host}:{}/", house.up.https().port());
        Request::get(uri).version(Version::HTTP_2).body(Full::<Bytes>::default()).expect("a request")
    };
    assert_eq!(client.send_h2("app.test", request("app.test")).await.status, 200);
    assert_eq!(client.send_h2("app.test", request("vault.test")).await.status, 421);
    assert_eq!(client.send_h2("vault.test", request("vault.test")).await.status, 401);
}

/// S5, S24: what a client says about itself is believed from trusted forwarders alone, and nobody is trusted here.
#[tokio::test]
async fn a_client_cannot_say_where_it_comes_from() {
    let house = house().await;
    let lines = "Host: app.test\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\nForwarded: for=1.2.3.4\r\n\
                 X-Real-IP: 1.2.3.4\r\nX-Forwarded-Host: evil.test\r\nX-Forwarded-Proto: http\r\nX-Original-URL: /admin\r\n\
                 X-Rewrite-URL: /admin\r\nX_Forwarded_Proto: http\r\n";
    let (status, _) = house.raw("/", lines).await;
    assert_eq!(status, 200);
    let seen = house.web.last();
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-real-ip"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-host"), ["app.test"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["https"]);
    for name in ["forwarded", "x-original-url", "x-rewrite-url", "x_forwarded_proto"] {
        assert!(seen.all(name).is_empty(), "{name}: {:?}", seen.headers);
    }
}

/// S30: framing that two servers could read differently is refused, and never leaves a second request behind.
#[tokio::test]
async fn ambiguous_framing_smuggles_nothing() {
    let house = house().await;
    let twin = b"POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    assert_eq!(status_of(&house.client.raw("app.test", twin).await), 200);
    assert_eq!(house.web.last().body, "hello");
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n";
    for head in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5, 6\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding : chunked\r\n",
        " Content-Length: 5\r\n",
        "X: a\r\n folded\r\n",
    ] {
        let text = format!("POST / HTTP/1.1\r\nHost: app.test\r\n{head}\r\n0\r\n\r\n{smuggled}");
        let answer = house.client.raw("app.test", text.as_bytes()).await;
        assert!(matches!(status_of(&answer), 400 | 0), "{head:?}: {answer}");
    }
    // Both lengths given: hyper keeps the chunked one and closes, so what follows is never read as a request.
    let both = format!(
        "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
    );
    house.client.raw("app.test", both.as_bytes()).await;
    // Chunks that some server reads otherwise; the request behind them is only real if all agree where they end.
    for chunks in [
        "5\nhello\n0\n\n",
        "5\r\nhello0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "-0\r\n\r\n",
        "\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5;a=\"\r\n0\r\n\r\n",
    ] {
        let head = "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = house.client.raw("app.test", format!("{head}{chunks}{smuggled}").as_bytes()).await;
        assert!(!answer.contains("200 OK"), "{chunks:?}: {answer}");
    }
    // What HTTP/1.0 does not know, and line ends that only some take for such.
    for text in [
        "POST / HTTP/1.0\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: app.test\r\nX: a\rContent-Length: 50\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: app.test\r\nX: a\0b\r\n\r\n",
        "POST  / HTTP/1.1\r\nHost: app.test\r\n\r\n",
        "POST / HTTP/1.1 \r\nHost: app.test\r\n\r\n",
        "POST / HTTP/2.0\r\nHost: app.test\r\n\r\n",
    ] {
        let answer = house.client.raw("app.test", format!("{text}{smuggled}").as_bytes()).await;
        assert!(!answer.contains("200 OK"), "{text:?}: {answer}");
    }
    let targets: Vec<_> = house.web.received().into_iter().map(|r| r.target).collect();
    assert!(!targets.iter().any(|t| t.contains("smuggled")), "{targets:?}");
}

/// S30: bytes after an upgrade request wait until the upstream agreed; an upgrade it refuses takes them nowhere.
#[tokio::test]
async fn bytes_behind_an_upgrade_wait_for_the_upstream() {
    let refusing = Upstream::answering(|_| {
        let mut response = http::Response::new(full("no"));
        *response.status_mut() = http::StatusCode::FORBIDDEN;
        response
    })
    .await;
    let text = format!("[service.app]\nhost = \"app.test\"\nupstream = \"{}\"\naccess = \"open\"\n", refusing.url());
    let up = Up::with(&text).await;
    // h2c is no upgrade we pass on: the request goes through as a plain one, without the header.
    let h2c = "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    let text = format!("{h2c}GET /second HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n");
    up.client().raw("app.test", text.as_bytes()).await;
    let first = refusing.received().first().cloned().expect("one request");
    assert!(first.all("upgrade").is_empty() && first.all("http2-settings").is_empty(), "{:?}", first.headers);
}

/// S3, S39: control characters and secrets do not get into the output.
#[tokio::test]
async fn the_log_carries_no_secret_and_no_forged_line() {
    let house = house().await;
    let wrong = Request::get("/?token=query-secret-1")
        .header("host", "vault.test")
        .header("authorization", basic("alice", "header-secret-2"))
        .header("cookie", "nb_session=cookie-secret-3")
        .body(Full::default());
    assert_eq!(house.client.send("vault.test", wrong.expect("a request")).await.status, 401);
    let right = Request::get("/?token=query-secret-1")
        .header("host", "vault.test")
        .header("authorization", basic("alice", "wonder land"))
        .body(Full::default());
    assert_eq!(house.client.send("vault.test", right.expect("a request")).await.status, 200);
    house.raw("/a%1b[31m", "Host: app.test\r\n").await;
    let House { up, .. } = house;
    let (_, output) = up.process.stop().await;
    for secret in ["query-secret-1", "header-secret-2", "cookie-secret-3", "wonder land", "\u{1b}[31m"] {
        assert!(!output.contains(secret), "{secret:?} in:\n{output}");
    }
}

/// S31: a slow head, a flood of resets, a flood of headers: the connection ends, others are served.
#[tokio::test]
async fn floods_end_their_own_connection_only() {
    let house = house().await;
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    let (status, _) = house.raw("/", &format!("Host: app.test\r\n{many}")).await;
    assert_eq!(status, 431);
    let long = format!("Host: app.test\r\nX: {}\r\n", "y".repeat(100_000));
    assert_eq!(house.raw("/", &long).await.0, 431);

    let tls = house.up.client_h2().tls("app.test").await.expect("the handshake succeeds");
    let (sender, connection) = h2::client::handshake(tls).await.expect("http");
    let driver = tokio::spawn(connection);
    let mut sender = within("the settings", sender.ready()).await.expect("open");
    for _ in 0..5_000 {
        let request = Request::get("https://app.test/").body(()).expect("a request");
        let Ok((_, mut stream)) = sender.send_request(request, false) else { break };
        stream.send_reset(h2::Reason::CANCEL);
        match sender.ready().await {
            Ok(ready) => sender = ready,
            Err(_) => break,
        }
        tokio::task::yield_now().await;
    }
    drop(driver);
    assert_eq!(house.client.get("app.test", "/").await.status, 200, "others are served");
}

/// S29: guesses are counted, and only the guessed service feels it.
#[tokio::test]
async fn guessing_a_password_gets_slow() {
    let house = house().await;
    let guess = |n: usize| {
        Request::get("/")
            .header("host", "vault.test")
            .header("authorization", basic("alice", &format!("guess {n}")))
            .body(Full::default())
            .expect("a request")
    };
    let mut limited = 0;
    for n in 0..40 {
        let status = house.client.send("vault.test", guess(n)).await.status.as_u16();
        assert!(matches!(status, 401 | 429), "{status}");
        limited += usize::from(status == 429);
    }
    assert!(limited >= 20, "only {limited} of 40 guesses were held back");
    assert_eq!(house.client.get("app.test", "/").await.status, 200);
    assert!(house.web.received().iter().all(|r| r.all("x-netbird-user").is_empty()));
}

/// S40: health and metrics on their own address, and nothing of them, nor anything that administers, on the public one.
#[tokio::test]
async fn administration_is_not_public() {
    let house = house().await;
    for path in ["/metrics", "/healthz", "/debug", "/debug/clients", "/api/tokens"] {
        let answer = house.client.get("app.test", path).await;
        assert!(
            matches!(answer.text().as_str(), "web" | "api"),
            "{path} belongs to the application: {}",
            answer.text()
        );
    }
    let mode = std::fs::metadata(house.up.folder.path().join("data/admin.sock")).expect("the socket");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
}

/// Plain HTTP at the TLS port is told so in a sentence.
#[tokio::test]
async fn plain_http_at_the_tls_port_gets_an_answer() {
    let house = house().await;
    let answer = within("an answer", async {
        let mut tcp = tokio::net::TcpStream::connect(house.up.https()).await.expect("it listens");
        tcp.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.expect("written");
        let mut text = String::new();
        let _ = tcp.read_to_string(&mut text).await;
        text
    })
    .await;
    assert_eq!(status_of(&answer), 400, "{answer}");
    assert!(answer.to_lowercase().contains("https"), "{answer}");
}
