//! Hours of a network in virtual time, boringtun's clock included: latency, loss, reordering, duplication, outages and
//! replays by a stranger.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::tests::{Sent, World, at, initiations, inside, packet, secs};
use super::*;

struct Network {
    world: World,
    random: StdRng,
    flight: BTreeMap<(Instant, u64), Sent>,
    number: u64,
    loss: f64,
    duplication: f64,
    /// Nothing arrives.
    cut: bool,
    said: Vec<(Instant, Sent)>,
    /// What arrived and was acted upon.
    taken: Vec<Sent>,
    /// How often each packet arrived, by its number.
    arrived: HashMap<u64, u32>,
    refused: Vec<Drop>,
}

impl Network {
    fn new(seed: u64, keep_alive: [Option<u64>; 2]) -> Self {
        let mut world = World::new(2);
        for (end, keep_alive) in keep_alive.into_iter().enumerate() {
            let peer = world.peer(1 - end, end == 0, keep_alive);
            world.set_peers(end, &[peer]);
        }
        Self {
            world,
            random: StdRng::seed_from_u64(seed),
            flight: BTreeMap::new(),
            number: 0,
            loss: 0.0,
            duplication: 0.0,
            cut: false,
            said: Vec::new(),
            taken: Vec::new(),
            arrived: HashMap::new(),
            refused: Vec::new(),
        }
    }

    /// Puts a datagram on its way; a few per cent take a second longer.
    fn fly(&mut self, sent: &Sent) {
        self.said.push((self.world.now, sent.clone()));
        let copies = 1 + u32::from(self.random.random_bool(self.duplication));
        for _ in 0..copies {
            if self.cut || self.random.random_bool(self.loss) {
                continue;
            }
            let late = if self.random.random_bool(0.03) { 1000 } else { 0 };
            let latency = Duration::from_millis(self.random.random_range(1..80) + late);
            self.number += 1;
            self.flight.insert((self.world.now + latency, self.number), sent.clone());
        }
    }

    /// An end sends a packet: whether it was sealed or waits.
    fn send(&mut self, from: usize) -> Option<u64> {
        self.number += 1;
        let number = self.number;
        match self.world.seal(from, 1 - from, &number.to_le_bytes()) {
            Ok(sent) => self.fly(&sent),
            Err(Sealed::Queued) => {}
            Err(_) => return None,
        }
        self.collect();
        Some(number)
    }

