//! Hosts with a netstack each, links between them, and applications that check every byte and act on events alone. With the
//! feature `sim` boringtun's clock moves along.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use postern_tcp::world::{Link, Path as LinkPath, Random, check, fill};

use crate::{
    Batch, Config, Drop, Event, Limits, ListenerId, Netstack, Path, Peer, PeerIdentity, PrivateKey, Read, StreamError,
    StreamId,
};
#[cfg(feature = "sim")]
use crate::{
    tuple::FourTuple,
    wire::{emit, ip},
};

pub(super) const PORT: u16 = 443;

pub(super) struct World {
    pub(super) now: Instant,
    random: Random,
    pub(super) hosts: Vec<Host>,
    links: HashMap<(usize, usize), Link<Vec<u8>>>,
    default: LinkPath,
    batch: Batch,
    /// Datagrams that left.
    pub(super) datagrams: u64,
    /// Steps without time passing.
    stuck: u32,
}

pub(super) struct Host {
    pub(super) net: Netstack,
    pub(super) key: [u8; 32],
    pub(super) path: Path,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) apps: HashMap<StreamId, App>,
    pub(super) listener: Option<ListenerId>,
    /// What an accepted connection does.
    pub(super) serve: Script,
    pub(super) accepts: bool,
    /// Handles of which Closed was said, or that were given back.
    done: HashSet<StreamId>,
    /// How often it was woken by a deadline.
    pub(super) wakes: u64,
}

/// What an application does with a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Script {
    pub(super) send: u64,
    pub(super) reads: bool,
    /// Shuts its direction when everything is sent, closes when the peer has ended too.
    pub(super) closes: bool,
}

#[derive(Debug)]
pub(super) struct App {
    pub(super) script: Script,
    /// Names of the streams out and in.
    names: [u64; 2],
    pub(super) peer: Option<PeerIdentity>,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) connected: bool,
    pub(super) ended: bool,
    pub(super) shut: bool,
    pub(super) closed: bool,
    pub(super) error: Option<StreamError>,
}

impl Script {
    pub(super) const IDLE: Self = Self { send: 0, reads: true, closes: false };

    pub(super) fn sends(send: u64) -> Self {
        Self { send, reads: true, closes: true }
    }
}

/// Where the host of this number is.
pub(super) fn at(host: usize) -> Path {
    Path::Udp(SocketAddr::from(([192, 0, 2, host as u8 + 1], 51_820)))
}

pub(super) fn inside(host: usize, v6: bool) -> IpAddr {
    let last = host as u8 + 1;
    if v6 { IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)]) } else { IpAddr::from([100, 72, 0, last]) }
}

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A link without faults.
pub(super) fn clean() -> LinkPath {
    LinkPath::new(None, ms(5), 0)
}

impl World {
    /// Hosts that all know each other.
    pub(super) fn new(seed: u64, hosts: usize, path: LinkPath, limits: &Limits) -> Self {
        let now = Instant::now();
        let make = |host: usize| {
            let key = PrivateKey::from_bytes([host as u8 + 1; 32]);
            let addresses = vec![inside(host, false), inside(host, true)];
            let mut bytes = [host as u8; 32];
            bytes[..8].copy_from_slice(&seed.to_le_bytes());
            let config = Config { key, addresses: addresses.clone(), mtu: 1420, limits: limits.clone(), seed: bytes };
            let net = Netstack::new(config, now);
            Host {
                key: net.public_key(),
                net,
                path: at(host),
                addresses,
                apps: HashMap::new(),
                listener: None,
                serve: Script::sends(0),
                accepts: true,
                done: HashSet::new(),
                wakes: 0,
            }
        };
        let mut world = Self {
            now,
            random: Random::new(seed),
            hosts: (0..hosts).map(make).collect(),
            links: HashMap::new(),
            default: path,
            batch: Batch::new(),
            datagrams: 0,
            stuck: 0,
        };
        for host in 0..hosts {
            let peers: Vec<Peer> =
                (0..hosts).filter(|other| *other != host).map(|other| world.peer(other, 1)).collect();
            world.hosts[host].net.set_peers(&peers, now);
        }
        world
    }

    /// Two hosts, of which the second listens.
    pub(super) fn pair(seed: u64, path: LinkPath) -> Self {
        let mut world = Self::new(seed, 2, path, &Limits::default());
        world.listen(1);
        world
    }

    pub(super) fn listen(&mut self, host: usize) {
        let listener = self.hosts[host].net.listen(PORT).expect("nobody listens");
        self.hosts[host].listener = Some(listener);
    }

    /// What others are told of a host.
    pub(super) fn peer(&self, host: usize, generation: u64) -> Peer {
        let host = &self.hosts[host];
        Peer {
            key: host.key,
            generation,
            allowed_ips: host.addresses.iter().map(|address| IpNet::from(*address)).collect(),
            path: Some(host.path),
            keep_alive: None,
        }
    }

