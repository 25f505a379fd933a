//! The heads that answer a request: interim ones, then the final one.

use std::mem::{MaybeUninit, take};

use bytes::{Buf, BytesMut};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode, Version};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use crate::http1::content::Content;
use crate::http1::framing::Framing;
use crate::http1::lines::{MAX_FIELDS, are_strict, collect};
use crate::http1::malformed::Malformed;

/// A head.
#[derive(Debug)]
pub(crate) enum Head {
    /// A 1xx; another head follows.
    Interim(StatusCode),
    /// The answer; a 101 included, after which the connection speaks another protocol.
    Final(Answer),
}

/// A final answer, its content still to come.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<()>,
    pub(crate) content: Content,
    /// Whether the connection may carry another request once the content is complete.
    pub(crate) stays_open: bool,
}

/// Reads the heads that answer one request.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    /// As far as this, there is no complete one.
    seen: usize,
}

/// Bytes of one head.
const MAX_HEAD: usize = 400 * 1024;

impl Heads {
    /// Takes the next head off `input`; `None` if more is to come. `method` is that of the request, `fields` an empty map whose
    /// memory is used.
    ///
    /// # Errors
    /// [`Malformed`].
    pub(crate) fn read(
        &mut self,
        input: &mut BytesMut,
        method: &Method,
        fields: &mut HeaderMap,
    ) -> Result<Option<Head>, Malformed> {
        if let Some(b'\r' | b'\n') = input.first() {
            return Err(Malformed::Lines);
        }
        if input.is_empty() || !self.may_be_complete(input) {
            return self.wait(input);
        }
        let mut parsed = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut head = httparse::Response::new(&mut []);
        let parser = ParserConfig::default();
        let length = match parser.parse_response_with_uninit_headers(&mut head, input, &mut parsed)? {
            Status::Complete(length) => length,
            Status::Partial => return self.wait(input),
        };
        if length > MAX_HEAD {
            return Err(Malformed::HeadTooLong(MAX_HEAD));
        }
        if !are_strict(&input[..length]) {
            return Err(Malformed::Lines);
        }
        let status = head.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(httparse::Error::Status)?;
        let http11 = head.version == Some(1);
        let mut framing = Framing::default();
        head.headers.iter().try_for_each(|field| framing.hear(field.name, field.value))?;
        let (content, stays_open) = extent(status, http11, method, &framing)?;
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            input.advance(length);
            self.seen = 0;
            return Ok(Some(Head::Interim(status)));
        }

        collect(&input[..length], head.headers, fields)?;
        if let Some(length) = framing.length.filter(|_| framing.repeated) {
            fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.version_mut() = if http11 { Version::HTTP_11 } else { Version::HTTP_10 };
        *response.headers_mut() = take(fields);
        if let Some(reason) = unusual(head.reason, status) {
            response.extensions_mut().insert(reason);
        }
        input.advance(length);
        Ok(Some(Head::Final(Answer { response, content, stays_open })))
    }

    /// A head that comes byte by byte is parsed while it begins, as far as a status, and once it has an end.
    fn may_be_complete(&self, input: &[u8]) -> bool {
        let fresh = &input[self.seen.saturating_sub(3).min(input.len())..];
        self.seen < "HTTP/1.1 200".len()
            || fresh.windows(2).any(|pair| pair == b"\n\n")
            || fresh.windows(3).any(|end| end == b"\n\r\n")
    }

    fn wait(&mut self, input: &[u8]) -> Result<Option<Head>, Malformed> {
        self.seen = input.len();
        if input.len() > MAX_HEAD { Err(Malformed::HeadTooLong(MAX_HEAD)) } else { Ok(None) }
    }
}

/// The words after the status, where they are not those that everybody uses.
fn unusual(reason: Option<&str>, status: StatusCode) -> Option<ReasonPhrase> {
    let reason = reason.filter(|reason| Some(*reason) != status.canonical_reason())?;
    ReasonPhrase::try_from(reason.as_bytes()).ok()
}

/// How far an answer goes, and whether the connection stays open after it (RFC 9112 §6.3).
fn extent(status: StatusCode, http11: bool, method: &Method, framing: &Framing) -> Result<(Content, bool), Malformed> {
    if framing.chunked && (framing.length.is_some() || !http11) {
        return Err(Malformed::TransferEncoding);
    }
    let announced = framing.chunked || framing.length.is_some_and(|length| length > 0);
    let stays_open = framing.stays_open(http11);
    let extent = match status {
        StatusCode::SWITCHING_PROTOCOLS => (Content::NONE, false),
        _ if status.is_informational() && announced => return Err(Malformed::InterimContent),
        _ if status.is_informational() => (Content::NONE, stays_open),
        // They announce what a GET would have brought.
        _ if *method == Method::HEAD || status == StatusCode::NOT_MODIFIED => (Content::NONE, stays_open),
        // If it announces content all the same, nobody knows whether that follows.
        StatusCode::NO_CONTENT => (Content::NONE, stays_open && !announced),
        _ if framing.chunked => (Content::chunked(), stays_open),
        _ => match framing.length {
            Some(length) => (Content::Length(length), stays_open),
            None => (Content::UNTIL_CLOSE, false),
        },
    };
    Ok(extent)
}
