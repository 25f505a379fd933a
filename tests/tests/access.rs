//! Who gets in: HTTP Basic end to end, the identity that upstreams see, and what ends when access changes.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::Request;
use http_body_util::Full;
use postern_tests::client::{Answer, Client, basic};
use postern_tests::process::Up;
use postern_tests::upstream::Upstream;
use postern_tests::{eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

const HOST: &str = "vault.test";

fn configuration(upstream: &Upstream, users: &[(&str, &str)]) -> String {
    let names: Vec<_> = users.iter().map(|(name, _)| format!("{name:?}")).collect();
    let mut text = format!(
        "[service.vault]\nhost = \"{HOST}\"\nupstream = \"{}\"\naccess = {{ basic = [{}] }}\n\
         [service.open]\nhost = \"open.test\"\nupstream = \"{}\"\naccess = \"open\"\n",
        upstream.url(),
        names.join(", "),
        upstream.url()
    );
    for (name, password) in users {
        text.push_str(&format!("[user.{name}]\npassword = \"{password}\"\ngroups = [\"eng\", \"ops\"]\n"));
    }
    text
}

fn request(user: &str, password: &str) -> http::request::Builder {
    Request::get("/").header("host", HOST).header("authorization", basic(user, password))
}

async fn as_user(client: &Client, user: &str, password: &str) -> Answer {
    client.send(HOST, request(user, password).body(Full::default()).expect("a request")).await
}

async fn with_cookie(client: &Client, cookie: &str) -> Answer {
    let request = Request::get("/").header("host", HOST).header("cookie", cookie).body(Full::<Bytes>::default());
    client.send(HOST, request.expect("a request")).await
}

fn cookie_of(answer: &Answer) -> String {
    let cookie = answer.header("set-cookie");
    assert!(cookie.starts_with("nb_session="), "a session cookie, got {cookie:?}");
    for attribute in ["Path=/", "HttpOnly", "Secure", "SameSite=Lax", "Max-Age="] {
        assert!(cookie.contains(attribute), "{attribute} in {cookie}");
    }
    cookie.split(';').next().expect("a pair").to_owned()
}

#[tokio::test]
async fn a_user_gets_in_and_the_upstream_learns_who_it_is() {
    let upstream = Upstream::named("vault").await;
    let up = Up::with(&configuration(&upstream, &[("alice", "wonder land"), ("bob", "builder")])).await;
    let client = up.client();

    let refused = client.get(HOST, "/").await;
    assert_eq!(refused.status, 401);
    assert!(refused.header("www-authenticate").starts_with("Basic realm="), "{:?}", refused.headers);
    for (user, password) in [("alice", "builder"), ("carol", "x"), ("alice", ""), ("", "")] {
        assert_eq!(as_user(&client, user, password).await.status, 401, "{user}:{password}");
    }
    assert!(upstream.received().is_empty(), "nobody reached the upstream");

    let answer = as_user(&client, "alice", "wonder land").await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "vault".to_owned()));
    let seen = upstream.last();
    assert_eq!(seen.all("x-netbird-user"), ["alice"]);
    assert_eq!(seen.all("x-netbird-groups"), ["eng,ops"]);
    assert!(seen.all("authorization").is_empty(), "the credential stays with us");
    assert!(seen.all("cookie").is_empty());

    let cookie = cookie_of(&answer);
    assert_eq!(with_cookie(&client, &format!("a=1; {cookie}; b=\"2 \"")).await.status, 200);
    assert_eq!(upstream.last().all("cookie"), ["a=1; b=\"2 \""], "the application's cookies pass byte for byte");
    assert_eq!(upstream.last().all("x-netbird-user"), ["alice"]);
    assert_eq!(as_user(&client, "bob", "builder").await.status, 200);
    assert_eq!(upstream.last().all("x-netbird-user"), ["bob"]);
}

