use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use postern_model::HostName;

/// Where a UDP port is reached: a name or an address, and a port. An IPv6 address stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
}

/// A text that is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a name or an address with a port, such as \"vpn.example.com:51820\" or \"[2001:db8::1]:51820\"")]
pub struct InvalidEndpoint;

impl Endpoint {
    /// The name or the address.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidEndpoint)?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port: u16 = port.parse().ok().filter(|&port| digits && port != 0).ok_or(InvalidEndpoint)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match bracketed {
            Some(inside) => inside.parse::<Ipv6Addr>().is_ok(),
            None => host.parse::<Ipv4Addr>().is_ok() || HostName::parse(host).is_ok(),
        };
        if is_host { Ok(Self { host: host.to_owned(), port }) } else { Err(InvalidEndpoint) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        for good in ["vpn.example.com:51820", "192.0.2.7:1", "[2001:db8::1]:65535", "localhost:51820"] {
            assert_eq!(good.parse::<Endpoint>().expect(good).to_string(), good);
        }
        for bad in [
            "",
            "vpn.example.com",
            "vpn.example.com:",
            "vpn.example.com:0",
            "vpn.example.com:65536",
            "vpn.example.com:+1",
            "2001:db8::1:51820",
            "[192.0.2.7]:1",
            ":51820",
            "a b:1",
            "a\nEndpoint = b:1",
            "udp://a:1",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad:?}");
        }
    }
}
