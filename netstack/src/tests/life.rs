//! The life of a connection, on good links.

use std::time::Duration;

use super::world::{PORT, Script, World, clean, inside, ms};
use crate::{Batch, Config, ConnectError, Drop, Limits, Netstack, Path, PrivateKey, StreamError};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_connection_carries_bytes_both_ways_and_leaves_nothing_behind() {
    for v6 in [false, true] {
        let mut world = World::pair(1, clean());
        world.hosts[1].serve = Script::sends(300_000);
        let stream = world.connect(0, 1, v6, Script::sends(200_000));
        assert!(world.run_until(LONG, |world| world.hosts[1].apps.len() == 1 && world.is_done()));
        let app = world.app(0, stream);
        assert!(app.connected && app.error.is_none());
        assert_eq!((app.sent, app.received), (200_000, 300_000));
        let server = world.hosts[1].apps.values().next().expect("accepted");
        assert_eq!((server.sent, server.received), (300_000, 200_000));
        assert_eq!(
            server.peer.map(|peer| (peer.key, peer.generation, peer.site)),
            Some((world.hosts[0].key, 1, false))
        );
        world.run_for(LONG);
        for host in &world.hosts {
            let counters = host.net.counters();
            assert_eq!((counters.flows, counters.memory), (0, 0));
            for reason in Drop::ALL {
                assert_eq!(counters.dropped(reason), 0, "{reason:?}");
            }
        }
        assert!(world.hosts[1].net.counters().merged > 50, "bulk is merged");
    }
}

#[test]
fn a_port_that_nobody_listens_on_refuses() {
    let mut world = World::new(1, 2, clean(), &Limits::default());
    let stream = world.connect(0, 1, false, Script::IDLE);
    assert!(world.run_until(LONG, |world| world.app(0, stream).closed));
    assert_eq!(world.app(0, stream).error, Some(StreamError::Refused));
    assert_eq!(world.hosts[1].net.counters().dropped(Drop::NoListener), 1);
    assert_eq!(world.hosts[0].net.peer_at(inside(1, false)).map(|peer| peer.key), Some(world.hosts[1].key));
}

#[test]
fn a_connection_that_cannot_be_tried_says_why() {
    let mut world = World::new(1, 2, clean(), &Limits { flows_per_peer: 1, ..Limits::default() });
    let now = world.now;
    let net = &mut world.hosts[0].net;
    let mut connect = |to: std::net::IpAddr| net.connect((to, PORT).into(), LONG, now).map(|_| ());
    assert_eq!(connect([1, 1, 1, 1].into()), Err(ConnectError::NoPeer));
    assert_eq!(connect(inside(0, false)), Err(ConnectError::NoPeer), "nobody is his own peer");
    assert_eq!(connect(inside(1, false)), Ok(()));
    assert_eq!(connect(inside(1, false)), Err(ConnectError::TooMany));
    net.set_addresses(vec![inside(0, true)], 1420, now);
    let to = (inside(1, false), PORT).into();
    assert_eq!(net.connect(to, LONG, now).map(|_| ()), Err(ConnectError::NoAddress));
}

#[test]
fn a_peer_that_does_not_answer_costs_patience_and_no_more() {
    let mut world = World::pair(1, clean());
    world.hosts[1].path = super::world::at(9);
    let stream = world.connect(0, 1, false, Script::sends(10));
    let began = world.now;
    assert!(world.run_until(2 * LONG, |world| world.app(0, stream).closed));
    assert_eq!(world.app(0, stream).error, Some(StreamError::TimedOut));
    assert!((60..=61).contains(&world.now.duration_since(began).as_secs()));
    assert!(world.hosts[0].wakes < 200, "{} wakes", world.hosts[0].wakes);
    assert_eq!(world.hosts[0].net.counters().flows, 0);
}

#[test]
fn half_a_connection_goes_on() {
    let mut world = World::pair(1, clean());
    world.hosts[1].serve = Script { send: 500_000, reads: true, closes: false };
    let stream = world.connect(0, 1, false, Script { send: 0, reads: true, closes: true });
    assert!(world.run_until(LONG, |world| world.app(0, stream).received == 500_000));
    let server = world.hosts[1].apps.values().next().expect("accepted");
    assert!(server.ended && !server.shut);
}

