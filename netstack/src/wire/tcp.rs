//! TCP headers (RFC 9293 section 3.1), read and written.

use postern_tcp::{Header, SackBlocks};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

const END: u8 = 0;
const NOTHING: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;

/// The header without options.
pub(crate) const HEADER: usize = 20;

/// A segment, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) from: u16,
    pub(crate) to: u16,
    pub(crate) header: Header,
    /// Where the payload begins.
    pub(crate) payload: usize,
}

/// Reads a segment. `None` if it is too short or its data offset cannot be.
pub(crate) fn parse(segment: &[u8]) -> Option<Parsed> {
    let fixed: &[u8; HEADER] = segment.first_chunk()?;
    let payload = usize::from(fixed[12] >> 4) * 4;
    let options = segment.get(HEADER..payload)?;
    let flags = fixed[13];
    let word = |at: usize| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let half = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    let mut header = Header {
        seq: word(4),
        ack: (flags & ACK != 0).then(|| word(8)),
        window: half(14),
        syn: flags & SYN != 0,
        fin: flags & FIN != 0,
        rst: flags & RST != 0,
        psh: flags & PSH != 0,
        ..Header::default()
    };
    parse_options(&mut header, options);
    Some(Parsed { from: half(0), to: half(2), header, payload })
}

/// Reads what is understood; at the first option that cannot be, the rest is left.
fn parse_options(header: &mut Header, mut options: &[u8]) {
    while let Some((&kind, rest)) = options.split_first() {
        match kind {
            END => return,
            NOTHING => options = rest,
            _ => {
                let Some(length) = rest.first().map(|length| usize::from(*length)).filter(|length| *length >= 2) else {
                    return;
                };
                let Some(value) = options.get(2..length) else { return };
                parse_option(header, kind, value);
                options = &options[length..];
            }
        }
    }
}

fn parse_option(header: &mut Header, kind: u8, value: &[u8]) {
    match (kind, value) {
        (MSS, [high, low]) if header.syn => header.mss = Some(u16::from_be_bytes([*high, *low])),
        // RFC 7323 section 2.3: more than 14 is taken for 14.
        (WINDOW_SCALE, [shift]) if header.syn => header.window_scale = Some((*shift).min(14)),
        (SACK_PERMITTED, []) if header.syn => header.sack_permitted = true,
        (SACK, blocks) if blocks.len() % 8 == 0 => {
            let word = |bytes: &[u8]| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            let blocks = blocks.chunks_exact(8).map(|block| (word(block), word(&block[4..])));
            header.sack = blocks.collect::<SackBlocks>();
        }
        _ => {}
    }
}

/// Writes a header with its options, without checksum; `out` has room for it.
pub(crate) fn write(out: &mut [u8], from: u16, to: u16, header: &Header) -> usize {
    let length = HEADER + header.options_len();
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let flags = flag(header.fin, FIN)
        | flag(header.syn, SYN)
        | flag(header.rst, RST)
        | flag(header.psh, PSH)
        | flag(header.ack.is_some(), ACK);
    out[0..2].copy_from_slice(&from.to_be_bytes());
    out[2..4].copy_from_slice(&to.to_be_bytes());
    out[4..8].copy_from_slice(&header.seq.to_be_bytes());
    out[8..12].copy_from_slice(&header.ack.unwrap_or(0).to_be_bytes());
    out[12] = (length as u8 / 4) << 4;
    out[13] = flags;
    out[14..16].copy_from_slice(&header.window.to_be_bytes());
    out[16..20].fill(0);
    if length > HEADER {
        write_options(&mut out[HEADER..length], header);
    }
    length
}

fn write_options(out: &mut [u8], header: &Header) {
    out.fill(NOTHING);
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        out[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    if let Some(mss) = header.mss {
        let [high, low] = mss.to_be_bytes();
        put(&[MSS, 4, high, low]);
    }
    if header.sack_permitted {
        put(&[SACK_PERMITTED, 2]);
    }
    if let Some(shift) = header.window_scale {
        put(&[WINDOW_SCALE, 3, shift]);
    }
    if !header.sack.is_empty() {
        put(&[SACK, 2 + 8 * header.sack.len() as u8]);
        for (left, right) in header.sack.iter() {
            put(&left.to_be_bytes());
            put(&right.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers() -> impl Strategy<Value = Header> {
        let numbers = (any::<u32>(), any::<Option<u32>>(), any::<u16>());
        let flags = any::<[bool; 4]>();
        let options = (any::<Option<u16>>(), prop::option::of(0..=14u8), any::<bool>());
        let sack = prop::collection::vec(any::<(u32, u32)>(), 0..=4);
        (numbers, flags, options, sack).prop_map(|((seq, ack, window), [syn, fin, rst, psh], options, sack)| {
            let (mss, window_scale, sack_permitted) = if syn { options } else { (None, None, false) };
            let sack = if syn { SackBlocks::default() } else { sack.into_iter().collect() };
            Header { seq, ack, window, syn, fin, rst, psh, mss, window_scale, sack_permitted, sack }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(header in headers(), from: u16, to: u16) {
            let mut bytes = [0; 60];
            let length = write(&mut bytes, from, to, &header);
            let parsed = parse(&bytes[..length]).expect("a header");
            prop_assert_eq!(parsed, Parsed { from, to, header, payload: length });
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(parsed) = parse(&bytes) {
                prop_assert!(parsed.payload <= bytes.len());
            }
        }
    }

    #[test]
    fn an_option_that_cannot_be_ends_the_options() {
        let mut bytes = [0; 60];
        let header =
            Header { syn: true, mss: Some(1380), sack_permitted: true, window_scale: Some(7), ..Header::default() };
        let length = write(&mut bytes, 1, 2, &header);
        bytes[HEADER + 5] = 99;
        let parsed = parse(&bytes[..length]).expect("a header");
        assert_eq!((parsed.header.mss, parsed.header.window_scale), (Some(1380), None));
    }
}
