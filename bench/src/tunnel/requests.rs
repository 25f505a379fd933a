//! A load generator inside a tunnel: HTTP/1.1 on connections that stay, one request at a time on each.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use ipnet::IpNet;
use postern_connector::{Conf, conf};
use postern_tunnel::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::userspace::{PATIENCE, Userspace, one_peer};
use crate::load::Load;
use crate::summary::Summary;

/// Where plain HTTP is served in the tunnel.
const PORT: u16 = 80;
/// Bytes per read.
const CHUNK: usize = 256 << 10;

#[derive(Args)]
pub(crate) struct Requests {
    /// The wg-quick file of the client; the server is its first peer.
    #[arg(long)]
    conf: PathBuf,
    #[arg(long)]
    host: String,
    #[arg(long)]
    path: String,
    /// Bytes that every answer has.
    #[arg(long)]
    size: usize,
    #[arg(long)]
    connections: usize,
    #[arg(long)]
    seconds: u64,
}

impl Requests {
    /// The same as arguments of this program.
    pub(super) fn arguments(conf: &Path, host: &str, load: &Load, duration: Duration) -> Vec<String> {
        let pairs = [
            ("--conf", conf.display().to_string()),
            ("--host", host.to_owned()),
            ("--path", load.path.to_owned()),
            ("--size", load.size.to_string()),
            ("--connections", load.connections.to_string()),
            ("--seconds", duration.as_secs().to_string()),
        ];
        let pairs = pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        ["tunnel-requests".to_owned()].into_iter().chain(pairs).collect()
    }

    /// Prints a [`Summary`] once it is over.
    pub(crate) fn run(&self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        println!("{}", runtime.context("no runtime")?.block_on(self.load())?.line()?);
        Ok(())
    }

    async fn load(&self) -> Result<Summary> {
        let text = fs::read_to_string(&self.conf).with_context(|| format!("cannot read {}", self.conf.display()))?;
        let conf = conf::parse(&text).map_err(|mistakes| anyhow!("{}: {mistakes:?}", self.conf.display()))?;
        let (userspace, server) = join(conf)?;
        let request: &'static str = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", self.path, self.host).leak();
        let mut clients = Vec::new();
        for _ in 0..self.connections {
            let stream = userspace.tunnel.connect(server, PATIENCE).await?;
            clients.push(Client { stream, request, size: self.size, buffer: vec![0; CHUNK] });
        }

        let start = Instant::now();
        let deadline = start + Duration::from_secs(self.seconds);
        let tasks: Vec<_> = clients.into_iter().map(|client| tokio::spawn(client.load_until(deadline))).collect();
        let mut total = Summary::default();
        for task in tasks {
            total = total.plus(task.await??);
        }
        total.microseconds = u64::try_from(start.elapsed().as_micros())?;
        userspace.close().await?;
        Ok(total)
    }
}

/// Becomes the peer of a file; where its server serves HTTP.
fn join(conf: Conf) -> Result<(Userspace, SocketAddr)> {
    let server = conf.peers.into_iter().next().context("the file names no server")?;
    let address = server.allowed_ips.first().map(IpNet::addr).context("the server has no address")?;
    let endpoint = server.endpoint.parse().context("the endpoint is no address")?;
    let map = one_peer(conf.addresses, server.key, server.allowed_ips, Some(endpoint));
    let userspace = Userspace::start(conf.key, (Ipv4Addr::UNSPECIFIED, 0).into(), &map)?;
    Ok((userspace, SocketAddr::new(address, PORT)))
}

/// One connection.
struct Client {
    stream: Stream,
    request: &'static str,
    size: usize,
    buffer: Vec<u8>,
}

impl Client {
    async fn load_until(mut self, deadline: Instant) -> Result<Summary> {
        let mut summary = Summary::default();
        while Instant::now() < deadline {
            let received = timeout(PATIENCE, self.exchange()).await.context("a request is not answered")??;
            summary.requests += 1;
            summary.bytes += received as u64;
        }
        Ok(summary)
    }

    /// A request and its answer; the bytes of the answer.
    async fn exchange(&mut self) -> Result<usize> {
        self.stream.write_all(self.request.as_bytes()).await.context("cannot ask")?;
        let mut received = 0;
        let head = loop {
            received += self.read_to(received).await?;
            if let Some(head) = head_len(&self.buffer[..received]) {
                break head;
            }
        };
        let announced = content_length(&self.buffer[..head])?;
        ensure!(announced == self.size, "an answer has {announced} bytes instead of {}", self.size);
        let whole = head + announced;
        while received < whole {
            received += self.read_to(0).await?;
        }
        ensure!(received == whole, "more came than was asked for");
        Ok(whole)
    }

    async fn read_to(&mut self, from: usize) -> Result<usize> {
        let count = self.stream.read(&mut self.buffer[from..]).await.context("an answer broke off")?;
        ensure!(count > 0, "an answer ended early");
        Ok(count)
    }
}

fn head_len(received: &[u8]) -> Option<usize> {
    received.windows(4).position(|window| window == b"\r\n\r\n").map(|end| end + 4)
}

/// Of a head with status 200.
fn content_length(head: &[u8]) -> Result<usize> {
    let head = std::str::from_utf8(head).context("a head is no text")?;
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    ensure!(status.starts_with("HTTP/1.1 200"), "the answer is `{status}`, not 200");
    let announced =
        lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    announced.context("an answer announces no length")?.1.trim().parse().context("a length is no number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_up_to_its_end() {
        let answer = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\n\r\nhello";
        let head = head_len(answer).expect("a head");
        assert_eq!(&answer[head..], b"hello");
        assert_eq!(content_length(&answer[..head]).expect("a length"), 5);
        assert_eq!(head_len(&answer[..head - 1]), None);
    }

    #[test]
    fn a_bad_answer_is_refused() {
        for head in ["HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", ""] {
            assert!(content_length(head.as_bytes()).is_err(), "{head:?}");
        }
    }
}
