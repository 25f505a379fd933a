//! Lines of the access log, encoded and looked into without the generated type and its many texts: one is made for each
//! request, and hardly one is ever read.

use std::io::Write as _;
use std::net::IpAddr;

use postern_model::AccessLogLine;
use prost::Message;
use prost::bytes::Bytes;
use prost::encoding::{self, DecodeContext, WireType};
use prost_types::Timestamp;

use crate::management::AccessLog;

/// Room for a usual line.
const USUAL: usize = 256;

/// A line as an encoded [`AccessLog`].
#[must_use]
pub fn access_log_line_to_wire(line: &AccessLogLine) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(USUAL);
    encode(line, &mut buffer);
    buffer
}

/// Encoded lines on their way to management; they share one piece of memory.
#[must_use]
pub fn access_log_to_wire(lines: &[Vec<u8>]) -> Vec<Bytes> {
    let joined = Bytes::from(lines.concat());
    let mut begin = 0;
    let slice = |line: &Vec<u8>| {
        let end = begin + line.len();
        joined.slice(std::mem::replace(&mut begin, end)..end)
    };
    lines.iter().map(slice).collect()
}

/// An encoded line of ours, for servers that take lines one by one.
#[must_use]
pub fn access_log_message(line: &[u8]) -> AccessLog {
    AccessLog::decode(line).expect("what was encoded is an AccessLog")
}

/// What a server has to know of an encoded line before it keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineKeys<'a> {
    /// `log_id`.
    pub id: &'a [u8],
    /// `account_id`.
    pub account: &'a [u8],
}

/// Looks an encoded [`AccessLog`] through; of a field that comes twice the last counts, as everywhere. `None` for what is
/// no message.
#[must_use]
pub fn access_log_keys(mut line: &[u8]) -> Option<LineKeys<'_>> {
    let mut keys = LineKeys::default();
    while !line.is_empty() {
        match take_field(&mut line)? {
            (2, Some(text)) => keys.id = text,
            (3, Some(text)) => keys.account = text,
            _ => {}
        }
    }
    Some(keys)
}

/// The next field: its tag, and its bytes if it has such.
fn take_field<'a>(line: &mut &'a [u8]) -> Option<(u32, Option<&'a [u8]>)> {
    const NUMBER: u8 = WireType::Varint as u8;
    const BYTES: u8 = WireType::LengthDelimited as u8;
    // Nearly all are texts and numbers of which key and length, or value, have one byte each.
    if let [key @ 0x08..0x80, value @ ..0x80, rest @ ..] = *line {
        let (tag, kind) = (u32::from(key >> 3), key & 7);
        if kind == NUMBER {
            *line = rest;
            return Some((tag, None));
        }
        if kind == BYTES {
            let (text, rest) = rest.split_at_checked(usize::from(*value))?;
            *line = rest;
            return Some((tag, Some(text)));
        }
    }
    let (tag, kind) = encoding::decode_key(line).ok()?;
    if kind != WireType::LengthDelimited {
        encoding::skip_field(kind, tag, line, DecodeContext::default()).ok()?;
        return Some((tag, None));
    }
    let length = usize::try_from(encoding::decode_varint(line).ok()?).ok()?;
    let (text, rest) = line.split_at_checked(length)?;
    *line = rest;
    Some((tag, Some(text)))
}

/// Appends a line, its fields in the order of their numbers.
fn encode(line: &AccessLogLine, buffer: &mut Vec<u8>) {
    let Timestamp { seconds, nanos } = line.timestamp.into();
    short(1, buffer, |buffer| {
        number(1, seconds, buffer);
        number(2, nanos, buffer);
    });
    short(2, buffer, |buffer| buffer.extend_from_slice(&line.id.text()));
    text(3, line.account.as_ref().map_or("", |account| account.as_str()), buffer);
    text(4, line.service.as_ref().map_or("", |service| service.as_str()), buffer);
    text(5, line.host.as_ref().map_or("", |host| host.as_str()), buffer);
    text(6, &line.path, buffer);
    number(7, line.duration.as_millis(), buffer);
    text(8, line.method.as_str(), buffer);
    number(9, line.status, buffer);
    short(10, buffer, |buffer| address(line.source, buffer));
    text(11, line.mechanism.as_str(), buffer);
    text(12, &line.user_id, buffer);
    number(13, line.auth_success, buffer);
    number(14, line.bytes_upload, buffer);
    number(15, line.bytes_download, buffer);
    text(16, "http", buffer);
    text(1000, line.reason, buffer);
}

