//! Parts of an answer's content.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

/// A part of an answer's content.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Never empty.
    Data(Bytes),
    /// The last part.
    Trailers(HeaderMap),
}

/// As much of `input` as there is, up to `left`, which becomes less.
pub(crate) fn data(left: &mut u64, input: &mut BytesMut) -> Option<Piece> {
    let size = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    *left -= size as u64;
    (size > 0).then(|| Piece::Data(input.split_to(size).freeze()))
}
