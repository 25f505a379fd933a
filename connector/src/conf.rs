//! The wg-quick file of a peer, with the private names in its comments.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use postern_model::{HostName, PublicKey};
use postern_tunnel::{PrivateKey, parse_private_key};

/// What a peer needs to know: the content of a wg-quick file.
#[derive(Debug)]
pub struct Conf {
    /// Its key.
    pub key: PrivateKey,
    /// Its addresses in the tunnel; at least one.
    pub addresses: Vec<IpAddr>,
    /// Largest IP packet inside the tunnel, in bytes.
    pub mtu: u16,
    /// Those it speaks with; at least one.
    pub peers: Vec<ConfPeer>,
    /// The private names that the comments list, each with its addresses.
    pub hosts: BTreeMap<HostName, Vec<IpAddr>>,
}

/// A `[Peer]` of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfPeer {
    /// Its key.
    pub key: PublicKey,
    /// The addresses behind it.
    pub allowed_ips: Vec<IpNet>,
    /// `host:port` where it listens; the host may be a name.
    pub endpoint: String,
    /// How often it hears of us at least.
    pub keep_alive: Option<Duration>,
}

/// One thing that is wrong with a file, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Counted from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// The next action.
    pub remedy: &'static str,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}; {}", self.what, self.remedy),
            line => write!(f, "line {line}: {}; {}", self.what, self.remedy),
        }
    }
}

/// wg-quick's own default on a path of 1500 bytes.
const USUAL_MTU: u16 = 1420;

/// Reads the text of a file.
///
/// # Errors
/// Every mistake, in the order of the text; none of them quotes a key.
pub fn parse(text: &str) -> Result<Conf, Vec<Mistake>> {
    let mut reading = Reading::default();
    for (line, text) in (1..).zip(text.lines()) {
        reading.line = line;
        reading.take(text.trim());
    }
    reading.finish()
}

#[derive(Default)]
struct Reading {
    line: usize,
    section: Section,
    key: Option<PrivateKey>,
    addresses: Vec<IpAddr>,
    mtu: Option<u16>,
    peers: Vec<PeerLines>,
    hosts: BTreeMap<HostName, Vec<IpAddr>>,
    mistakes: Vec<Mistake>,
}

#[derive(Default, Clone, Copy)]
enum Section {
    #[default]
    None,
    Interface,
    Peer,
}

#[derive(Default)]
struct PeerLines {
    line: usize,
    key: Option<PublicKey>,
    allowed_ips: Vec<IpNet>,
    endpoint: Option<String>,
    keep_alive: Option<Duration>,
}

impl Reading {
    fn take(&mut self, text: &str) {
        if let Some(comment) = text.strip_prefix('#') {
            return self.comment(comment);
        }
        let text = text.split('#').next().unwrap_or_default().trim();
        match text.to_ascii_lowercase().as_str() {
            "" => {}
            "[interface]" => self.section = Section::Interface,
            "[peer]" => {
                self.section = Section::Peer;
                self.peers.push(PeerLines { line: self.line, ..PeerLines::default() });
            }
            _ => match text.split_once('=') {
                Some((name, value)) => self.setting(&name.trim().to_ascii_lowercase(), value.trim()),
                None => self.wrong("this is neither a section nor a setting", "write it as `Name = value`"),
            },
        }
    }

    /// `# ADDRESS NAME...`, as a hosts file has it; any other comment is for people.
    fn comment(&mut self, text: &str) {
        let mut words = text.split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { return };
        for name in words.filter_map(|word| HostName::parse(word).ok()) {
            let known = self.hosts.entry(name).or_default();
            if !known.contains(&address) {
                known.push(address);
            }
        }
    }

    fn setting(&mut self, name: &str, value: &str) {
        match (self.section, name) {
            (Section::None, _) => self.wrong("this setting stands before any section", "begin with `[Interface]`"),
            (Section::Interface, "privatekey") => match parse_private_key(value) {
                Ok(key) => self.key = Some(key),
                Err(_) => self.wrong("PrivateKey is not a WireGuard key", "it takes the 44 characters of `wg genkey`"),
            },
            (Section::Interface, "address") => {
                let found = self.list(value, |item| item.parse().ok().or_else(|| Some(item.parse::<IpNet>().ok()?.addr())));
                self.addresses.extend(found);
            }
            (Section::Interface, "mtu") => match value.parse() {
                Ok(mtu @ 576..) => self.mtu = Some(mtu),
                Ok(_) | Err(_) => self.wrong("MTU is no number from 576 to 65535", "leave it out to use 1420"),
            },
            (Section::Peer, _) => self.peer_setting(name, value),
            // Of wg-quick, for the system's own tunnels: ours touches neither routes nor resolver.
            (Section::Interface, _) => {}
        }
    }

    fn peer_setting(&mut self, name: &str, value: &str) {
        let allowed = if name == "allowedips" { self.list(value, network) } else { Vec::new() };
        let key = if name == "publickey" { Some(PublicKey::parse(value)) } else { None };
        let keep_alive = if name == "persistentkeepalive" { Some(keep_alive(value)) } else { None };
        if let Some(Err(error)) = key {
            self.mistakes.push(Mistake {
                line: self.line,
                what: format!("PublicKey is {error}"),
                remedy: "copy it from where the file came from",
            });
        }
        if keep_alive == Some(None) {
            self.wrong("PersistentKeepalive is no number of seconds from 0 to 65535", "write 25, or leave it out");
        }
        if name == "presharedkey" {
            self.wrong("PresharedKey is not supported", "make the peer anew with `postern peer add`");
        }
        let Some(peer) = self.peers.last_mut() else { return };
        peer.allowed_ips.extend(allowed);
        if let Some(Ok(key)) = key {
            peer.key = Some(key);
        }
        if name == "endpoint" {
            peer.endpoint = Some(value.to_owned());
        }
        if let Some(Some(keep_alive)) = keep_alive {
            peer.keep_alive = keep_alive;
        }
    }