#[tokio::test]
async fn identity_cannot_be_claimed() {
    let upstream = Upstream::named("vault").await;
    let up = Up::with(&configuration(&upstream, &[("alice", "wonder land")])).await;
    let spellings = [
        "X-NetBird-User",
        "x-netbird-groups",
        "X_NetBird_User",
        "x-netbird_user",
        "X.NetBird.User",
        "Remote-User",
        "X_Forwarded_User",
    ];
    for (host, identity) in [(HOST, vec!["alice".to_owned()]), ("open.test", vec![])] {
        for connection in ["keep-alive", "X-NetBird-User, X-NetBird-Groups, X-Forwarded-For"] {
            let mut request = Request::get("/").header("host", host).header("connection", connection);
            if host == HOST {
                request = request.header("authorization", basic("alice", "wonder land"));
            }
            for name in spellings {
                request = request.header(name, "mallory").header(name, "mallory2");
            }
            let answer = up.client().send(host, request.body(Full::default()).expect("a request")).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            let seen = upstream.last();
            assert_eq!(seen.all("x-netbird-user"), identity, "on {host} with Connection: {connection}");
            assert!(!seen.all("x-forwarded-for").is_empty(), "ours arrives whatever Connection lists");
            let all = format!("{:?}", seen.headers);
            assert!(!all.contains("mallory"), "{all}");
        }
    }
}

/// S1: nor in what becomes a WebSocket, nor after the content.
#[tokio::test]
async fn identity_cannot_be_claimed_in_an_upgrade_or_in_trailers() {
    let upstream = Upstream::named("vault").await;
    let up = Up::with(&configuration(&upstream, &[("alice", "wonder land")])).await;
    let lies = ["X-NetBird-User", "X_NetBird_User", "x.netbird.groups", "Remote_User", "X-Forwarded-For", "X_Real_IP"];
    let lines = lines_of(&lies);
    for (host, identity) in [(HOST, vec!["alice".to_owned()]), ("open.test", vec![])] {
        let login = match host {
            HOST => format!("Authorization: {}\r\n", basic("alice", "wonder land").to_str().expect("ASCII")),
            _ => String::new(),
        };
        let upgrade = "Connection: Upgrade, X-NetBird-User\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let mut tls = up.client().tls(host).await.expect("the handshake succeeds");
        let head = format!("GET /socket HTTP/1.1\r\nHost: {host}\r\n{upgrade}{login}{lines}\r\n");
        tls.write_all(head.as_bytes()).await.expect("written");
        let mut status = [0; 12];
        within("an answer", tls.read_exact(&mut status)).await.expect("an answer");
        assert_eq!(&status, b"HTTP/1.1 101");
        let seen = upstream.last();
        assert_eq!((seen.target.as_str(), seen.all("x-netbird-user")), ("/socket", identity.clone()));
        assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
        assert!(!format!("{:?}", seen.headers).contains("mallory"), "{:?}", seen.headers);

        let announced =
            "Transfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: X-Sum, X-NetBird-User\r\nConnection: close\r\n";
        let body = format!("4\r\ndata\r\n0\r\nX-Sum: 42\r\n{lines}\r\n");
        let text = format!("POST /trailers HTTP/1.1\r\nHost: {host}\r\n{announced}{login}\r\n{body}");
        let answer = up.client().raw(host, text.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let seen = upstream.last();
        assert_eq!((seen.target.as_str(), seen.all("x-netbird-user")), ("/trailers", identity));
        let trailers = seen.trailers.expect("trailers pass");
        assert_eq!((trailers.len(), &trailers["x-sum"]), (1, &http::HeaderValue::from_static("42")));
    }
}

fn lines_of(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name}: mallory\r\n")).collect()
}

