//! A link between the UDP ports of two tunnels, in real time.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use postern_tcp::world::{Link, Path, Random};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::sockopt;

/// 300 Mbit/s in bytes per second.
const RATE: u64 = 300_000_000 / 8;
/// Bytes that wait in front of the link.
const QUEUE: usize = 1_000_000;
/// Half of it each way.
const ROUND_TRIP: Duration = Duration::from_millis(20);
/// Of the datagrams that carry data.
const LOSS: f64 = 0.001;
/// Datagrams of more bytes carry data, smaller ones only acknowledge it.
const DATA: usize = 250;
/// What IPv4 and UDP add to a datagram on the link.
const HEADERS: usize = 28;
/// What waits in its sockets meanwhile.
const SOCKET_BUFFER: usize = 8 << 20;
/// Datagrams taken before those that are due are sent on.
const BURST: usize = 32;
/// How long it waits for nothing in particular.
const LOOK: Duration = Duration::from_millis(20);

/// One end of the link: where its tunnel is, and the relay's port that stands for the other end.
#[derive(Clone, Copy)]
pub(super) struct Side {
    pub(super) tunnel: SocketAddr,
    pub(super) relay: SocketAddr,
}

/// A thread that carries datagrams until it is dropped.
pub(super) struct Relay {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Relay {
    /// `sender`'s datagrams have the narrow link to cross, those of `receiver` nothing but its delay.
    pub(super) fn start(sender: Side, receiver: Side) -> Result<Self> {
        let now = Instant::now();
        let data = Path::new(Some(RATE), ROUND_TRIP / 2, QUEUE);
        let acknowledgements = Path::new(None, ROUND_TRIP / 2, 0);
        let mut line = Line {
            sender: socket(sender)?,
            receiver: socket(receiver)?,
            data: Direction { link: Link::new(data, now), loss: LOSS, random: Random::new(1) },
            acknowledgements: Direction { link: Link::new(acknowledgements, now), loss: 0.0, random: Random::new(2) },
            buffer: vec![0; 1 << 16],
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || line.run(&stopped));
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it; what went wrong.
    pub(super) fn finish(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a relay has one thread")?;
        thread.join().map_err(|_| anyhow!("the relay panicked"))?
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Line {
    sender: UdpSocket,
    receiver: UdpSocket,
    data: Direction,
    acknowledgements: Direction,
    buffer: Vec<u8>,
}

struct Direction {
    link: Link<Vec<u8>>,
    loss: f64,
    random: Random,
}

impl Line {
    fn run(&mut self, stop: &AtomicBool) -> Result<()> {
        // The kernel may be late with a timer by this many nanoseconds; its default is 50 microseconds.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1)).context("cannot ask for exact timers")?;
        while !stop.load(Ordering::Relaxed) {
            let Self { sender, receiver, data, acknowledgements, buffer } = self;
            let more = [data.take(sender, buffer)?, acknowledgements.take(receiver, buffer)?];
            data.deliver(receiver)?;
            acknowledgements.deliver(sender)?;
            if !more.contains(&true) {
                self.wait()?;
            }
        }
        Ok(())
    }

    /// Until there is a datagram to take or to send on.
    fn wait(&self) -> Result<()> {
        let due = [self.data.link.deadline(), self.acknowledgements.link.deadline()].into_iter().flatten().min();
        let wait = due.map_or(LOOK, |at| at.saturating_duration_since(Instant::now())).min(LOOK);
        let wait = Timespec::try_from(wait).context("a wait that no clock has")?;
        let mut sockets = [PollFd::new(&self.sender, PollFlags::IN), PollFd::new(&self.receiver, PollFlags::IN)];
        match rustix::event::poll(&mut sockets, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("cannot wait for datagrams"),
        }
    }
}

impl Direction {
    /// Takes what one end has sent; whether there may be more.
    fn take(&mut self, from: &UdpSocket, buffer: &mut [u8]) -> Result<bool> {
        for _ in 0..BURST {
            let count = match from.recv(buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if is_absence(&error) => continue,
                Err(error) => return Err(error).context("cannot take datagrams"),
            };
            if count <= DATA || !self.random.chance(self.loss) {
                self.link.send(buffer[..count].to_vec(), count + HEADERS, Instant::now(), &mut self.random);
            }
        }
        Ok(true)
    }

    /// Sends on what has crossed the link.
    fn deliver(&mut self, to: &UdpSocket) -> Result<()> {
        while let Some(arrival) = self.link.receive(Instant::now()) {
            match to.send(&arrival.packet) {
                Ok(_) => {}
                Err(error) if is_absence(&error) => {}
                Err(error) => return Err(error).context("cannot send datagrams on"),
            }
        }
        Ok(())
    }
}

fn socket(side: Side) -> Result<UdpSocket> {
    let open = || {
        let socket = UdpSocket::bind(side.relay)?;
        socket.connect(side.tunnel)?;
        socket.set_nonblocking(true)?;
        // Without the privilege it stays as large as the system allows.
        if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER)?;
        }
        Ok::<_, std::io::Error>(socket)
    };
    open().with_context(|| format!("cannot relay at {}", side.relay))
}

/// A tunnel that is not there yet, or not any more.
fn is_absence(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::ConnectionRefused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_cross_with_the_delay_of_the_link() {
        let tunnels = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").expect("a port"));
        let free = || UdpSocket::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let [one, two] =
            [0, 1].map(|end: usize| Side { tunnel: tunnels[end].local_addr().expect("an address"), relay: free() });
        let relay = Relay::start(one, two).expect("a relay");
        let start = Instant::now();
        for (from, to, side, text) in [(0, 1, one, b"there"), (1, 0, two, b"back!")] {
            tunnels[from].send_to(text, side.relay).expect("sent");
            let mut buffer = [0; 16];
            tunnels[to].set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
            let count = tunnels[to].recv(&mut buffer).expect("it arrives");
            assert_eq!(&buffer[..count], text);
        }
        assert!(start.elapsed() >= ROUND_TRIP);
        relay.finish().expect("no failure");
    }
}
