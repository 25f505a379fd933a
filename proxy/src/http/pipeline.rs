//! A request, from hyper and back to it: the straight line that everything else hangs on.

use std::rc::Rc;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use postern_auth::Facts;
use postern_auth::cookie::SESSION_COOKIE;

use crate::error::{Kind, Result};
use crate::http::body::{Body, Source};
use crate::http::canonical::{self, canonical};
use crate::http::exchange::Exchange;
use crate::http::forward::{Answer, forward};
use crate::http::forwarded::Hop;
use crate::http::rescue::rescue;
use crate::http::rewrite::Public;
use crate::http::upgrade::{self, Announced};
use crate::http::watch::{Watch, unless_revoked};
use crate::restrict::restrict;
use crate::table::Route;
use crate::worker::Conn;

/// Answers a request. The exchange moves into the answer's body, or into the WebSocket it becomes.
pub(crate) async fn serve(conn: Rc<Conn>, watch: Rc<Watch>, request: Request<Incoming>) -> Response<Body> {
    let exchange = Exchange::open(conn, watch, &request);
    match handle(&exchange, request).await {
        Ok(Reply::Answer(response)) => Body::carry(response, exchange),
        Ok(Reply::Upgrade(agreed)) => agreed.start(exchange).map(|()| Body::empty()),
        Err(error) => Body::carry(rescue(&error, &exchange), exchange),
    }
}

/// What comes of a request.
enum Reply {
    Answer(Response<Source>),
    Upgrade(Announced),
}

async fn handle(exchange: &Exchange, request: Request<Incoming>) -> Result<Reply> {
    let conn = exchange.conn();
    let shared = &conn.worker.shared;
    let (mut parts, body) = request.into_parts();
    let likely = conn.sni.as_ref().or_else(|| conn.seen.host());
    let request = canonical(&parts, conn.sni.as_ref(), likely)?;
    conn.seen.named(&request.host);
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let hop = Hop::new(conn.trusted_proxies(), &conn.peer, conn.scheme(), &parts.headers);
    exchange.asked(&request, hop.client);

    let route = Arc::clone(shared.router.load().route(&conn.scope, &request.host, &request.path)?);
    exchange.enter(&route);
    // Registered, and no await since the lookup: no revocation slips between.
    let sent = Sent { headers: parts.headers, hop, body, upgrade };
    let answered = unless_revoked(exchange.watch(), answer(exchange, &route, request, sent)).await;
    answered.unwrap_or_else(|| Err(Kind::Revoked.into()))
}

/// A request as it came: what the gate has to see, and what is streamed.
struct Sent<'a> {
    headers: HeaderMap,
    hop: Hop<'a>,
    body: Incoming,
    upgrade: Option<OnUpgrade>,
}

async fn answer(exchange: &Exchange, route: &Route, request: canonical::Request, sent: Sent<'_>) -> Result<Reply> {
    let conn = exchange.conn();
    restrict(&route.service.restrictions, sent.hop.client)?;
    let facts = Facts {
        source: sent.hop.client,
        origin: &conn.origin,
        tls: conn.sni.is_some(),
        headers: &sent.headers,
        upgrade: request.upgrade.is_some(),
        host: &request.host,
        port: request.port,
    };
    let permit = conn.worker.shared.gate.admit(&route.door, &facts).await?;
    exchange.admitted(&permit);

    let identity = permit.principal().map(|principal| conn.seen.identity(principal));
    let session = permit.session().cloned();
    let upstream = permit.redeem();
    let public = Public::of(&request, conn.scheme());
    let (wanted, expects) = (request.upgrade, request.expects_continue);
    let mut head = upstream.outbound.head(&request, sent.headers, &sent.hop, identity.as_deref())?;
    let accept = wanted.and_then(|wanted| upgrade::ask(wanted, head.headers_mut()));

    let Answer { mut response, download } = forward(exchange, head, sent.body, &upstream, expects).await?;
    let agreed = upgrade::agree(wanted.zip(sent.upgrade), accept.as_deref(), &response)?;
    let headers = response.headers_mut();
    upstream.outbound.rewrite_back(headers, &public);
    drop_foreign_session(headers);
    if let Some(session) = session {
        headers.append(header::SET_COOKIE, session);
    }
    if is_stream(headers) {
        exchange.watch().set_long();
    }
    *response.version_mut() = Version::HTTP_11;
    Ok(match agreed {
        Some(agreed) => {
            let upstream = download.take_over().ok_or(Kind::UpstreamBroken)?;
            Reply::Upgrade(agreed.announce(response, upstream))
        }
        None => {
            if wanted.is_some() && !conn.http2 {
                // What the client may have sent in the belief that it would be agreed to is no request (RFC 9931).
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Reply::Answer(response.map(|()| Source::Upstream(download)))
        }
    })
}

/// The name of our session cookie is ours: an application cannot set it, by accident or to fix a session.
fn drop_foreign_session(headers: &mut HeaderMap) {
    let ours = |value: &HeaderValue| {
        let name = value.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default();
        name.trim_ascii() == SESSION_COOKIE.as_bytes()
    };
    if !headers.get_all(header::SET_COOKIE).iter().any(ours) {
        return;
    }
    let kept: Vec<_> = headers.get_all(header::SET_COOKIE).iter().filter(|value| !ours(value)).cloned().collect();
    headers.remove(header::SET_COOKIE);
    for value in kept {
        headers.append(header::SET_COOKIE, value);
    }
}

/// Answers that end when somebody hangs up, not when they are complete.
fn is_stream(headers: &HeaderMap) -> bool {
    let Some(media_type) = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes) else { return false };
    [&b"text/event-stream"[..], b"application/grpc", b"multipart/x-mixed-replace"]
        .iter()
        .any(|stream| media_type.get(..stream.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(stream)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_request_stays_small() {
        fn size<A, B, C, R>(_: impl Fn(A, B, C) -> R) -> usize {
            size_of::<R>()
        }
        // Each connection has room for it, and each request moves it there.
        assert!(size(serve) < 6 * 1024, "{}", size(serve));
    }

    #[test]
    fn our_cookie_cannot_be_set_by_an_application() {
        let mut headers = HeaderMap::new();
        for value in ["a=1", "nb_session=forged; Path=/", " nb_session =forged", "nb_session_2=fine", "b=2"] {
            headers.append(header::SET_COOKIE, HeaderValue::from_static(value));
        }
        drop_foreign_session(&mut headers);
        let left: Vec<_> = headers.get_all(header::SET_COOKIE).iter().collect();
        assert_eq!(left, ["a=1", "nb_session_2=fine", "b=2"]);
    }

    #[test]
    fn streams_are_told_by_their_type() {
        let is = |value| is_stream(&HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(value))]));
        assert!(is("text/event-stream; charset=utf-8") && is("Application/gRPC+proto"));
        assert!(!is("text/html") && !is("text/event") && !is_stream(&HeaderMap::new()));
    }
}