    pub(super) fn connect(&mut self, from: usize, to: usize, v6: bool, script: Script) -> StreamId {
        let remote = SocketAddr::from((inside(to, v6), PORT));
        let host = &mut self.hosts[from];
        let stream = host.net.connect(remote, Duration::from_secs(60), self.now).expect("a way");
        let port = host.net.local_addr(stream).expect("an address").port();
        host.apps.insert(stream, App::new(script, port, true, None));
        stream
    }

    pub(super) fn app(&self, host: usize, stream: StreamId) -> &App {
        &self.hosts[host].apps[&stream]
    }

    #[cfg(feature = "sim")]
    /// The link that datagrams from one host to another take.
    pub(super) fn set_link(&mut self, from: usize, to: usize, path: LinkPath) {
        let now = self.now;
        self.links.entry((from, to)).or_insert_with(|| Link::new(path, now)).set_path(path);
    }

    #[cfg(feature = "sim")]
    pub(super) fn set_links(&mut self, path: LinkPath) {
        self.default = path;
        for link in self.links.values_mut() {
            link.set_path(path);
        }
    }

    /// The network behind the peer of each flow of a host tells it that it carries no packets above `mtu` (RFC 1191, RFC 8201).
    #[cfg(feature = "sim")]
    pub(super) fn complain(&mut self, of: usize, mtu: u16) {
        let (stack, _) = self.hosts[of].net.parts();
        let flows = stack.flows.pick(|_| true);
        let tuples: Vec<_> = flows.iter().filter_map(|index| Some(stack.flows.get(*index)?.tuple)).collect();
        for tuple in tuples {
            let from = self.hosts.iter().position(|host| host.addresses.contains(&tuple.remote)).expect("a host");
            let (stack, engine) = self.hosts[from].net.parts();
            let Some(peer) = engine.route(tuple.local) else { continue };
            stack.outbox.push_answer(peer, too_big(&tuple, mtu), u32::MAX, self.now);
        }
    }

    pub(super) fn run_for(&mut self, span: Duration) {
        let until = self.now + span;
        while self.step(until) {}
    }

    pub(super) fn run_until(&mut self, span: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let until = self.now + span;
        while !done(self) {
            if !self.step(until) {
                return done(self);
            }
        }
        true
    }

    /// Whether every application is done, or heard of an error.
    pub(super) fn is_done(&self) -> bool {
        self.hosts.iter().all(|host| host.apps.values().all(|app| app.is_done()))
    }

    /// The next moment at which something happens by itself.
    pub(super) fn next_event(&self) -> Option<Instant> {
        let links = self.links.values().filter_map(Link::deadline);
        let hosts = self.hosts.iter().filter_map(|host| Some(host.net.poll_timeout()?.at));
        links.chain(hosts).min()
    }

    /// Everything that can happen now, then on to the next event. False at `until`.
    pub(super) fn step(&mut self, until: Instant) -> bool {
        for host in 0..self.hosts.len() {
            self.hosts[host].act(self.now);
            self.send(host);
        }
        let Some(next) = self.next_event().filter(|next| *next <= until) else {
            self.advance(until);
            return false;
        };
        self.stuck = if next > self.now { 0 } else { self.stuck + 1 };
        assert!(self.stuck < 10_000, "time stands still");
        self.advance(next.max(self.now));
        for host in 0..self.hosts.len() {
            self.receive(host);
        }
        true
    }

    fn advance(&mut self, to: Instant) {
        #[cfg(feature = "sim")]
        mock_instant::MockClock::advance(to - self.now);
        self.now = to;
    }

    pub(super) fn send(&mut self, host: usize) {
        let mut turns = 0;
        while self.hosts[host].net.poll_transmit(self.now, &mut self.batch) {
            turns += 1;
            assert!(turns < 100_000, "sending never ends");
            let batch = &self.batch;
            assert!(!batch.is_empty() && batch.len() <= 64 && batch.bytes().len() <= 65_000);
            assert_eq!(batch.datagrams().count(), batch.len());
            let to = batch.path().expect("a path");
            let Some(to) = self.hosts.iter().position(|other| other.path == to) else { continue };
            for datagram in batch.datagrams() {
                let (now, path) = (self.now, self.default);
                let link = self.links.entry((host, to)).or_insert_with(|| Link::new(path, now));
                link.send(datagram.to_vec(), datagram.len() + 28, now, &mut self.random);
                self.datagrams += 1;
            }
        }
        let unsealed = self.hosts[host].net.counters().dropped(Drop::Unsealed);
        assert_eq!(unsealed, 0, "what a flow has handed out leaves");
    }

