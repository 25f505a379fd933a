//! The fields that say how far a message goes (RFC 9112 §6).

use crate::http1::malformed::Malformed;

/// What the `values` of `Content-Length` say. A number that is repeated is one number (RFC 9110 §8.6).
///
/// # Errors
/// [`Malformed::Length`].
pub(crate) fn content_length<'a>(values: impl Iterator<Item = &'a [u8]>) -> Result<Option<u64>, Malformed> {
    let mut length = None;
    for number in members(values) {
        let number = decimal(number).ok_or(Malformed::Length)?;
        if length.is_some_and(|length| length != number) {
            return Err(Malformed::Length);
        }
        length = Some(number);
    }
    Ok(length)
}

/// Digits alone: `u64::from_str` would take a sign.
fn decimal(digits: &[u8]) -> Option<u64> {
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    str::from_utf8(digits).ok().filter(|_| all)?.parse().ok()
}

/// Whether the content comes in chunks, by the `values` of `Transfer-Encoding`.
///
/// # Errors
/// [`Malformed::TransferEncoding`] for any other coding: nobody asked for one, and nobody behind us would know of it.
pub(crate) fn is_chunked<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Result<bool, Malformed> {
    match (values.next(), values.next()) {
        (None, _) => Ok(false),
        (Some(value), None) if value.eq_ignore_ascii_case(b"chunked") => Ok(true),
        (Some(_), _) => Err(Malformed::TransferEncoding),
    }
}

/// Whether the connection stays open after the message, by the `values` of `Connection` (RFC 9112 §9.3). `close` wins.
pub(crate) fn stays_open<'a>(http11: bool, values: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut stays = http11;
    for option in members(values) {
        if option.eq_ignore_ascii_case(b"close") {
            return false;
        }
        stays |= option.eq_ignore_ascii_case(b"keep-alive");
    }
    stays
}

/// The members of comma-separated lists.
pub(crate) fn members<'a>(values: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    values.flat_map(|list| list.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<'a>(values: &'a [&str]) -> impl Iterator<Item = &'a [u8]> {
        values.iter().map(|value| value.as_bytes())
    }

    #[test]
    fn a_length_is_one_number() {
        let read = |values: &[&str]| content_length(bytes(values));
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["0"]), Ok(Some(0)));
        assert_eq!(read(&["18446744073709551615"]), Ok(Some(u64::MAX)));
        assert_eq!(read(&["5", "5, 05"]), Ok(Some(5)));
        for bad in ["", "+5", "-5", "5 5", "0x5", "5,", "5, 6", "18446744073709551616", "5;x"] {
            assert_eq!(read(&[bad]), Err(Malformed::Length), "{bad:?}");
        }
        assert_eq!(read(&["5", "6"]), Err(Malformed::Length));
    }

    #[test]
    fn chunked_is_the_only_coding() {
        let read = |values: &[&str]| is_chunked(bytes(values));
        assert_eq!((read(&[]), read(&["Chunked"])), (Ok(false), Ok(true)));
        for bad in
            [&["gzip"][..], &["gzip, chunked"], &["chunked, chunked"], &["chunked", "chunked"], &["xchunked"], &[""]]
        {
            assert_eq!(read(bad), Err(Malformed::TransferEncoding), "{bad:?}");
        }
    }

    #[test]
    fn close_wins() {
        let stays = |http11, values: &[&str]| stays_open(http11, bytes(values));
        assert!(stays(true, &[]) && stays(true, &["upgrade"]) && stays(false, &["Keep-Alive"]));
        assert!(!stays(false, &[]) && !stays(true, &["Close"]));
        assert!(!stays(true, &["keep-alive, close"]) && !stays(false, &["close", "keep-alive"]));
    }
}
