//! smoltcp's socket as the other end, in both roles, over a bad network in virtual time.

use std::time::{Duration, Instant};

use postern_tcp::world::{Link, Path, Random, check, fill};
use postern_tcp::{Config, Congestion, Family, Flow, Header, Phase, SackBlocks, Segment, Transmit};
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Moment;
use smoltcp::wire::{
    HardwareAddress, IpAddress, IpCidr, IpProtocol, IpRepr, Ipv4Packet, Ipv6Packet, TcpControl, TcpPacket, TcpRepr,
    TcpSeqNumber, TcpTimestampRepr,
};

const MTU: usize = 1420;
const OUR_PORT: u16 = 40_000;
const THEIR_PORT: u16 = 443;
const OURS: u64 = 1;
const THEIRS: u64 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Connects,
    Accepts,
}

#[test]
fn both_roles_both_families_and_a_bad_network() {
    for role in [Role::Connects, Role::Accepts] {
        for family in [Family::V4, Family::V6] {
            for (loss, reorder) in [(0.0, 0.0), (0.01, 0.0), (0.03, 0.02)] {
                for control in [Congestion::Bbr, Congestion::Cubic] {
                    exchange(role, family, loss, reorder, control);
                }
            }
        }
    }
}

/// Half a megabyte each way, then both close; every byte compared.
fn exchange(role: Role, family: Family, loss: f64, reorder: f64, control: Congestion) {
    const TOTAL: u64 = 500_000;
    let start = Instant::now();
    let path = Path {
        loss,
        reorder: (reorder, Duration::from_millis(3)),
        ..Path::new(Some(12_500_000), Duration::from_millis(10), 256 << 10)
    };
    let mut random = Random::new(loss.to_bits() ^ reorder.to_bits() ^ control as u64);
    let mut links = [Link::new(path, start), Link::new(path, start)];
    let config = Config { family, mtu: MTU as u16, control, ..Config::default() };
    let mut peer = Peer::new(family, role);
    let mut flow = (role == Role::Connects).then(|| Flow::connect(config.clone(), u32::MAX - 1000, start));
    let (mut now, mut sent, mut received, mut their_sent, mut their_received) = (start, 0, 0, 0, 0);

    let over =
        |flow: &Option<Flow>| flow.as_ref().is_some_and(|f| matches!(f.phase(), Phase::TimeWait | Phase::Closed));
    while !(over(&flow) && received == TOTAL && their_received == TOTAL) {
        assert!(
            now - start < Duration::from_secs(600),
            "{role:?} {family:?} {loss}: {received} and {their_received} bytes"
        );
        if let Some(flow) = &mut flow {
            flow.handle_timeout(now);
            let mut buffer = [0; 4096];
            while sent < TOTAL && flow.writable() > 0 {
                let n = flow.writable().min(buffer.len()).min((TOTAL - sent) as usize);
                fill(OURS, sent, &mut buffer[..n]);
                sent += flow.write(&buffer[..n]) as u64;
            }
            if sent == TOTAL {
                flow.shutdown();
            }
            loop {
                let n = flow.read(&mut buffer);
                if n == 0 {
                    break;
                }
                check(THEIRS, received, &buffer[..n]);
                received += n as u64;
            }
            while let Some(transmit) = flow.poll_transmit(now, 60_000) {
                for packet in packets(&transmit, family) {
                    let bytes = packet.len();
                    links[0].send(packet, bytes, now, &mut random);
                }
            }
        }
        // What arrives makes room for the application, and what that writes goes out.
        peer.poll(now - start);
        peer.work(TOTAL, &mut their_sent, &mut their_received);
        peer.poll(now - start);
        for packet in peer.device.sent.drain(..) {
            let bytes = packet.len();
            links[1].send(packet, bytes, now, &mut random);
        }
        let next = [links[0].deadline(), links[1].deadline(), flow.as_ref().and_then(Flow::poll_timeout)];
        let theirs = peer.deadline(now - start).map(|delay| now + delay);
        let next = next.into_iter().flatten().chain(theirs).min().expect("something happens");
        now = next.max(now + Duration::from_micros(1));
        while let Some(arrival) = links[0].receive(now) {
            peer.device.received.push_back(arrival.packet);
        }
        while let Some(arrival) = links[1].receive(now) {
            let (header, payload) = parse(&arrival.packet, family);
            let segment = Segment::new(header, &payload);
            match &mut flow {
                Some(flow) => flow.handle_segment(&segment, now),
                None => flow = Flow::accept(config.clone(), &segment, 77, now),
            }
        }
    }
    assert_eq!(flow.and_then(|flow| flow.error()), None);
}

/// smoltcp's end.
struct Peer {
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    device: Wire,
}

