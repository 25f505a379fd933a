//! The UDP socket: many datagrams per system call, both ways (UDP_GRO and UDP_SEGMENT).

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket as StdSocket};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::io::Errno;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// System calls cost more than what they carry: 8 buffers of up to 64 datagrams are the work of about 300 us, after which
/// other tasks get their turn.
const BUFFERS: usize = 8;

/// The largest UDP datagram, and so the largest that UDP_GRO makes of several.
const BUFFER: usize = 65_536;

/// Room for a burst while another task has the worker: 8 MiB are 6 ms at 10 Gbit/s.
const SOCKET_BUFFER: usize = 8 << 20;

/// How long a destination is sent to packet by packet after it refused a batch. Routes change.
const SINGLY_FOR: Duration = Duration::from_secs(600);

/// Most destinations remembered like that; beyond it all are tried anew.
const MOST_SINGLY: usize = 1024;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has the port.
    #[error("UDP port {} on {} is taken by another program: stop that one, or choose another with `port` in [tunnel] or --wg-port", .0.port(), .0.ip())]
    Taken(SocketAddr),
    /// Not an address of this machine, or a port for privileged users, or no more files.
    #[error("cannot listen for the tunnel on UDP {address}: {source}; choose another address or port for it")]
    Unusable {
        /// What was asked for.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Binds, without a runtime. `[::]` hears IPv4 too; on a machine without IPv6 it means `0.0.0.0`.
pub(crate) fn bind(address: SocketAddr) -> Result<StdSocket, BindError> {
    let bound = match open(address) {
        Err(error) if error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error()) && is_any_v6(address) => {
            open(SocketAddr::from(([0, 0, 0, 0], address.port())))
        }
        bound => bound,
    };
    bound.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken(address),
        _ => BindError::Unusable { address, source },
    })
}

fn is_any_v6(address: SocketAddr) -> bool {
    address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

fn open(address: SocketAddr) -> io::Result<StdSocket> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!is_any_v6(address))?;
    }
    // Beyond the system's limit where the privilege allows, up to the limit elsewhere.
    if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER).is_err() {
        socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER).is_err() {
        socket.set_send_buffer_size(SOCKET_BUFFER)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// What came of one system call.
pub(crate) struct Received {
    /// Buffers with datagrams in them; 0 if nothing was there.
    pub(crate) buffers: usize,
    /// All buffers were used: more may be waiting.
    pub(crate) full: bool,
}

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is gone; the system refused this many of its datagrams for good.
    Done { refused: u64 },
    /// The system is full: the batch stays where it is until the socket is writable.
    WouldBlock,
}

pub(crate) struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
    v6: bool,
    gso: bool,
    buffers: Vec<u8>,
    metas: [RecvMeta; BUFFERS],
    singly: HashMap<SocketAddr, Instant>,
    /// A batch that goes packet by packet can stop in the middle.
    progress: Progress,
}

/// How far the batch in hand is.
#[derive(Default)]
struct Progress {
    done: usize,
    refused: u64,
}

impl Socket {
    /// Registers the socket with the runtime that this runs in.
    pub(crate) fn new(socket: StdSocket) -> io::Result<Self> {
        let io = UdpSocket::from_std(socket)?;
        let state = UdpSocketState::new(UdpSockRef::from(&io))?;
        let v6 = io.local_addr()?.is_ipv6();
        // quinn-udp forbids fragments for QUIC's probes. A tunnel's packets must arrive on a path that is narrower than we
        // were told, if in pieces.
        sockopt::set_ip_mtu_discover(&io, sockopt::Ipv4PathMtuDiscovery::DONT)?;
        if v6 {
            sockopt::set_ipv6_mtu_discover(&io, sockopt::Ipv6PathMtuDiscovery::WANT)?;
            nix::sys::socket::setsockopt(&io, nix::sys::socket::sockopt::Ipv6DontFrag, &false)?;
        }
        let gso = state.max_gso_segments() > 1;
        Ok(Self {
            io,
            state,
            v6,
            gso,
            // Zeroed memory is resident only where it is written to: a quiet tunnel uses the first buffer alone.
            buffers: vec![0; BUFFERS * BUFFER],
            metas: [RecvMeta::default(); BUFFERS],
            singly: HashMap::new(),
            progress: Progress::default(),
        })
    }

