//! The fields that say how far a message goes (RFC 9112 §6).

use http::header::{self, HeaderMap, HeaderValue};

use crate::http::fields::tokens;
use crate::http1::malformed::Malformed;

/// What `Content-Length` says. A number that is repeated is one number (RFC 9110 §8.6).
///
/// # Errors
/// [`Malformed::Length`].
pub(crate) fn content_length(fields: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut length = None;
    for value in fields.get_all(header::CONTENT_LENGTH) {
        for number in value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            let number = decimal(number).ok_or(Malformed::Length)?;
            if length.is_some_and(|length| length != number) {
                return Err(Malformed::Length);
            }
            length = Some(number);
        }
    }
    Ok(length)
}

/// Digits alone: `u64::from_str` would take a sign.
fn decimal(digits: &[u8]) -> Option<u64> {
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    str::from_utf8(digits).ok().filter(|_| all)?.parse().ok()
}

/// Whether the content comes in chunks.
///
/// # Errors
/// [`Malformed::TransferEncoding`] for any other coding: nobody asked for one, and nobody behind us would know of it.
pub(crate) fn is_chunked(fields: &HeaderMap) -> Result<bool, Malformed> {
    let mut values = fields.get_all(header::TRANSFER_ENCODING).iter().map(HeaderValue::as_bytes);
    match (values.next(), values.next()) {
        (None, _) => Ok(false),
        (Some(value), None) if value.eq_ignore_ascii_case(b"chunked") => Ok(true),
        (Some(_), _) => Err(Malformed::TransferEncoding),
    }
}

/// Whether the connection stays open after the message (RFC 9112 §9.3). `close` wins.
pub(crate) fn stays_open(http11: bool, fields: &HeaderMap) -> bool {
    let mut stays = http11;
    for option in tokens(fields, &header::CONNECTION) {
        if option.eq_ignore_ascii_case("close") {
            return false;
        }
        stays |= option.eq_ignore_ascii_case("keep-alive");
    }
    stays
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in pairs {
            fields.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        fields
    }

    #[test]
    fn a_length_is_one_number() {
        let read = |values: &[&'static str]| {
            content_length(&fields(&values.iter().map(|value| ("content-length", *value)).collect::<Vec<_>>()))
        };
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
        let read = |values: &[&'static str]| {
            is_chunked(&fields(&values.iter().map(|value| ("transfer-encoding", *value)).collect::<Vec<_>>()))
        };
        assert_eq!((read(&[]), read(&["Chunked"])), (Ok(false), Ok(true)));
        for bad in
            [&["gzip"][..], &["gzip, chunked"], &["chunked, chunked"], &["chunked", "chunked"], &["xchunked"], &[""]]
        {
            assert_eq!(read(bad), Err(Malformed::TransferEncoding), "{bad:?}");
        }
    }

    #[test]
    fn close_wins() {
        let stays = |http11, values: &[&'static str]| {
            stays_open(http11, &fields(&values.iter().map(|value| ("connection", *value)).collect::<Vec<_>>()))
        };
        assert!(stays(true, &[]) && stays(true, &["upgrade"]) && stays(false, &["Keep-Alive"]));
        assert!(!stays(false, &[]) && !stays(true, &["Close"]));
        assert!(!stays(true, &["keep-alive, close"]) && !stays(false, &["close", "keep-alive"]));
    }
}
