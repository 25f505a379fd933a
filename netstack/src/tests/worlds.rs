//! Random worlds from seeds, in virtual time: whatever the network does, every application reads exactly what the other one
//! wrote, everything ends, and nobody is woken afterwards.

use std::time::Duration;

use postern_tcp::world::{Path, Random};
use proptest::prelude::*;

use super::world::{Script, World, clean, ms};
use crate::{Drop, Limits, StreamError};

const LONG: Duration = Duration::from_secs(600);

/// A link with whatever can be wrong with it.
fn path(random: &mut Random) -> Path {
    let rate = random.chance(0.5).then(|| random.between(200_000, 50_000_000));
    let mut path = Path::new(rate, random.time(ms(80)), random.between(10_000, 1_000_000) as usize);
    if random.chance(0.5) {
        path.jitter = random.time(ms(5));
    }
    if random.chance(0.5) {
        path.loss = random.pick(&[0.001, 0.01, 0.05, 0.15]);
    }
    if random.chance(0.3) {
        path.reorder = (random.pick(&[0.01, 0.1]), random.time(ms(20)));
    }
    if random.chance(0.3) {
        path.duplicate = 0.05;
    }
    if random.chance(0.3) {
        path.corrupt = 0.02;
    }
    path
}

fn limits(random: &mut Random) -> Limits {
    let memory = random.pick(&[256 << 20, 256 << 20, 400_000]);
    Limits { memory, ..Limits::default() }
}

/// Lets hosts connect, send and be disturbed; returns the world when everything has been said.
fn live(seed: u64) -> World {
    let (random, narrows) = (&mut Random::new(seed), &mut Random::new(seed ^ 1));
    let (hosts, limits) = (random.between(2, 5) as usize, limits(random));
    let mut world = World::new(seed, hosts, path(random), &limits);
    for host in 0..hosts {
        world.listen(host);
        world.hosts[host].serve = Script::sends(random.below(60_000));
        for other in 0..hosts {
            if random.chance(0.3) {
                world.set_link(host, other, path(random));
            }
        }
    }
    for _ in 0..random.between(1, 12) {
        let from = random.below(hosts as u64) as usize;
        let to = (from + random.between(1, hosts as u64) as usize) % hosts;
        let most = random.pick(&[100, 5_000, 200_000]);
        world.connect(from, to, random.chance(0.5), Script::sends(random.below(most)));
        world.run_for(random.time(ms(300)));
        if random.chance(0.2) {
            world.set_links(path(random));
        }
        if narrows.chance(0.3) {
            world.complain(narrows.below(hosts as u64) as usize, narrows.between(500, 1500) as u16);
        }
    }
    world
}

/// Whether everybody has heard everything, and nobody an error that is not due to patience.
fn audit(world: &World, seed: u64) {
    for app in world.hosts.iter().flat_map(|host| host.apps.values()) {
        assert!(app.is_done(), "seed {seed}: {app:?}");
        // A client that has given up resets what its server still sends.
        let fair = app.error.is_none_or(|error| matches!(error, StreamError::TimedOut | StreamError::Reset));
        assert!(fair, "seed {seed}: {app:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn everything_arrives_and_ends(seed: u64) {
        let mut world = live(seed);
        prop_assert!(world.run_until(LONG, World::is_done), "seed {seed}");
        audit(&world, seed);
        world.set_links(clean());
        world.run_for(LONG);
        for host in &world.hosts {
            let counters = host.net.counters();
            prop_assert_eq!((counters.flows, counters.memory), (0, 0), "seed {}", seed);
            prop_assert_eq!(counters.dropped(Drop::ForeignSource) + counters.dropped(Drop::OtherPeer), 0);
        }
        prop_assert_eq!(world.next_event(), None, "an idle world wakes nobody, seed {}", seed);
    }

    /// Whoever changes the network at any moment disturbs only whom it concerns.
    #[test]
    fn changes_of_the_network_end_what_they_concern(seed: u64) {
        let mut world = live(seed);
        let random = &mut Random::new(!seed);
        for generation in 2..random.between(3, 8) {
            let host = random.below(world.hosts.len() as u64) as usize;
            let mut peers = Vec::new();
            for other in (0..world.hosts.len()).filter(|other| *other != host) {
                if !random.chance(0.2) {
                    peers.push(world.peer(other, if random.chance(0.5) { generation } else { 1 }));
                }
            }
            let now = world.now;
            world.hosts[host].net.set_peers(&peers, now);
            world.run_for(random.time(ms(500)));
        }
        world.set_links(clean());
        world.run_for(LONG);
        prop_assert!(world.is_done(), "seed {seed}");
        for host in &world.hosts {
            prop_assert_eq!(host.net.counters().flows, 0, "seed {}", seed);
        }
    }
}

#[test]
fn a_connection_survives_ninety_seconds_of_silence_and_hours_of_idling() {
    let mut world = World::pair(5, clean());
    world.hosts[1].serve = Script { send: 0, reads: true, closes: false };
    let stream = world.connect(0, 1, false, Script { send: 1000, ..Script::IDLE });
    world.run_for(ms(100));
    let mut dead = clean();
    dead.loss = 1.0;
    for span in [90, 95] {
        world.set_links(dead);
        let app = world.hosts[0].apps.get_mut(&stream).expect("it");
        app.script.send += 1000;
        let now = world.now;
        world.hosts[0].work(stream, now);
        world.run_for(Duration::from_secs(span));
        world.set_links(clean());
        world.run_for(Duration::from_secs(70));
        let server = world.hosts[1].apps.values().next().expect("accepted");
        assert_eq!((server.received, server.error), (world.app(0, stream).script.send, None), "{span} s");
    }
    let (wakes, datagrams) = (world.hosts[0].wakes, world.datagrams);
    world.run_for(Duration::from_secs(10 * 3600));
    let (wakes, datagrams) = (world.hosts[0].wakes - wakes, world.datagrams - datagrams);
    assert!(wakes < 1500 && datagrams < 3000, "a few for each keep-alive: {wakes} wakes, {datagrams} datagrams");
    world.hosts[0].apps.get_mut(&stream).expect("it").script.send += 100_000;
    let now = world.now;
    world.hosts[0].work(stream, now);
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.hosts[1].apps.values().next().map(|app| app.received), Some(world.app(0, stream).sent));
    assert_eq!(world.app(0, stream).sent, 103_000);
}

