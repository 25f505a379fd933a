//! WebSockets: from the upstream's 101 to the last byte either way.
//!
//! hyper hands out what a client sends after its request only once our own 101 is written, so nothing reaches the upstream
//! before it has agreed to the change of protocol.

use std::future::poll_fn;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::error::{Error, Kind, Result};
use crate::http::canonical::Upgrade;
use crate::http::exchange::Exchange;
use crate::http::relay::{Ended, Relay};
use crate::http::watch::unless_revoked;
use crate::upstream::Wire;

/// Turns a request for a WebSocket into the one our upstream understands: over HTTP/2 there is no key (RFC 8441 §5), so
/// we make one. Returns what the upstream has to answer to it.
pub(crate) fn ask(upgrade: Upgrade, headers: &mut HeaderMap) -> Option<String> {
    match upgrade {
        Upgrade::Http1 => None,
        Upgrade::Http2 => {
            let key = STANDARD.encode(rand::random::<[u8; 16]>());
            let accept = accept_for(&key);
            headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::try_from(key).expect("base64 is a header value"));
            headers.entry(header::SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
            Some(accept)
        }
    }
}

/// A change of protocol that both sides agree to.
pub(crate) struct Agreed {
    upgrade: Upgrade,
    client: OnUpgrade,
}

/// One that the client's answer says so of.
pub(crate) struct Announced {
    response: Response<()>,
    client: OnUpgrade,
    upstream: Wire,
}

/// Reads the upstream's answer: `None` if it is an ordinary one. `wanted` is what the client asked for, `accept` what the
/// upstream has to prove.
///
/// # Errors
/// [`Kind::UpstreamBroken`] if it changes to something that was not asked for.
pub(crate) fn agree<T>(
    wanted: Option<(Upgrade, OnUpgrade)>,
    accept: Option<&str>,
    answer: &Response<T>,
) -> Result<Option<Agreed>> {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(None);
    }
    match wanted {
        Some((upgrade, client)) if is_websocket(accept, answer.headers()) => Ok(Some(Agreed { upgrade, client })),
        Some(_) | None => Err(Error::with(Kind::UpstreamBroken, "it changed to a protocol that was not asked for")),
    }
}

fn is_websocket(accept: Option<&str>, headers: &HeaderMap) -> bool {
    let websocket = headers.get(header::UPGRADE).is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let proof = headers.get(header::SEC_WEBSOCKET_ACCEPT);
    websocket && accept.is_none_or(|accept| proof.is_some_and(|proof| proof == accept))
}

impl Agreed {
    /// Tells the client, in its own protocol, out of the upstream's answer without its framing. `upstream` is the connection.
    pub(crate) fn announce(self, mut response: Response<()>, upstream: Wire) -> Announced {
        let headers = response.headers_mut();
        match self.upgrade {
            Upgrade::Http1 => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            }
            Upgrade::Http2 => {
                headers.remove(header::SEC_WEBSOCKET_ACCEPT);
                *response.status_mut() = StatusCode::OK;
            }
        }
        Announced { response, client: self.client, upstream }
    }
}

impl Announced {
    /// Carries the WebSocket to its end in a task of the worker, and returns what the client is told. The exchange, and with it the
    /// log line and the registration, lives as long.
    pub(crate) fn start(self, exchange: Box<Exchange>) -> Response<()> {
        exchange.answers(self.response.status());
        exchange.watch().set_long();
        let tasks = exchange.conn().worker.tasks.clone();
        tasks.spawn_local(async move {
            match unless_revoked(exchange.watch(), carry(&exchange, self.client, self.upstream)).await {
                Some(Ok(Ended::Finished | Ended::Broken)) => {}
                Some(Ok(Ended::Idle)) => exchange.because("idle"),
                Some(Err(error)) => {
                    tracing::debug!(%error, "an upgrade was agreed to and did not come");
                    exchange.because("upgrade_failed");
                }
                None => exchange.because("revoked"),
            }
            exchange.complete();
        });
        self.response
    }
}

async fn carry(exchange: &Exchange, client: OnUpgrade, upstream: Wire) -> hyper::Result<Ended> {
    let client = client.await?;
    let patience = exchange.conn().worker.shared.config.limits.upgrade;
    let mut relay = Relay::new(TokioIo::new(client), upstream, patience);
    let count = |up, down| {
        exchange.count_up(up);
        exchange.count_down(down);
    };
    Ok(poll_fn(|cx| relay.poll(cx, &count)).await)
}

/// RFC 6455 §4.2.2.
fn accept_for(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[test]
    fn the_accept_value_is_that_of_the_rfc() {
        assert_eq!(accept_for("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn only_the_protocol_that_was_asked_for_is_agreed_to() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
        };
        let good = headers(&[("upgrade", "WebSocket"), ("sec-websocket-accept", "yes")]);
        assert!(is_websocket(None, &good) && is_websocket(Some("yes"), &good));
        for bad in [
            headers(&[("upgrade", "h2c"), ("sec-websocket-accept", "yes")]),
            headers(&[("upgrade", "websocket"), ("sec-websocket-accept", "no")]),
            headers(&[("upgrade", "websocket")]),
            headers(&[]),
        ] {
            assert!(!is_websocket(Some("yes"), &bad), "{bad:?}");
        }
        let unasked = Response::builder().status(101).header("upgrade", "websocket").body(()).unwrap();
        assert!(agree(None, None, &unasked).is_err());
        assert!(agree(None, None, &Response::new(())).unwrap().is_none());
    }
}