#[tokio::test]
async fn a_changed_password_ends_what_the_old_one_opened() {
    let upstream = Upstream::named("vault").await;
    let before = configuration(&upstream, &[("alice", "wonder land"), ("bob", "builder")]);
    for after in [&[("alice", "looking glass"), ("bob", "builder")][..], &[("bob", "builder")]] {
        let up = Up::with(&before).await;
        let client = up.client();
        let answer = as_user(&client, "alice", "wonder land").await;
        let cookie = cookie_of(&answer);
        assert_eq!(with_cookie(&client, &cookie).await.status, 200);
        let mut socket = websocket(&up, Some(("alice", "wonder land"))).await.expect("alice may");
        socket.send(Message::text("hello")).await.expect("it is open");
        assert_eq!(socket.next().await.expect("an echo").expect("an echo"), Message::text("hello"));

        up.configure(&configuration(&upstream, after));
        within("the WebSocket to be cut", async { while let Some(Ok(_)) = socket.next().await {} }).await;
        // Access is in force before the flows it ends are cut, so the old credential and its cookie are dead by now.
        assert_eq!(with_cookie(&client, &cookie).await.status, 401);
        assert_eq!(as_user(&client, "alice", "wonder land").await.status, 401);
        assert_eq!(as_user(&client, "bob", "builder").await.status, 200);
    }
}

#[tokio::test]
async fn a_websocket_needs_a_login_and_a_browser_its_own_origin() {
    let upstream = Upstream::named("vault").await;
    let up = Up::with(&configuration(&upstream, &[("alice", "wonder land")])).await;
    assert_eq!(websocket(&up, None).await.err(), Some(401));
    assert_eq!(websocket(&up, Some(("alice", "wrong"))).await.err(), Some(401));
    let port = up.https().port();
    for (origin, allowed) in
        [(format!("https://{HOST}:{port}"), true), ("https://evil.test".to_owned(), false), ("null".to_owned(), false)]
    {
        let socket = websocket_from(&up, Some(("alice", "wonder land")), Some(&origin)).await;
        assert_eq!(socket.err(), (!allowed).then_some(403), "from {origin}");
    }
}

#[tokio::test]
async fn a_removed_service_ends_its_flows_and_no_other() {
    let upstream = Upstream::named("vault").await;
    let all = configuration(&upstream, &[("alice", "wonder land")]);
    let up = Up::with(&all).await;
    let mut vault = websocket(&up, Some(("alice", "wonder land"))).await.expect("alice may");
    let mut open = open_websocket(&up).await;

    let only_open =
        format!("[service.open]\nhost = \"open.test\"\nupstream = \"{}\"\naccess = \"open\"\n", upstream.url());
    up.configure(&only_open);
    within("the removed service's WebSocket to be cut", async { while let Some(Ok(_)) = vault.next().await {} }).await;
    open.send(Message::text("still here")).await.expect("it is open");
    let echo = within("an echo", open.next()).await;
    assert_eq!(echo.expect("an echo").expect("an echo"), Message::text("still here"));
    eventually("the name to be refused", || async { up.client().tls(HOST).await.is_err().then_some(()) }).await;
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>;

async fn websocket(up: &Up, user: Option<(&str, &str)>) -> Result<Socket, u16> {
    websocket_from(up, user, None).await
}

async fn websocket_from(up: &Up, user: Option<(&str, &str)>, origin: Option<&str>) -> Result<Socket, u16> {
    open_socket(up, HOST, user, origin).await
}

async fn open_websocket(up: &Up) -> Socket {
    open_socket(up, "open.test", None, None).await.expect("an open service")
}

async fn open_socket(up: &Up, host: &str, user: Option<(&str, &str)>, origin: Option<&str>) -> Result<Socket, u16> {
    use tokio_tungstenite::tungstenite::{Error, client::IntoClientRequest};
    let mut request = format!("wss://{host}:{}/socket", up.https().port()).into_client_request().expect("a request");
    if let Some((user, password)) = user {
        request.headers_mut().insert("authorization", basic(user, password));
    }
    if let Some(origin) = origin {
        request.headers_mut().insert("origin", origin.parse().expect("a value"));
    }
    let tls = up.client().tls(host).await.expect("the handshake succeeds");
    match within("the upgrade", tokio_tungstenite::client_async(request, tls)).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}