#[test]
fn a_reader_that_stops_stops_its_writer_and_nothing_is_lost() {
    let mut world = World::pair(1, clean());
    world.hosts[1].serve = Script { send: 0, reads: false, closes: false };
    let stream = world.connect(0, 1, false, Script::sends(20 << 20));
    world.run_for(LONG);
    let sent = world.app(0, stream).sent;
    assert!(sent < 10 << 20, "{sent} bytes were taken");
    let server = *world.hosts[1].apps.keys().next().expect("accepted");
    world.hosts[1].apps.get_mut(&server).expect("it").script = Script::sends(0);
    let now = world.now;
    world.hosts[1].work(server, now);
    assert!(world.run_until(LONG, World::is_done));
    assert_eq!(world.app(1, server).received, 20 << 20);
}

#[test]
fn a_listener_that_closes_resets_what_waits_and_leaves_what_was_accepted() {
    let mut world = World::pair(1, clean());
    world.hosts[1].serve = Script { send: 0, reads: true, closes: false };
    let first = world.connect(0, 1, false, Script::IDLE);
    world.run_for(ms(100));
    world.hosts[1].accepts = false;
    let second = world.connect(0, 1, false, Script::IDLE);
    world.run_for(ms(100));
    assert!(world.app(0, second).connected);
    let (listener, now) = (world.hosts[1].listener.take().expect("one"), world.now);
    world.hosts[1].net.close_listener(listener, now);
    let third = world.connect(0, 1, false, Script::IDLE);
    world.run_for(ms(100));
    assert_eq!(world.app(0, first).error, None);
    assert_eq!(world.app(0, second).error, Some(StreamError::Reset));
    assert_eq!(world.app(0, third).error, Some(StreamError::Refused));
    assert!(world.hosts[1].net.accept(listener).is_none());
    world.listen(1);
    world.connect(0, 1, false, Script::IDLE);
    world.run_for(ms(100));
    let listener = world.hosts[1].listener.expect("one");
    assert!(world.hosts[1].net.accept(listener).is_some());
}

#[test]
fn a_flood_of_handshakes_does_not_stop_data() {
    let mut world = World::pair(1, clean());
    world.hosts[1].serve = Script { send: 1 << 20, reads: true, closes: false };
    let stream = world.connect(0, 1, false, Script::IDLE);
    assert!(world.run_until(LONG, |world| world.app(0, stream).received == 1 << 20));
    world.run_for(ms(100));
    // A handshake for host 1 that says nothing of where it comes from.
    let config = Config {
        key: PrivateKey::from_bytes([9; 32]),
        addresses: vec![inside(9, false)],
        mtu: 1420,
        limits: Limits::default(),
        seed: [9; 32],
    };
    let (now, mut batch) = (world.now, Batch::new());
    let mut stranger = Netstack::new(config, now);
    stranger.set_peers(&[world.peer(1, 1)], now);
    stranger.connect((inside(1, false), PORT).into(), LONG, now).expect("a way");
    assert!(stranger.poll_transmit(now, &mut batch));
    let initiation = batch.bytes().to_vec();
    let (served, away) = (*world.hosts[1].apps.keys().next().expect("accepted"), world.hosts[0].path);
    world.hosts[1].apps.get_mut(&served).expect("it").script.send += 500_000;
    for source in 0..20_000_u32 {
        let from = Path::Udp(std::net::SocketAddr::from((source.to_be_bytes(), 9)));
        world.hosts[1].net.handle_datagram(from, &initiation, now);
    }
    world.hosts[1].work(served, now);
    assert!(world.hosts[1].net.counters().dropped(Drop::UnderLoad) > 19_000);
    let mut batches = Vec::new();
    for _ in 0..100 {
        assert!(world.hosts[1].net.poll_transmit(now, &mut batch));
        batches.push(batch.path() == Some(away));
        if batch.path() == Some(away) {
            for datagram in batch.datagrams() {
                world.hosts[0].net.handle_datagram(super::world::at(1), datagram, now);
            }
        }
    }
    let data = batches.iter().filter(|data| **data).count();
    assert!(data > 2 && batches[..2 * data].chunks(2).all(|two| two[0] != two[1]), "half of what leaves: {batches:?}");
    world.run_for(ms(500));
    assert_eq!(world.app(0, stream).received, (1 << 20) + 500_000);
}

