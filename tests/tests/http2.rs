//! HTTP/2 as an attacker speaks it, frame by frame. S1, S30 and S31 name the cases of the project's list of incidents.

use std::time::Duration;

use postern_tests::client::basic;
use postern_tests::frames::{END_HEADERS, Frame, Writer, connect, kind};
use postern_tests::process::Up;
use postern_tests::upstream::Upstream;
use postern_tests::within;

struct House {
    up: Up,
    app: Upstream,
}

async fn house() -> House {
    let app = Upstream::named("app").await;
    let text = format!(
        "[service.app]\nhost = \"app.test\"\nupstream = \"{0}\"\naccess = \"open\"\n\
         [service.vault]\nhost = \"vault.test\"\nupstream = \"{0}\"\naccess = {{ basic = [\"alice\"] }}\n\
         [user.alice]\npassword = \"wonder land\"\n",
        app.url()
    );
    House { up: Up::with(&text).await, app }
}

type Field<'a> = (&'a [u8], &'a [u8]);

const HEAD: [Field<'static>; 4] =
    [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"app.test"), (b":path", b"/")];

fn with<'a>(more: &[Field<'a>]) -> Vec<Field<'a>> {
    [&HEAD, more].concat()
}

impl House {
    /// Sends these frames on a connection of their own; whether stream 1 is answered with 200.
    async fn passes(&self, frames: &[Frame]) -> bool {
        let (mut writer, mut reader) = connect(&self.up.client_h2(), "app.test").await;
        // Whoever refuses may have closed before all was written.
        let _ = writer.send(frames).await;
        reader.until(|frame| frame.is_ok() || frame.ends()).await.is_some_and(|frame| frame.is_ok())
    }
}

/// S30: what would be another request, another field or another length in HTTP/1.1 never gets there.
#[tokio::test]
async fn what_http1_would_read_differently_ends_in_http2() {
    let house = house().await;
    let data = |text: &str, end: bool| Frame::new(kind::DATA, u8::from(end), 1, text);
    assert!(house.passes(&[Frame::head(1, true, &HEAD)]).await);
    assert!(house.passes(&[Frame::head(1, false, &with(&[(b"content-length", b"5")])), data("hello", true)]).await);
    assert_eq!(house.app.last().body, "hello");
    let before = house.app.received().len();

    let mut heads: Vec<Vec<Field<'_>>> = [
        (&b"x"[..], &b"a\r\nx-netbird-user: root"[..]),
        (b"x", b"a\nb"),
        (b"x", b"a\0b"),
        (b"x\r\nx-netbird-user", b"root"),
        (b"x-netbird-user: root\r\nx", b"1"),
        (b"X-Upper", b"1"),
        (b"x-netbird-user ", b"root"),
        (b"x:", b"1"),
        (b"", b"1"),
        (b"transfer-encoding", b"chunked"),
        (b"connection", b"x-forwarded-for"),
        (b"proxy-connection", b"keep-alive"),
        (b"keep-alive", b"x"),
        (b"upgrade", b"websocket"),
        (b"te", b"gzip"),
        (b"host", b"vault.test"),
        (b"content-length", b"5"),
        (b"content-length", b"-1"),
        (b":path", b"/second"),
        (b":evil", b"1"),
        (b":status", b"200"),
    ]
    .into_iter()
    .map(|field| with(&[field]))
    .collect();
    heads.push(with(&[(b"content-length", b"0"), (b"content-length", b"1")]));
    for (place, value) in [
        (0, &b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\nGET"[..]),
        (0, b"CONNECT"),
        (1, b"https\r\n"),
        (2, b"app.test\r\nx-netbird-user: root"),
        (2, b"user@app.test"),
        (2, b"vault.test"),
        (2, b""),
        (3, b"/ HTTP/1.1\r\nx-netbird-user: root\r\nx:"),
        (3, b"/a b"),
        (3, b"/\0"),
        (3, b""),
        (3, b"no-slash"),
        (3, b"*"),
    ] {
        let mut head = HEAD.to_vec();
        head[place].1 = value;
        heads.push(head);
    }
    heads.push(vec![HEAD[0], HEAD[1], HEAD[2], (b"x", b"1"), HEAD[3]]);
    heads.push(HEAD[1..].to_vec());
    heads.push(HEAD[..3].to_vec());
    for head in heads {
        let named: Vec<_> =
            head.iter().map(|(n, v)| (n.escape_ascii().to_string(), v.escape_ascii().to_string())).collect();
        assert!(!house.passes(&[Frame::head(1, true, &head)]).await, "{named:?}");
    }
    let five = Frame::head(1, false, &with(&[(b"content-length", b"5")]));
    for content in ["four", "sixsix", "hello\r\n\r\nGET /second HTTP/1.1\r\nHost: app.test\r\n\r\n"] {
        assert!(!house.passes(&[five.clone(), data(content, true)]).await, "{content:?}");
    }
    // A head whose length turns out a lie may have gone out, but never as a whole request, and nothing after it.
    let after: Vec<_> = house.app.received().into_iter().skip(before).collect();
    assert!(after.is_empty(), "{after:?}");
    assert!(house.passes(&[Frame::head(1, true, &HEAD)]).await, "others are served");
    assert!(house.app.last().all("x-netbird-user").is_empty());
}