fn text(tag: u32, text: &str, buffer: &mut Vec<u8>) {
    if !text.is_empty() {
        key(tag, WireType::LengthDelimited, buffer);
        varint(text.len() as u64, buffer);
        buffer.extend_from_slice(text.as_bytes());
    }
}

/// Times, ids and addresses: their length always fits its one byte, which is written last.
fn short(tag: u32, buffer: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    key(tag, WireType::LengthDelimited, buffer);
    let at = buffer.len();
    buffer.push(0);
    write(buffer);
    let length = buffer.len() - at - 1;
    buffer[at] = u8::try_from(length).ok().filter(|length| *length < 128).expect("ids and addresses are short");
}

/// As it is displayed; for IPv4 without the formatter, which takes longer than all the rest of a line.
fn address(address: IpAddr, buffer: &mut Vec<u8>) {
    let IpAddr::V4(address) = address else {
        return write!(buffer, "{address}").expect("a buffer takes everything");
    };
    for (place, octet) in address.octets().into_iter().enumerate() {
        if place > 0 {
            buffer.push(b'.');
        }
        let digits = [octet / 100, octet / 10 % 10, octet % 10].map(|digit| b'0' + digit);
        buffer.extend_from_slice(&digits[usize::from(octet < 10) + usize::from(octet < 100)..]);
    }
}

/// What is above the largest becomes the largest.
fn number(tag: u32, number: impl TryInto<i64>, buffer: &mut Vec<u8>) {
    let number = number.try_into().unwrap_or(i64::MAX);
    if number != 0 {
        key(tag, WireType::Varint, buffer);
        varint(number.cast_unsigned(), buffer);
    }
}

fn key(tag: u32, kind: WireType, buffer: &mut Vec<u8>) {
    varint(u64::from(tag << 3 | kind as u32), buffer);
}

fn varint(mut value: u64, buffer: &mut Vec<u8>) {
    while value >= 0x80 {
        buffer.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    buffer.push(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against decoding the whole line.
        #[test]
        fn keys_are_those_of_the_decoded_line(
            log_id in "[a-z]{0,40}", account_id in ".{0,300}", path in ".{0,300}", status in any::<i32>(), at in any::<i64>(),
        ) {
            let timestamp = Some(Timestamp { seconds: at, nanos: 1 });
            let line = AccessLog {
                timestamp, log_id, account_id, path, response_code: status, ..AccessLog::default()
            };
            let mut encoded = line.encode_to_vec();
            let expected = LineKeys { id: line.log_id.as_bytes(), account: line.account_id.as_bytes() };
            prop_assert_eq!(access_log_keys(&encoded), Some(expected));
            let other = AccessLog { account_id: "other".into(), ..AccessLog::default() };
            encoded.extend(other.encode_to_vec());
            prop_assert_eq!(access_log_keys(&encoded).map(|keys| keys.account), Some(&b"other"[..]));
        }

        #[test]
        fn addresses_are_written_as_displayed(source in any::<IpAddr>()) {
            let mut buffer = Vec::new();
            address(source, &mut buffer);
            prop_assert_eq!(String::from_utf8(buffer), Ok(source.to_string()));
        }

        #[test]
        fn what_decodes_has_keys(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(line) = AccessLog::decode(bytes.as_slice()) {
                let keys = access_log_keys(&bytes).expect("a message");
                prop_assert_eq!((keys.id, keys.account), (line.log_id.as_bytes(), line.account_id.as_bytes()));
            }
        }
    }
}
