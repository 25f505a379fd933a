use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{Html, IntoResponse, Json, Response};
use http::header::{ACCEPT, COOKIE};
use http::{HeaderMap, Uri};
use http_body_util::BodyExt;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// The upstream of the demo services: it shows whoever asks what arrived here, behind the proxy.
pub(crate) struct Demo {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Demo {
    /// Serves on a free loopback port until dropped.
    pub(crate) async fn start() -> Result<Self, Failure> {
        let failed = |error| Failure::running(format!("the demo upstream cannot listen on loopback: {error}"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let stop = CancellationToken::new();
        let server = axum::serve(listener, Router::new().fallback(answer));
        tokio::spawn(stop.clone().run_until_cancelled_owned(server.into_future()));
        Ok(Self { address, stop })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What arrived. Header names are as they came over the wire, where hyper writes them in lower case.
#[derive(Serialize)]
struct Received {
    method: String,
    path: String,
    query: Option<String>,
    headers: BTreeMap<String, String>,
    body_bytes: u64,
}

async fn answer(request: Request) -> Response {
    let (head, body) = request.into_parts();
    let received = Received {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        headers: headers(&head.headers),
        body_bytes: count(body).await,
    };
    if wants_json(&head.uri, &head.headers) {
        Json(received).into_response()
    } else {
        Html(page(&received)).into_response()
    }
}

/// Several values of one name stand in one line, as RFC 9110 §5.3 and, for cookies, RFC 6265 §5.4 join them.
fn headers(received: &HeaderMap) -> BTreeMap<String, String> {
    let mut joined: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in received {
        let value = String::from_utf8_lossy(value.as_bytes());
        let separator = if name == COOKIE { "; " } else { ", " };
        joined
            .entry(name.to_string())
            .and_modify(|all| {
                all.push_str(separator);
                all.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    joined
}

/// Reads the body to its end without keeping it.
async fn count(mut body: Body) -> u64 {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    bytes
}

fn wants_json(uri: &Uri, headers: &HeaderMap) -> bool {
    let asked = uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "format=json"));
    let accepted = headers.get_all(ACCEPT).iter().any(|value| {
        value.to_str().is_ok_and(|value| value.contains("application/json") && !value.contains("text/html"))
    });
    asked || accepted || uri.path().trim_start_matches('/') == "json"
}

fn page(received: &Received) -> String {
    let rows: String = received
        .headers
        .iter()
        .map(|(name, value)| format!("<tr><th>{}</th><td>{}</td></tr>\n", escape(name), escape(value)))
        .collect();
    let query = received.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let line = escape(&format!("{} {}{query}", received.method, received.path));
    let bytes = received.body_bytes;
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Postern demo</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n\
         <h1>It works</h1>\n<p>This is the demo upstream. The proxy sent it:</p>\n<p><code>{line}</code></p>\n\
         <table>\n{rows}</table>\n<p>and a body of {bytes} bytes. The same as JSON: <a href=\"/json\">/json</a>.</p>\n\
         </body></html>\n"
    )
}

const STYLE: &str = "\
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:3rem auto;padding:0 1rem}\
th{text-align:left;vertical-align:top;padding-right:1rem;font-weight:600;white-space:nowrap}\
th,td,code{font-family:ui-monospace,monospace;font-size:14px}td{word-break:break-all}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(uri: &str, accept: &str, body: &'static str) -> (String, String) {
        let request = http::Request::builder()
            .uri(uri)
            .header("accept", accept)
            .header("x-netbird-user", "<alice>")
            .header("x-two", "1")
            .header("x-two", "2")
            .body(Body::from(body))
            .unwrap();
        let response = answer(request).await;
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (kind, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_browser_gets_a_page_with_everything_escaped() {
        let (kind, page) = ask("/a?b=%3Cc", "text/html,application/xhtml+xml,*/*;q=0.8", "").await;
        assert!(kind.starts_with("text/html"));
        assert!(page.contains("<th>x-netbird-user</th><td>&lt;alice&gt;</td>"), "{page}");
        assert!(page.contains("<code>GET /a?b=%3Cc</code>"), "{page}");
    }

    #[tokio::test]
    async fn a_script_gets_json() {
        for (uri, accept) in [("/json", "*/*"), ("/x?a=1&format=json", "*/*"), ("/", "application/json")] {
            let (kind, text) = ask(uri, accept, "12345").await;
            assert_eq!(kind, "application/json", "{uri}");
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(json["headers"]["x-netbird-user"], "<alice>");
            assert_eq!(json["headers"]["x-two"], "1, 2");
            assert_eq!(json["body_bytes"], 5);
        }
    }
}
