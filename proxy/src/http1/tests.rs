//! The whole of an answer, in pieces of any size, against tables and against hyper.

use bytes::Bytes;
use http::{Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http1::malformed::Malformed;
use crate::http1::outgoing::{Outgoing, Unsendable};
use crate::http1::replay::{Beside, Heard, read};

fn whole(text: &str) -> Result<(Heard, Beside), Malformed> {
    read(&Method::GET, [text.as_bytes()])
}

/// Body, whether the connection may be used again, and how many bytes are left over.
fn content(method: &Method, text: &str) -> Result<(String, bool, usize), Malformed> {
    let (heard, beside) = read(method, [text.as_bytes()])?;
    Ok((String::from_utf8(heard.body).unwrap(), beside.stays_open, beside.left))
}

#[test]
fn an_answer_ends_where_its_framing_says() {
    let ok = |body: &str, stays_open, left| Ok((body.to_owned(), stays_open, left));
    let get = |text: &str| content(&Method::GET, text);
    assert_eq!(get("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP"), ok("ok", true, 4));
    assert_eq!(get("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\nContent-Length: 2\r\n\r\nok"), ok("ok", true, 0));
    for repeated in ["Content-Length: 2, 2\r\n", "Content-Length: 2\r\nContent-Length: 2\r\n"] {
        let (heard, _) = whole(&format!("HTTP/1.1 200 OK\r\n{repeated}\r\nok")).unwrap();
        assert_eq!(heard.fields.get_all("content-length").iter().collect::<Vec<_>>(), ["2"]);
    }
    assert_eq!(get("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"), ok("ok", false, 0));
    assert_eq!(get("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"), ok("ok", false, 0));
    assert_eq!(get("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"), ok("ok", true, 0));
    assert_eq!(get("HTTP/1.1 200 OK\r\n\r\nall of it"), ok("all of it", false, 0));
    let chunks =
        "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nA  ;x=\"y\"\r\n0123456789\r\n0\r\n\r\nmore";
    assert_eq!(get(chunks), ok("ok0123456789", true, 4));
    // Without content, whatever is announced; where nobody knows, the connection is not used again.
    assert_eq!(content(&Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"), ok("", true, 0));
    assert_eq!(get("HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n"), ok("", true, 0));
    assert_eq!(get("HTTP/1.1 204 No Content\r\n\r\n"), ok("", true, 0));
    assert_eq!(get("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"), ok("", true, 0));
    assert_eq!(get("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok"), ok("", false, 2));
    assert_eq!(get("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\u{1}"), ok("", false, 1));
}

#[test]
fn interim_answers_come_before_the_final_one() {
    let (heard, _) = whole(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 Done\r\nX: y\r\n\r\n",
    )
    .unwrap();
    assert_eq!((heard.interim, heard.status, heard.fields.len()), (vec![100, 103], 204, 1));
    let with = |length| format!("HTTP/1.1 100 Continue\r\nContent-Length: {length}\r\n\r\nHTTP/1.1 204 Done\r\n\r\n");
    assert!(whole(&with(0)).is_ok());
    assert_eq!(whole(&with(5)), Err(Malformed::InterimContent));
}

/// Each with what is wrong with it; put right, it is read.
#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    use httparse::Error;
    let head = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
    let many = |count| "X: y\r\n".repeat(count);
    let large = |size| format!("X: {}\r\n", "y".repeat(size));
    let cases = [
        ("HTTP/1.1 200 OK\r\n\r\n".into(), "\r\nHTTP/1.1 200 OK\r\n\r\n".into(), Malformed::Lines),
        (head("A: b\r\n"), head("A: b\n"), Malformed::Lines),
        (head(""), "HTTP/1.1 200 OK\n\n".into(), Malformed::Lines),
        (head("A: b\r\n"), head("A: b\rc\r\n"), Malformed::Head(Error::HeaderValue)),
        (head("A: b c\r\n"), head("A: b\r\n c\r\n"), Malformed::Head(Error::HeaderName)),
        (head("A: b\r\n"), head("A : b\r\n"), Malformed::Head(Error::HeaderName)),
        (head("A: b\r\n"), head("A: b\0\r\n"), Malformed::Head(Error::HeaderValue)),
        ("HTTP/1.1 200 OK\r\n\r\n".into(), "HTTP/2 200 OK\r\n\r\n".into(), Malformed::Head(Error::Version)),
        ("HTTP/1.1 200 OK\r\n\r\n".into(), "SSH-2.0-dropbear\r\n".into(), Malformed::Head(Error::Version)),
        ("HTTP/1.1 200 OK\r\n\r\n".into(), "HTTP/1.1 099 No\r\n\r\n".into(), Malformed::Head(Error::Status)),
        (head(&many(100)), head(&many(101)), Malformed::Head(Error::TooManyHeaders)),
        (head(&large(300_000)), head(&large(500_000)), Malformed::HeadTooLong(400 * 1024)),
        (head("Content-Length: 0\r\n"), head("Content-Length: +0\r\n"), Malformed::Length),
        (
            head("Content-Length: 0\r\nContent-Length: 0\r\n"),
            head("Content-Length: 0\r\nContent-Length: 1\r\n"),
            Malformed::Length,
        ),
        (
            head("Content-Length: 0\r\n"),
            head("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
            Malformed::TransferEncoding,
        ),
        (
            head("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n",
            head("Transfer-Encoding: gzip, chunked\r\n") + "0\r\n\r\n",
            Malformed::TransferEncoding,
        ),
        (
            head("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            Malformed::TransferEncoding,
        ),
        (head("Content-Length: 2\r\n") + "ok", head("Content-Length: 2\r\n") + "o", Malformed::Short),
        (head(""), "HTTP/1.1 200 OK\r\nA".into(), Malformed::Short),
    ];
    for (right, wrong, why) in cases {
        assert_eq!(whole(&right).err(), None, "{right:.99}");
        assert_eq!(whole(&wrong).err(), Some(why), "{wrong:.99}");
    }
}

/// Whoever does not speak HTTP may be waiting for us to speak first.
#[test]
fn what_is_no_http_is_noticed_by_its_first_bytes() {
    let refused = |text: &str| read(&Method::GET, text.as_bytes().chunks(1)).err();
    for text in ["SSH-2.0-dropbear", "HTTP/1.1 x", "HTTP/2", "\r", "\n"] {
        assert!(refused(text).is_some_and(|error| error != Malformed::Short), "{text:?}");
    }
    assert_eq!(refused("HTTP/1.1 200 OK"), Some(Malformed::Short), "and this may become an answer");
}

#[test]
fn chunks_are_read_in_one_way_only() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = |size| format!("2;{}\r\nok\r\n0\r\n\r\n", "x".repeat(size));
    let trailer = |size| format!("0\r\nX: {}\r\n\r\n", "y".repeat(size));
    let cases = [
        ("2\r\nok\r\n0\r\n\r\n".into(), "2\nok\r\n0\r\n\r\n".into(), Malformed::Chunk),
        ("2\r\nok\r\n0\r\n\r\n".into(), "2\r\nokay\r\n0\r\n\r\n".into(), Malformed::Chunk),
        ("2\r\nok\r\n0\r\n\r\n".into(), "2\r\nok\n0\r\n\r\n".into(), Malformed::Chunk),
        ("2 ;a\r\nok\r\n0\r\n\r\n".into(), "2 a\r\nok\r\n0\r\n\r\n".into(), Malformed::Chunk),
        ("2;a\r\nok\r\n0\r\n\r\n".into(), "2;a\rb\r\nok\r\n0\r\n\r\n".into(), Malformed::Chunk),
        ("2\r\nok\r\n0\r\n\r\n".into(), "0x2\r\nok\r\n0\r\n\r\n".into(), Malformed::Chunk),
        ("2\r\nok\r\n0\r\n\r\n".into(), "+2\r\nok\r\n0\r\n\r\n".into(), Malformed::Chunk),
        ("2\r\nok\r\n0\r\n\r\n".into(), "\r\nok\r\n0\r\n\r\n".into(), Malformed::Chunk),
        ("0000000000000002\r\nok\r\n0\r\n\r\n".into(), "00000000000000002\r\nok\r\n0\r\n\r\n".into(), Malformed::Chunk),
        (long(16_000), long(17_000), Malformed::Chunk),
        ("0\r\n\r\n".into(), "0\r\n".into(), Malformed::Short),
        ("0\r\nA: b\r\n\r\n".into(), "0\r\nA: b\n\r\n".into(), Malformed::Trailers),
        ("0\r\nA: b\r\n\r\n".into(), "0\r\nA b\r\n\r\n".into(), Malformed::Trailers),
        (trailer(16_000), trailer(17_000), Malformed::Trailers),
    ];
    for (right, wrong, why) in cases {
        let (right, wrong): (String, String) = (right, wrong);
        assert_eq!(whole(&format!("{head}{right}")).err(), None, "{right:.99}");
        assert_eq!(whole(&format!("{head}{wrong}")).err(), Some(why), "{wrong:.99}");
    }
}

/// Parts of answers, put together at random: some make one.
fn soup() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 204 No\r\n",
        "HTTP/1.1 404\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "content-length:0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        "X-A:  b \r\n",
        "X-A: c\n",
        "X-A:\r\n",
        " d\r\n",
        "\r\n",
        "\n",
        "\r",
        "hello",
        "5\r\nhello\r\n",
        "3;a=b\r\nabc\r\n",
        "0\r\n",
        "0\r\n\r\n",
        "X-T: u\r\n\r\n",
        "\0",
    ]);
    let begin = prop::sample::select(vec!["HTTP/1.1 200 OK\r\n", "HTTP/1.0 200 OK\r\n", "HTTP/1.1 204 No\r\n", ""]);
    (begin, prop::collection::vec(part, 0..8)).prop_map(|(begin, parts)| format!("{begin}{}", parts.concat()))
}

fn answer() -> impl Strategy<Value = String> {
    let end = prop::sample::select(vec![
        "Content-Length: 5\r\n\r\nhello",
        "\r\nuntil the end",
        "Content-Length: 0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;a\r\nabc\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n5\r\nhello\r\n0\r\nX-T: u\r\nX-T: v\r\n\r\n",
    ]);
    let status =
        prop::sample::select(vec!["200 OK", "404 Gone fishing", "500", "301 ", "204 No Content", "304 Not Modified"]);
    let fields = prop::collection::vec("[A-Za-z-]{1,8}: {0,2}[ -~]{0,12}\r\n", 0..5);
    (prop::bool::ANY, status, fields, end).prop_map(|(interim, status, fields, end)| {
        let interim = if interim { "HTTP/1.1 100 Continue\r\n\r\n" } else { "" };
        format!("{interim}HTTP/1.1 {status}\r\n{}{end}", fields.concat())
    })
}

/// The same bytes, cut at the places that `cuts` names.
fn cut<'a>(text: &'a str, cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    places.extend([0, text.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect()
}

/// As hyper's client reads it.
fn by_hyper(text: &str) -> Option<Heard> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (mut upstream, end) = tokio::io::duplex(1 << 20);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(end)).await.ok()?;
        let carrying = tokio::spawn(connection);
        let request = Request::builder().uri("/").header("host", "a").body(Empty::<Bytes>::new()).unwrap();
        let asked = sender.send_request(request);
        let say = async {
            // An answer before its request would be none.
            assert_ne!(upstream.read(&mut [0; 1024]).await.unwrap(), 0);
            upstream.write_all(text.as_bytes()).await.unwrap();
            upstream.shutdown().await.unwrap();
        };
        let (answer, ()) = tokio::join!(asked, say);
        let (parts, body) = answer.ok()?.into_parts();
        let body = body.collect().await.ok()?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        carrying.abort();
        let body = body.to_bytes().to_vec();
        Some(Heard { interim: Vec::new(), status: parts.status.as_u16(), fields: parts.headers, body, trailers })
    })
}

