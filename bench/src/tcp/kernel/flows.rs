//! Our flows as the server at the end of the line.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use postern_tcp::{Buffers, Config, Flow, Phase, Segment};

use super::packet::{MTU, PORT, source_port};
use super::sockets::REQUEST;
use super::tun::{BEYOND, KERNEL};
use crate::tcp::wire::{Ends, IP, TCP, print, read};

/// What a flow hands out at once.
const MOST_AT_ONCE: usize = 60_000;
/// As the kernel's limits in `sockets`: several times what the path holds.
const BUFFER: usize = 16 << 20;

/// Connections by the port of their client.
#[derive(Default)]
pub(super) struct Flows {
    open: HashMap<u16, Served>,
    /// How many there have been.
    count: u32,
}

struct Served {
    flow: Flow,
    /// Bytes of the answer that are not written yet; `None` before the request.
    left: Option<u64>,
}

impl Flows {
    /// Takes a packet that a client has sent.
    pub(super) fn handle(&mut self, packet: &[u8], now: Instant) {
        let client = source_port(packet);
        read(packet, |segment| self.handle_segment(segment, client, now));
    }

    fn handle_segment(&mut self, segment: &Segment<'_>, client: u16, now: Instant) {
        if let Some(served) = self.open.get_mut(&client) {
            served.flow.handle_segment(segment, now);
            return;
        }
        let config = Config {
            mtu: MTU,
            buffers: Buffers { send: BUFFER, receive: BUFFER },
            salt: self.count.wrapping_mul(0x9e37_79b9),
            time_wait: Duration::ZERO,
            ..Config::default()
        };
        // What is left of a connection that has ended is no SYN.
        if let Some(flow) = Flow::accept(config, segment, self.count << 12, now) {
            self.count += 1;
            self.open.insert(client, Served { flow, left: None });
        }
    }

    /// Lets every flow do what it can; `send` takes its packets.
    pub(super) fn work(&mut self, now: Instant, mut send: impl FnMut(Vec<u8>)) {
        self.open.retain(|client, served| {
            served.flow.handle_timeout(now);
            served.answer();
            let ends = Ends { from: (BEYOND.0, PORT), to: (KERNEL.0, *client) };
            while let Some(transmit) = served.flow.poll_transmit(now, MOST_AT_ONCE) {
                for (header, payload) in transmit.packets() {
                    let mut packet = vec![0; IP + TCP + header.options_len() + payload.0.len() + payload.1.len()];
                    print(&mut packet, &ends, &header, payload);
                    send(packet);
                }
            }
            !matches!(served.flow.phase(), Phase::TimeWait | Phase::Closed)
        });
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.open.values().filter_map(|served| served.flow.poll_timeout()).min()
    }
}

impl Served {
    fn answer(&mut self) {
        static CHUNK: [u8; 64 << 10] = [7; 64 << 10];
        if self.left.is_none() {
            let (head, _) = self.flow.peek();
            self.left = head.first_chunk::<REQUEST>().map(|size| u64::from_be_bytes(*size));
        }
        let Some(left) = &mut self.left else { return };
        while *left > 0 {
            let chunk = &CHUNK[..CHUNK.len().min(usize::try_from(*left).unwrap_or(usize::MAX))];
            let written = self.flow.write(chunk) as u64;
            if written == 0 {
                return;
            }
            *left -= written;
        }
        self.flow.shutdown();
    }
}
