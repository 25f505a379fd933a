//! A peer made of a file, and a real tunnel as the other end.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use postern_connector::conf::ConfPeer;
use postern_connector::{Conf, Connected, DIAL, News, start};
use postern_model::{AccountId, Generation, HostName, MappedPeer, PeerMap, PublicKey};
use postern_tunnel::{Config, Limits, PrivateKey, Stream, Tunnel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Nothing here takes that long; a test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// A dial that is meant to fail.
const SHORT: Duration = Duration::from_millis(500);

const SUCCEEDED: u8 = 0;
const HOST_UNREACHABLE: u8 = 4;
const REFUSED: u8 = 5;
const TIMED_OUT: u8 = 6;

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The other end: a proxy's tunnel that knows one peer and answers on port 80 with what it hears.
struct Other {
    tunnel: Tunnel,
    driver: JoinHandle<std::io::Result<()>>,
    echo: JoinHandle<()>,
    client: PrivateKey,
}

impl Drop for Other {
    fn drop(&mut self) {
        self.driver.abort();
        self.echo.abort();
    }
}

impl Other {
    fn new() -> Self {
        let account = AccountId::parse("acc").unwrap();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config { account, key: PrivateKey::generate(), listen, limits: Limits::default() };
        let (tunnel, driver) = Tunnel::bind(config).unwrap();
        let client = PrivateKey::generate();
        let peer = MappedPeer {
            name: "laptop".to_owned(),
            key: PublicKey(client.public()),
            generation: Generation(1),
            allowed_ips: vec![ip("100.72.0.2").into(), ip("fd7a::2").into()],
            endpoint: None,
            keep_alive: None,
        };
        let addresses = vec![ip("100.72.0.1"), ip("fd7a::1")];
        assert_eq!(tunnel.set_map(&PeerMap { addresses, mtu: 1420, peers: vec![peer] }), []);
        let mut listener = tunnel.listen(80).unwrap();
        let echo = tokio::spawn(async move {
            while let Some((stream, _)) = listener.accept().await {
                tokio::spawn(say_again(stream));
            }
        });
        Self { tunnel, driver: tokio::spawn(driver.run()), echo, client }
    }

    /// The file of its peer, in which it is at `endpoint`.
    fn conf(&self, endpoint: String) -> Conf {
        let peer = ConfPeer {
            key: self.tunnel.public_key(),
            allowed_ips: vec![ip("100.72.0.1").into(), ip("fd7a::1").into(), ip("100.72.0.9").into()],
            endpoint,
            keep_alive: Some(Duration::from_secs(25)),
        };
        Conf {
            key: self.client.clone(),
            addresses: vec![ip("100.72.0.2"), ip("fd7a::2")],
            mtu: 1420,
            peers: vec![peer],
            hosts: BTreeMap::from([(HostName::parse("inside.test").unwrap(), vec![ip("100.72.0.1")])]),
        }
    }

    async fn connected(&self, dial: Duration) -> Connected {
        let conf = self.conf(format!("127.0.0.1:{}", self.tunnel.port()));
        start(conf, anywhere(), dial).await.unwrap()
    }
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn say_again(mut stream: Stream) {
    let (mut from, mut to) = tokio::io::split(&mut stream);
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

/// A SOCKS5 client that asks for `host`, a name or an address; what it is answered.
async fn dial(connected: &Connected, host: &str, port: u16) -> (u8, TcpStream) {
    within(async {
        let mut stream = TcpStream::connect(connected.socks_addr()).await.unwrap();
        stream.write_all(&[5, 1, 0]).await.unwrap();
        let mut chosen = [0; 2];
        stream.read_exact(&mut chosen).await.unwrap();
        assert_eq!(chosen, [5, 0]);
        let mut request = vec![5, 1, 0];
        match host.parse() {
            Ok(IpAddr::V4(ip)) => request.extend([&[1], &ip.octets()[..]].concat()),
            Ok(IpAddr::V6(ip)) => request.extend([&[4], &ip.octets()[..]].concat()),
            Err(_) => request.extend([&[3, host.len() as u8], host.as_bytes()].concat()),
        }
        request.extend(port.to_be_bytes());
        stream.write_all(&request).await.unwrap();
        let mut reply = [0; 10];
        stream.read_exact(&mut reply).await.unwrap();
        (reply[1], stream)
    })
    .await
}

async fn reply(connected: &Connected, host: &str, port: u16) -> u8 {
    dial(connected, host, port).await.0
}

/// Says something, ends its own direction, and reads to the end of the other.
async fn exchange(mut stream: TcpStream) -> String {
    within(async {
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    })
    .await
}

#[tokio::test]
async fn names_of_the_file_and_addresses_lead_to_a_listener() {
    let other = Other::new();
    let mut connected = other.connected(DIAL).await;
    for host in ["100.72.0.1", "fd7a::1", "inside.test", "INSIDE.test"] {
        let (answered, stream) = dial(&connected, host, 80).await;
        assert_eq!((answered, exchange(stream).await.as_str()), (SUCCEEDED, "hello"), "{host}");
    }
    let news = within(connected.news()).await;
    assert_eq!(news, Some(News::Answers { endpoint: format!("127.0.0.1:{}", other.tunnel.port()) }));
    connected.shutdown().await;
}

#[tokio::test]
async fn a_peer_is_there_before_anybody_dials() {
    let other = Other::new();
    let mut connected = other.connected(DIAL).await;
    let news = within(connected.news()).await;
    assert!(matches!(news, Some(News::Answers { .. })), "{news:?}");
    connected.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_reached_is_refused_in_its_own_way() {
    let other = Other::new();
    let connected = other.connected(DIAL).await;
    assert_eq!(reply(&connected, "100.72.0.1", 81).await, REFUSED);
    assert_eq!(reply(&connected, "nobody.test", 80).await, HOST_UNREACHABLE);
    assert_eq!(reply(&connected, "inside.test", 80).await, SUCCEEDED);
    connected.shutdown().await;

    let mut hasty = other.connected(SHORT).await;
    within(hasty.news()).await;
    assert_eq!(reply(&hasty, "100.72.0.9", 80).await, TIMED_OUT, "the peer is there, and nobody has the address");
    hasty.shutdown().await;
}

#[tokio::test]
async fn a_peer_that_is_not_there_is_given_up_on() {
    let other = Other::new();
    // Somebody takes the datagrams and says nothing.
    let silent = UdpSocket::bind(anywhere()).unwrap();
    let conf = other.conf(silent.local_addr().unwrap().to_string());
    let connected = start(conf, anywhere(), SHORT).await.unwrap();
    assert_eq!(reply(&connected, "100.72.0.1", 80).await, HOST_UNREACHABLE);
    connected.shutdown().await;
}

#[tokio::test]
async fn an_endpoint_may_be_a_name() {
    let other = Other::new();
    let conf = other.conf(format!("localhost:{}", other.tunnel.port()));
    let connected = start(conf, anywhere(), DIAL).await.unwrap();
    assert_eq!(reply(&connected, "inside.test", 80).await, SUCCEEDED);
    connected.shutdown().await;

    let error = start(other.conf("nowhere.invalid:1".to_owned()), anywhere(), DIAL).await.unwrap_err();
    assert!(error.to_string().contains("nowhere.invalid:1 cannot be resolved"), "{error}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let other = Other::new();
    let connected = other.connected(DIAL).await;
    let again = start(other.conf("127.0.0.1:9".to_owned()), connected.socks_addr(), DIAL).await.unwrap_err();
    assert!(again.to_string().contains(&format!("{}", connected.socks_addr())), "{again}");
    connected.shutdown().await;
}

#[tokio::test]
async fn a_client_that_breaks_off_is_a_reset_in_the_tunnel_and_one_that_ends_is_an_end() {
    let other = Other::new();
    let mut listener = other.tunnel.listen(90).unwrap();
    let connected = other.connected(DIAL).await;
    for breaks in [true, false] {
        let (answered, mut client) = dial(&connected, "100.72.0.1", 90).await;
        assert_eq!(answered, SUCCEEDED);
        let (mut far, _) = within(listener.accept()).await.unwrap();
        client.write_all(b"half").await.unwrap();
        within(far.read_exact(&mut [0; 4])).await.unwrap();
        if breaks {
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(client);
        let end = within(far.read(&mut [0; 1])).await.map_err(|error| error.kind());
        assert_eq!(end, if breaks { Err(ErrorKind::ConnectionReset) } else { Ok(0) });
    }
    connected.shutdown().await;
}

#[tokio::test]
async fn shutdown_ends_everything() {
    let other = Other::new();
    let mut waiting = other.tunnel.listen(90).unwrap();
    let connected = other.connected(DIAL).await;
    let socks = connected.socks_addr();
    let (answered, mut client) = dial(&connected, "100.72.0.1", 90).await;
    assert_eq!(answered, SUCCEEDED);
    let (mut far, _) = within(waiting.accept()).await.unwrap();

    within(connected.shutdown()).await;
    let mut byte = [0];
    assert!(!matches!(within(client.read(&mut byte)).await, Ok(1..)), "the client's connection ends");
    assert!(!matches!(within(far.read(&mut byte)).await, Ok(1..)), "the other end is told");
    assert!(TcpStream::connect(socks).await.is_err(), "nobody listens any more");
}