    /// One system call's worth of datagrams; [`Self::datagrams`] has them.
    pub(crate) fn receive(&mut self) -> io::Result<Received> {
        let Self { io, state, buffers, metas, .. } = self;
        let mut parts = buffers.chunks_exact_mut(BUFFER).map(IoSliceMut::new);
        let mut parts: [_; BUFFERS] = std::array::from_fn(|_| parts.next().expect("as many as buffers"));
        let mut count = 0;
        let result = io.try_io(Interest::READABLE, || {
            count = state.recv(UdpSockRef::from(&*io), &mut parts, metas)?;
            // Fewer than asked for: the queue was empty then. Said to tokio here, it saves the call that would find out.
            if count < BUFFERS { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match result {
            Ok(()) => Ok(Received { buffers: count, full: true }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received { buffers: count, full: false }),
            Err(error) => Err(error),
        }
    }

    /// The datagrams of the last [`Self::receive`], in the order they came.
    pub(crate) fn datagrams(&mut self, received: &Received) -> impl Iterator<Item = (SocketAddr, &mut [u8])> {
        let filled = self.metas[..received.buffers].iter().zip(self.buffers.chunks_exact_mut(BUFFER));
        filled.flat_map(|(meta, buffer)| {
            let from = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
            buffer[..meta.len].chunks_mut(meta.stride.max(1)).map(move |datagram| (from, datagram))
        })
    }

    /// Sends datagrams of `size` bytes, of which the last may be shorter. After [`Sent::WouldBlock`] the same batch comes
    /// again.
    pub(crate) fn send(&mut self, to: SocketAddr, bytes: &[u8], size: usize) -> Sent {
        let many = bytes.len() > size;
        if self.progress.done == 0 && many && self.gso && !self.goes_singly(to) {
            match self.try_send(to, bytes, Some(size)) {
                Ok(()) => return Sent::Done { refused: 0 },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Sent::WouldBlock,
                Err(error) if refuses_batches(&error) => self.remember(to, &error),
                // What is wrong with all of it is wrong with each, and is counted there.
                Err(_) => {}
            }
        }
        self.send_singly(to, bytes, size)
    }

    fn send_singly(&mut self, to: SocketAddr, bytes: &[u8], size: usize) -> Sent {
        for datagram in bytes.chunks(size).skip(self.progress.done) {
            match self.try_send(to, datagram, None) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Sent::WouldBlock,
                Err(error) => {
                    tracing::debug!(%to, %error, bytes = datagram.len(), "the system refused a datagram");
                    self.progress.refused += 1;
                }
            }
            self.progress.done += 1;
        }
        let Progress { refused, .. } = std::mem::take(&mut self.progress);
        Sent::Done { refused }
    }

    fn try_send(&self, to: SocketAddr, contents: &[u8], segment_size: Option<usize>) -> io::Result<()> {
        let destination = match to {
            SocketAddr::V4(to) if self.v6 => SocketAddr::from((to.ip().to_ipv6_mapped(), to.port())),
            to => to,
        };
        let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
        self.io.try_io(Interest::WRITABLE, || self.state.try_send(UdpSockRef::from(&self.io), &transmit))
    }

    fn goes_singly(&mut self, to: SocketAddr) -> bool {
        if self.singly.is_empty() {
            return false;
        }
        let singly = self.singly.get(&to).is_some_and(|since| since.elapsed() < SINGLY_FOR);
        if !singly {
            self.singly.remove(&to);
        }
        singly
    }

    fn remember(&mut self, to: SocketAddr, error: &io::Error) {
        tracing::info!(%to, %error, "batches are refused on the way there: it goes on packet by packet");
        if self.singly.len() >= MOST_SINGLY {
            self.singly.clear();
        }
        self.singly.insert(to, Instant::now());
    }

    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_recv_ready(cx)
    }

    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_send_ready(cx)
    }
}

