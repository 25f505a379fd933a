//! The kernel's TCP as the other end of ours: a TUN device in a network namespace of its own, and between the two a network
//! in this process that delays, loses and reorders. Real time, because the kernel has no other.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use postern_tcp::world::{Link, Path, Random, check, fill};
use postern_tcp::{Config, Congestion, Family, Flow, Header, Phase, SackBlocks, Segment, Transmit};
use postern_tests::netns::in_namespace;
use postern_tests::tun::{BEYOND, KERNEL, Tun};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, IpRepr, Ipv4Packet, Ipv6Packet, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

/// Each way.
const TOTAL: u64 = 4 << 20;
const MTU: u16 = 1420;
const OURS: u64 = 1;
const THEIRS: u64 = 2;
/// A case takes a second or two; a machine under load some more.
const BOUND: Duration = Duration::from_secs(60);

/// Runs [`inside`] in a network namespace of its own.
#[tokio::test]
async fn four_megabytes_each_way_with_the_kernel() {
    in_namespace("inside").await;
}

#[test]
#[ignore = "run by the other test, in a namespace"]
fn inside() {
    let mut tun = Tun::create(MTU).expect("a TUN device; this needs privileges");
    let mut port = 20_000;
    for role in [Role::Connects, Role::Accepts] {
        for (family, control, loss, reorder) in [
            (Family::V4, Congestion::Bbr, 0.0, 0.0),
            (Family::V4, Congestion::Bbr, 0.01, 0.0),
            (Family::V4, Congestion::Bbr, 0.03, 0.0),
            (Family::V4, Congestion::Bbr, 0.0, 0.02),
            (Family::V6, Congestion::Bbr, 0.01, 0.02),
            (Family::V4, Congestion::Cubic, 0.01, 0.0),
        ] {
            port += 1;
            let case = Case { role, family, control, loss, reorder, port, their_port: Cell::new(port) };
            let began = Instant::now();
            case.run(&mut tun);
            eprintln!("{case:?}: {:?}", began.elapsed());
        }
    }
}

/// Ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Connects,
    Accepts,
}

#[derive(Debug)]
struct Case {
    role: Role,
    family: Family,
    control: Congestion,
    loss: f64,
    reorder: f64,
    /// The one that is listened on.
    port: u16,
    /// The kernel's: known from its SYN if it connects.
    their_port: Cell<u16>,
}

impl Case {
    fn run(&self, tun: &mut Tun) {
        let start = Instant::now();
        let path = Path {
            loss: self.loss,
            reorder: (self.reorder, Duration::from_millis(3)),
            ..Path::new(None, Duration::from_millis(2), 0)
        };
        let mut random = Random::new(u64::from(self.port));
        let mut links = [Link::new(path, start), Link::new(path, start)];
        let config = Config { family: self.family, mtu: MTU, control: self.control, ..Config::default() };
        let mut flow = (self.role == Role::Connects).then(|| Flow::connect(config.clone(), 0xffff_0000, start));
        let mut app = App::default();
        let kernel = self.kernel();

        while !(app.received == TOTAL
            && flow.as_ref().is_some_and(|flow| flow.phase() == Phase::TimeWait || over(flow)))
        {
            let now = Instant::now();
            assert!(now - start < BOUND, "{self:?}: {app:?} {flow:?}");
            if let Some(flow) = &mut flow {
                flow.handle_timeout(now);
                app.work(flow);
                while let Some(transmit) = flow.poll_transmit(now, 60_000) {
                    for packet in self.print(&transmit) {
                        let bytes = packet.len();
                        links[0].send(packet, bytes, now, &mut random);
                    }
                }
            }
            while let Some(arrival) = links[0].receive(now) {
                tun.send(&arrival.packet).expect("the device takes packets");
            }
            let deadlines = [links[0].deadline(), links[1].deadline(), flow.as_ref().and_then(Flow::poll_timeout)];
            let next = deadlines.into_iter().flatten().min().unwrap_or(now + Duration::from_millis(100));
            tun.wait(next.saturating_duration_since(now)).expect("the device is there");
            let now = Instant::now();
            while let Some(packet) = tun.receive().expect("the device is there") {
                links[1].send(packet.to_vec(), packet.len(), now, &mut random);
            }
            while let Some(arrival) = links[1].receive(now) {
                let Some((header, payload)) = self.parse(&arrival.packet) else { continue };
                let segment = Segment::new(header, &payload);
                match &mut flow {
                    Some(flow) => flow.handle_segment(&segment, now),
                    None => flow = Flow::accept(config.clone(), &segment, 77, now),
                }
            }
        }
        assert_eq!(flow.and_then(|flow| flow.error()), None, "{self:?}");
        kernel.join().expect("the kernel's application is content");
    }

