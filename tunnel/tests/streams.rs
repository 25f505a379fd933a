//! What an application sees of a tunnel: connections that behave as the kernel's do.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod world;

use std::io::{ErrorKind, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use postern_model::{Generation, PeerKind, PublicKey};
use postern_tunnel::{Limits, ListenError, PrivateKey};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use world::{End, Pattern, ask, echo, pair, within};

#[tokio::test]
async fn a_question_is_answered_and_the_listener_knows_who_asks() {
    let (client, server) = pair();
    let mut listener = server.tunnel.listen(443).unwrap();
    let mut asking = client.dial(server.at(443)).await;
    let (mut answering, peer) = within(listener.accept()).await.unwrap();
    assert_eq!((peer.account().as_str(), peer.key()), ("acc", client.tunnel.public_key()));
    assert_eq!((peer.generation(), peer.address(), peer.kind()), (Generation(1), client.address(), PeerKind::Device));
    assert_eq!((asking.peer_addr(), answering.local_addr()), (server.at(443), server.at(443)));
    assert_eq!(asking.local_addr(), answering.peer_addr());
    assert_eq!(asking.local_addr().ip(), client.address());
    answering.write_all(b"hello").await.unwrap();
    let mut hello = [0; 5];
    within(asking.read_exact(&mut hello)).await.unwrap();
    assert_eq!(&hello, b"hello");
}

#[tokio::test]
async fn both_families_work_and_a_network_behind_a_key_is_a_site() {
    let (client, server) = pair();
    let mut site = client.as_peer();
    site.allowed_ips[1] = format!("fd7a::{}/127", client.number).parse().unwrap();
    server.set_peers(vec![site]);
    let mut listener = server.tunnel.listen(80).unwrap();
    let stream = client.dial((server.address_v6(), 80).into()).await;
    let (_, peer) = within(listener.accept()).await.unwrap();
    assert_eq!((peer.kind(), peer.address()), (PeerKind::Site, client.address_v6()));
    assert_eq!(stream.local_addr().ip(), client.address_v6());
}

async fn both_ways(total: usize) {
    let (client, server) = pair();
    let mut listener = server.tunnel.listen(1).unwrap();
    let (up, down) = (Pattern::new(1), Pattern::new(2));
    let dialled = client.dial(server.at(1)).await;
    let (accepted, _) = within(listener.accept()).await.unwrap();
    let (mut client_reads, mut client_writes) = tokio::io::split(dialled);
    let (mut server_reads, mut server_writes) = tokio::io::split(accepted);
    let results = within(async {
        tokio::try_join!(
            up.send(&mut client_writes, total),
            up.receive(&mut server_reads),
            down.send(&mut server_writes, total),
            down.receive(&mut client_reads),
        )
    });
    assert_eq!(results.await.unwrap(), ((), total, (), total));
}

#[tokio::test]
async fn a_stream_carries_64_mib_both_ways_byte_for_byte() {
    both_ways(64 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_may_live_on_another_thread_than_its_tunnel() {
    both_ways(16 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_share_a_tunnel() {
    let (client, server) = pair();
    let _echo = echo(&server, 7);
    let asked = (0..64_u32).map(|number| {
        let (tunnel, to) = (client.tunnel.clone(), server.at(7));
        tokio::spawn(async move {
            for turn in 0..8 {
                let mut stream = tunnel.connect(to, std::time::Duration::from_secs(60)).await.unwrap();
                let question = vec![(number + turn) as u8; 10_000];
                assert!(ask(&mut stream, &question).await.unwrap() == question);
            }
        })
    });
    for task in asked.collect::<Vec<_>>() {
        within(task).await.unwrap();
    }
    assert_eq!(server.tunnel.status().counter("accepted"), Some(512));
}

#[tokio::test]
async fn slices_are_written_in_order_with_one_call() {
    let (client, server) = pair();
    let _echo = echo(&server, 7);
    let mut stream = client.dial(server.at(7)).await;
    assert!(stream.is_write_vectored());
    let slices = [IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"two")];
    assert_eq!(stream.write_vectored(&slices).await.unwrap(), 7);
    assert_eq!(stream.write_vectored(&[]).await.unwrap(), 0);
    assert_eq!(stream.write(b"").await.unwrap(), 0);
    let mut answer = [0; 7];
    within(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"one two");
}

#[tokio::test]
async fn half_closed_one_direction_goes_on() {
    let (client, server) = pair();
    let mut listener = server.tunnel.listen(1).unwrap();
    let mut asking = client.dial(server.at(1)).await;
    let (mut answering, _) = within(listener.accept()).await.unwrap();
    asking.write_all(b"all of it").await.unwrap();
    asking.shutdown().await.unwrap();
    let mut question = Vec::new();
    within(answering.read_to_end(&mut question)).await.unwrap();
    assert_eq!(question, b"all of it");
    answering.write_all(b"answer").await.unwrap();
    answering.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within(asking.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"answer");
    assert_eq!(asking.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn what_was_written_before_a_drop_arrives() {
    let (client, server) = pair();
    let mut listener = server.tunnel.listen(1).unwrap();
    let mut writing = client.dial(server.at(1)).await;
    let (mut reading, _) = within(listener.accept()).await.unwrap();
    let pattern = Pattern::new(3);
    writing.write_all(&pattern.at(0)[..50_000]).await.unwrap();
    drop(writing);
    assert_eq!(within(pattern.receive(&mut reading)).await.unwrap(), 50_000);
}

#[tokio::test]
async fn a_drop_with_unread_bytes_resets() {
    let (client, server) = pair();
    let mut listener = server.tunnel.listen(1).unwrap();
    let mut asking = client.dial(server.at(1)).await;
    let (answering, _) = within(listener.accept()).await.unwrap();
    asking.write_all(b"never read").await.unwrap();
    within(until(|| server.tunnel.status().memory > 0)).await;
    drop(answering);
    assert_eq!(within(asking.read_u8()).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(within(asking.write_all(b"x")).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_is_broken_off_is_a_reset_and_no_end() {
    let (client, server) = pair();
    let mut listener = server.tunnel.listen(1).unwrap();
    for breaks in [true, false] {
        let mut asking = client.dial(server.at(1)).await;
        let (mut answering, _) = within(listener.accept()).await.unwrap();
        answering.write_all(b"half").await.unwrap();
        within(asking.read_exact(&mut [0; 4])).await.unwrap();
        if breaks {
            answering.abort();
        } else {
            drop(answering);
        }
        let end = within(asking.read(&mut [0; 1])).await.map_err(|error| error.kind());
        assert_eq!(end, if breaks { Err(ErrorKind::ConnectionReset) } else { Ok(0) });
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_the_writer() {
    const BUFFER: usize = 256 << 10;
    const TOTAL: usize = 4 << 20;
    let mut limits = Limits::default();
    (limits.buffers.send, limits.buffers.receive) = (BUFFER, BUFFER);
    let loopback = "127.0.0.1:0".parse().unwrap();
    let client = End::with(2, loopback, PrivateKey::generate(), limits.clone());
    let server = End::with(1, loopback, PrivateKey::generate(), limits);
    client.set_peers(vec![server.as_listening_peer()]);
    server.set_peers(vec![client.as_peer()]);
    let _echo = echo(&server, 7);
    let mut clock = client.dial(server.at(7)).await;
    let mut listener = server.tunnel.listen(1).unwrap();
    let mut writing = client.dial(server.at(1)).await;
    let (mut reading, _) = within(listener.accept()).await.unwrap();
    let progress = Arc::new(AtomicUsize::new(0));
    let writer = tokio::spawn({
        let progress = progress.clone();
        async move {
            let pattern = Pattern::new(4);
            while progress.load(Ordering::Relaxed) < TOTAL {
                let at = progress.load(Ordering::Relaxed);
                let part = pattern.at(at);
                let count = writing.write(&part[..part.len().min(TOTAL - at)]).await.unwrap();
                progress.fetch_add(count, Ordering::Relaxed);
            }
        }
    });
    let (mut still, mut before) = (0, 0);
    while still < 100 {
        ask(&mut clock, b"tick").await.unwrap();
        let at = progress.load(Ordering::Relaxed);
        still = if at == before && at > 0 { still + 1 } else { 0 };
        before = at;
    }
    assert!(before <= 2 * BUFFER + (64 << 10), "{before} bytes were taken");
    assert!(server.tunnel.status().memory <= 2 * BUFFER as u64);
    assert_eq!(within(Pattern::new(4).receive(&mut reading)).await.unwrap(), TOTAL);
    within(writer).await.unwrap();
}

#[tokio::test]
async fn a_port_has_one_listener_and_is_free_after_it() {
    let (client, server) = pair();
    let listener = server.tunnel.listen(1).unwrap();
    assert!(matches!(server.tunnel.listen(1), Err(ListenError::Port(_))));
    assert!(matches!(server.tunnel.listen(0), Err(ListenError::Port(_))));
    drop(listener);
    let mut again = server.tunnel.listen(1).unwrap();
    let _stream = client.dial(server.at(1)).await;
    assert!(within(again.accept()).await.is_some());
}

#[tokio::test]
async fn an_accepted_stream_outlives_its_listener_and_one_that_waits_does_not() {
    let (client, server) = pair();
    let mut listener = server.tunnel.listen(1).unwrap();
    let mut first = client.dial(server.at(1)).await;
    let (mut accepted, _) = within(listener.accept()).await.unwrap();
    let mut second = client.dial(server.at(1)).await;
    drop(listener);
    assert_eq!(within(second.read_u8()).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    accepted.write_u8(7).await.unwrap();
    assert_eq!(within(first.read_u8()).await.unwrap(), 7);
}

#[tokio::test]
async fn an_abandoned_accept_loses_nothing() {
    let (client, server) = pair();
    let mut listener = server.tunnel.listen(1).unwrap();
    tokio::select! {
        biased;
        _ = listener.accept() => panic!("nobody has called"),
        () = std::future::ready(()) => {}
    }
    let _stream = client.dial(server.at(1)).await;
    let (_, peer) = within(listener.accept()).await.unwrap();
    assert_eq!(peer.key(), PublicKey(client.key.public()));
}

/// Waits for a condition that some other task brings about.
async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}
