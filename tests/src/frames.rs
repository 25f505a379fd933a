//! HTTP/2 frame by frame, for what no library would send.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::client::Client;
use crate::within;

/// Frame types (RFC 9113 §6).
pub mod kind {
    /// `DATA`.
    pub const DATA: u8 = 0;
    /// `HEADERS`.
    pub const HEADERS: u8 = 1;
    /// `PRIORITY`.
    pub const PRIORITY: u8 = 2;
    /// `RST_STREAM`.
    pub const RST_STREAM: u8 = 3;
    /// `SETTINGS`.
    pub const SETTINGS: u8 = 4;
    /// `PING`.
    pub const PING: u8 = 6;
    /// `GOAWAY`.
    pub const GOAWAY: u8 = 7;
    /// `WINDOW_UPDATE`.
    pub const WINDOW_UPDATE: u8 = 8;
    /// `CONTINUATION`.
    pub const CONTINUATION: u8 = 9;
}

/// `END_STREAM`.
pub const END_STREAM: u8 = 1;
/// `END_HEADERS`.
pub const END_HEADERS: u8 = 4;

/// A frame as it stands on the wire.
#[derive(Clone, Debug)]
pub struct Frame {
    /// What it is.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
    /// All after its head.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame without flags.
    #[must_use]
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, flags, stream, payload: payload.into() }
    }

    /// A request's head in one frame; `fields` as in [`block`].
    #[must_use]
    pub fn head(stream: u32, end: bool, fields: &[(&[u8], &[u8])]) -> Self {
        Self::new(kind::HEADERS, END_HEADERS | if end { END_STREAM } else { 0 }, stream, block(fields))
    }

    /// `:status: 200` as every encoder begins it: the eighth entry of HPACK's static table.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.kind == kind::HEADERS && self.payload.first() == Some(&0x88)
    }

    /// Whether it ends its stream or the connection.
    #[must_use]
    pub fn ends(&self) -> bool {
        let last = matches!(self.kind, kind::HEADERS | kind::DATA) && self.flags & END_STREAM != 0;
        last || matches!(self.kind, kind::RST_STREAM | kind::GOAWAY)
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        let length = u32::try_from(self.payload.len()).expect("frames are small").to_be_bytes();
        bytes.extend_from_slice(&length[1..]);
        bytes.extend_from_slice(&[self.kind, self.flags]);
        bytes.extend_from_slice(&self.stream.to_be_bytes());
        bytes.extend_from_slice(&self.payload);
    }
}

/// A header block: every field a literal, nothing compressed (RFC 7541 §6.2.2), so any byte can be said.
#[must_use]
pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            let mut rest = text.len();
            if rest < 127 {
                bytes.push(u8::try_from(rest).expect("below 127"));
            } else {
                bytes.push(127);
                rest -= 127;
                while rest >= 128 {
                    bytes.push(u8::try_from(rest % 128).expect("below 128") | 128);
                    rest /= 128;
                }
                bytes.push(u8::try_from(rest).expect("below 128"));
            }
            bytes.extend_from_slice(text);
        }
    }
    bytes
}

/// One end of a connection: what writes. It may be used while the other reads.
pub struct Writer(WriteHalf<TlsStream<TcpStream>>);

/// The other end: what reads.
pub struct Reader(ReadHalf<TlsStream<TcpStream>>);

/// An HTTP/2 connection to `sni`; `client` is one of [`Client::h2`]. The preface and empty settings are sent.
pub async fn connect(client: &Client, sni: &str) -> (Writer, Reader) {
    let tls = client.tls(sni).await.expect("the handshake succeeds");
    let (reader, writer) = split(tls);
    let mut writer = Writer(writer);
    writer.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("written");
    writer.send(&[Frame::new(kind::SETTINGS, 0, 0, [])]).await.expect("written");
    (writer, Reader(reader))
}

impl Writer {
    /// Sends frames in one piece.
    ///
    /// # Errors
    /// The other side has closed.
    pub async fn send(&mut self, frames: &[Frame]) -> io::Result<()> {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes));
        self.0.write_all(&bytes).await?;
        self.0.flush().await
    }
}

impl Reader {
    /// The next frame; `None` once the connection has ended, however it did.
    pub async fn next(&mut self) -> Option<Frame> {
        within("a frame or the end", async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; length as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            Some(Frame { kind: head[3], flags: head[4], stream, payload })
        })
        .await
    }

    /// Reads on to the first frame that `wanted` points out; `None` if the connection ends before.
    pub async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }
}
