//! What a packet costs. Measurements for people, not run by default.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::world::{PORT, at, inside};
use crate::{Batch, Config, Event, Limits, Netstack, Peer, PrivateKey, Read, StreamId};

/// Two netstacks, each other's peers, in the same thread.
struct Pair {
    nets: [Netstack; 2],
    batch: Batch,
    datagrams: u64,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let limits = Limits { flows: 100_000, ..Limits::default() };
        let nets = [0, 1].map(|host| {
            let key = PrivateKey::from_bytes([host as u8 + 1; 32]);
            let addresses = vec![inside(host, false)];
            Netstack::new(Config { key, addresses, mtu: 1420, limits: limits.clone(), seed: [host as u8; 32] }, now)
        });
        let mut pair = Self { nets, batch: Batch::new(), datagrams: 0 };
        for host in 0..2 {
            let key = pair.nets[1 - host].public_key();
            let allowed_ips = vec![IpNet::from(inside(1 - host, false))];
            let peer = Peer { key, generation: 1, allowed_ips, path: Some(at(1 - host)), keep_alive: None };
            pair.nets[host].set_peers(&[peer], now);
        }
        pair
    }

    /// Carries everything over, until nothing moves.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for host in 0..2 {
                let now = Instant::now();
                self.nets[host].handle_timeout(now);
                while self.nets[host].poll_transmit(now, &mut self.batch) {
                    moved = true;
                    for datagram in self.batch.datagrams() {
                        self.datagrams += 1;
                        self.nets[1 - host].handle_datagram(at(host), datagram, now);
                    }
                    self.nets[1 - host].handle_timeout(now);
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn events(&mut self, host: usize) -> VecDeque<Event> {
        std::iter::from_fn(|| self.nets[host].poll_event()).collect()
    }

    fn open(&mut self, flows: usize) -> Vec<[StreamId; 2]> {
        let listener = self.nets[1].listen(PORT).expect("nobody listens");
        let mut streams = Vec::new();
        for _ in 0..flows {
            let to = SocketAddr::from((inside(1, false), PORT));
            let near = self.nets[0].connect(to, Duration::from_secs(60), Instant::now()).expect("a way");
            self.settle();
            let far = loop {
                self.settle();
                if let Some(accepted) = self.nets[1].accept(listener) {
                    break accepted.stream;
                }
            };
            streams.push([near, far]);
        }
        self.events(0);
        self.events(1);
        streams
    }
}

#[test]
#[ignore = "a measurement"]
fn bulk() {
    const TOTAL: usize = 1 << 30;
    let mut pair = Pair::new();
    let [near, far] = pair.open(1)[0];
    let (bytes, mut out) = (vec![7; 256 << 10], vec![0; 256 << 10]);
    let (mut sent, mut received) = (0, 0);
    let (began, before) = (Instant::now(), pair.datagrams);
    while received < TOTAL {
        if sent < TOTAL {
            sent += pair.nets[0].write(near, &bytes, Instant::now()).expect("open");
        }
        pair.settle();
        while let Ok(Read::Bytes(n)) = pair.nets[1].read(far, &mut out, Instant::now()) {
            received += n;
        }
    }
    let (took, datagrams) = (began.elapsed(), pair.datagrams - before);
    let gbits = received as f64 * 8.0 / took.as_secs_f64() / 1e9;
    let merged = pair.nets[1].counters().merged as f64 / datagrams as f64;
    println!(
        "bulk, both ends on one core: {gbits:.2} Gbit/s, {} ns per datagram of {datagrams}, {merged:.2} merged",
        took.as_nanos() / u128::from(datagrams)
    );
}

#[test]
#[ignore = "a measurement"]
fn echo() {
    for flows in [1, 100, 10_000] {
        let mut pair = Pair::new();
        let streams = pair.open(flows);
        let mut out = [0; 100];
        const TURNS: usize = 100_000;
        let (began, before) = (Instant::now(), pair.datagrams);
        for turn in 0..TURNS {
            let streams = streams[turn * 7919 % flows];
            for host in 0..2 {
                let now = Instant::now();
                pair.nets[host].write(streams[host], &[7; 64], now).expect("open");
                pair.settle();
                while let Ok(Read::Bytes(_)) = pair.nets[1 - host].read(streams[1 - host], &mut out, now) {}
            }
            pair.events(0);
            pair.events(1);
        }
        let (took, datagrams) = (began.elapsed(), pair.datagrams - before);
        println!(
            "64 bytes each way, {flows} flows: {} ns per exchange, {} datagrams each",
            took.as_nanos() / TURNS as u128,
            datagrams as f64 / TURNS as f64
        );
    }
}