proptest! {
    #[test]
    fn it_does_not_matter_how_an_answer_is_cut(
        text in prop_oneof![soup(), answer()],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        prop_assert_eq!(read(&Method::GET, cut(&text, &cuts)).ok(), whole(&text).ok());
        let bytes = text.as_bytes().chunks(1);
        prop_assert_eq!(read(&Method::GET, bytes).ok(), whole(&text).ok());
    }

    /// hyper understands more than we do. What we understand, it understands as we do.
    #[test]
    fn hyper_reads_the_same(text in prop_oneof![soup(), answer()]) {
        if let Ok((mut heard, _)) = whole(&text) {
            heard.interim.clear();
            let mut theirs = by_hyper(&text);
            if let Some(theirs) = &mut theirs && let Some(length) = heard.fields.get("content-length") {
                theirs.fields.insert("content-length", length.clone());
            }
            prop_assert_eq!(Some(heard), theirs);
        }
    }

    #[test]
    fn most_well_formed_answers_are_understood(text in answer()) {
        let framing = text.to_ascii_lowercase();
        prop_assume!(!["\r\ncontent-length:", "\r\ntransfer-encoding:"].iter().any(|name| framing.matches(name).count() > 1));
        prop_assert!(whole(&text).is_ok(), "{}: {:?}", text, whole(&text));
    }
}

