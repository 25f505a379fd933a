//! What a packet costs where many flows are open, against what it costs where there is one: two netstacks in memory, one
//! thread. Their time is made up, so that nobody waits for it and a busy machine changes nothing but the figures.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use postern_netstack::{Batch, Config, Event, Limits, ListenerId, Netstack, Path, Peer, Read, StreamId};

use super::station::Station;
use crate::measure::{Sample, Side};
use crate::report::{Better, Metric};

pub(super) const PEER: &str = "one-flow";

const FLOWS: usize = 10_000;
const PORT: u16 = 7;
/// Bytes of a question and of its answer.
const QUESTION: usize = 64;
/// How far the next flow is from the last one: a prime, so that all have their turn and none is near the one before.
const STRIDE: usize = 7919;
/// From a question to the next one: about what the two take.
const STEP: Duration = Duration::from_micros(2);
/// How often an answer may wait for a deadline, pacing for instance, before something is wrong.
const WAITS: usize = 100;
/// How long a connection may take to open.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) const METRICS: [Metric; 1] = [Metric {
    name: "packet_cost_10000_flows",
    unit: "ns",
    better: Better::Lower,
    load: 0,
    value: |sample| sample.seconds / sample.requests * 1e9,
}];

/// One measurement: questions and answers on one flow after the other. What is counted is packets.
pub(super) fn measure(side: Side, duration: Duration) -> Result<Sample> {
    let flows = match side {
        Side::Ours => FLOWS,
        Side::Theirs => 1,
    };
    let mut pair = Pair::connected(flows)?;
    // What was learned while connecting is not what is measured.
    pair.run(Duration::from_millis(100))?;
    pair.packets = 0;
    let time = pair.run(duration)?;
    #[expect(clippy::cast_precision_loss, reason = "packets of a second")]
    let requests = pair.packets as f64;
    let seconds = time.as_secs_f64();
    Ok(Sample { requests, bytes: 0.0, seconds, cpu: seconds })
}

/// A client and a server that answers everything with itself.
struct Pair {
    client: Netstack,
    server: Netstack,
    listener: ListenerId,
    batch: Batch,
    /// The client's streams.
    streams: Vec<StreamId>,
    /// Where the next one is in `streams`.
    next: usize,
    /// Datagrams carried.
    packets: u64,
    now: Instant,
}

impl Pair {
    fn connected(flows: usize) -> Result<Self> {
        let now = Instant::now();
        let mut server = netstack(Station::Near, now);
        let listener = server.listen(PORT)?;
        let client = netstack(Station::Far, now);
        let (batch, streams) = (Batch::new(), Vec::with_capacity(flows));
        let mut pair = Self { client, server, listener, batch, streams, next: 0, packets: 0, now };
        for _ in 0..flows {
            pair.connect()?;
        }
        ensure!(pair.server.counters().flows == flows as u64, "not every flow is open");
        Ok(pair)
    }

    fn connect(&mut self) -> Result<()> {
        self.now += STEP;
        let now = self.now;
        let stream = self.client.connect(SocketAddr::new(Station::Near.inside(), PORT), PATIENCE, now)?;
        self.streams.push(stream);
        let mut connected = false;
        while self.carry_questions() + self.carry_answers() > 0 {
            connected |= events(&mut self.client).contains(&Event::Connected(stream));
            events(&mut self.server);
            while self.server.accept(self.listener).is_some() {}
        }
        ensure!(connected, "a connection does not open");
        Ok(())
    }

    fn run(&mut self, duration: Duration) -> Result<Duration> {
        let start = Instant::now();
        loop {
            let time = start.elapsed();
            if time >= duration {
                return Ok(time);
            }
            self.ask()?;
        }
    }

