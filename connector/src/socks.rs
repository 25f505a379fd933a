//! The server side of SOCKS5 (RFC 1928): CONNECT without authentication, for programs on this machine.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Where a client wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// An address.
    Address(SocketAddr),
    /// A name, as the client wrote it, and a port.
    Name(String, u16),
}

/// What a request is answered with (RFC 1928 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Succeeded = 0,
    Failed = 1,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    Refused = 5,
    TimedOut = 6,
    CommandNotSupported = 7,
    AddressNotSupported = 8,
}

/// Why a client gets no connection; it has been told where it could be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocksError {
    #[error("the client does not speak SOCKS5; use socks5h://, not http://")]
    NotSocks5,
    #[error("the client insists on a password, and there is none")]
    NoMethod,
    #[error("the client asks for something else than CONNECT")]
    Command,
    #[error("the client names a destination that is none")]
    Address,
    #[error("the client broke off: {0}")]
    Io(#[from] io::Error),
}

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;

/// Takes a client's greeting and request. It waits for [`reply`] afterwards.
pub(crate) async fn request(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<Destination, SocksError> {
    if io.read_u8().await? != VERSION {
        return Err(SocksError::NotSocks5);
    }
    let mut methods = vec![0; io.read_u8().await?.into()];
    io.read_exact(&mut methods).await?;
    if !methods.contains(&NO_AUTHENTICATION) {
        io.write_all(&[VERSION, NO_ACCEPTABLE_METHOD]).await?;
        return Err(SocksError::NoMethod);
    }
    io.write_all(&[VERSION, NO_AUTHENTICATION]).await?;

    let mut head = [0; 4];
    io.read_exact(&mut head).await?;
    let [version, command, _reserved, kind] = head;
    if version != VERSION {
        return Err(SocksError::NotSocks5);
    }
    let host = match kind {
        1 => Some(Host::Address(Ipv4Addr::from(io.read_u32().await?).into())),
        3 => {
            let mut name = vec![0; io.read_u8().await?.into()];
            io.read_exact(&mut name).await?;
            String::from_utf8(name).ok().filter(|name| !name.is_empty()).map(Host::named)
        }
        4 => Some(Host::Address(Ipv6Addr::from(io.read_u128().await?).into())),
        _ => None,
    };
    let Some(host) = host else {
        reply(io, Reply::AddressNotSupported).await?;
        return Err(SocksError::Address);
    };
    let port = io.read_u16().await?;
    if command != CONNECT {
        reply(io, Reply::CommandNotSupported).await?;
        return Err(SocksError::Command);
    }
    Ok(match host {
        Host::Address(address) => Destination::Address(SocketAddr::new(address, port)),
        Host::Name(name) => Destination::Name(name, port),
    })
}

/// Answers the request. The bound address is left at zero: no client needs it for CONNECT.
pub(crate) async fn reply(io: &mut (impl AsyncWrite + Unpin), reply: Reply) -> io::Result<()> {
    io.write_all(&[VERSION, reply as u8, 0, 1, 0, 0, 0, 0, 0, 0]).await
}

enum Host {
    Address(IpAddr),
    Name(String),
}

impl Host {
    /// Some clients send addresses as names.
    fn named(text: String) -> Self {
        text.parse().map_or(Self::Name(text), Self::Address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(bytes: &[u8]) -> (Result<Destination, SocksError>, Vec<u8>) {
        let (mut client, mut server) = tokio::io::duplex(1024);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let outcome = request(&mut server).await;
        drop(server);
        let mut answered = Vec::new();
        client.read_to_end(&mut answered).await.unwrap();
        (outcome, answered)
    }

    #[tokio::test]
    async fn names_and_addresses_are_understood() {
        let (outcome, answered) = asked(b"\x05\x01\x00\x05\x01\x00\x03\x05a.b.c\x01\xbb").await;
        assert_eq!(outcome.unwrap(), Destination::Name("a.b.c".into(), 443));
        assert_eq!(answered, [5, 0]);
        let (outcome, _) = asked(b"\x05\x02\x02\x00\x05\x01\x00\x01\x64\x48\x00\x01\x00\x50").await;
        assert_eq!(outcome.unwrap(), Destination::Address("100.72.0.1:80".parse().unwrap()));
        let (outcome, _) = asked(b"\x05\x01\x00\x05\x01\x00\x03\x0a100.72.0.1\x00\x50").await;
        assert_eq!(outcome.unwrap(), Destination::Address("100.72.0.1:80".parse().unwrap()));
        let mut six = b"\x05\x01\x00\x05\x01\x00\x04".to_vec();
        six.extend("fd7a::1".parse::<Ipv6Addr>().unwrap().octets());
        six.extend([0, 80]);
        assert_eq!(asked(&six).await.0.unwrap(), Destination::Address("[fd7a::1]:80".parse().unwrap()));
    }

    #[tokio::test]
    async fn everything_else_is_refused_in_its_own_words() {
        let (outcome, answered) = asked(b"GET / HTTP/1.1\r\n\r\n").await;
        assert!(matches!(outcome, Err(SocksError::NotSocks5)) && answered.is_empty());
        let (outcome, answered) = asked(b"\x05\x01\x02").await;
        assert!(matches!(outcome, Err(SocksError::NoMethod)));
        assert_eq!(answered, [5, 0xff]);
        let (outcome, answered) = asked(b"\x05\x01\x00\x05\x02\x00\x01\x64\x48\x00\x01\x00\x50").await;
        assert!(matches!(outcome, Err(SocksError::Command)));
        assert_eq!(answered[2..4], [5, Reply::CommandNotSupported as u8]);
        let (outcome, answered) = asked(b"\x05\x01\x00\x05\x01\x00\x09\x64").await;
        assert!(matches!(outcome, Err(SocksError::Address)));
        assert_eq!(answered[3], Reply::AddressNotSupported as u8);
        assert!(matches!(asked(b"\x05\x01").await.0, Err(SocksError::Io(_))));
    }
}
