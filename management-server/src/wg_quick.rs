//! The text of a wg-quick file, which stock WireGuard clients and `postern connect` read.

use std::fmt::Write;
use std::net::IpAddr;

use ipnet::IpNet;
use postern_model::{PublicKey, Secret};

/// How often a client says something, so that NATs on the way keep their mappings: the usual 25 s.
const KEEP_ALIVE: u8 = 25;

/// What stands in it.
#[derive(Debug)]
pub(crate) struct Conf<'a> {
    pub(crate) name: &'a str,
    pub(crate) user: Option<&'a str>,
    pub(crate) key: PublicKey,
    /// Only where it was made here.
    pub(crate) private_key: Option<&'a Secret>,
    pub(crate) addresses: [IpAddr; 2],
    pub(crate) mtu: u16,
    pub(crate) proxies: Vec<ProxySection>,
    /// Each private service that the peer opens, with the address that it is at.
    pub(crate) services: Vec<(IpAddr, String)>,
}

/// A proxy to speak with.
#[derive(Debug)]
pub(crate) struct ProxySection {
    pub(crate) name: String,
    pub(crate) key: PublicKey,
    pub(crate) addresses: [IpAddr; 2],
    /// Host and port.
    pub(crate) endpoint: String,
}

/// The text. Every part of it is one line: names and endpoints were checked where they came in.
pub(crate) fn render(conf: &Conf<'_>) -> String {
    // Made in one piece: a text that grows leaves copies of the key behind.
    let mut text = String::with_capacity(1024 + 512 * conf.proxies.len() + 320 * conf.services.len());
    write(&mut text, conf).expect("a text takes everything");
    text
}

fn write(text: &mut String, conf: &Conf<'_>) -> std::fmt::Result {
    let Conf { name, user, key, private_key, addresses, mtu, proxies, services } = conf;
    let user = user.map(|user| format!(" ({user})")).unwrap_or_default();
    writeln!(text, "# Postern peer {name}{user}\n[Interface]")?;
    match private_key {
        Some(private_key) => writeln!(text, "PrivateKey = {}", private_key.expose())?,
        None => writeln!(text, "# The device has the private key. Put it here, as PrivateKey: it belongs to {key}")?,
    }
    writeln!(text, "Address = {}\nMTU = {mtu}", ranges(addresses))?;
    for ProxySection { name, key, addresses, endpoint } in proxies {
        let allowed = ranges(addresses);
        writeln!(text, "\n[Peer]\n# proxy {name}\nPublicKey = {key}\nAllowedIPs = {allowed}")?;
        writeln!(text, "Endpoint = {endpoint}\nPersistentKeepalive = {KEEP_ALIVE}")?;
    }
    if proxies.is_empty() {
        writeln!(text, "\n# No proxy has a tunnel yet. Once one has, `postern peer show {name}` prints its section.")?;
    }
    if services.is_empty() {
        writeln!(text, "\n# The groups of this peer open no private service yet.")?;
    } else {
        writeln!(text, "\n# Private services, for hosts files and `postern connect`:")?;
    }
    for (address, host) in services {
        writeln!(text, "# {address} {host}")?;
    }
    Ok(())
}

fn ranges(addresses: &[IpAddr; 2]) -> String {
    addresses.map(|address| IpNet::from(address).to_string()).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_as_wg_quick_reads_it() {
        let addresses = |n: u8| {
            let v6 = format!("fd7a:706f:7374::{n}").parse().expect("address");
            [IpAddr::from([100, 72, 0, n]), v6]
        };
        let private_key = Secret::from("CLIENTCLIENTCLIENTCLIENTCLIENTCLIENTCLIENTA=");
        let proxy = ProxySection {
            name: "postern-up".into(),
            key: PublicKey([0; 32]),
            addresses: addresses(1),
            endpoint: "127.0.0.1:51820".into(),
        };
        let mut conf = Conf {
            name: "laptop",
            user: Some("you@example.com"),
            key: PublicKey([1; 32]),
            private_key: Some(&private_key),
            addresses: addresses(3),
            mtu: 1420,
            proxies: vec![proxy],
            services: vec![(addresses(1)[0], "inside.localhost".into())],
        };
        let expected = "\
# Postern peer laptop (you@example.com)
[Interface]
PrivateKey = CLIENTCLIENTCLIENTCLIENTCLIENTCLIENTCLIENTA=
Address = 100.72.0.3/32, fd7a:706f:7374::3/128
MTU = 1420

[Peer]
# proxy postern-up
PublicKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
AllowedIPs = 100.72.0.1/32, fd7a:706f:7374::1/128
Endpoint = 127.0.0.1:51820
PersistentKeepalive = 25

# Private services, for hosts files and `postern connect`:
# 100.72.0.1 inside.localhost
";
        assert_eq!(render(&conf), expected);
        conf.private_key = None;
        conf.user = None;
        conf.proxies.clear();
        conf.services.clear();
        let text = render(&conf);
        assert!(text.starts_with("# Postern peer laptop\n[Interface]\n# The device has the private key."), "{text}");
        let settings = |text: &str| text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
        assert_eq!(settings(&text), 3, "nothing but its own section: {text}");
        assert!(text.contains("postern peer show laptop") && text.contains("open no private service yet"), "{text}");
    }
}
