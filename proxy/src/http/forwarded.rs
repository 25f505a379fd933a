//! Who the client is behind forwarders we trust, and what the upstream is told of it.

use std::net::IpAddr;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use postern_model::Scheme;

use crate::http::canonical::Request;
use crate::http::fields::tokens;
use crate::restrict::contains;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The other end of a connection, and how it is written, which is wanted for each of its requests.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// IPv4 as such, also where it came over an IPv6 socket.
    pub(crate) address: IpAddr,
    text: HeaderValue,
}

impl Peer {
    pub(crate) fn new(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, text: value(&address.to_string()) }
    }
}

/// The last hop of a request: who handed it to us, and for whom.
#[derive(Clone, Debug)]
pub(crate) struct Hop<'a> {
    /// The client: who handed us the request, or whom trusted forwarders name.
    pub(crate) client: IpAddr,
    peer: &'a Peer,
    scheme: Scheme,
    /// What the peer says of hops before it counts.
    trusted: bool,
}

/// The forwarding fields of a request.
#[derive(Debug)]
pub(crate) struct Forwarded {
    chain: HeaderValue,
    client: HeaderValue,
    host: HeaderValue,
    proto: HeaderValue,
    port: HeaderValue,
}

impl<'a> Hop<'a> {
    /// `peer` is the other end of the connection, after PROXY protocol; `scheme` what is spoken on it; `sent` the header
    /// fields as they arrived.
    pub(crate) fn new(trusted: &[IpNet], peer: &'a Peer, scheme: Scheme, sent: &HeaderMap) -> Self {
        let client = client_address(trusted, peer.address, sent);
        Self { client, peer, scheme, trusted: is_trusted(trusted, peer.address) }
    }

    /// What the upstream is to be told. What a trusted forwarder says in the fields as they were `sent` is kept and extended.
    pub(crate) fn forwarded(&self, request: &Request, sent: &HeaderMap) -> Forwarded {
        let told = self.trusted.then_some(sent);
        let host = kept(told, &HOST).unwrap_or_else(|| request.authority.clone());
        let proto = kept(told, &PROTO).unwrap_or_else(|| HeaderValue::from_static(self.scheme.as_str()));
        let port = kept(told, &PORT).unwrap_or_else(|| match request.port {
            Some(port) => port.into(),
            None if proto == "https" || proto == "wss" => HeaderValue::from_static("443"),
            None => HeaderValue::from_static("80"),
        });
        let client = kept(told, &REAL_IP).unwrap_or_else(|| self.client_text());
        Forwarded { chain: self.chain(told), client, host, proto, port }
    }

    fn client_text(&self) -> HeaderValue {
        if self.client == self.peer.address { self.peer.text.clone() } else { value(&self.client.to_string()) }
    }

    fn chain(&self, told: Option<&HeaderMap>) -> HeaderValue {
        let mut chain = String::new();
        for address in told.into_iter().flat_map(|told| tokens(told, &FOR)) {
            chain.extend([address, ", "]);
        }
        if chain.is_empty() { self.peer.text.clone() } else { value(&(chain + &self.peer.address.to_string())) }
    }
}

impl Forwarded {
    /// Writes the fields, in place of any in `headers`.
    pub(crate) fn stamp(self, headers: &mut HeaderMap) {
        headers.insert(FOR, self.chain);
        headers.insert(REAL_IP, self.client);
        headers.insert(HOST, self.host);
        headers.insert(PROTO, self.proto);
        headers.insert(PORT, self.port);
    }
}

/// A trusted forwarder's value of a field.
fn kept(told: Option<&HeaderMap>, name: &HeaderName) -> Option<HeaderValue> {
    told?.get(name).filter(|value| !value.is_empty()).cloned()
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("host names, addresses and parts of values are visible ASCII")
}

fn is_trusted(trusted: &[IpNet], address: IpAddr) -> bool {
    trusted.iter().any(|network| contains(network, address))
}

