//! The fields that say how far a message goes (RFC 9112 §6).

use crate::http1::malformed::Malformed;

/// What the framing fields of a head say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Framing {
    /// `Content-Length`.
    pub(crate) length: Option<u64>,
    /// That is said more than once. A number that is repeated is one number (RFC 9110 §8.6).
    pub(crate) repeated: bool,
    /// `Transfer-Encoding: chunked`.
    pub(crate) chunked: bool,
    /// `Connection: close`.
    close: bool,
    /// `Connection: keep-alive`.
    keep_alive: bool,
}

impl Framing {
    /// Takes in a field, if it is one of those.
    ///
    /// # Errors
    /// [`Malformed::Length`], [`Malformed::TransferEncoding`].
    pub(crate) fn hear(&mut self, name: &str, value: &[u8]) -> Result<(), Malformed> {
        if name.eq_ignore_ascii_case("content-length") {
            self.content_length(value)?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            // Nobody asked for any other coding, and nobody behind us would know of it.
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed::TransferEncoding);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case("connection") {
            for option in members(value) {
                self.close |= option.eq_ignore_ascii_case(b"close");
                self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        Ok(())
    }

    /// Takes in a `Content-Length`.
    ///
    /// # Errors
    /// [`Malformed::Length`].
    pub(crate) fn content_length(&mut self, value: &[u8]) -> Result<(), Malformed> {
        for number in members(value) {
            let number = decimal(number).ok_or(Malformed::Length)?;
            if self.length.is_some_and(|length| length != number) {
                return Err(Malformed::Length);
            }
            self.repeated = self.length.is_some();
            self.length = Some(number);
        }
        Ok(())
    }

    /// Whether the connection stays open after the message (RFC 9112 §9.3). `close` wins.
    pub(crate) fn stays_open(&self, http11: bool) -> bool {
        !self.close && (http11 || self.keep_alive)
    }
}

/// The members of a comma-separated list.
fn members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

/// Digits alone: `u64::from_str` would take a sign.
fn decimal(digits: &[u8]) -> Option<u64> {
    let add = |number: u64, &digit: &u8| {
        let digit = u64::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?);
        number.checked_mul(10)?.checked_add(digit)
    };
    digits.iter().try_fold(0, add).filter(|_| !digits.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(name: &str, values: &[&str]) -> Result<Framing, Malformed> {
        let mut framing = Framing::default();
        values.iter().try_for_each(|value| framing.hear(name, value.as_bytes())).map(|()| framing)
    }

    #[test]
    fn a_length_is_one_number() {
        let read = |values: &[&str]| heard("Content-length", values).map(|framing| (framing.length, framing.repeated));
        assert_eq!(read(&[]), Ok((None, false)));
        assert_eq!(read(&["0"]), Ok((Some(0), false)));
        assert_eq!(read(&["18446744073709551615"]), Ok((Some(u64::MAX), false)));
        assert_eq!(read(&["5, 05"]), Ok((Some(5), true)));
        assert_eq!(read(&["5", "5"]), Ok((Some(5), true)));
        for bad in ["", "+5", "-5", "5 5", "0x5", "5,", "5, 6", "18446744073709551616", "5;x", "5:"] {
            assert_eq!(read(&[bad]), Err(Malformed::Length), "{bad:?}");
        }
        assert_eq!(read(&["5", "6"]), Err(Malformed::Length));
    }

    #[test]
    fn chunked_is_the_only_coding() {
        let read = |values: &[&str]| heard("Transfer-Encoding", values).map(|framing| framing.chunked);
        assert_eq!((read(&[]), read(&["Chunked"])), (Ok(false), Ok(true)));
        for bad in
            [&["gzip"][..], &["gzip, chunked"], &["chunked, chunked"], &["chunked", "chunked"], &["xchunked"], &[""]]
        {
            assert_eq!(read(bad), Err(Malformed::TransferEncoding), "{bad:?}");
        }
    }

    #[test]
    fn close_wins() {
        let stays =
            |http11, values: &[&str]| heard("CONNECTION", values).is_ok_and(|framing| framing.stays_open(http11));
        assert!(stays(true, &[]) && stays(true, &["upgrade"]) && stays(false, &["Keep-Alive"]));
        assert!(!stays(false, &[]) && !stays(true, &["Close"]));
        assert!(!stays(true, &["keep-alive, close"]) && !stays(false, &["close", "keep-alive"]));
    }
}