#[test]
fn datagrams_of_the_engines_own_for_one_path_leave_together() {
    let mut world = World::new(1, 2, clean(), &Limits { handshakes_per_second: 0, ..Limits::default() });
    let now = world.now;
    world.connect(0, 1, false, Script::IDLE);
    let mut batch = Batch::new();
    assert!(world.hosts[0].net.poll_transmit(now, &mut batch));
    let (initiation, from) = (batch.bytes().to_vec(), world.hosts[0].path);
    for _ in 0..3 {
        world.hosts[1].net.handle_datagram(from, &initiation, now);
    }
    assert!(world.hosts[1].net.poll_transmit(now, &mut batch));
    assert_eq!((batch.len(), batch.segment_size()), (3, 64));
    assert!(!world.hosts[1].net.poll_transmit(now, &mut batch));
}

/// Three hosts, of which 0 and 2 have an accepted connection to 1, and 0 one that waits too.
fn crowd() -> (World, [crate::StreamId; 3]) {
    let mut world = World::new(1, 3, clean(), &Limits::default());
    world.listen(1);
    world.hosts[1].serve = Script { send: 0, reads: true, closes: false };
    let [first, other] = [0, 2].map(|host| world.connect(host, 1, false, Script::IDLE));
    world.run_for(ms(100));
    world.hosts[1].accepts = false;
    let waiting = world.connect(0, 1, false, Script::IDLE);
    world.run_for(ms(100));
    assert!(world.app(0, waiting).connected && world.app(0, first).connected);
    (world, [first, waiting, other])
}

#[test]
fn another_identity_ends_all_flows_of_its_peer_at_once_and_no_others() {
    for same in [true, false] {
        let (mut world, [first, waiting, other]) = crowd();
        let peers = [world.peer(0, if same { 1 } else { 2 }), world.peer(2, 1)];
        let (now, listener) = (world.now, world.hosts[1].listener.expect("one"));
        world.hosts[1].net.set_peers(&peers, now);
        let held: Vec<_> = world.hosts[1].apps.keys().copied().collect();
        let net = &mut world.hosts[1].net;
        let ended = held.into_iter().filter(|stream| net.write(*stream, b"", now) == Err(StreamError::Ended));
        assert_eq!(ended.count(), usize::from(!same));
        let accepted = world.hosts[1].net.accept(listener).map(|accepted| accepted.peer.generation);
        assert_eq!(accepted, same.then_some(1), "what waited for the other identity is gone");
        world.run_for(ms(100));
        let reset = (!same).then_some(StreamError::Reset);
        assert_eq!((world.app(0, first).error, world.app(0, waiting).error), (reset, reset));
        assert_eq!(world.app(2, other).error, None);
        let handshakes: Vec<_> = world.hosts[1].net.peers().map(|peer| peer.last_handshake).collect();
        world.connect(0, 1, false, Script::IDLE);
        world.run_for(ms(100));
        let accepted = world.hosts[1].net.accept(listener).expect("the next one");
        assert_eq!(accepted.peer.generation, if same { 1 } else { 2 });
        let after: Vec<_> = world.hosts[1].net.peers().map(|peer| peer.last_handshake).collect();
        assert_eq!(handshakes, after, "the session stays");
    }
}

#[test]
fn a_peer_that_is_removed_is_gone_at_once() {
    let (mut world, [first, waiting, other]) = crowd();
    let (peers, now) = ([world.peer(2, 1)], world.now);
    world.hosts[1].net.set_peers(&peers, now);
    world.hosts[1].net.handle_timeout(now);
    assert_eq!(world.hosts[1].net.counters().flows, 2, "the other's, and a handle that is still held");
    world.run_for(ms(100));
    assert_eq!(world.hosts[1].net.counters().flows, 1);
    let reset = Some(StreamError::Reset);
    assert_eq!((world.app(0, first).error, world.app(0, waiting).error), (reset, reset), "its last words reach it");
    assert_eq!(world.app(2, other).error, None);
    let listener = world.hosts[1].listener.expect("one");
    assert!(world.hosts[1].net.accept(listener).is_none());
}