impl Peer {
    /// `role` is ours.
    fn new(family: Family, role: Role) -> Self {
        let mut device = Wire::default();
        let config = smoltcp::iface::Config::new(HardwareAddress::Ip);
        let mut interface = Interface::new(config, &mut device, Moment::ZERO);
        let (ours, theirs) = addresses(family);
        let prefix = if family == Family::V4 { 24 } else { 64 };
        interface.update_ip_addrs(|all| all.push(IpCidr::new(theirs, prefix)).expect("room for one"));
        let buffer = || tcp::SocketBuffer::new(vec![0; 128 << 10]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        let mut sockets = SocketSet::new(Vec::new());
        match role {
            Role::Connects => socket.listen(THEIR_PORT).expect("a port"),
            Role::Accepts => {
                socket.connect(interface.context(), (ours, OUR_PORT), THEIR_PORT).expect("an address");
            }
        }
        let socket = sockets.add(socket);
        Self { interface, sockets, socket, device }
    }

    fn work(&mut self, total: u64, sent: &mut u64, received: &mut u64) {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.socket);
        let mut buffer = [0; 4096];
        while *sent < total && socket.can_send() {
            let n = buffer.len().min((total - *sent) as usize);
            fill(THEIRS, *sent, &mut buffer[..n]);
            *sent += socket.send_slice(&buffer[..n]).expect("it can send") as u64;
        }
        while socket.can_recv() {
            let n = socket.recv_slice(&mut buffer).expect("it can receive");
            check(OURS, *received, &buffer[..n]);
            *received += n as u64;
        }
        if *sent == total && socket.may_send() {
            socket.close();
        }
    }

    fn poll(&mut self, elapsed: Duration) {
        self.interface.poll(moment(elapsed), &mut self.device, &mut self.sockets);
    }

    fn deadline(&mut self, elapsed: Duration) -> Option<Duration> {
        self.interface.poll_delay(moment(elapsed), &self.sockets).map(Into::into)
    }
}

fn moment(elapsed: Duration) -> Moment {
    Moment::from_micros(elapsed.as_micros() as i64)
}

fn addresses(family: Family) -> (IpAddress, IpAddress) {
    match family {
        Family::V4 => (IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)),
        Family::V6 => (IpAddress::v6(0xfd00, 0, 0, 0, 0, 0, 0, 1), IpAddress::v6(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
    }
}

/// Our segment as IP packets.
fn packets(transmit: &Transmit<'_>, family: Family) -> Vec<Vec<u8>> {
    let (ours, theirs) = addresses(family);
    let print = |(header, (head, tail)): (Header, (&[u8], &[u8]))| {
        let payload = [head, tail].concat();
        let mut sack_ranges = [None; 3];
        for (range, block) in sack_ranges.iter_mut().zip(header.sack.iter()) {
            *range = Some(block);
        }
        let control = match (header.syn, header.fin, header.rst, header.psh) {
            (true, ..) => TcpControl::Syn,
            (_, true, ..) => TcpControl::Fin,
            (_, _, true, _) => TcpControl::Rst,
            (_, _, _, true) => TcpControl::Psh,
            (false, false, false, false) => TcpControl::None,
        };
        let tcp = TcpRepr {
            src_port: OUR_PORT,
            dst_port: THEIR_PORT,
            control,
            seq_number: TcpSeqNumber(header.seq as i32),
            ack_number: header.ack.map(|ack| TcpSeqNumber(ack as i32)),
            window_len: header.window,
            window_scale: header.window_scale,
            max_seg_size: header.mss,
            sack_permitted: header.sack_permitted,
            sack_ranges,
            timestamp: None::<TcpTimestampRepr>,
            payload: &payload,
        };
        let ip = IpRepr::new(ours, theirs, IpProtocol::Tcp, tcp.buffer_len(), 64);
        let mut packet = vec![0; ip.header_len() + tcp.buffer_len()];
        let checksums = ChecksumCapabilities::default();
        ip.emit(&mut packet, &checksums);
        let mut body = TcpPacket::new_unchecked(&mut packet[ip.header_len()..]);
        tcp.emit(&mut body, &ours, &theirs, &checksums);
        packet
    };
    transmit.packets().map(print).collect()
}

/// smoltcp's packet as a segment.
fn parse(packet: &[u8], family: Family) -> (Header, Vec<u8>) {
    let (ours, theirs) = addresses(family);
    let body = match family {
        Family::V4 => Ipv4Packet::new_checked(packet).expect("IPv4").payload(),
        Family::V6 => Ipv6Packet::new_checked(packet).expect("IPv6").payload(),
    };
    let packet = TcpPacket::new_checked(body).expect("TCP");
    let tcp = TcpRepr::parse(&packet, &theirs, &ours, &ChecksumCapabilities::default()).expect("TCP");
    let sack: SackBlocks = tcp.sack_ranges.iter().flatten().copied().collect();
    let header = Header {
        seq: tcp.seq_number.0 as u32,
        ack: tcp.ack_number.map(|ack| ack.0 as u32),
        window: tcp.window_len,
        syn: tcp.control == TcpControl::Syn,
        fin: tcp.control == TcpControl::Fin,
        rst: tcp.control == TcpControl::Rst,
        psh: tcp.control == TcpControl::Psh,
        mss: tcp.max_seg_size,
        window_scale: tcp.window_scale,
        sack_permitted: tcp.sack_permitted,
        sack,
    };
    (header, tcp.payload.to_vec())
}

/// A device of two queues.
#[derive(Default)]
struct Wire {
    received: std::collections::VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a mut Vec<Vec<u8>>);

impl smoltcp::phy::RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl smoltcp::phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Moment) -> Option<(Rx, Tx<'_>)> {
        Some((Rx(self.received.pop_front()?), Tx(&mut self.sent)))
    }

    fn transmit(&mut self, _: Moment) -> Option<Tx<'_>> {
        Some(Tx(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}
