//! The whole of an answer out of its pieces, as tests and fuzzing compare it.

use bytes::BytesMut;
use http::{HeaderMap, Method};

use crate::http1::head::{Head, Heads};
use crate::http1::malformed::Malformed;
use crate::http1::piece::Piece;

/// What there is in an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Statuses of the heads before.
    pub(crate) interim: Vec<u16>,
    pub(crate) status: u16,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
}

/// What there is beside it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Beside {
    /// Whether the connection may be used again.
    pub(crate) stays_open: bool,
    /// Bytes after the answer.
    pub(crate) left: usize,
}

/// Reads an answer to `method` that comes in `pieces`, after which the connection is closed.
///
/// # Errors
/// [`Malformed`].
pub(crate) fn read<'a>(
    method: &Method,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(Heard, Beside), Malformed> {
    let (mut input, mut heads, mut interim) = (BytesMut::new(), Heads::default(), Vec::new());
    let mut pieces = pieces.into_iter();
    let mut answer = loop {
        match heads.read(&mut input, method, &mut HeaderMap::new())? {
            Some(Head::Final(answer)) => break answer,
            Some(Head::Interim(status)) => interim.push(status.as_u16()),
            None => input.extend_from_slice(pieces.next().ok_or(Malformed::Short)?),
        }
    };
    let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
    while !answer.content.is_complete() {
        match answer.content.read(&mut input)? {
            Some(Piece::Data(data)) => {
                assert!(!data.is_empty());
                body.extend_from_slice(&data);
            }
            Some(Piece::Trailers(fields)) => trailers = fields,
            None => match pieces.next() {
                Some(piece) => input.extend_from_slice(piece),
                None if answer.content.is_complete() => {}
                None => answer.content.close()?,
            },
        }
    }
    let left = input.len() + pieces.map(<[u8]>::len).sum::<usize>();
    let (parts, ()) = answer.response.into_parts();
    let heard = Heard { interim, status: parts.status.as_u16(), fields: parts.headers, body, trailers };
    Ok((heard, Beside { stays_open: answer.stays_open, left }))
}
