//! The content of an answer.

use bytes::BytesMut;

use crate::http1::chunked::Chunked;
use crate::http1::malformed::Malformed;
use crate::http1::piece::{Piece, data};

/// What is still to come of an answer's content (RFC 9112 §6.3).
#[derive(Debug)]
pub(crate) enum Content {
    /// So many bytes.
    Length(u64),
    Chunked(Chunked),
    /// All until the connection ends.
    UntilClose {
        closed: bool,
    },
}

impl Content {
    pub(crate) const NONE: Self = Self::Length(0);
    pub(crate) const UNTIL_CLOSE: Self = Self::UntilClose { closed: false };

    pub(crate) fn chunked() -> Self {
        Self::Chunked(Chunked::default())
    }

    /// Takes the next part off `input`; `None` if more is to come, or all is there.
    ///
    /// # Errors
    /// [`Malformed`].
    pub(crate) fn read(&mut self, input: &mut BytesMut) -> Result<Option<Piece>, Malformed> {
        match self {
            Self::Length(left) => Ok(data(left, input)),
            Self::Chunked(chunked) => chunked.read(input),
            Self::UntilClose { .. } => {
                let mut endless = u64::MAX;
                Ok(data(&mut endless, input))
            }
        }
    }

    /// The upstream has closed the connection.
    ///
    /// # Errors
    /// [`Malformed::Short`].
    pub(crate) fn close(&mut self) -> Result<(), Malformed> {
        if let Self::UntilClose { closed } = self {
            *closed = true;
        }
        if self.is_complete() { Ok(()) } else { Err(Malformed::Short) }
    }

    pub(crate) fn is_complete(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.is_complete(),
            Self::UntilClose { closed } => *closed,
        }
    }

    /// How many bytes are to come, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Chunked(_) | Self::UntilClose { .. } => None,
        }
    }
}
