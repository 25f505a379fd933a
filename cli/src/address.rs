use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

/// Reads where to listen, as NetBird's flags spell it: `127.0.0.1:8443`, `[::1]:8443`, `localhost:8080`, and `:443` for
/// all interfaces. A name is looked up.
///
/// # Errors
/// One sentence with what to write instead.
pub(crate) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let help = "write it as 127.0.0.1:8443, or as :8443 for all interfaces";
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("`{text}` is no address to listen on: {help}"))?;
    let port: u16 = port.parse().map_err(|_| format!("`{port}` in `{text}` is no port: {help}"))?;
    if host.is_empty() {
        return Ok(SocketAddr::new(everywhere(), port));
    }
    let found: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("`{host}` in `{text}` cannot be looked up ({error}): {help}"))?
        .collect();
    // `localhost` is both; people and scripts mean the first kind.
    let address = found.iter().find(|address| address.is_ipv4()).or(found.first());
    address.copied().ok_or_else(|| format!("`{host}` in `{text}` has no address: {help}"))
}

/// Where somebody on this machine reaches a listener: a wildcard is reached on loopback.
pub(crate) fn reached(listener: SocketAddr) -> SocketAddr {
    let ip = if listener.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { listener.ip() };
    SocketAddr::new(ip, listener.port())
}

/// The IPv6 wildcard takes IPv4 too; a machine without IPv6 has only the other.
pub(crate) fn everywhere() -> IpAddr {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_netbird_does() {
        for (text, address) in [
            ("127.0.0.1:8443", "127.0.0.1:8443"),
            ("[::1]:8443", "[::1]:8443"),
            ("localhost:8080", "127.0.0.1:8080"),
            ("127.0.0.1:0", "127.0.0.1:0"),
        ] {
            assert_eq!(listen_address(text), Ok(address.parse().unwrap()), "{text}");
        }
        let all = listen_address(":443").unwrap();
        assert!(all.ip().is_unspecified() && all.port() == 443);
    }

    #[test]
    fn a_wildcard_listener_is_reached_on_loopback() {
        for (listener, address) in [("0.0.0.0:443", "127.0.0.1:443"), ("[::]:1", "127.0.0.1:1"), ("[::1]:1", "[::1]:1")]
        {
            assert_eq!(reached(listener.parse().unwrap()), address.parse().unwrap());
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_remedy() {
        for text in ["", "8443", "localhost", "localhost:https", "127.0.0.1:99999", "127.0.0.1:"] {
            let error = listen_address(text).unwrap_err();
            assert!(error.contains("127.0.0.1:8443"), "{error}");
        }
    }
}
