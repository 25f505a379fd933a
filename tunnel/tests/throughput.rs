//! How fast two tunnels on one machine are, both ends counted. Prints, and judges nothing:
//! `cargo test --release -p postern-tunnel --test throughput -- --ignored --nocapture`

#![expect(clippy::print_stdout, reason = "figures are for people")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod world;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_tunnel::{Listener, Tunnel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use world::{End, echo, pair, within};

const TOTAL: usize = 2 << 30;

#[tokio::test]
#[ignore = "measures, in release only"]
async fn bulk_on_one_thread() {
    for streams in [1, 8] {
        let (client, server) = pair();
        let listener = server.tunnel.listen(1).unwrap();
        let meter = Meter::start();
        let sender = tokio::spawn(send(client.tunnel.clone(), server.at(1), streams));
        let total = within(receive(listener, streams)).await;
        meter.print(&format!("one thread, {streams} streams"), total);
        within(sender).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "measures, in release only"]
async fn bulk_on_two_threads() {
    for streams in [1, 8] {
        let (home, away) = (Home::new(), Home::new());
        let server = home.spawn(async { End::new(1) }).await.unwrap();
        let client = away.spawn(async { End::new(2) }).await.unwrap();
        client.set_peers(vec![server.as_listening_peer()]);
        server.set_peers(vec![client.as_peer()]);
        let receiver = home.spawn(receive(server.tunnel.listen(1).unwrap(), streams));
        let meter = Meter::start();
        let sender = away.spawn(send(client.tunnel.clone(), server.at(1), streams));
        let total = within(receiver).await.unwrap();
        meter.print(&format!("two threads, {streams} streams"), total);
        within(sender).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "measures, in release only"]
async fn questions_of_one_byte() {
    const TURNS: u32 = 20_000;
    let (client, server) = pair();
    let _echo = echo(&server, 7);
    let mut stream = client.dial(server.at(7)).await;
    let begun = Instant::now();
    for _ in 0..TURNS {
        stream.write_u8(1).await.unwrap();
        stream.read_u8().await.unwrap();
    }
    println!("one thread, one byte there and back: {:.1} us", begun.elapsed().as_secs_f64() * 1e6 / f64::from(TURNS));
    let begun = Instant::now();
    for _ in 0..TURNS {
        let mut stream = client.dial(server.at(7)).await;
        stream.write_u8(1).await.unwrap();
        stream.read_u8().await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(stream.read_u8().await.is_err());
    }
    println!("one thread, connect, one byte, close: {:.1} us", begun.elapsed().as_secs_f64() * 1e6 / f64::from(TURNS));
}

/// Takes `streams` streams and reads them to their ends.
async fn receive(mut listener: Listener, streams: usize) -> usize {
    let mut readers = Vec::new();
    for _ in 0..streams {
        let (mut stream, _) = listener.accept().await.unwrap();
        readers.push(tokio::spawn(async move {
            let (mut buffer, mut total) = (vec![0; 256 << 10], 0);
            loop {
                match stream.read(&mut buffer).await.unwrap() {
                    0 => return total,
                    count => total += count,
                }
            }
        }));
    }
    let mut total = 0;
    for reader in readers {
        total += reader.await.unwrap();
    }
    total
}

/// Opens `streams` streams and writes into them all at once.
async fn send(tunnel: Tunnel, to: SocketAddr, streams: usize) {
    let mut writers = Vec::new();
    for _ in 0..streams {
        let mut stream = tunnel.connect(to, Duration::from_secs(60)).await.unwrap();
        writers.push(tokio::spawn(async move {
            let (buffer, mut rest) = (vec![7; 256 << 10], TOTAL / streams);
            while rest > 0 {
                rest -= stream.write(&buffer[..buffer.len().min(rest)]).await.unwrap();
            }
            stream.shutdown().await.unwrap();
            // Held until the other end has everything.
            let _ = stream.read_u8().await;
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

/// What a transfer took: of time, and of both ends' processor.
struct Meter {
    begun: Instant,
    cpu: Duration,
}

impl Meter {
    fn start() -> Self {
        Self { begun: Instant::now(), cpu: cpu() }
    }

    fn print(&self, what: &str, bytes: usize) {
        let gigabytes = bytes as f64 / 1e9;
        let rate = gigabytes * 8.0 / self.begun.elapsed().as_secs_f64();
        println!("{what}: {rate:.2} Gbit/s, {:.2} CPU-s/GB", (cpu() - self.cpu).as_secs_f64() / gigabytes);
    }
}

/// The processor time of this process (fields 14 and 15 of `/proc/self/stat`, in hundredths of a second).
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
    Duration::from_millis(10 * fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>())
}

/// A thread with a runtime of its own, as a worker is.
struct Home {
    runtime: tokio::runtime::Handle,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Home {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(Duration::from_secs(1));
        });
        Self { runtime: handle, stop: Some(stop), thread: Some(thread) }
    }

    fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.runtime.spawn(future)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().map(std::thread::JoinHandle::join);
    }
}
