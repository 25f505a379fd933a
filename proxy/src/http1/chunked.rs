//! Content in chunks (RFC 9112 §7.1).

use bytes::{Buf, BytesMut};
use http::HeaderMap;
use httparse::{EMPTY_HEADER, Status};

use crate::http1::lines::{MAX_FIELDS, are_strict, collect};
use crate::http1::malformed::Malformed;
use crate::http1::piece::{Piece, data};

/// Content in chunks, as far as it is read.
#[derive(Debug, Default)]
pub(crate) struct Chunked {
    next: Next,
    /// Bytes of chunk extensions so far.
    extensions: usize,
}

#[derive(Debug, Default)]
enum Next {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Nothing,
}

/// Nobody uses extensions; a sender could make us read them without end.
const MAX_EXTENSIONS: usize = 16 * 1024;
const MAX_TRAILERS: usize = 16 * 1024;
/// Of a size, in hexadecimal.
const MAX_DIGITS: usize = 16;

impl Chunked {
    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.next, Next::Nothing)
    }

    /// Takes the next part off `input`; `None` if more is to come, or all is there.
    ///
    /// # Errors
    /// [`Malformed::Chunk`], [`Malformed::Trailers`].
    pub(crate) fn read(&mut self, input: &mut BytesMut) -> Result<Option<Piece>, Malformed> {
        loop {
            match &mut self.next {
                Next::Size => match self.size(input)? {
                    None => return Ok(None),
                    Some(0) => self.next = Next::Trailers,
                    Some(size) => self.next = Next::Data(size),
                },
                Next::Data(left) => {
                    let piece = data(left, input);
                    if *left == 0 {
                        self.next = Next::DataEnd;
                    }
                    return Ok(piece);
                }
                Next::DataEnd => match input.get(..2) {
                    None if input.first().is_none_or(|&byte| byte == b'\r') => return Ok(None),
                    Some(b"\r\n") => {
                        input.advance(2);
                        self.next = Next::Size;
                    }
                    None | Some(_) => return Err(Malformed::Chunk),
                },
                Next::Trailers => {
                    let Some(trailers) = trailers(input)? else { return Ok(None) };
                    self.next = Next::Nothing;
                    return Ok(Some(trailers).filter(|fields| !fields.is_empty()).map(Piece::Trailers));
                }
                Next::Nothing => return Ok(None),
            }
        }
    }

    /// A line `size [ ; extension ]`.
    fn size(&mut self, input: &mut BytesMut) -> Result<Option<u64>, Malformed> {
        let Some(end) = input.iter().position(|&byte| byte == b'\n') else {
            let too_long = input.len() > MAX_DIGITS + MAX_EXTENSIONS;
            return if too_long { Err(Malformed::Chunk) } else { Ok(None) };
        };
        let line = input[..end].strip_suffix(b"\r").ok_or(Malformed::Chunk)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (size, extension) = line.split_at(digits);
        self.extensions += extension.len();
        // Some servers pad the size with spaces.
        let apart = matches!(extension.trim_ascii_start(), [] | [b';', ..]);
        if extension.contains(&b'\r') || !apart || digits > MAX_DIGITS || self.extensions > MAX_EXTENSIONS {
            return Err(Malformed::Chunk);
        }
        let size = str::from_utf8(size).ok().and_then(|size| u64::from_str_radix(size, 16).ok());
        input.advance(end + 1);
        size.ok_or(Malformed::Chunk).map(Some)
    }
}

/// The fields after the last chunk, up to the empty line.
fn trailers(input: &mut BytesMut) -> Result<Option<HeaderMap>, Malformed> {
    let mut parsed = [EMPTY_HEADER; MAX_FIELDS];
    let (length, parsed) = match httparse::parse_headers(input, &mut parsed).map_err(|_| Malformed::Trailers)? {
        Status::Complete(complete) => complete,
        Status::Partial if input.len() > MAX_TRAILERS => return Err(Malformed::Trailers),
        Status::Partial => return Ok(None),
    };
    if length > MAX_TRAILERS || !are_strict(&input[..length]) {
        return Err(Malformed::Trailers);
    }
    let mut fields = HeaderMap::new();
    collect(&input[..length], parsed, &mut fields).map_err(|_| Malformed::Trailers)?;
    input.advance(length);
    Ok(Some(fields))
}
