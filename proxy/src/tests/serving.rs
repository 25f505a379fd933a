//! What an open service does.

use http::{Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use postern_model::AuthMechanism;

use super::basics::{all, heard, request, soon};
use super::upstream::{Upstream, page};
use tokio::io::AsyncWriteExt;

use super::world::{World, open, path};

#[tokio::test]
async fn an_open_service_answers_and_leaves_a_line() {
    let upstream = Upstream::mirror().await;
    let world = World::start(&[open("app", &upstream.url())]).await;
    let answer = world.get("app.test", "/a%2Fb/?q=%zz;x", &[("x-netbird-user", "root"), ("cookie", "a=1")]).await;
    assert_eq!(answer.status, StatusCode::OK);
    let sent: Vec<&str> = answer.body.lines().collect();
    assert_eq!(sent[0], "GET /a%2Fb/?q=%zz;x");
    for line in [
        format!("host: {}", upstream.address),
        "x-forwarded-for: 127.0.0.1".into(),
        "x-forwarded-proto: https".into(),
        "x-forwarded-host: app.test".into(),
        "cookie: a=1".into(),
    ] {
        assert!(sent.contains(&line.as_str()), "{line} in {sent:?}");
    }
    assert!(!answer.body.contains("root"), "identity comes from us alone");

    let line = world.management.line("/a%2Fb/").await;
    assert_eq!(
        (line.method.as_str(), line.status, line.host.as_ref().map(postern_model::HostName::as_str)),
        ("GET", 200, Some("app.test"))
    );
    assert_eq!((line.bytes_upload, line.bytes_download), (0, answer.body.len() as u64));
    assert_eq!(line.service.unwrap().as_str(), "app");
    assert_eq!((line.mechanism, line.auth_success, line.reason), (AuthMechanism::None, true, ""));
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let upstream = Upstream::mirror().await;
    let world = World::start(&[open("app", &upstream.url())]).await;
    let mut client = world.http1("app.test").await;
    for _ in 0..5 {
        client.ready().await.unwrap();
        let answer = client.send_request(request(Method::POST, "app.test", "/", &[], "hello")).await.unwrap();
        assert!(heard(answer).await.body.ends_with("\nhello"));
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn content_of_unknown_length_arrives_whatever_the_method() {
    let upstream = Upstream::mirror().await;
    let world = World::start(&[open("app", &upstream.url())]).await;
    for method in ["GET", "POST", "DELETE"] {
        let head =
            format!("{method} / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
        let mut tls = world.tls("app.test").await.unwrap();
        tls.write_all(format!("{head}5\r\nhello\r\n0\r\n\r\n").as_bytes()).await.unwrap();
        let answer = all(tls).await;
        assert!(answer.contains("transfer-encoding: chunked\n") && answer.contains("\n\nhello"), "{answer}");
    }
    let mut client = world.http2("app.test").await;
    let frames = [Ok::<_, std::convert::Infallible>(http_body::Frame::data(bytes::Bytes::from("hello")))];
    let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
    let request = Request::builder().uri("https://app.test/").body(body).unwrap();
    let answer = heard(soon(client.send_request(request)).await.unwrap()).await;
    assert!(answer.body.ends_with("\n\nhello"), "{}", answer.body);
}

#[tokio::test]
async fn http2_serves_many_at_a_time() {
    let upstream = Upstream::mirror().await;
    let world = World::start(&[open("app", &upstream.url())]).await;
    let client = world.http2::<Full<bytes::Bytes>>("app.test").await;
    let ask = |number: usize| {
        let mut client = client.clone();
        async move {
            let uri = format!("https://app.test/{number}");
            let request = Request::builder().method("POST").uri(uri).version(Version::HTTP_2);
            let request = request.header("cookie", "a=1").header("cookie", "b=2").body(Full::from("hi")).unwrap();
            heard(client.send_request(request).await.unwrap()).await
        }
    };
    let answers = soon(futures_util::future::join_all((0..20).map(ask))).await;
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(answer.status, 200);
        assert!(answer.body.starts_with(&format!("POST /{number}\n")), "{}", answer.body);
        assert!(answer.body.contains("cookie: a=1; b=2\n") && answer.body.ends_with("\nhi"), "{}", answer.body);
    }
}

#[tokio::test]
async fn routes_are_found_by_path_and_redirects_come_back() {
    let (root, api) = (Upstream::mirror().await, Upstream::mirror().await);
    let redirecting = Upstream::start(|request: Request<_>| async move {
        let mut reply = page("");
        *reply.status_mut() = StatusCode::FOUND;
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        reply.headers_mut().insert("location", format!("http://{host}/next").parse().unwrap());
        reply.headers_mut().insert("set-cookie", "nb_session=stolen".parse().unwrap());
        reply.headers_mut().insert("keep-alive", "timeout=5".parse().unwrap());
        reply
    })
    .await;
    let mut app = open("app", &root.url());
    app.rewrite_redirects = true;
    app.paths = vec![path("/", &root.url()), path("/api", &api.url()), path("/old", &redirecting.url())];
    let world = World::start(&[app]).await;
    assert!(world.get("app.test", "/apix", &[]).await.body.starts_with("GET /apix"));
    assert!(world.get("app.test", "/api/x", &[]).await.body.starts_with("GET /x"));
    let moved = world.get("app.test", "/old", &[]).await;
    assert_eq!(moved.header("location"), "https://app.test/old/next");
    assert_eq!((moved.header("set-cookie"), moved.header("keep-alive")), ("", ""));
    assert_eq!((root.connections(), api.connections()), (1, 1));
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    use http_body::Frame;
    use http_body_util::{StreamBody, combinators::BoxBody};
    let frames = |name: &'static str| {
        let trailers = http::HeaderMap::from_iter([
            (name.parse::<http::HeaderName>().unwrap(), "42".parse().unwrap()),
            ("x-netbird-user".parse().unwrap(), "root".parse().unwrap()),
        ]);
        let frames = [Ok(Frame::data(bytes::Bytes::from("data"))), Ok(Frame::trailers(trailers))];
        BoxBody::new(StreamBody::new(futures_util::stream::iter(frames)))
    };
    let upstream = Upstream::start(move |request: Request<hyper::body::Incoming>| async move {
        let body = request.into_body().collect().await.unwrap();
        let trailers = body.trailers().cloned().unwrap_or_default();
        assert_eq!(trailers.get("x-sum").map(|value| value.as_bytes()), Some(&b"42"[..]));
        assert!(!trailers.contains_key("x-netbird-user"));
        let mut reply = page("");
        reply.headers_mut().insert("trailer", "x-answer".parse().unwrap());
        reply.map(|_| frames("x-answer"))
    })
    .await;
    let world = World::start(&[open("app", &upstream.url())]).await;
    let mut client = world.http2("app.test").await;
    let request = Request::builder().method("POST").uri("https://app.test/").header("te", "trailers");
    let request = request.header("trailer", "x-sum").body(frames("x-sum")).unwrap();
    let answer = soon(client.send_request(request)).await.unwrap();
    let body = soon(answer.into_body().collect()).await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-answer"], "42");
}

#[tokio::test]
async fn a_path_may_be_kept_out_of_the_log() {
    let upstream = Upstream::mirror().await;
    let mut app = open("app", &upstream.url());
    app.paths.push(path("/quiet", &upstream.url()));
    app.paths[1].options.disable_access_log = true;
    let world = World::start(&[app]).await;
    for path in ["/quiet", "/loud"] {
        assert_eq!(world.get("app.test", path, &[]).await.status, StatusCode::OK);
    }
    world.management.line("/loud").await;
    assert_eq!(world.management.lines().len(), 1);
}