/// S1, S2: identity cannot be claimed in the headers or the trailers of HTTP/2 either, in no spelling, on either kind of host.
#[tokio::test]
async fn identity_cannot_be_claimed_over_http2() {
    let house = house().await;
    let lies: Vec<Field<'_>> = [
        &b"x-netbird-user"[..],
        b"x_netbird_user",
        b"x-netbird_user",
        b"x.netbird.user",
        b"x!netbird~user",
        b"x-netbird-groups",
        b"x_netbird_groups",
        b"remote-user",
        b"remote_user",
        b"x_forwarded_for",
        b"x-forwarded-user",
        b"forwarded",
        b"x-real-ip",
        b"x_real_ip",
        b"cf-access-jwt-assertion",
        b"tailscale-user-login",
        b"x-authentik-username",
        b"x_auth_request_email",
    ]
    .iter()
    .flat_map(|name| [(*name, &b"mallory"[..]), (*name, &b"mallory2"[..])])
    .collect();
    let password = basic("alice", "wonder land");
    for host in ["app.test", "vault.test"] {
        let mut head = HEAD.to_vec();
        head[2].1 = host.as_bytes();
        head.extend_from_slice(&[(b"te", b"trailers"), (b"trailer", b"x-sum, x-netbird-user, x_netbird_user")]);
        head.extend_from_slice(&lies);
        if host == "vault.test" {
            head.push((b"authorization", password.as_bytes()));
        }
        let trailers = [&[(&b"x-sum"[..], &b"42"[..])], &lies[..]].concat();
        let (mut writer, mut reader) = connect(&house.up.client_h2(), host).await;
        let frames =
            [Frame::head(1, false, &head), Frame::new(kind::DATA, 0, 1, "data"), Frame::head(1, true, &trailers)];
        writer.send(&frames).await.expect("written");
        assert!(reader.until(|frame| frame.is_ok() || frame.ends()).await.is_some_and(|frame| frame.is_ok()), "{host}");
        let seen = house.app.last();
        let all = format!("{:?} {:?}", seen.headers, seen.trailers);
        assert!(!all.contains("mallory"), "{all}");
        let user = if host == "vault.test" { vec!["alice"] } else { vec![] };
        assert_eq!(seen.all("x-netbird-user"), user, "{host}");
        assert_eq!(seen.trailers.expect("trailers pass")["x-sum"], "42");
        // What CGI, WSGI and PHP make of it: one name each, ours.
        let folded = |name: &http::HeaderName| name.as_str().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        assert_eq!(seen.headers.keys().filter(|name| folded(name) == "x_netbird_user").count(), user.len());
    }
}