/// GSO is refused where a packet does not fit the next link, by drivers, and for paths through IPsec.
fn refuses_batches(error: &io::Error) -> bool {
    let refusals = [Errno::MSGSIZE, Errno::IO, Errno::INVAL];
    refusals.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> (Socket, SocketAddr) {
        let socket = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = socket.local_addr().unwrap();
        (Socket::new(socket).unwrap(), address)
    }

    async fn send(socket: &mut Socket, to: SocketAddr, bytes: &[u8], size: usize) -> u64 {
        loop {
            match socket.send(to, bytes, size) {
                Sent::Done { refused } => return refused,
                Sent::WouldBlock => {
                    let writable = std::future::poll_fn(|cx| socket.poll_writable(cx));
                    tokio::time::timeout(Duration::from_secs(20), writable).await.expect("there is room").unwrap();
                }
            }
        }
    }

    /// Everything that arrives until `count` datagrams have.
    async fn receive(socket: &mut Socket, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut all = Vec::new();
        while all.len() < count {
            let received = socket.receive().unwrap();
            all.extend(socket.datagrams(&received).map(|(from, bytes)| (from, bytes.to_vec())));
            if !received.full && all.len() < count {
                let readable = std::future::poll_fn(|cx| socket.poll_readable(cx));
                tokio::time::timeout(Duration::from_secs(20), readable).await.expect("datagrams arrive").unwrap();
            }
        }
        all
    }

    fn batch(datagrams: usize, size: usize, last: usize) -> Vec<u8> {
        (0..(datagrams - 1) * size + last).map(|at| (at / size) as u8).collect()
    }

    #[tokio::test]
    async fn a_batch_arrives_as_its_datagrams() {
        let ((mut one, from), (mut two, to)) = (loopback(), loopback());
        let bytes = batch(40, 1000, 17);
        assert_eq!(send(&mut one, to, &bytes, 1000).await, 0);
        let received = receive(&mut two, 40).await;
        let expected: Vec<_> = bytes.chunks(1000).map(|datagram| (from, datagram.to_vec())).collect();
        assert!(received == expected);
    }

    #[tokio::test]
    async fn a_batch_that_finds_no_room_is_sent_when_there_is_some() {
        let ((mut one, _), (mut two, to)) = (loopback(), loopback());
        let bytes = batch(5, 100, 100);
        // Nobody has said yet that the socket is writable.
        assert_eq!(one.send(to, &bytes, 100), Sent::WouldBlock);
        one.gso = false;
        assert_eq!(one.send(to, &bytes, 100), Sent::WouldBlock);
        assert_eq!(send(&mut one, to, &bytes, 100).await, 0);
        let received: Vec<_> = receive(&mut two, 5).await.into_iter().flat_map(|(_, datagram)| datagram).collect();
        assert_eq!(received, bytes);
    }

    #[tokio::test]
    async fn what_is_refused_as_a_batch_goes_packet_by_packet_from_then_on() {
        let ((mut one, _), (mut two, to)) = (loopback(), loopback());
        // More segments than UDP_SEGMENT takes: EINVAL.
        let bytes = batch(200, 100, 100);
        assert!(!one.goes_singly(to));
        assert_eq!(send(&mut one, to, &bytes, 100).await, 0);
        assert!(one.goes_singly(to));
        assert_eq!(send(&mut one, to, &bytes[..300], 100).await, 0);
        assert_eq!(receive(&mut two, 203).await.len(), 203);
        let ((mut other, elsewhere), bytes) = (loopback(), batch(3, 100, 100));
        assert!(!one.goes_singly(elsewhere));
        assert_eq!(send(&mut one, elsewhere, &bytes, 100).await, 0);
        assert!(!one.goes_singly(elsewhere));
        assert_eq!(receive(&mut other, 3).await.len(), 3);
    }

    #[tokio::test]
    async fn a_datagram_that_the_system_refuses_is_counted_and_the_others_go() {
        let ((mut one, _), (mut two, to)) = (loopback(), loopback());
        // Longer than UDP allows.
        assert_eq!(send(&mut one, to, &vec![0; 65_530], 65_530).await, 1);
        assert_eq!(send(&mut one, "[::1]:9".parse().unwrap(), b"x", 1).await, 1);
        assert_eq!(send(&mut one, to, b"x", 1).await, 0);
        assert_eq!(receive(&mut two, 1).await[0].1, b"x");
    }

    #[tokio::test]
    async fn both_families_meet_on_one_socket() {
        let Ok(socket) = bind("[::]:0".parse().unwrap()) else { panic!("[::] always binds") };
        let port = socket.local_addr().unwrap().port();
        let mut both = Socket::new(socket).unwrap();
        let (mut four, from) = loopback();
        assert_eq!(send(&mut four, SocketAddr::from(([127, 0, 0, 1], port)), b"hi", 2).await, 0);
        assert_eq!(receive(&mut both, 1).await, [(from, b"hi".to_vec())]);
        assert_eq!(send(&mut both, from, b"ho", 2).await, 0);
        assert_eq!(receive(&mut four, 1).await[0].1, b"ho");
    }

    #[tokio::test]
    async fn what_does_not_fit_the_path_arrives_in_pieces_over_either_family() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            if StdSocket::bind(any).is_err() {
                continue; // A machine without IPv6.
            }
            let [mut one, mut two] = [(); 2].map(|()| Socket::new(bind(any.parse().unwrap()).unwrap()).unwrap());
            let to = two.io.local_addr().unwrap();
            // Within UDP's bound, and with its headers beyond the 65,536 bytes that loopback carries.
            let bytes = vec![7; 65_500];
            assert_eq!(send(&mut one, to, &bytes, bytes.len()).await, 0);
            assert!(receive(&mut two, 1).await[0].1 == bytes);
        }
    }

    #[test]
    fn a_taken_port_is_named() {
        let holder = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = holder.local_addr().unwrap();
        let error = bind(address).unwrap_err();
        assert!(matches!(error, BindError::Taken(taken) if taken == address));
        assert!(error.to_string().contains(&address.port().to_string()));
        drop(holder);
        assert!(bind(address).is_ok());
        assert!(matches!(bind("192.0.2.1:0".parse().unwrap()), Err(BindError::Unusable { .. })));
    }
}
