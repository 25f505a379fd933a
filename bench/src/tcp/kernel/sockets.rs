//! The kernel's ends: the client of every measurement, and the server with BBR.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use rustix::net::sockopt;

use super::packet::PORT;
use super::tun::{BEYOND, KERNEL};
use crate::summary::Summary;

/// Bytes of a request: the size of the answer that it asks for.
pub(super) const REQUEST: usize = 8;
/// Bytes of a short answer.
const SHORT: u64 = 30_000;
/// Connections at a time that ask for short answers: together they leave the link nearly empty.
const CLIENTS: usize = 6;
/// How long a client waits for anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What clients ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Demand {
    /// One answer without an end.
    Endless,
    /// Answers of 30 KB, each on a connection of its own.
    Short,
}

/// Lets buffers grow beyond what the paths hold, on both sides alike, so that they are never what is measured; and forgets
/// what earlier connections learned.
pub(super) fn make_room() -> Result<()> {
    let settings =
        [("tcp_rmem", "4096 131072 16777216"), ("tcp_wmem", "4096 131072 16777216"), ("tcp_no_metrics_save", "1")];
    for (name, value) in settings {
        let file = format!("/proc/sys/net/ipv4/{name}");
        fs::write(&file, value).with_context(|| format!("cannot write {file}"))?;
    }
    Ok(())
}

/// Answers with BBR, until the process ends.
pub(super) fn serve() -> Result<()> {
    let listener = TcpListener::bind((KERNEL.0, PORT)).context("cannot listen")?;
    // Connections inherit it.
    sockopt::set_tcp_congestion(&listener, "bbr").context("the kernel has no BBR: try `modprobe tcp_bbr`")?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // It ends in an error when the client has had enough.
            thread::spawn(move || answer(stream));
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream) -> Result<()> {
    let mut size = [0; REQUEST];
    stream.set_nodelay(true)?;
    stream.read_exact(&mut size)?;
    let chunk = vec![7; 64 << 10];
    let mut left = u64::from_be_bytes(size);
    while left > 0 {
        let n = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        stream.write_all(&chunk[..n])?;
        left -= n as u64;
    }
    Ok(())
}

/// Asks for answers for `duration`. The summary is of one answer: the endless one, or the short one that was slower than 95
/// in 100 others.
pub(super) fn ask(demand: Demand, duration: Duration) -> JoinHandle<Result<Summary>> {
    thread::spawn(move || match demand {
        Demand::Endless => endless_answer(duration),
        Demand::Short => short_answers(duration),
    })
}

fn endless_answer(duration: Duration) -> Result<Summary> {
    let start = Instant::now();
    let mut stream = request(u64::MAX)?;
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    while start.elapsed() < duration {
        let n = stream.read(&mut buffer).context("the answer broke off")?;
        ensure!(n > 0, "an endless answer ended after {bytes} bytes");
        bytes += n as u64;
    }
    summary(bytes, start.elapsed())
}

fn short_answers(duration: Duration) -> Result<Summary> {
    let deadline = Instant::now() + duration;
    let clients: Vec<_> = (0..CLIENTS).map(|_| thread::spawn(move || times_until(deadline))).collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
    }
    times.sort_unstable();
    let slow = times.get(times.len() * 95 / 100).context("no short answer came")?;
    summary(SHORT, *slow)
}

fn times_until(deadline: Instant) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut answer = Vec::with_capacity(1 + SHORT as usize);
    while Instant::now() < deadline {
        let start = Instant::now();
        answer.clear();
        request(SHORT)?.read_to_end(&mut answer).context("a short answer broke off")?;
        times.push(start.elapsed());
        ensure!(answer.len() as u64 == SHORT, "a short answer has {} bytes", answer.len());
    }
    Ok(times)
}

fn request(size: u64) -> Result<TcpStream> {
    let server = SocketAddr::from((BEYOND.0, PORT));
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE).context("cannot connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&size.to_be_bytes())?;
    Ok(stream)
}

fn summary(bytes: u64, time: Duration) -> Result<Summary> {
    Ok(Summary { requests: 1, bytes, microseconds: u64::try_from(time.as_micros())?, failed: 0 })
}