/// What a flood has to end with: the connection, and no other.
async fn ends_alone(house: &House, what: &str, flood: impl AsyncFnOnce(&mut Writer) -> std::io::Result<()>) {
    let (mut writer, mut reader) = connect(&house.up.client_h2(), "app.test").await;
    let reading = tokio::spawn(async move { while reader.next().await.is_some() {} });
    // It may end in the middle of the flood.
    let _ = within(what, flood(&mut writer)).await;
    within(&format!("{what} to end the connection"), reading).await.expect("it does not panic");
    assert_eq!(house.up.client().get("app.test", "/").await.status, 200, "{what}: others are served");
}

/// S31: rapid reset, also by the server's own hand (MadeYouReset), and header blocks without end.
#[tokio::test]
async fn abuse_of_streams_ends_the_connection() {
    let house = house().await;
    ends_alone(&house, "rapid reset", async |writer| {
        for burst in 0..100 {
            let frames: Vec<_> = (0..100)
                .flat_map(|n| {
                    let stream = 1 + 2 * (100 * burst + n);
                    [Frame::head(stream, true, &HEAD), Frame::new(kind::RST_STREAM, 0, stream, [0, 0, 0, 8])]
                })
                .collect();
            writer.send(&frames).await?;
        }
        Ok(())
    })
    .await;
    ends_alone(&house, "MadeYouReset", async |writer| {
        for stream in (1..20_000).step_by(2) {
            // An increment of zero is the stream's error, so the server resets.
            let nothing = Frame::new(kind::WINDOW_UPDATE, 0, stream, [0, 0, 0, 0]);
            writer.send(&[Frame::head(stream, false, &HEAD), nothing]).await?;
        }
        Ok(())
    })
    .await;
    for (what, size) in [("CONTINUATION flood", 16_000), ("CONTINUATION flood without content", 0)] {
        ends_alone(&house, what, async |writer| {
            writer.send(&[Frame::new(kind::HEADERS, 0, 1, postern_tests::frames::block(&HEAD))]).await?;
            // One field that never ends.
            let more = Frame::new(kind::CONTINUATION, 0, 1, vec![b'a'; size]);
            for _ in 0..20_000 {
                writer.send(std::slice::from_ref(&more)).await?;
            }
            Ok(())
        })
        .await;
    }
    let received = house.app.received().len();
    assert!(received < 1_000, "{received} requests of a flood reached the upstream");
}

/// S31: frames that ask for an answer which is never read cost a bounded amount, and nobody else notices.
#[tokio::test]
async fn floods_of_control_frames_are_bounded() {
    let house = house().await;
    assert_eq!(house.up.client().get("app.test", "/").await.status, 200);
    let before = house.up.process.resident();
    for (what, frame) in [
        ("SETTINGS", Frame::new(kind::SETTINGS, 0, 0, [0, 4, 0, 1, 0, 0].repeat(100))),
        ("PING", Frame::new(kind::PING, 0, 0, [7; 8])),
        ("PRIORITY", Frame::new(kind::PRIORITY, 0, 1, [0, 0, 0, 3, 9])),
        ("WINDOW_UPDATE", Frame::new(kind::WINDOW_UPDATE, 0, 0, [0, 0, 0, 1])),
        ("an unknown frame", Frame::new(99, END_HEADERS, 1, [0; 64])),
    ] {
        let (mut writer, _unread) = connect(&house.up.client_h2(), "app.test").await;
        let flood = vec![frame; 1_000];
        let flooding = async {
            for _ in 0..100 {
                if writer.send(&flood).await.is_err() {
                    return;
                }
            }
        };
        // Whoever is not read any more has to wait: that is a bound too.
        let _ = tokio::time::timeout(Duration::from_secs(2), flooding).await;
        assert_eq!(house.up.client().get("app.test", "/").await.status, 200, "{what}: others are served");
        let now = house.up.process.resident();
        assert!(now < before + 64 * 1024, "{what}: from {before} to {now} KiB");
    }
}
