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
/// What else wg-quick knows in `[Interface]`.
const OF_THE_SYSTEM: [&str; 9] =
    ["dns", "fwmark", "listenport", "postdown", "postup", "predown", "preup", "saveconfig", "table"];
const COPY: &str = "copy it from where the file came from";

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
    /// With its line.
    key: Option<(usize, PublicKey)>,
    /// `None` where the file says nothing.
    allowed_ips: Option<Vec<IpNet>>,
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
                let found =
                    self.list(value, |item| item.parse().ok().or_else(|| Some(item.parse::<IpNet>().ok()?.addr())));
                self.addresses.extend(found);
            }
            (Section::Interface, "mtu") => match value.parse() {
                Ok(mtu @ 576..) => self.mtu = Some(mtu),
                Ok(_) | Err(_) => self.wrong("MTU is no number from 576 to 65535", "leave it out to use 1420"),
            },
            (Section::Peer, _) => self.peer_setting(name, value),
            // Of wg-quick, for the system's own tunnels: ours touches neither routes nor resolver.
            (Section::Interface, name) if OF_THE_SYSTEM.contains(&name) => {}
            (Section::Interface, _) => {
                self.wrong(
                    "this is no setting of [Interface]",
                    "it has PrivateKey, Address and MTU; leave out the rest",
                );
            }
        }
    }

    fn peer_setting(&mut self, name: &str, value: &str) {
        // Taken out while it is changed, so that mistakes can be noted meanwhile.
        let Some(mut peer) = self.peers.pop() else { return };
        match name {
            "publickey" => match PublicKey::parse(value) {
                Ok(key) => peer.key = Some((self.line, key)),
                Err(error) => self.wrong(&format!("PublicKey is {error}"), COPY),
            },
            "allowedips" if !value.is_empty() => {
                let found = self.list(value, network);
                peer.allowed_ips.get_or_insert_default().extend(found);
            }
            "allowedips" => {}
            "endpoint" => peer.endpoint = Some(value.to_owned()),
            "persistentkeepalive" => match keep_alive(value) {
                Some(keep_alive) => peer.keep_alive = keep_alive,
                None => {
                    self.wrong(
                        "PersistentKeepalive is no number of seconds from 0 to 65535",
                        "write 25, or leave it out",
                    );
                }
            },
            "presharedkey" => {
                self.wrong("PresharedKey is not supported", "make the peer anew with `postern peer add`");
            }
            _ => self.wrong(
                "this is no setting of [Peer]",
                "it has PublicKey, AllowedIPs, Endpoint and PersistentKeepalive; leave out the rest",
            ),
        }
        self.peers.push(peer);
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
        let own = self.key.as_ref().map(|key| PublicKey(key.public()));
        let (mut peers, mut known) = (Vec::new(), BTreeMap::new());
        for peer in self.peers {
            if let Some((line, key)) = peer.key {
                let other = *known.entry(key).or_insert(line);
                self.mistakes.extend(useless(key, own, line, other));
            }
            match peer.complete() {
                Ok(peer) => peers.push(peer),
                Err(mistakes) => self.mistakes.extend(mistakes),
            }
        }
        if self.key.is_none() {
            let remedy = "add the key that belongs to this peer; with `--public-key` it never left the device";
            self.mistakes.push(whole("there is no PrivateKey in [Interface]", remedy));
        }
        if self.addresses.is_empty() {
            self.mistakes.push(whole("there is no Address in [Interface]", COPY));
        }
        if peers.is_empty() && self.mistakes.is_empty() {
            let remedy = "`postern peer show NAME` prints it once a proxy has a tunnel";
            self.mistakes.push(whole("there is no [Peer]", remedy));
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

impl PeerLines {
    /// What is missing is told with the line of the section.
    fn complete(self) -> Result<ConfPeer, Vec<Mistake>> {
        let missing = |what: &str, remedy| Mistake { line: self.line, what: what.to_owned(), remedy };
        let mut mistakes = Vec::new();
        if self.key.is_none() {
            mistakes.push(missing("this peer has no PublicKey", COPY));
        }
        if self.allowed_ips.is_none() {
            let remedy = "add `AllowedIPs = `, with the addresses that are reached through it";
            mistakes.push(missing("this peer has no AllowedIPs", remedy));
        }
        let endpoint = self.endpoint.filter(|endpoint| is_endpoint(endpoint));
        if endpoint.is_none() {
            let remedy = "add `Endpoint = host:port`, where the proxy listens for WireGuard";
            mistakes.push(missing("this peer has no Endpoint of the form host:port", remedy));
        }
        match (self.key, self.allowed_ips, endpoint) {
            (Some((_, key)), Some(allowed_ips), Some(endpoint)) => {
                Ok(ConfPeer { key, allowed_ips, endpoint, keep_alive: self.keep_alive })
            }
            _ => Err(mistakes),
        }
    }
}

/// Why nobody can answer to the key that stands in `line`; `first` is the line where the same one comes first.
fn useless(key: PublicKey, own: Option<PublicKey>, line: usize, first: usize) -> Option<Mistake> {
    let wrong = |what: &str, remedy| Some(Mistake { line, what: what.to_owned(), remedy });
    if key.0 == [0; 32] {
        wrong("PublicKey is all zero, which is nobody's", COPY)
    } else if Some(key) == own {
        wrong("PublicKey is this peer's own", "it takes the proxy's: `postern peer show NAME` prints it")
    } else if line != first {
        wrong(&format!("PublicKey is the one of line {first} again"), "keep one of the two sections")
    } else {
        None
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
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0))
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
        for missing in ["PrivateKey", "Address", "PublicKey", "AllowedIPs", "Endpoint"] {
            let without: Vec<_> = GOOD.lines().filter(|line| !line.starts_with(missing)).collect();
            let mistakes = parse(&without.join("\n")).expect_err("something is missing");
            assert!(mistakes.len() == 1 && mistakes[0].what.contains(missing), "{missing}: {mistakes:?}");
        }
        assert!(parse("").is_err());
    }

    fn lines(text: &str) -> Vec<usize> {
        parse(text).expect_err("it is wrong").iter().map(|mistake| mistake.line).collect()
    }

    #[test]
    fn what_nobody_knows_is_a_mistake_and_what_wg_quick_knows_is_none() {
        assert_eq!(lines(&GOOD.replace("AllowedIPs", "AllowedIP")), [7, 10]);
        assert_eq!(lines(&GOOD.replace("AllowedIPs = 100.72.0.1/32, fd7a::1/128", "AllowedIPs =")), [7]);
        assert_eq!(lines(&GOOD.replace("MTU", "MTTU")), [5]);
        let known = GOOD.replace("MTU = 1420", "MTU = 1420\nDNS = 1.1.1.1\nTable = off\nPostUp = true");
        assert!(parse(&known).is_ok());
    }

    #[test]
    fn a_key_that_nobody_answers_to_is_refused() {
        let public = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
        let own = PublicKey(parse(GOOD).expect("it is right").key.public()).to_string();
        for nobodys in ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", &own] {
            assert_eq!(lines(&GOOD.replace(public, nobodys)), [9]);
        }
        let section = &GOOD[GOOD.find("[Peer]").expect("one")..GOOD.find("# Private").expect("one")];
        let twice = format!("{GOOD}{section}");
        assert_eq!(lines(&twice), [19]);
        let two = format!("{GOOD}{}", section.replace(public, "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM="));
        assert_eq!(parse(&two).expect("two proxies").peers.len(), 2);
    }
}
