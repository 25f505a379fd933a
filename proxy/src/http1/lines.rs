//! Fields as they stand in a message.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use httparse::Header;

use crate::http1::malformed::Malformed;

/// How many fields a head or a trailer may have.
pub(crate) const MAX_FIELDS: usize = 100;

/// Whether each line ends with CR LF. The parser takes a bare LF for a line's end but no CR without its LF: where there are as
/// many of the one as of the other, each LF has its CR.
pub(crate) fn are_strict(parsed: &[u8]) -> bool {
    count(parsed, b'\n') == count(parsed, b'\r')
}

/// In sums of one byte each, which are made for 16 bytes at a time.
fn count(text: &[u8], wanted: u8) -> usize {
    let sum = |some: &[u8]| some.iter().map(|&byte| u8::from(byte == wanted)).sum::<u8>();
    text.chunks(u8::MAX.into()).map(|some| usize::from(sum(some))).sum()
}

/// Adds the fields `parsed` out of `text` to `fields`.
///
/// # Errors
/// [`Malformed::Head`] for a name or value that the parser took and the `http` crate does not.
pub(crate) fn collect(text: &[u8], parsed: &[Header<'_>], fields: &mut HeaderMap) -> Result<(), Malformed> {
    // One allocation for all values, and none of them keeps a read buffer from being used again.
    let kept = Bytes::copy_from_slice(text);
    fields.reserve(parsed.len());
    for Header { name, value } in parsed {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| httparse::Error::HeaderName)?;
        let start = value.as_ptr().addr() - text.as_ptr().addr();
        let value = HeaderValue::from_maybe_shared(kept.slice(start..start + value.len()));
        fields.append(name, value.map_err(|_| httparse::Error::HeaderValue)?);
    }
    Ok(())
}
