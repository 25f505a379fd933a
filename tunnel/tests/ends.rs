//! How connections and tunnels end, and how they come back.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod world;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postern_model::{Generation, PeerMap};
use postern_tunnel::{ConnectError, Limits, ListenError, Misfit, PrivateKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use world::{End, ask, echo, pair, within};

/// Long enough for a dial on loopback, short enough to wait for.
const SOON: Duration = Duration::from_millis(400);

#[tokio::test]
async fn a_port_that_nobody_listens_on_refuses() {
    let (client, server) = pair();
    let _echo = echo(&server, 1);
    client.dial(server.at(1)).await;
    let refused = within(client.tunnel.connect(server.at(2), Duration::from_secs(60))).await.unwrap_err();
    assert_eq!(refused, ConnectError::Refused(server.at(2)));
}

#[tokio::test]
async fn an_address_of_nobody_cannot_be_dialled() {
    let (client, _server) = pair();
    let nobody = "100.72.0.99:1".parse().unwrap();
    let error = within(client.tunnel.connect(nobody, SOON)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Untried { to, .. } if to == nobody));
    assert_eq!(
        error.to_string(),
        "cannot reach 100.72.0.99:1 through the tunnel: no peer of the tunnel has this address"
    );
}

#[tokio::test]
async fn a_peer_that_does_not_answer_is_given_up_at_the_deadline() {
    let (client, server) = pair();
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut peer = server.as_peer();
    peer.endpoint = Some(silent.local_addr().unwrap());
    client.set_peers(vec![peer]);
    let error = within(client.tunnel.connect(server.at(1), SOON)).await.unwrap_err();
    assert_eq!(error, ConnectError::NotUp(server.address()));
}

#[tokio::test]
async fn who_is_not_in_the_map_is_not_let_in_and_who_comes_into_it_is() {
    let (client, server) = pair();
    let _echo = echo(&server, 7);
    server.set_peers(vec![]);
    let error = within(client.tunnel.connect(server.at(7), SOON)).await.unwrap_err();
    assert_eq!(error, ConnectError::NotUp(server.address()));
    assert!(server.tunnel.status().counter("unknown_peer") > Some(0));
    server.set_peers(vec![client.as_peer()]);
    let mut stream = client.dial(server.at(7)).await;
    assert_eq!(ask(&mut stream, b"hi").await.unwrap(), b"hi");
}

#[tokio::test]
async fn taking_a_peer_away_ends_its_streams_and_no_others() {
    let (client, server) = pair();
    let other = End::new(3);
    other.set_peers(vec![server.as_listening_peer()]);
    server.set_peers(vec![client.as_peer(), other.as_peer()]);
    let mut listener = server.tunnel.listen(1).unwrap();
    let _client = client.dial(server.at(1)).await;
    let (mut ended, _) = within(listener.accept()).await.unwrap();
    let mut asking = other.dial(server.at(1)).await;
    let (mut kept, _) = within(listener.accept()).await.unwrap();
    let reading = tokio::spawn(async move { ended.read_u8().await.unwrap_err().kind() });
    server.set_peers(vec![other.as_peer()]);
    assert_eq!(within(reading).await.unwrap(), ErrorKind::ConnectionAborted);
    kept.write_u8(1).await.unwrap();
    assert_eq!(within(asking.read_u8()).await.unwrap(), 1);
}