/// The last address before `peer` that is not trusted, over all `X-Forwarded-For` fields in order; if all are, the
/// first; without any, and always for a peer that is not trusted, the peer.
fn client_address(trusted: &[IpNet], peer: IpAddr, sent: &HeaderMap) -> IpAddr {
    if !is_trusted(trusted, peer) {
        return peer;
    }
    let mut nearest = peer;
    let items: Vec<&str> = tokens(sent, &FOR).collect();
    for address in items.into_iter().rev().filter_map(address) {
        nearest = address;
        if !is_trusted(trusted, address) {
            break;
        }
    }
    nearest
}

/// An address, some forwarders write its port beside it.
fn address(item: &str) -> Option<IpAddr> {
    let address: Option<IpAddr> = item.parse().ok();
    let with_port = || item.parse().ok().map(|socket: std::net::SocketAddr| socket.ip());
    address.or_else(with_port).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::canonical::canonical;
    use proptest::prelude::*;

    fn sent(lines: &[(&str, &str)]) -> HeaderMap {
        let mut sent = HeaderMap::new();
        for (name, value) in lines {
            sent.append(HeaderName::try_from(*name).expect(name), value.parse().expect(value));
        }
        sent
    }

    fn peer(address: &str) -> Peer {
        Peer::new(address.parse().expect(address))
    }

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect(text)).collect()
    }

    const TRUSTED: [&str; 2] = ["10.0.0.0/8", "172.16.0.0/12"];

    #[test]
    fn the_client_is_the_nearest_untrusted() {
        for (peer, chain, client) in [
            ("203.0.113.50", "1.2.3.4, 10.0.0.1", "203.0.113.50"),
            ("10.0.0.1", "203.0.113.50", "203.0.113.50"),
            ("10.0.0.1", "203.0.113.50, 10.0.0.2, 172.16.0.5", "203.0.113.50"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.2, 172.16.0.1, 10.0.0.3", "10.0.0.2"),
            ("10.0.0.1", "203.0.113.50,,10.0.0.2", "203.0.113.50"),
            ("10.0.0.1", "8.8.8.8, 203.0.113.50, 172.16.0.1", "203.0.113.50"),
            ("10.0.0.1", "203.0.113.50, unknown, 10.0.0.2", "203.0.113.50"),
            ("10.0.0.1", "8.8.8.8, 203.0.113.50:4711", "203.0.113.50"),
            ("10.0.0.1", "8.8.8.8, [2001:db8::1]:4711", "2001:db8::1"),
            ("::ffff:10.0.0.1", "::ffff:203.0.113.50", "203.0.113.50"),
        ] {
            let sent = sent(&[("x-forwarded-for", chain)]);
            let end = self::peer(peer);
            let hop = Hop::new(&networks(&TRUSTED), &end, Scheme::Https, &sent);
            assert_eq!(hop.client.to_string(), client, "{peer} {chain}");
            let alone = Hop::new(&[], &end, Scheme::Https, &sent);
            assert_eq!(alone.client, peer.parse::<IpAddr>().expect(peer).to_canonical());
        }
    }

    #[test]
    fn all_lines_count_in_order() {
        let sent = sent(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "203.0.113.50, 10.0.0.2")]);
        let peer = peer("10.0.0.1");
        let hop = Hop::new(&networks(&TRUSTED), &peer, Scheme::Https, &sent);
        assert_eq!(hop.client.to_string(), "203.0.113.50");
    }

    #[test]
    fn an_unreadable_item_hides_nobody() {
        let mut sent = HeaderMap::new();
        sent.insert(FOR, HeaderValue::from_bytes(b"\xff, 203.0.113.50").expect("obs-text"));
        let peer = peer("10.0.0.1");
        let hop = Hop::new(&networks(&TRUSTED), &peer, Scheme::Https, &sent);
        assert_eq!(
            (hop.client.to_string().as_str(), hop.chain(Some(&sent)).to_str().ok()),
            ("203.0.113.50", Some("203.0.113.50, 10.0.0.1"))
        );
    }

    /// What an upstream is told: for, real ip, host, proto, port.
    fn told(peer: &str, scheme: Scheme, host: &str, lines: &[(&str, &str)]) -> [String; 5] {
        let sent = sent(lines);
        let parts = http::Request::get("/").header("host", host).body(()).expect(host).into_parts().0;
        let request = canonical(&parts, None, None).expect(host);
        let mut headers = HeaderMap::new();
        let peer = self::peer(peer);
        Hop::new(&networks(&TRUSTED), &peer, scheme, &sent).forwarded(&request, &sent).stamp(&mut headers);
        assert_eq!(headers.len(), 5);
        [FOR, REAL_IP, HOST, PROTO, PORT].map(|name| headers[name].to_str().expect("ASCII").to_owned())
    }

    #[test]
    fn a_stranger_cannot_speak_for_others() {
        let lies = [
            ("x-forwarded-for", "1.2.3.4"),
            ("x-real-ip", "1.2.3.4"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-port", "1"),
        ];
        assert_eq!(
            told("203.0.113.50", Scheme::Https, "App.example", &lies),
            ["203.0.113.50", "203.0.113.50", "app.example", "https", "443"]
        );
        assert_eq!(
            told("::ffff:203.0.113.50", Scheme::Http, "app.example:8443", &lies),
            ["203.0.113.50", "203.0.113.50", "app.example:8443", "http", "8443"]
        );
        assert_eq!(told("203.0.113.50", Scheme::Http, "app.example", &[])[4], "80");
    }

    #[test]
    fn a_trusted_forwarder_is_believed() {
        let chain = ("x-forwarded-for", "203.0.113.9");
        assert_eq!(
            told("10.0.0.1", Scheme::Http, "a.example", &[chain]),
            ["203.0.113.9, 10.0.0.1", "203.0.113.9", "a.example", "http", "80"]
        );
        assert_eq!(
            told("10.0.0.1", Scheme::Http, "a.example", &[chain, ("x-forwarded-proto", "https")]),
            ["203.0.113.9, 10.0.0.1", "203.0.113.9", "a.example", "https", "443"]
        );
        let all = [chain, ("x-real-ip", "203.0.113.8"), ("x-forwarded-host", "b"), ("x-forwarded-port", "99")];
        assert_eq!(
            told("10.0.0.1", Scheme::Https, "a.example", &all),
            ["203.0.113.9, 10.0.0.1", "203.0.113.8", "b", "https", "99"]
        );
        assert_eq!(told("10.0.0.1", Scheme::Https, "a.example", &[])[..2], ["10.0.0.1", "10.0.0.1"]);
    }

    fn any_item() -> impl Strategy<Value = String> {
        prop_oneof![
            (0u8..3, 0u8..3).prop_map(|(a, b)| format!("10.0.{a}.{b}")),
            (0u8..3).prop_map(|a| format!("203.0.113.{a}")),
            (0u8..3).prop_map(|a| format!("::ffff:203.0.113.{a}")),
            Just("2001:db8::1".to_owned()),
            Just("unknown".to_owned()),
            Just(String::new()),
        ]
    }

    proptest! {
        /// Against the same rule on a whole list.
        #[test]
        fn client_of_a_chain(peer in any_item(), lines in prop::collection::vec(prop::collection::vec(any_item(), 0..4), 0..3)) {
            let Ok(peer) = peer.parse::<IpAddr>() else { return Ok(()) };
            let (peer, trusted) = (peer.to_canonical(), networks(&TRUSTED));
            let known = |address: &IpAddr| address.to_string().starts_with("10.");
            let list: Vec<IpAddr> =
                lines.concat().iter().filter_map(|item| item.parse().ok()).map(|address: IpAddr| address.to_canonical()).collect();
            let model = match list.iter().rfind(|address| !known(address)).or(list.first()) {
                Some(address) if known(&peer) => *address,
                _ => peer,
            };
            let lines: Vec<_> = lines.iter().map(|line| line.join(",")).collect();
            let lines: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", line.as_str())).collect();
            prop_assert_eq!(Hop::new(&trusted, &Peer::new(peer), Scheme::Https, &sent(&lines)).client, model);
        }
    }
}