    fn receive(&mut self, host: usize) {
        let mut some = false;
        for from in 0..self.hosts.len() {
            let path = self.hosts[from].path;
            let Some(link) = self.links.get_mut(&(from, host)) else { continue };
            while let Some(mut arrival) = link.receive(self.now) {
                if arrival.corrupt {
                    let at = self.random.below(arrival.packet.len() as u64) as usize;
                    arrival.packet[at] ^= 1 << self.random.below(8);
                }
                self.hosts[host].net.handle_datagram(path, &arrival.packet, self.now);
                some = true;
            }
        }
        let due = self.hosts[host].net.poll_timeout().is_some_and(|deadline| deadline.at <= self.now);
        if some || due {
            self.hosts[host].wakes += u64::from(!some);
            self.hosts[host].net.handle_timeout(self.now);
        }
    }
}

/// What a router sends that has got a packet of the flow `tuple`.
#[cfg(feature = "sim")]
fn too_big(tuple: &FourTuple, mtu: u16) -> Vec<u8> {
    let header = emit::ip_length(tuple.local);
    let mut packet = vec![0; 2 * header + 16];
    let (outer, rest) = packet.split_at_mut(header);
    let (message, quoted) = rest.split_at_mut(8);
    let (protocol, kind) = if tuple.local.is_ipv4() { (ip::ICMP, [3, 4]) } else { (ip::ICMP_V6, [2, 0]) };
    emit::ip_header(outer, tuple.remote, tuple.local, protocol, 2 * header + 16);
    message[..2].copy_from_slice(&kind);
    message[6..].copy_from_slice(&mtu.to_be_bytes());
    emit::ip_header(quoted, tuple.local, tuple.remote, ip::TCP, 1420);
    quoted[header..header + 2].copy_from_slice(&tuple.local_port.to_be_bytes());
    quoted[header + 2..header + 4].copy_from_slice(&tuple.remote_port.to_be_bytes());
    packet
}

impl Host {
    fn act(&mut self, now: Instant) {
        while let Some(event) = self.net.poll_event() {
            let stream = match event {
                Event::Incoming(listener) => {
                    assert_eq!(Some(listener), self.listener);
                    if self.accepts {
                        self.accept(now);
                    }
                    continue;
                }
                Event::Connected(stream) => {
                    self.check(stream);
                    self.app(stream).connected = true;
                    stream
                }
                Event::Readable(stream) | Event::Writable(stream) => {
                    self.check(stream);
                    stream
                }
                Event::Closed(stream) => {
                    self.check(stream);
                    self.app(stream).closed = true;
                    self.done.insert(stream);
                    stream
                }
            };
            self.work(stream, now);
        }
    }

    pub(super) fn accept(&mut self, now: Instant) {
        let listener = self.listener.expect("a listener");
        while let Some(accepted) = self.net.accept(listener) {
            let app = App::new(self.serve, accepted.remote.port(), false, Some(accepted.peer));
            assert!(self.apps.insert(accepted.stream, app).is_none(), "handles are never given twice");
            self.work(accepted.stream, now);
        }
    }

    /// Nothing is said of a stream after its end.
    fn check(&self, stream: StreamId) {
        assert!(!self.done.contains(&stream), "an event after Closed");
    }

    fn app(&mut self, stream: StreamId) -> &mut App {
        self.apps.get_mut(&stream).expect("an application")
    }

    /// Lets an application do what it can.
    pub(super) fn work(&mut self, stream: StreamId, now: Instant) {
        let Some(app) = self.apps.get_mut(&stream) else { return };
        let net = &mut self.net;
        let mut buffer = vec![0; 20_000];
        while app.script.reads && !app.ended && app.error.is_none() {
            match net.read(stream, &mut buffer, now) {
                Ok(Read::Bytes(n)) => {
                    check(app.names[1], app.received, &buffer[..n]);
                    app.received += n as u64;
                }
                Ok(Read::End) => app.ended = true,
                Ok(Read::Pending) => break,
                Err(error) => app.error = Some(error),
            }
        }
        while app.sent < app.script.send && app.error.is_none() {
            let n = buffer.len().min((app.script.send - app.sent) as usize);
            fill(app.names[0], app.sent, &mut buffer[..n]);
            match net.write(stream, &buffer[..n], now) {
                Ok(0) => break,
                Ok(n) => app.sent += n as u64,
                Err(error) => app.error = Some(error),
            }
        }
        if app.script.closes && app.error.is_none() && app.sent == app.script.send {
            if !std::mem::replace(&mut app.shut, true) {
                net.shutdown(stream, now);
            }
            if app.ended {
                net.close(stream, now);
                app.closed = true;
                self.done.insert(stream);
            }
        }
        if app.error.is_some() {
            net.close(stream, now);
            self.done.insert(stream);
        }
    }
}

impl App {
    fn new(script: Script, port: u16, active: bool, peer: Option<PeerIdentity>) -> Self {
        let names = [2 * u64::from(port) + u64::from(active), 2 * u64::from(port) + u64::from(!active)];
        Self {
            script,
            names,
            peer,
            sent: 0,
            received: 0,
            connected: false,
            ended: false,
            shut: false,
            closed: false,
            error: None,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.error.is_some() || (self.sent == self.script.send && (self.ended || !self.script.reads))
    }
}
