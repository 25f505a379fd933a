//! One end of one TCP connection, as a process: a sender that never stops, or the receiver that ends it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use postern_tunnel::Stream;
use rustix::net::sockopt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::station::Station;
use super::traffic::Traffic;
use super::userspace::{PATIENCE, Userspace, map};
use crate::machine;

/// Where the receiver listens.
const PORT: u16 = 5001;
/// What the receiver prints when the sender may begin.
pub(super) const READY: &str = "ready";
/// Bytes per call, on both sides of both kinds.
const CHUNK: usize = 256 << 10;

#[derive(Args)]
pub(crate) struct End {
    #[arg(long)]
    station: Station,
    #[arg(long)]
    role: Role,
    #[arg(long)]
    tcp: Tcp,
    /// Where the tunnel of the other end is found; only for ours.
    #[arg(long)]
    endpoint: SocketAddr,
    #[arg(long)]
    seconds: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Role {
    Sender,
    Receiver,
}

/// Whose TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Tcp {
    /// Ours, in a tunnel of ours.
    Ours,
    /// The kernel's with its usual congestion control, through whatever device leads to the other end.
    Kernel,
    /// The same with BBR.
    KernelBbr,
}

impl End {
    /// The same as arguments of this program.
    pub(super) fn arguments(
        station: Station,
        role: Role,
        tcp: Tcp,
        endpoint: SocketAddr,
        duration: Duration,
    ) -> Vec<String> {
        let name = |value: Option<clap::builder::PossibleValue>| value.map(|value| value.get_name().to_owned());
        let pairs = [
            ("--station", name(station.to_possible_value())),
            ("--role", name(role.to_possible_value())),
            ("--tcp", name(tcp.to_possible_value())),
            ("--endpoint", Some(endpoint.to_string())),
            ("--seconds", Some(duration.as_secs().to_string())),
        ];
        let pairs = pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value.unwrap_or_default()]);
        ["tunnel-end".to_owned()].into_iter().chain(pairs).collect()
    }

    /// Prints its [`Traffic`] when it is over.
    pub(crate) fn run(&self) -> Result<()> {
        let moved = match (self.tcp, self.role) {
            (Tcp::Ours, _) => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.context("no runtime")?.block_on(self.ours())
            }
            (Tcp::Kernel | Tcp::KernelBbr, Role::Sender) => self.kernel_sender(),
            (Tcp::Kernel | Tcp::KernelBbr, Role::Receiver) => self.kernel_receiver(),
        };
        let (bytes, time) = moved?;
        let cpu = machine::cpu_seconds(std::process::id())?;
        println!("{}", Traffic { bytes, seconds: time.as_secs_f64(), cpu }.line()?);
        Ok(())
    }

    async fn ours(&self) -> Result<(u64, Duration)> {
        let station = self.station;
        let userspace = Userspace::start(station.key(), station.ours(), &map(station, Some(self.endpoint)))?;
        let moved = match self.role {
            Role::Sender => {
                let to = SocketAddr::new(station.other().inside(), PORT);
                send(userspace.tunnel.connect(to, PATIENCE).await?, self.limit()).await?
            }
            Role::Receiver => {
                let mut listener = userspace.tunnel.listen(PORT)?;
                println!("{READY}");
                let (stream, _) = timeout(PATIENCE, listener.accept()).await?.context("the tunnel has ended")?;
                receive(stream, self.duration()).await?
            }
        };
        userspace.close().await?;
        Ok(moved)
    }

    fn kernel_sender(&self) -> Result<(u64, Duration)> {
        let to = SocketAddr::new(self.station.other().inside(), PORT);
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).context("cannot connect")?;
        if self.tcp == Tcp::KernelBbr {
            sockopt::set_tcp_congestion(&stream, "bbr").context("the kernel has no BBR: try `modprobe tcp_bbr`")?;
        }
        stream.set_write_timeout(Some(PATIENCE))?;
        let (chunk, start, mut bytes) = (vec![7; CHUNK], Instant::now(), 0);
        while start.elapsed() < self.limit() {
            match stream.write(&chunk) {
                Ok(count) => bytes += count as u64,
                Err(error) if is_end(&error) => return Ok((bytes, start.elapsed())),
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        anyhow::bail!("the receiver does not end")
    }

    fn kernel_receiver(&self) -> Result<(u64, Duration)> {
        let listener = TcpListener::bind((self.station.inside(), PORT)).context("cannot listen")?;
        println!("{READY}");
        let (mut stream, _) = listener.accept().context("cannot accept")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (mut buffer, start, mut bytes) = (vec![0; CHUNK], Instant::now(), 0);
        while start.elapsed() < self.duration() {
            let count = stream.read(&mut buffer).context("the connection broke off")?;
            ensure!(count > 0, "the connection ended after {bytes} bytes");
            bytes += count as u64;
        }
        Ok((bytes, start.elapsed()))
    }

    fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    /// After which a sender whom nobody ends gives up.
    fn limit(&self) -> Duration {
        self.duration() + PATIENCE
    }
}

/// Sends until the other end has had enough.
pub(super) async fn send(mut stream: Stream, limit: Duration) -> Result<(u64, Duration)> {
    let (chunk, start, mut bytes) = (vec![7; CHUNK], Instant::now(), 0);
    while start.elapsed() < limit {
        match timeout(PATIENCE, stream.write(&chunk)).await.context("nothing can be sent")? {
            Ok(count) => bytes += count as u64,
            Err(error) if is_end(&error) => return Ok((bytes, start.elapsed())),
            Err(error) => return Err(error).context("cannot send"),
        }
    }
    anyhow::bail!("the receiver does not end")
}

/// Receives for a while, and ends the connection.
pub(super) async fn receive(mut stream: Stream, duration: Duration) -> Result<(u64, Duration)> {
    let (mut buffer, start, mut bytes) = (vec![0; CHUNK], Instant::now(), 0);
    while start.elapsed() < duration {
        let count = timeout(PATIENCE, stream.read(&mut buffer)).await.context("nothing arrives")?;
        let count = count.context("the connection broke off")?;
        ensure!(count > 0, "the connection ended after {bytes} bytes");
        bytes += count as u64;
    }
    Ok((bytes, start.elapsed()))
}

/// The receiver's way to end it.
fn is_end(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}