    /// A question on the next flow, and its answer.
    fn ask(&mut self) -> Result<()> {
        self.now += STEP;
        let stream = self.streams[self.next];
        self.next = (self.next + STRIDE) % self.streams.len();
        ensure!(self.client.write(stream, &[7; QUESTION], self.now)? == QUESTION, "there is no room for a question");
        for _ in 0..WAITS {
            self.exchange()?;
            while let Some(event) = self.client.poll_event() {
                if event == Event::Readable(stream) {
                    return read_all(&mut self.client, stream, self.now);
                }
            }
            let due = [&self.client, &self.server].into_iter().filter_map(Netstack::poll_timeout);
            let due = due.map(|deadline| deadline.at).min().context("nothing is due, and there is no answer")?;
            self.now = self.now.max(due);
        }
        bail!("there is no answer")
    }

    /// Everything that can be said now.
    fn exchange(&mut self) -> Result<()> {
        handle_due(&mut self.client, self.now);
        self.carry_questions();
        let (server, now) = (&mut self.server, self.now);
        while let Some(event) = server.poll_event() {
            let Event::Readable(stream) = event else { continue };
            read_all(server, stream, now)?;
            ensure!(server.write(stream, &[7; QUESTION], now)? == QUESTION, "there is no room for an answer");
        }
        handle_due(server, now);
        self.carry_answers();
        Ok(())
    }

    fn carry_questions(&mut self) -> u64 {
        let Self { client, server, batch, now, .. } = self;
        let count = carry(client, server, Station::Far, batch, *now);
        self.packets += count;
        count
    }

    fn carry_answers(&mut self) -> u64 {
        let Self { client, server, batch, now, .. } = self;
        let count = carry(server, client, Station::Near, batch, *now);
        self.packets += count;
        count
    }
}

fn netstack(station: Station, now: Instant) -> Netstack {
    let config = Config {
        key: station.key(),
        addresses: vec![station.inside()],
        mtu: 1420,
        // So many that an eighth is enough for the one peer.
        limits: Limits { flows: 131_072, ..Limits::default() },
        seed: station.key_bytes(),
    };
    let mut netstack = Netstack::new(config, now);
    let other = station.other();
    let peer = Peer {
        key: other.public_key().0,
        generation: 1,
        allowed_ips: vec![other.inside().into()],
        path: Some(path(other)),
        keep_alive: None,
    };
    netstack.set_peers(&[peer], now);
    netstack
}

fn path(station: Station) -> Path {
    Path::Udp(station.ours())
}

/// Hands everything that one has to send to the other; how many datagrams that were.
fn carry(from: &mut Netstack, to: &mut Netstack, sender: Station, batch: &mut Batch, now: Instant) -> u64 {
    let mut count = 0;
    while from.poll_transmit(now, batch) {
        for datagram in batch.datagrams() {
            to.handle_datagram(path(sender), datagram, now);
            count += 1;
        }
    }
    count
}

fn handle_due(netstack: &mut Netstack, now: Instant) {
    if netstack.poll_timeout().is_some_and(|deadline| deadline.at <= now) {
        netstack.handle_timeout(now);
    }
}

fn events(netstack: &mut Netstack) -> Vec<Event> {
    std::iter::from_fn(|| netstack.poll_event()).collect()
}

/// Reads a question or an answer, and nothing else.
fn read_all(netstack: &mut Netstack, stream: StreamId, now: Instant) -> Result<()> {
    let mut buffer = [0; 2 * QUESTION];
    let mut total = 0;
    loop {
        match netstack.read(stream, &mut buffer[total..], now)? {
            Read::Bytes(count) => total += count,
            Read::Pending => break,
            Read::End => bail!("a connection has ended"),
        }
    }
    ensure!(total == QUESTION, "{total} bytes arrived instead of {QUESTION}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flow_has_its_turn() {
        let mut pair = Pair::connected(10).expect("connected");
        pair.packets = 0;
        for turn in 0..20 {
            assert_eq!(pair.next, turn * STRIDE % 10);
            pair.ask().expect("an answer");
        }
        assert!(pair.packets >= 40, "{}", pair.packets);
    }
}