    fn list<T>(&mut self, value: &str, read: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let mut found = Vec::new();
        for item in value.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            match read(item) {
                Some(item) => found.push(item),
                None => self.mistakes.push(Mistake {
                    line: self.line,
                    what: format!("`{}` is neither an address nor a range", item.escape_debug()),
                    remedy: "write it as 100.72.0.1/32",
                }),
            }
        }
        found
    }

    fn wrong(&mut self, what: &str, remedy: &'static str) {
        self.mistakes.push(Mistake { line: self.line, what: what.to_owned(), remedy });
    }

    fn finish(mut self) -> Result<Conf, Vec<Mistake>> {
        let whole = |what: &str, remedy| Mistake { line: 0, what: what.to_owned(), remedy };
        let mut peers = Vec::new();
        for peer in self.peers {
            let at = |what: &str, remedy| Mistake { line: peer.line, what: what.to_owned(), remedy };
            match (peer.key, peer.endpoint) {
                (Some(key), Some(endpoint)) if is_endpoint(&endpoint) => {
                    peers.push(ConfPeer { key, allowed_ips: peer.allowed_ips, endpoint, keep_alive: peer.keep_alive });
                }
                (None, _) => self.mistakes.push(at("this peer has no PublicKey", "copy it from where the file came from")),
                (Some(_), _) => self.mistakes.push(at(
                    "this peer has no Endpoint of the form host:port",
                    "add `Endpoint = host:port`, where the proxy listens for WireGuard",
                )),
            }
        }
        if self.key.is_none() {
            let remedy = "add the key that belongs to this peer; with `--public-key` it never left the device";
            self.mistakes.push(whole("there is no PrivateKey in [Interface]", remedy));
        }
        if self.addresses.is_empty() {
            self.mistakes.push(whole("there is no Address in [Interface]", "copy it from where the file came from"));
        }
        if peers.is_empty() && self.mistakes.is_empty() {
            self.mistakes.push(whole("there is no [Peer]", "make the file with `postern peer add`"));
        }
        self.mistakes.sort_by_key(|mistake| (mistake.line == 0, mistake.line));
        match self.key {
            Some(key) if self.mistakes.is_empty() => {
                let mtu = self.mtu.unwrap_or(USUAL_MTU);
                Ok(Conf { key, addresses: self.addresses, mtu, peers, hosts: self.hosts })
            }
            Some(_) | None => Err(self.mistakes),
        }
    }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// `Some(None)` turns it off.
fn keep_alive(text: &str) -> Option<Option<Duration>> {
    match text {
        "off" | "0" => Some(None),
        _ => text.parse::<u16>().ok().map(|seconds| Some(Duration::from_secs(seconds.into()))),
    }
}

fn is_endpoint(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both keys are 32 equal bytes: nobody's.
    const GOOD: &str = "\
# Postern peer laptop (you@example.com)
[Interface]
PrivateKey = AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=
Address = 100.72.0.3/32, fd7a::3/128
MTU = 1420

[Peer]
# proxy postern-up
PublicKey = AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=
AllowedIPs = 100.72.0.1/32, fd7a::1/128
Endpoint = 127.0.0.1:51820
PersistentKeepalive = 25

# Private services, for hosts files and `postern connect`:
# 100.72.0.1 inside.localhost other.localhost
# fd7a::1 inside.localhost
";

    #[test]
    fn a_printed_file_is_understood() {
        let conf = parse(GOOD).expect("it is right");
        assert_eq!(conf.addresses, ["100.72.0.3".parse::<IpAddr>().unwrap(), "fd7a::3".parse().unwrap()]);
        assert_eq!((conf.mtu, conf.peers.len()), (1420, 1));
        assert_eq!(conf.peers[0].endpoint, "127.0.0.1:51820");
        assert_eq!(conf.peers[0].keep_alive, Some(Duration::from_secs(25)));
        assert_eq!(conf.peers[0].allowed_ips.len(), 2);
        let inside = HostName::parse("inside.localhost").unwrap();
        assert_eq!(conf.hosts[&inside].len(), 2);
        assert_eq!(conf.hosts.len(), 2);
        assert!(!format!("{conf:?}").contains("AQEB"), "the key is not shown");
    }

    #[test]
    fn every_mistake_is_told_with_its_line_and_no_key() {
        let bad = GOOD
            .replace("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "c2VjcmV0")
            .replace("fd7a::1/128\nEnd", "nonsense\nEnd")
            .replace("Keepalive = 25", "Keepalive = often");
        let mistakes = parse(&bad).expect_err("it is wrong");
        let lines: Vec<_> = mistakes.iter().map(|mistake| mistake.line).collect();
        assert_eq!(lines, [3, 10, 12, 0], "{mistakes:?}");
        assert!(!format!("{mistakes:?}").contains("c2VjcmV0"));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (missing, word) in [("PrivateKey", "PrivateKey"), ("Address", "Address"), ("PublicKey", "PublicKey"), ("Endpoint", "Endpoint")] {
            let text: String = GOOD.lines().filter(|line| !line.starts_with(missing)).map(|line| format!("{line}\n")).collect();
            let mistakes = parse(&text).expect_err("something is missing");
            assert!(mistakes.len() == 1 && mistakes[0].what.contains(word), "{missing}: {mistakes:?}");
        }
        assert!(parse("").is_err());
    }
}