    fn collect(&mut self) {
        for end in 0..2 {
            for sent in self.world.control(end) {
                self.fly(&sent);
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.world.now + time;
        loop {
            let due = self.world.ends.iter().filter_map(|end| end.engine.poll_timeout());
            let next = due.chain(self.flight.keys().map(|(at, _)| *at).next()).min();
            let now = next.unwrap_or(end).clamp(self.world.now, end);
            self.world.advance(now - self.world.now);
            if next.is_none_or(|next| next > end) {
                return;
            }
            while self.flight.first_key_value().is_some_and(|((at, _), _)| *at <= now) {
                let (_, sent) = self.flight.pop_first().expect("there is a first");
                self.arrive(&sent);
            }
            for end in &mut self.world.ends {
                end.engine.handle_timeout(now);
            }
            self.collect();
        }
    }

    fn arrive(&mut self, sent: &Sent) {
        let Some((to, opened, bytes)) = self.world.deliver(sent) else { return };
        match opened {
            Opened::Packet { .. } => {
                let number = u64::from_le_bytes(bytes[20..28].try_into().expect("eight bytes"));
                assert_eq!(bytes, packet(inside(1 - to), inside(to), &number.to_le_bytes()));
                *self.arrived.entry(number).or_default() += 1;
            }
            Opened::Nothing => {}
            Opened::Dropped(drop) => return self.refused.push(drop),
        }
        self.taken.push(sent.clone());
    }

    /// A stranger sends something again that was taken before: nobody answers, moves or takes it.
    fn replay(&mut self) {
        if self.taken.is_empty() {
            return;
        }
        let sent = self.taken[self.random.random_range(0..self.taken.len())].clone();
        let to = usize::from(sent.to == at(1));
        let before = self.world.ends[to].engine.peers().next();
        let (opened, _) = self.world.give(to, Path::Stream(666), &sent.bytes);
        assert!(matches!(opened, Opened::Dropped(_)), "{opened:?}");
        assert_eq!(self.world.ends[to].engine.peers().next(), before);
        assert!(self.world.control(to).is_empty());
    }
}

#[test]
fn without_loss_every_packet_arrives_once_whatever_keys_are_in_use() {
    for seed in 0..6 {
        let mut network = Network::new(seed, [None, None]);
        network.duplication = 0.05;
        network.send(0);
        network.run(secs(3));
        let mut sent = Vec::new();
        for _ in 0..1500 {
            let from = network.random.random_range(0..2);
            sent.extend(network.send(from));
            let pause = if network.random.random_bool(0.02) { 200_000 } else { 9_000 };
            let pause = network.random.random_range(0..pause);
            network.run(Duration::from_millis(pause));
            network.replay();
        }
        network.run(secs(5));
        let missing = sent.iter().filter(|number| !network.arrived.contains_key(number)).count();
        let expired = network.refused.iter().filter(|drop| **drop == Drop::KeyExpired).count();
        assert!(missing <= expired, "{missing} of {} are missing in world {seed}", sent.len());
        assert!(missing <= 3, "only what was sent in the last moment of a key: {missing}");
        assert!(network.arrived.values().all(|times| *times == 1));
        let allowed = [Drop::Replayed, Drop::KeyExpired, Drop::UnknownIndex];
        assert!(network.refused.iter().all(|drop| allowed.contains(drop)), "{:?}", network.refused);
    }
}

#[test]
fn after_any_outage_both_ends_find_each_other_again() {
    for seed in 0..6 {
        for keep_alive in [[Some(25), None], [Some(25), Some(25)]] {
            let mut network = Network::new(seed, keep_alive);
            for _ in 0..25 {
                network.loss = network.random.random_range(0.0..0.3);
                network.cut = network.random.random_bool(0.5);
                for _ in 0..network.random.random_range(0..40) {
                    let from = network.random.random_range(0..2);
                    network.send(from);
                    let pause = network.random.random_range(0..40_000);
                    network.run(Duration::from_millis(pause));
                    network.replay();
                }
                (network.loss, network.cut) = (0.0, false);
                network.run(secs(66));
                for from in [0, 1] {
                    let number = network.send(from).expect("there is a way");
                    network.run(secs(7));
                    assert_eq!(network.arrived.get(&number), Some(&1), "world {seed}, from {from}");
                }
            }
            assert!(network.arrived.values().all(|times| *times == 1));
        }
    }
}

#[test]
fn whatever_happened_the_idle_sleep_in_the_end() {
    for seed in 0..6 {
        let mut network = Network::new(seed, [None, None]);
        for _ in 0..20 {
            network.loss = network.random.random_range(0.0..0.9);
            for _ in 0..network.random.random_range(0..10) {
                let from = network.random.random_range(0..2);
                network.send(from);
                let pause = network.random.random_range(0..60_000);
                network.run(Duration::from_millis(pause));
            }
            network.run(secs(600));
            for end in &network.world.ends {
                assert_eq!(end.engine.poll_timeout(), None, "world {seed}");
            }
            let said = network.said.len();
            network.run(secs(6 * 3600));
            assert_eq!(network.said.len(), said);
        }
        network.loss = 0.0;
        let number = network.send(0).unwrap();
        network.run(secs(130));
        assert_eq!(network.arrived.get(&number), Some(&1));
    }
}

#[test]
fn a_day_of_keepalives_takes_the_handshakes_it_takes() {
    for keep_alive in [[Some(25), None], [None, Some(25)], [Some(25), Some(25)]] {
        let mut network = Network::new(1, keep_alive);
        network.send(0);
        network.run(secs(24 * 3600));
        let calls = initiations(&network.said, 0).len() + initiations(&network.said, 1).len();
        // One in 125 to 200 s.
        assert!((432..=720).contains(&calls), "{calls} with {keep_alive:?}");
    }
}
