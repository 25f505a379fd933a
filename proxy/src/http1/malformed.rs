//! What makes an answer unreadable.

/// Why nobody can tell what an upstream has said, or where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// A status line or a field that the parser refuses.
    #[error("its head is not HTTP/1.1: {0}")]
    Head(#[from] httparse::Error),
    /// RFC 9112 §2.2 lets a recipient take a bare LF for a line's end; those who do and those who do not see two answers.
    #[error("its head has an empty line before it or a line that ends without a carriage return")]
    Lines,
    /// More than anybody needs.
    #[error("its head is longer than {0} bytes")]
    HeadTooLong(usize),
    /// No number, too large a one, or several.
    #[error("its Content-Length is not one number")]
    Length,
    /// Other than `chunked`, beside a `Content-Length`, or from an HTTP/1.0 server (RFC 9112 §6.1, §6.3).
    #[error("its Transfer-Encoding is not `chunked` alone")]
    TransferEncoding,
    /// Content where there is none (RFC 9110 §15.2).
    #[error("its interim response announces content")]
    InterimContent,
    /// A size line that is none, or data that go on beyond their size.
    #[error("a chunk of it is malformed")]
    Chunk,
    /// Too long, or no fields.
    #[error("its trailers are malformed")]
    Trailers,
    /// The connection ended first.
    #[error("it ended early")]
    Short,
}