    /// The kernel's end: writes and reads at the same time, and compares every byte.
    fn kernel(&self) -> thread::JoinHandle<()> {
        let (ours, theirs) = addresses(self.family);
        let ours: SocketAddr = (IpAddr::from(ours), self.our_port()).into();
        let theirs: SocketAddr = (IpAddr::from(theirs), self.port).into();
        let role = self.role;
        let listener = (role == Role::Connects).then(|| TcpListener::bind(theirs).expect("a port"));
        thread::spawn(move || {
            let mut stream = match listener {
                Some(listener) => listener.accept().expect("a connection").0,
                None => TcpStream::connect(ours).expect("a connection"),
            };
            let mut writer = stream.try_clone().expect("a handle");
            let writing = thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                for offset in (0..TOTAL).step_by(buffer.len()) {
                    fill(THEIRS, offset, &mut buffer);
                    writer.write_all(&buffer).expect("it writes");
                }
                writer.shutdown(std::net::Shutdown::Write).expect("it closes");
            });
            let mut buffer = vec![0; 64 << 10];
            let mut received = 0;
            loop {
                let n = stream.read(&mut buffer).expect("it reads");
                if n == 0 {
                    break;
                }
                check(OURS, received, &buffer[..n]);
                received += n as u64;
            }
            assert_eq!(received, TOTAL);
            writing.join().expect("it has written");
        })
    }

    fn our_port(&self) -> u16 {
        match self.role {
            Role::Connects => self.port + 20_000,
            Role::Accepts => self.port,
        }
    }

    /// The kernel's packet as a segment of this case; `None` if it is something else.
    fn parse(&self, packet: &[u8]) -> Option<(Header, Vec<u8>)> {
        let (ours, theirs) = addresses(self.family);
        let body = match self.family {
            Family::V4 => {
                Ipv4Packet::new_checked(packet).ok().filter(|ip| ip.next_header() == IpProtocol::Tcp)?.payload()
            }
            Family::V6 => {
                Ipv6Packet::new_checked(packet).ok().filter(|ip| ip.next_header() == IpProtocol::Tcp)?.payload()
            }
        };
        let packet = TcpPacket::new_checked(body).ok()?;
        let tcp =
            TcpRepr::parse(&packet, &theirs, &ours, &ChecksumCapabilities::default()).expect("the kernel speaks TCP");
        if tcp.dst_port != self.our_port() {
            return None;
        }
        self.their_port.set(tcp.src_port);
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
        Some((header, tcp.payload.to_vec()))
    }

    fn print(&self, transmit: &Transmit<'_>) -> Vec<Vec<u8>> {
        let (ours, theirs) = addresses(self.family);
        let print = |(header, (head, tail)): (Header, (&[u8], &[u8]))| {
            let payload = [head, tail].concat();
            let mut sack_ranges = [None; 3];
            for (range, block) in sack_ranges.iter_mut().zip(header.sack.iter()) {
                *range = Some(block);
            }
            let tcp = TcpRepr {
                src_port: self.our_port(),
                dst_port: self.their_port.get(),
                control: match (header.syn, header.fin, header.rst, header.psh) {
                    (true, ..) => TcpControl::Syn,
                    (_, true, ..) => TcpControl::Fin,
                    (_, _, true, _) => TcpControl::Rst,
                    (_, _, _, true) => TcpControl::Psh,
                    (false, false, false, false) => TcpControl::None,
                },
                seq_number: TcpSeqNumber(header.seq as i32),
                ack_number: header.ack.map(|ack| TcpSeqNumber(ack as i32)),
                window_len: header.window,
                window_scale: header.window_scale,
                max_seg_size: header.mss,
                sack_permitted: header.sack_permitted,
                sack_ranges,
                timestamp: None,
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
}

fn over(flow: &Flow) -> bool {
    flow.phase() == Phase::Closed
}

fn addresses(family: Family) -> (IpAddress, IpAddress) {
    match family {
        Family::V4 => (BEYOND.0.into(), KERNEL.0.into()),
        Family::V6 => (BEYOND.1.into(), KERNEL.1.into()),
    }
}

/// Our end: writes, reads, compares, closes when everything is written.
#[derive(Debug, Default)]
struct App {
    sent: u64,
    received: u64,
}

impl App {
    fn work(&mut self, flow: &mut Flow) {
        let mut buffer = vec![0; 64 << 10];
        while self.sent < TOTAL && flow.writable() > 0 {
            let n = flow.writable().min(buffer.len()).min((TOTAL - self.sent) as usize);
            fill(OURS, self.sent, &mut buffer[..n]);
            self.sent += flow.write(&buffer[..n]) as u64;
        }
        if self.sent == TOTAL {
            flow.shutdown();
        }
        loop {
            let n = flow.read(&mut buffer);
            if n == 0 {
                break;
            }
            check(THEIRS, self.received, &buffer[..n]);
            self.received += n as u64;
        }
    }
}
