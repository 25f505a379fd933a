//! A request as bytes, up to what its connection takes at a time.

use std::fmt;
use std::io::Write as _;
use std::mem::take;

use bytes::{Buf, Bytes};
use http::header::{self, HeaderMap, HeaderName};
use http::{HeaderValue, Request};
use http_body::Frame;

use crate::http::fields::tokens;
use crate::http1::framing::Framing;

/// A request on its way: its head, then its content frame by frame. [`parts`](Self::parts) are to be written next.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Goes out before `data`.
    lines: Vec<u8>,
    sent: usize,
    data: Bytes,
    /// Goes out after it.
    end: &'static [u8],
    left: Left,
}

/// What the framing still allows.
#[derive(Debug)]
enum Left {
    /// So many bytes have to come.
    Length(u64),
    /// Any number of chunks, then those trailers that the head announces.
    Chunks {
        announced: Vec<HeaderName>,
    },
    Nothing,
}

/// A request that cannot be sent as it is framed: its content is shorter or longer than its head says, or that says two things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request's content is not as long as its Content-Length says")]
pub(crate) struct Unsendable;

const CHUNK_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
const CHUNK_END_AND_LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

impl Outgoing {
    /// Begins with `head`, whose target is a path and query. `lines` is memory to use. With `content`, frames follow up to
    /// [`finish`](Self::finish): in chunks unless the head has a `Content-Length`.
    ///
    /// # Errors
    /// [`Unsendable`].
    pub(crate) fn new(head: &Request<()>, content: bool, mut lines: Vec<u8>) -> Result<Self, Unsendable> {
        let mut framing = Framing::default();
        for length in head.headers().get_all(header::CONTENT_LENGTH) {
            framing.content_length(length.as_bytes()).map_err(|_| Unsendable)?;
        }
        let left = match framing.length {
            Some(length) => Left::Length(length),
            None if content => Left::Chunks { announced: announced(head.headers()) },
            None => Left::Nothing,
        };
        lines.clear();
        write_request_line(head, &mut lines);
        for (name, value) in head.headers() {
            if *name != header::CONTENT_LENGTH && *name != header::TRANSFER_ENCODING {
                write_field(name, value, &mut lines);
            }
        }
        // Our own, whatever was spelled how: there is one framing.
        match &left {
            Left::Length(length) => write_line(&mut lines, format_args!("content-length: {length}")),
            Left::Chunks { .. } => write_line(&mut lines, format_args!("transfer-encoding: chunked")),
            Left::Nothing => {}
        }
        lines.extend_from_slice(b"\r\n");
        let mut request = Self { lines, sent: 0, data: Bytes::new(), end: b"", left };
        if !content {
            request.finish()?;
        }
        Ok(request)
    }

    /// Whether it takes another frame. The first goes out in one piece with the head.
    pub(crate) fn takes_frames(&self) -> bool {
        !self.is_finished() && self.data.is_empty() && self.end.is_empty()
    }

    /// Adds a frame of the content.
    ///
    /// # Errors
    /// [`Unsendable`] if it is too much.
    pub(crate) fn push(&mut self, frame: Frame<Bytes>) -> Result<(), Unsendable> {
        debug_assert!(self.takes_frames(), "one frame at a time");
        match frame.into_data() {
            Ok(data) => self.push_data(data),
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => self.push_trailers(&trailers),
                Err(_unknown) => Ok(()),
            },
        }
    }

    /// The content is complete.
    ///
    /// # Errors
    /// [`Unsendable`] if it is too little.
    pub(crate) fn finish(&mut self) -> Result<(), Unsendable> {
        match &self.left {
            Left::Nothing | Left::Length(0) => {}
            Left::Length(_) => return Err(Unsendable),
            Left::Chunks { .. } if self.end.is_empty() => self.room().extend_from_slice(LAST_CHUNK),
            Left::Chunks { .. } => self.end = CHUNK_END_AND_LAST_CHUNK,
        }
        self.left = Left::Nothing;
        Ok(())
    }

    /// Whether nothing will be added.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.left, Left::Nothing)
    }

    /// What is to be written next, in up to three parts; empty if nothing is.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        [&self.lines[self.sent..], &self.data, self.end].into_iter().filter(|part| !part.is_empty())
    }

    /// So much of it is written.
    pub(crate) fn advance(&mut self, count: usize) {
        let from_lines = count.min(self.lines.len() - self.sent);
        self.sent += from_lines;
        let from_data = (count - from_lines).min(self.data.len());
        self.data.advance(from_data);
        self.end = &self.end[count - from_lines - from_data..];
    }

    /// Its memory, for the next request.
    pub(crate) fn into_lines(self) -> Vec<u8> {
        self.lines
    }

    fn push_data(&mut self, data: Bytes) -> Result<(), Unsendable> {
        match &mut self.left {
            // An empty chunk would be the last.
            _ if data.is_empty() => return Ok(()),
            Left::Length(left) => *left = left.checked_sub(data.len() as u64).ok_or(Unsendable)?,
            Left::Chunks { .. } => {
                write_line(self.room(), format_args!("{:x}", data.len()));
                self.end = CHUNK_END;
            }
            Left::Nothing => return Err(Unsendable),
        }
        self.data = data;
        Ok(())
    }

    fn push_trailers(&mut self, trailers: &HeaderMap) -> Result<(), Unsendable> {
        let announced = match &mut self.left {
            Left::Chunks { announced } => take(announced),
            Left::Length(_) | Left::Nothing => return self.finish(),
        };
        self.left = Left::Nothing;
        let lines = self.room();
        lines.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.iter().filter(|(name, _)| announced.contains(name)) {
            write_field(name, value, lines);
        }
        lines.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Where lines are added.
    fn room(&mut self) -> &mut Vec<u8> {
        if self.sent == self.lines.len() {
            self.lines.clear();
            self.sent = 0;
        }
        &mut self.lines
    }
}

fn write_request_line(head: &Request<()>, lines: &mut Vec<u8>) {
    lines.extend_from_slice(head.method().as_str().as_bytes());
    lines.push(b' ');
    lines.extend_from_slice(head.uri().path().as_bytes());
    if let Some(query) = head.uri().query() {
        lines.push(b'?');
        lines.extend_from_slice(query.as_bytes());
    }
    lines.extend_from_slice(b" HTTP/1.1\r\n");
}

fn write_field(name: &HeaderName, value: &HeaderValue, lines: &mut Vec<u8>) {
    lines.extend_from_slice(name.as_str().as_bytes());
    lines.extend_from_slice(b": ");
    lines.extend_from_slice(value.as_bytes());
    lines.extend_from_slice(b"\r\n");
}

fn write_line(lines: &mut Vec<u8>, line: fmt::Arguments<'_>) {
    write!(lines, "{line}\r\n").expect("memory takes everything");
}

fn announced(fields: &HeaderMap) -> Vec<HeaderName> {
    tokens(fields, &header::TRAILER).filter_map(|name| HeaderName::try_from(name).ok()).collect()
}
