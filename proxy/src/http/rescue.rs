//! The one place where an error becomes a status, a page or JSON, a log level and a reason.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use postern_auth::Refusal;
use postern_model::AuthMechanism;
use postern_web::ErrorPage;

use crate::error::{Connect, Error, Kind, Side};
use crate::http::body::Source;
use crate::http::exchange::Exchange;

/// Answers in the upstream's place.
pub(crate) fn rescue(error: &Error, exchange: &Exchange) -> Response<Source> {
    exchange.because(error.kind.reason());
    exchange.refused(mechanism(&error.kind));
    exchange.conn().worker.metrics.refused(error.kind.reason());
    report(error, exchange);

    let words = words(&error.kind);
    let mut response = if *exchange.method() == Method::HEAD {
        Response::new(Source::Empty)
    } else {
        page(&words, &error.kind, exchange)
    };
    *response.status_mut() = words.status;
    let headers = response.headers_mut();
    for (name, value) in postern_web::HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if let Kind::Refused(refusal) = &error.kind {
        for challenge in refusal.www_authenticate() {
            headers.append(header::WWW_AUTHENTICATE, challenge.clone());
        }
    }
    if exchange.has_unread_body() && !exchange.conn().http2 {
        // What is still to come of the body must not be read as the next request.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn page(words: &Words, kind: &Kind, exchange: &Exchange) -> Response<Source> {
    let page = ErrorPage {
        code: words.status.as_u16(),
        title: words.title,
        message: words.message,
        proxy_ok: kind.side() != Side::Proxy,
        // Whatever we answer in its place, the destination did not.
        destination_ok: false,
        request_id: &exchange.id().to_string(),
    };
    let (text, media_type) = if wants_json(exchange.accept()) {
        (postern_web::error_json(&page), postern_web::JSON)
    } else {
        (postern_web::error_page(&page), postern_web::HTML)
    };
    let mut response = Response::new(Source::Page(Bytes::from(text)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// A browser names `text/html` before all else; a program that asks for JSON does not name it at all.
fn wants_json(accept: Option<&str>) -> bool {
    let accept = accept.unwrap_or_default();
    accept.contains("json") && !accept.contains("text/html")
}

fn mechanism(kind: &Kind) -> AuthMechanism {
    match kind {
        Kind::Restricted => AuthMechanism::IpRestricted,
        Kind::Refused(refusal) => refusal.mechanism(),
        Kind::BadRequest(_)
        | Kind::Misdirected
        | Kind::NoRoute
        | Kind::AmbiguousPath
        | Kind::Revoked
        | Kind::UpstreamConnect(_)
        | Kind::UpstreamTimeout
        | Kind::UpstreamBroken
        | Kind::ClientStalled
        | Kind::ClientGone => AuthMechanism::None,
    }
}

/// What the upstream's operator has to look at is a warning; what a client did is none.
fn report(error: &Error, exchange: &Exchange) {
    let (id, client, method) = (exchange.id(), exchange.client(), exchange.method());
    let (host, path) = (exchange.host(), exchange.path());
    match error.kind.side() {
        Side::Client => tracing::debug!(%id, %client, %method, host, path, %error, "request refused"),
        Side::Proxy => tracing::info!(%id, %client, %method, host, path, %error, "request refused"),
        Side::Upstream => tracing::warn!(%id, %client, %method, host, path, %error, "the upstream did not answer"),
    }
}

struct Words {
    status: StatusCode,
    title: &'static str,
    message: &'static str,
}

fn words(kind: &Kind) -> Words {
    let (status, title, message) = match kind {
        Kind::BadRequest(_) | Kind::AmbiguousPath | Kind::ClientGone => (
            StatusCode::BAD_REQUEST,
            "Bad Request",
            "This request is malformed, or could be read in more than one way.",
        ),
        Kind::Misdirected => (
            StatusCode::MISDIRECTED_REQUEST,
            "Misdirected Request",
            "This connection was made for another host name. Please reload the page.",
        ),
        Kind::NoRoute => (
            StatusCode::NOT_FOUND,
            "Service Not Found",
            "No service is published at this address. Please check it for typing errors.",
        ),
        Kind::Restricted => {
            (StatusCode::FORBIDDEN, "Access Denied", "This service cannot be reached from your network.")
        }
        Kind::Refused(refusal) => return refused(refusal),
        Kind::Revoked => (
            StatusCode::SERVICE_UNAVAILABLE,
            "Service Changed",
            "This service was changed while your request was under way. Please try again.",
        ),
        Kind::UpstreamConnect(failure) => return unreached(*failure),
        Kind::UpstreamTimeout => {
            (StatusCode::GATEWAY_TIMEOUT, "Request Timeout", "The service was reached, but did not answer in time.")
        }
        Kind::UpstreamBroken => {
            (StatusCode::BAD_GATEWAY, "Connection Error", "The service was reached, but broke off before it answered.")
        }
        Kind::ClientStalled => (
            StatusCode::REQUEST_TIMEOUT,
            "Request Timeout",
            "Your upload stopped before it was complete. Please try again.",
        ),
    };
    Words { status, title, message }
}

fn refused(refusal: &Refusal) -> Words {
    let (title, message) = match refusal {
        Refusal::Challenge { .. } => ("Login Required", "This service is only open to those who log in."),
        Refusal::Denied(_) => ("Access Denied", "You may not use this service."),
        Refusal::CrossOrigin => ("Access Denied", "This connection was opened by a page of another site."),
        Refusal::TooMany => {
            ("Too Many Attempts", "There were too many wrong attempts. Please wait before you try again.")
        }
        Refusal::Unavailable => {
            ("Login Unavailable", "Nobody can verify your login at the moment. Please try again soon.")
        }
    };
    Words { status: refusal.status(), title, message }
}

fn unreached(failure: Connect) -> Words {
    let (status, title, message) = match failure {
        Connect::Refused => (
            StatusCode::BAD_GATEWAY,
            "Service Unavailable",
            "The machine of this service was reached, but the service is not running.",
        ),
        Connect::Unreachable => (
            StatusCode::BAD_GATEWAY,
            "Peer Not Connected",
            "There is no way to the machine of this service at the moment.",
        ),
        Connect::Timeout => (
            StatusCode::GATEWAY_TIMEOUT,
            "Request Timeout",
            "The machine of this service did not take the connection in time.",
        ),
        Connect::Dns => {
            (StatusCode::BAD_GATEWAY, "Connection Error", "The name of this service's machine cannot be resolved.")
        }
        Connect::Tls => (
            StatusCode::BAD_GATEWAY,
            "Connection Error",
            "The service was reached, but no secure connection to it could be made.",
        ),
        Connect::TunnelDown => (
            StatusCode::BAD_GATEWAY,
            "Tunnel Down",
            "The tunnel that leads to this service's machine is down at the moment.",
        ),
        Connect::Other => (StatusCode::BAD_GATEWAY, "Connection Error", "No connection to this service could be made."),
    };
    Words { status, title, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_goes_to_those_who_want_nothing_else() {
        for (accept, json) in [
            (None, false),
            (Some("*/*"), false),
            (Some("text/html,application/xhtml+xml,application/json;q=0.9"), false),
            (Some("application/json"), true),
            (Some("application/problem+json, */*"), true),
        ] {
            assert_eq!(wants_json(accept), json, "{accept:?}");
        }
    }
}