#[test]
fn an_address_that_another_peer_takes_over_takes_its_flows_along() {
    let (mut world, [first, _, other]) = crowd();
    let (mut wide, narrow) = (world.peer(0, 1), world.peer(2, 1));
    wide.allowed_ips = vec!["100.72.0.0/24".parse().expect("a range")];
    let now = world.now;
    world.hosts[1].net.set_peers(&[wide.clone(), narrow.clone()], now);
    world.run_for(ms(100));
    assert_eq!(world.app(0, first).error, Some(StreamError::Reset), "other allowed IPs are another identity");
    assert_eq!(world.app(2, other).error, None, "the longer prefix wins");
    let now = world.now;
    let mut narrower = narrow;
    narrower.allowed_ips = vec!["100.72.9.9/32".parse().expect("a range")];
    world.hosts[1].net.set_peers(&[wide, narrower], now);
    world.run_for(ms(100));
    assert!(world.hosts[1].apps.values().any(|app| app.error == Some(StreamError::Ended)));
}

#[test]
fn an_address_that_is_gone_ends_its_flows_and_another_packet_size_does_not() {
    let mut world = World::pair(1, clean());
    world.hosts[1].serve = Script { send: 0, reads: true, closes: false };
    let streams = [false, true].map(|v6| world.connect(0, 1, v6, Script::IDLE));
    world.run_for(ms(100));
    let now = world.now;
    world.hosts[1].net.set_addresses(vec![inside(1, true)], 1280, now);
    world.run_for(ms(100));
    assert_eq!(streams.map(|stream| world.app(0, stream).error), [Some(StreamError::Reset), None]);
    let server = world.hosts[1].apps.iter().find(|(_, app)| app.error.is_none()).map(|(id, _)| *id).expect("one");
    world.hosts[1].apps.get_mut(&server).expect("it").script.send = 100_000;
    let now = world.now;
    world.hosts[1].work(server, now);
    assert!(world.run_until(LONG, |world| world.app(0, streams[1]).received == 100_000));
}

#[test]
fn closing_everything_tells_everybody() {
    let (mut world, [first, waiting, other]) = crowd();
    let now = world.now;
    world.hosts[1].net.close_all(now);
    world.hosts[1].net.close_all(now);
    world.run_for(ms(100));
    let errors = [world.app(0, first).error, world.app(0, waiting).error, world.app(2, other).error];
    assert_eq!(errors, [Some(StreamError::Reset); 3]);
    assert_eq!(world.hosts[1].net.counters().flows, 0);
}

#[test]
fn connections_share_fairly() {
    let mut world = World::pair(1, clean());
    let streams: Vec<_> = (0..50).map(|_| world.connect(0, 1, false, Script::sends(1 << 20))).collect();
    world.run_for(ms(60));
    let sent: Vec<u64> = streams.iter().map(|stream| world.app(0, *stream).sent).collect();
    assert!(sent.iter().all(|bytes| *bytes > 0), "{sent:?}");
    assert!(world.run_until(LONG, World::is_done));
}

/// Work grows with what happens, not with what exists.
#[test]
fn ten_thousand_idle_flows_are_not_asked() {
    const FLOWS: usize = 10_000;
    let limits = Limits { embryonic_per_peer: 20_000, backlog: 100_000, flows: 100_000, ..Limits::default() };
    let mut world = World::new(1, 2, clean(), &limits);
    world.listen(1);
    world.hosts[1].serve = Script { send: 0, reads: true, closes: false };
    let streams: Vec<_> = (0..FLOWS).map(|_| world.connect(0, 1, false, Script::IDLE)).collect();
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.hosts[1].apps.len(), FLOWS);
    assert!(streams.iter().all(|stream| world.app(0, *stream).connected));
    let polls = |world: &World| world.hosts.iter().map(|host| host.net.counters().polls).sum::<u64>();
    let before = (polls(&world), world.hosts[0].wakes);
    world.run_for(Duration::from_secs(100));
    assert_eq!((polls(&world), world.hosts[0].wakes), before, "an idle world wakes nobody");
    let now = world.now;
    for stream in &streams[..10] {
        world.hosts[0].apps.get_mut(stream).expect("it").script.send = 100;
        world.hosts[0].work(*stream, now);
    }
    world.run_for(Duration::from_secs(3));
    let asked = polls(&world) - before.0;
    assert!((20..200).contains(&asked), "{asked} polls for ten messages");
}