#[tokio::test]
async fn another_generation_is_somebody_else() {
    let (client, server) = pair();
    let mut listener = server.tunnel.listen(1).unwrap();
    let mut first = client.dial(server.at(1)).await;
    let _waiting = client.dial(server.at(1)).await;
    let (mut ended, _) = within(listener.accept()).await.unwrap();
    // The same map again changes nothing.
    server.set_peers(vec![client.as_peer()]);
    ended.write_u8(1).await.unwrap();
    assert_eq!(within(first.read_u8()).await.unwrap(), 1);
    let mut peer = client.as_peer();
    peer.generation = Generation(2);
    server.set_peers(vec![peer]);
    assert_eq!(within(ended.read_u8()).await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert_eq!(within(first.read_u8()).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let _again = client.dial(server.at(1)).await;
    // What waited to be accepted under the old generation is gone.
    let (_, peer) = within(listener.accept()).await.unwrap();
    assert_eq!(peer.generation(), Generation(2));
}

#[tokio::test]
async fn a_map_that_contradicts_itself_is_reported_and_the_rest_is_in_force() {
    let (client, server) = pair();
    let _echo = echo(&server, 7);
    let mut double = End::new(3).as_peer();
    double.allowed_ips = client.as_peer().allowed_ips;
    let map = PeerMap { addresses: vec![server.address()], mtu: 1420, peers: vec![client.as_peer(), double] };
    let misfits = server.tunnel.set_map(&map);
    assert_eq!(misfits.len(), 2);
    assert!(matches!(&misfits[0], Misfit::SameRange { first, second, .. } if first == "peer-2" && second == "peer-3"));
    assert_eq!(server.tunnel.addresses(), [server.address()]);
    assert_eq!(ask(&mut client.dial(server.at(7)).await, b"hi").await.unwrap(), b"hi");
}

#[tokio::test]
async fn close_ends_everything_and_frees_the_port() {
    let (client, mut server) = pair();
    let mut listener = server.tunnel.listen(1).unwrap();
    let mut asking = client.dial(server.at(1)).await;
    let (mut answering, _) = within(listener.accept()).await.unwrap();
    let accepting = tokio::spawn(async move { listener.accept().await.is_none() });
    let reading = tokio::spawn(async move { answering.read_u8().await.unwrap_err().kind() });
    let udp = server.udp();
    server.tunnel.close();
    within(&mut server.driver).await.unwrap().unwrap();
    assert!(within(accepting).await.unwrap());
    assert_eq!(within(reading).await.unwrap(), ErrorKind::ConnectionAborted);
    // The other end is told.
    assert!(matches!(
        within(asking.read_u8()).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof
    ));
    assert_eq!(server.tunnel.listen(2).unwrap_err(), ListenError::Closed);
    assert_eq!(server.tunnel.connect(client.at(1), SOON).await.unwrap_err(), ConnectError::Closed);
    End::with(1, udp, PrivateKey::generate(), Limits::default());
}

#[tokio::test]
async fn nobody_is_left_waiting_when_the_driver_is_gone() {
    let (client, server) = pair();
    let mut listener = server.tunnel.listen(1).unwrap();
    let mut asking = client.dial(server.at(1)).await;
    let reading = tokio::spawn(async move { asking.read_u8().await.unwrap_err().kind() });
    let dialling = {
        let (tunnel, to) = (client.tunnel.clone(), server.at(1));
        server.driver.abort();
        tokio::spawn(async move { tunnel.connect(to, Duration::from_secs(600)).await.unwrap_err() })
    };
    client.driver.abort();
    assert_eq!(within(reading).await.unwrap(), ErrorKind::ConnectionAborted);
    assert_eq!(within(dialling).await.unwrap(), ConnectError::Closed);
    // One that was accepted before may still be there; then comes the end.
    while within(listener.accept()).await.is_some() {}
}

#[tokio::test]
async fn a_tunnel_that_nobody_holds_ends() {
    let (client, server) = pair();
    let _echo = echo(&server, 7);
    let mut stream = client.dial(server.at(7)).await;
    let mut client = client;
    let driver = std::mem::replace(&mut client.driver, tokio::spawn(async { Ok(()) }));
    drop(client);
    // A stream is enough to keep it.
    assert_eq!(ask(&mut stream, b"hi").await.unwrap(), b"hi");
    drop(stream);
    within(driver).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_restart_with_the_same_identity_is_the_same_peer() {
    let (client, mut server) = pair();
    let first = echo(&server, 7);
    let mut old = client.dial(server.at(7)).await;
    assert_eq!(ask(&mut old, b"hi").await.unwrap(), b"hi");
    let (udp, key) = (server.udp(), server.key.clone());
    // Without a farewell, as if killed.
    server.driver.abort();
    let _ = within(&mut server.driver).await;
    within(first).await.unwrap();
    let server = End::with(1, udp, key, Limits::default());
    let mut peer = client.as_listening_peer();
    peer.keep_alive = Some(Duration::from_secs(25));
    server.set_peers(vec![peer]);
    let _echo = echo(&server, 7);
    let mut stream = client.dial(server.at(7)).await;
    assert_eq!(ask(&mut stream, b"again").await.unwrap(), b"again");
    assert_eq!(ask(&mut old, b"gone").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_peer_that_comes_from_another_port_keeps_its_streams() {
    let (client, server) = pair();
    let relay = Relay::start(server.udp()).await;
    let mut peer = server.as_peer();
    peer.endpoint = Some(relay.front);
    client.set_peers(vec![peer]);
    let _echo = echo(&server, 7);
    let mut stream = client.dial(server.at(7)).await;
    assert_eq!(ask(&mut stream, b"hi").await.unwrap(), b"hi");
    let before = server.tunnel.status().peers[0].endpoint.unwrap();
    relay.roam.notify_one();
    for _ in 0..3 {
        assert_eq!(ask(&mut stream, b"still").await.unwrap(), b"still");
    }
    let after = server.tunnel.status().peers[0].endpoint.unwrap();
    assert_ne!(before, after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_under_a_flood_of_handshakes_serves_lets_in_and_can_be_closed() {
    let (client, server) = pair();
    let late = End::new(3);
    late.set_peers(vec![server.as_listening_peer()]);
    server.set_peers(vec![client.as_peer(), late.as_peer()]);
    let _echo = echo(&server, 7);
    let mut stream = client.dial(server.at(7)).await;
    // A stranger's handshake for the server, which proves nothing of where it comes from.
    let (stranger, front) = (End::new(2), UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let mut peer = server.as_peer();
    peer.endpoint = Some(front.local_addr().unwrap());
    stranger.set_peers(vec![peer]);
    let dialled = tokio::spawn({
        let (tunnel, to) = (stranger.tunnel.clone(), server.at(7));
        async move { tunnel.connect(to, SOON).await.unwrap_err() }
    });
    let mut initiation = vec![0; 2048];
    let length = within(front.recv(&mut initiation)).await.unwrap();
    let (to, stop, faster) = (server.udp(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let flood = std::thread::spawn({
        let (stop, faster, tunnel) = (stop.clone(), faster.clone(), server.tunnel.clone());
        move || {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let refused = |reason| tunnel.status().counter(reason).unwrap_or_default();
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                // Once the tunnel is closed the port is nobody's.
                let _ = socket.send_to(&initiation[..length], to);
                sent += 1;
                // As fast as they are taken at first, so that the system drops nobody's.
                while !faster.load(Ordering::Relaxed) && sent > refused("under_load") + refused("unknown_peer") + 100 {
                    std::thread::yield_now();
                }
            }
        }
    });
    within(async {
        while server.tunnel.status().counter("under_load") < Some(1000) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut let_in = late.dial(server.at(7)).await;
    assert_eq!(ask(&mut let_in, b"here").await.unwrap(), b"here");
    faster.store(true, Ordering::Relaxed);
    for _ in 0..50 {
        assert_eq!(ask(&mut stream, b"still there").await.unwrap(), b"still there");
    }
    server.tunnel.close();
    assert_eq!(within(stream.read_u8()).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    within(async {
        while UdpSocket::bind(to).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    within(dialled).await.unwrap();
}

/// Stands between a client and a server, and shows the server another port when told to.
struct Relay {
    front: SocketAddr,
    roam: Arc<tokio::sync::Notify>,
    task: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relay {
    async fn start(server: SocketAddr) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = front.local_addr().unwrap();
        let roam = Arc::new(tokio::sync::Notify::new());
        let task = tokio::spawn({
            let roam = roam.clone();
            async move {
                let mut back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                let (mut up, mut down, mut client) = (vec![0; 65_536], vec![0; 65_536], None);
                loop {
                    tokio::select! {
                        Ok((count, from)) = front.recv_from(&mut up) => {
                            client = Some(from);
                            back.send_to(&up[..count], server).await.unwrap();
                        }
                        Ok((count, _)) = back.recv_from(&mut down) => {
                            front.send_to(&down[..count], client.unwrap()).await.unwrap();
                        }
                        () = roam.notified() => back = UdpSocket::bind("127.0.0.1:0").await.unwrap(),
                    }
                }
            }
        });
        Self { front: address, roam, task }
    }
}
