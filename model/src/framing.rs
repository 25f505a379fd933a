use http::HeaderName;

/// Names that frame a message or belong to one connection.
const FRAMING: [&str; 11] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether a header frames a message or belongs to one connection: nobody may set it on a request from outside, because
/// that would change where the request goes or ends.
#[must_use]
pub fn is_framing(name: &HeaderName) -> bool {
    FRAMING.contains(&name.as_str())
}