/// All that is sent for a request, taken `step` bytes at a time.
fn sent(head: &str, frames: &[Frame<&'static [u8]>], step: usize) -> Result<String, Unsendable> {
    let mut lines = head.lines();
    let (method, target) = lines.next().and_then(|line| line.split_once(' ')).unwrap();
    let mut request = Request::builder().method(method).uri(target);
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    let mut outgoing = Outgoing::new(&request.body(()).unwrap(), !frames.is_empty(), b"old".to_vec())?;
    let (mut text, mut frames) = (Vec::new(), frames.iter());
    loop {
        while outgoing.takes_frames() {
            match frames.next() {
                Some(frame) => outgoing.push(match (frame.data_ref(), frame.trailers_ref()) {
                    (Some(data), _) => Frame::data(Bytes::from_static(data)),
                    (None, trailers) => Frame::trailers(trailers.cloned().unwrap()),
                })?,
                None => outgoing.finish()?,
            }
        }
        let Some(part) = outgoing.parts().next() else { break };
        let taken = part[..step.min(part.len())].to_vec();
        outgoing.advance(taken.len());
        text.extend(taken);
    }
    assert!(outgoing.is_finished());
    Ok(String::from_utf8(text).unwrap())
}

#[test]
fn a_request_is_framed_once() {
    let trailers = || {
        let fields = [("x-sum", "1"), ("x-other", "2")];
        Frame::trailers(
            fields.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect(),
        )
    };
    let data = |data: &'static str| Frame::data(data.as_bytes());
    for step in [1, 3, 1000] {
        let text = |head, frames: &[_]| sent(head, frames, step);
        assert_eq!(text("GET /a?b\nhost: c", &[]).unwrap(), "GET /a?b HTTP/1.1\r\nhost: c\r\n\r\n");
        assert_eq!(text("OPTIONS *", &[]).unwrap(), "OPTIONS * HTTP/1.1\r\n\r\n");
        assert_eq!(text("POST /\ncontent-length: 0", &[]).unwrap(), "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n");
        let sized = "POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello";
        assert_eq!(
            text("POST /\ncontent-length: 5\ncontent-length: 5", &[data("hel"), data(""), data("lo")]).unwrap(),
            sized
        );
        let chunks = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
        assert_eq!(text("POST /\ntransfer-encoding: gzip", &[data("hel"), data(""), data("lo")]).unwrap(), chunks);
        let announced =
            "PUT / HTTP/1.1\r\ntrailer: X-Sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n";
        assert_eq!(text("PUT /\ntrailer: X-Sum", &[data("ok"), trailers()]).unwrap(), announced);
        assert_eq!(text("PUT /\ncontent-length: 2", &[data("ok"), trailers()]).unwrap().matches("x-sum").count(), 0);
        for bad in [&[data("hell")][..], &[data("hello"), data("!")], &[data("hell"), trailers()], &[]] {
            assert_eq!(text("POST /\ncontent-length: 5", bad), Err(Unsendable));
        }
        assert_eq!(text("POST /\ncontent-length: 5\ncontent-length: 6", &[data("hello")]), Err(Unsendable));
    }
}
