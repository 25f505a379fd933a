//! Tunnels that meet over UDP on loopback.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postern_model::{AccountId, Generation, MappedPeer, PeerMap, PublicKey};
use postern_tunnel::{Config, Limits, PrivateKey, Stream, Tunnel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

/// Nothing here takes that long; a test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

/// One end, and what it says of itself to others.
pub(crate) struct End {
    pub(crate) tunnel: Tunnel,
    pub(crate) driver: JoinHandle<std::io::Result<()>>,
    pub(crate) key: PrivateKey,
    pub(crate) number: u8,
}

impl Drop for End {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl End {
    pub(crate) fn new(number: u8) -> Self {
        Self::with(number, SocketAddr::from(([127, 0, 0, 1], 0)), PrivateKey::generate(), Limits::default())
    }

    pub(crate) fn with(number: u8, listen: SocketAddr, key: PrivateKey, limits: Limits) -> Self {
        let account = AccountId::parse("acc").unwrap();
        let (tunnel, driver) = Tunnel::bind(Config { account, key: key.clone(), listen, limits }).unwrap();
        Self { tunnel, driver: tokio::spawn(driver.run()), key, number }
    }

    pub(crate) fn address(&self) -> IpAddr {
        IpAddr::from([100, 72, 0, self.number])
    }

    pub(crate) fn address_v6(&self) -> IpAddr {
        format!("fd7a::{}", self.number).parse().unwrap()
    }

    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(), port)
    }

    pub(crate) fn udp(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.tunnel.port()))
    }

    /// This end as one that may call and does not have to be called.
    pub(crate) fn as_peer(&self) -> MappedPeer {
        MappedPeer {
            name: format!("peer-{}", self.number),
            key: PublicKey(self.key.public()),
            generation: Generation(1),
            allowed_ips: vec![self.address().into(), self.address_v6().into()],
            endpoint: None,
            keep_alive: None,
        }
    }

    /// This end with where it listens.
    pub(crate) fn as_listening_peer(&self) -> MappedPeer {
        MappedPeer { endpoint: Some(self.udp()), ..self.as_peer() }
    }

    pub(crate) fn set_peers(&self, peers: Vec<MappedPeer>) {
        let addresses = vec![self.address(), self.address_v6()];
        assert_eq!(self.tunnel.set_map(&PeerMap { addresses, mtu: 1420, peers }), []);
    }

    pub(crate) async fn dial(&self, to: SocketAddr) -> Stream {
        within(self.tunnel.connect(to, PATIENCE)).await.unwrap()
    }
}

/// A client that knows where the server is, and the server.
pub(crate) fn pair() -> (End, End) {
    let ends = (End::new(2), End::new(1));
    ends.0.set_peers(vec![ends.1.as_listening_peer()]);
    ends.1.set_peers(vec![ends.0.as_peer()]);
    ends
}

/// Answers everything that comes to `port` with itself, until the tunnel ends.
pub(crate) fn echo(end: &End, port: u16) -> JoinHandle<()> {
    let mut listener = end.tunnel.listen(port).unwrap();
    tokio::spawn(async move {
        while let Some((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(&mut stream);
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    })
}

pub(crate) async fn ask(stream: &mut Stream, question: &[u8]) -> std::io::Result<Vec<u8>> {
    within(async {
        stream.write_all(question).await?;
        let mut answer = vec![0; question.len()];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    })
    .await
}

/// Bytes that tell where they belong.
pub(crate) struct Pattern(Vec<u8>);

impl Pattern {
    pub(crate) fn new(seed: u64) -> Self {
        let mut state = seed | 1;
        // A prime length: no shift by whole packets or buffers looks like the right place.
        let bytes = (0..1_000_003).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        });
        Self(bytes.collect())
    }

    /// What begins at `offset`, up to some length of at least one.
    pub(crate) fn at(&self, offset: usize) -> &[u8] {
        &self.0[offset % self.0.len()..]
    }

    pub(crate) async fn send(&self, to: &mut (impl AsyncWriteExt + Unpin), total: usize) -> std::io::Result<()> {
        let mut sent = 0;
        while sent < total {
            let part = self.at(sent);
            sent += to.write(&part[..part.len().min(total - sent)]).await?;
        }
        to.shutdown().await
    }

    pub(crate) async fn receive(&self, from: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<usize> {
        let (mut received, mut buffer) = (0, vec![0; 64 << 10]);
        loop {
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                return Ok(received);
            }
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                let expected = self.at(received);
                let part = rest.len().min(expected.len());
                assert!(rest[..part] == expected[..part], "bytes differ from {received} on");
                (received, rest) = (received + part, &rest[part..]);
            }
        }
    }
}
