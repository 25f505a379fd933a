//! Two of smoltcp's sockets back to back in one thread.

use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as Moment;
use smoltcp::wire::{HardwareAddress, IpCidr};

use super::Work;
use super::wire::{ENDS, Wire};

/// One end: an interface with one socket.
struct End {
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    device: Queues,
}

/// A device of two wires.
struct Queues {
    received: Wire,
    sent: Wire,
    mtu: usize,
}

struct Packet<'a>(&'a mut Wire);
struct Blank<'a>(&'a mut Wire);

impl RxToken for Packet<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        let result = f(self.0.front().expect("a packet"));
        self.0.pop();
        result
    }
}

impl TxToken for Blank<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        f(self.0.put(len))
    }
}

impl Device for Queues {
    type RxToken<'a> = Packet<'a>;
    type TxToken<'a> = Blank<'a>;

    fn receive(&mut self, _: Moment) -> Option<(Packet<'_>, Blank<'_>)> {
        let waits = self.received.len() > 0;
        waits.then_some((Packet(&mut self.received), Blank(&mut self.sent)))
    }

    fn transmit(&mut self, _: Moment) -> Option<Blank<'_>> {
        Some(Blank(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // As ours: checksums are written, not read.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

impl End {
    fn new(address: smoltcp::wire::Ipv4Address, mtu: usize) -> Self {
        let mut device = Queues { received: Wire::default(), sent: Wire::default(), mtu };
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut device, Moment::ZERO);
        interface.update_ip_addrs(|all| all.push(IpCidr::new(address.into(), 24)).expect("room for one"));
        let buffer = || SocketBuffer::new(vec![0; 1 << 20]);
        let mut socket = Socket::new(buffer(), buffer());
        // Nagle's algorithm is off on both sides.
        socket.set_nagle_enabled(false);
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(socket);
        Self { interface, sockets, socket, device }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    /// Puts what the socket has to send on the wire. Both halves of [`Interface::poll`] are called alone, and only where there
    /// is something to do: all of it costs more.
    fn send(&mut self, now: Moment) {
        while self.interface.poll_egress(now, &mut self.device, &mut self.sockets) != PollResult::None {}
    }

    /// Takes everything on the wire.
    fn receive(&mut self, now: Moment) {
        while self.device.received.len() > 0 {
            self.interface.poll_ingress_single(now, &mut self.device, &mut self.sockets);
        }
    }
}

struct Pair {
    ends: [End; 2],
}

impl Pair {
    fn new(mtu: usize) -> Self {
        Self { ends: [End::new(ENDS.from.0, mtu), End::new(ENDS.to.0, mtu)] }
    }

    /// Gives both ends a new connection and exchanges its SYNs.
    fn open(&mut self, now: Moment) {
        self.ends[1].socket().listen(ENDS.to.1).expect("a port");
        let End { interface, sockets, socket, .. } = &mut self.ends[0];
        let socket: &mut Socket<'_> = sockets.get_mut(*socket);
        socket.connect(interface.context(), ENDS.to, ENDS.from.1).expect("an address");
        self.forth(now);
        self.back(now);
        self.forth(now);
    }

    /// The first sends, the second receives.
    fn forth(&mut self, now: Moment) {
        let [first, second] = &mut self.ends;
        carry(first, second, now);
    }

    /// The second sends, the first receives.
    fn back(&mut self, now: Moment) {
        let [first, second] = &mut self.ends;
        carry(second, first, now);
    }
}

/// One end sends, the other receives.
fn carry(from: &mut End, to: &mut End, now: Moment) {
    from.send(now);
    std::mem::swap(&mut from.device.sent, &mut to.device.received);
    to.receive(now);
}

fn moment(elapsed: Duration) -> Moment {
    Moment::from_micros(elapsed.as_micros() as i64)
}

/// One end sends, the other reads.
pub(super) fn bulk(mtu: usize, duration: Duration) -> Work {
    let start = Instant::now();
    let mut pair = Pair::new(mtu);
    pair.open(Moment::ZERO);
    let chunk = vec![7; 64 << 10];
    let mut out = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        let elapsed = start.elapsed();
        if elapsed >= duration {
            return Work { requests: 0, bytes, elapsed };
        }
        let now = moment(elapsed);
        while pair.ends[0].socket().send_slice(&chunk).expect("open") > 0 {}
        pair.forth(now);
        pair.back(now);
        let socket = pair.ends[1].socket();
        while socket.can_recv() {
            bytes += socket.recv_slice(&mut out).expect("open") as u64;
        }
    }
}

/// One byte there and back, again and again.
pub(super) fn echo(mtu: usize, duration: Duration) -> Work {
    let start = Instant::now();
    let mut pair = Pair::new(mtu);
    pair.open(Moment::ZERO);
    let mut byte = [0; 1];
    let mut requests = 0;
    loop {
        let elapsed = start.elapsed();
        if elapsed >= duration {
            return Work { requests, bytes: 0, elapsed };
        }
        let now = moment(elapsed);
        assert_eq!(pair.ends[0].socket().send_slice(&byte), Ok(1));
        pair.forth(now);
        let second = pair.ends[1].socket();
        assert_eq!(second.recv_slice(&mut byte), Ok(1));
        assert_eq!(second.send_slice(&byte), Ok(1));
        pair.back(now);
        assert_eq!(pair.ends[0].socket().recv_slice(&mut byte), Ok(1));
        requests += 1;
    }
}

/// A connection, a kibibyte each way, the end of it, again and again; the same two sockets, so that no memory is taken.
pub(super) fn connect_exchange_close(mtu: usize, duration: Duration) -> Work {
    let start = Instant::now();
    let mut pair = Pair::new(mtu);
    let kibibyte = [7; 1024];
    let mut out = [0; 1024];
    let mut requests = 0;
    loop {
        let elapsed = start.elapsed();
        if elapsed >= duration {
            return Work { requests, bytes: 0, elapsed };
        }
        let now = moment(elapsed);
        pair.open(now);
        assert_eq!(pair.ends[0].socket().send_slice(&kibibyte), Ok(1024));
        pair.forth(now);
        assert_eq!(pair.ends[1].socket().recv_slice(&mut out), Ok(1024));
        assert_eq!(pair.ends[1].socket().send_slice(&kibibyte), Ok(1024));
        pair.ends[1].socket().close();
        pair.back(now);
        assert_eq!(pair.ends[0].socket().recv_slice(&mut out), Ok(1024));
        pair.ends[0].socket().close();
        pair.forth(now);
        pair.back(now);
        for end in &mut pair.ends {
            assert!(matches!(end.socket().state(), State::Closed | State::TimeWait), "{}", end.socket().state());
            // It begins again without a reset on the wire.
            end.socket().abort();
        }
        requests += 1;
    }
}