#[test]
fn a_peer_that_vanishes_is_noticed_within_seven_minutes() {
    let mut world = World::pair(5, clean());
    world.hosts[1].serve = Script { send: 0, reads: true, closes: false };
    let stream = world.connect(0, 1, false, Script::IDLE);
    world.run_for(ms(100));
    let mut dead = clean();
    dead.loss = 1.0;
    world.set_links(dead);
    world.run_for(Duration::from_secs(7 * 60 + 10));
    assert_eq!(world.app(0, stream).error, Some(StreamError::TimedOut));
    assert_eq!(world.hosts[1].apps.values().next().map(|app| app.error), Some(Some(StreamError::TimedOut)));
}

#[test]
fn a_link_that_carries_less_is_used_with_smaller_packets() {
    let mut world = World::pair(5, clean());
    let stream = world.connect(0, 1, true, Script::sends(3 << 20));
    world.run_for(ms(40));
    let mut narrow = clean();
    narrow.mtu = Some(1280 + 32 + 28);
    world.set_links(narrow);
    let now = world.now;
    for host in 0..2 {
        let addresses = world.hosts[host].addresses.clone();
        world.hosts[host].net.set_addresses(addresses, 1280, now);
    }
    assert!(world.run_until(LONG, World::is_done));
    assert_eq!(world.app(0, stream).error, None);
}

#[test]
fn a_path_that_says_that_it_carries_less_gets_smaller_packets() {
    for v6 in [false, true] {
        let mut world = World::pair(5, clean());
        let stream = world.connect(0, 1, v6, Script::sends(3 << 20));
        world.run_for(ms(40));
        let mut narrow = clean();
        narrow.mtu = Some(1280 + 32 + 28);
        world.set_link(0, 1, narrow);
        world.complain(0, 1280);
        assert!(world.run_until(LONG, World::is_done));
        assert_eq!(world.app(0, stream).error, None);
    }
}

#[test]
fn bytes_both_ways_fill_batches_of_all_sizes_and_none_is_lost() {
    let mut world = World::pair(5, clean());
    world.hosts[1].serve = Script::sends(8 << 20);
    let streams: Vec<_> = (0..4).map(|at| world.connect(0, 1, at % 2 == 0, Script::sends(8 << 20))).collect();
    // Packets of another size than before are cut from what was cut already.
    world.run_for(ms(100));
    let (addresses, now) = (world.hosts[0].addresses.clone(), world.now);
    world.hosts[0].net.set_addresses(addresses, 1280, now);
    assert!(world.run_until(LONG, World::is_done));
    assert!(streams.iter().all(|stream| world.app(0, *stream).error.is_none()));
}

#[test]
fn keys_expire_under_way_and_bulk_goes_on() {
    let slow = Path::new(Some(100_000), ms(20), 100_000);
    let mut world = World::pair(5, slow);
    let stream = world.connect(0, 1, false, Script::sends(40 << 20));
    assert!(world.run_until(LONG, World::is_done), "400 s at 100 kB/s, three keys");
    assert_eq!(world.app(0, stream).error, None);
    assert_eq!(world.hosts[1].apps.values().next().map(|app| app.received), Some(40 << 20));
}
