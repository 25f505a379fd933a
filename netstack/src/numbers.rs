//! Initial sequence numbers (RFC 6528) and ephemeral ports (RFC 6056).

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::hash::{Secret, words};
use crate::tuple::FourTuple;

/// What makes numbers that strangers cannot guess.
pub(crate) struct Numbers {
    isn: Secret,
    port: Secret,
    origin: Instant,
    opened: u64,
}

/// The ip_local_port_range of Linux.
const FIRST_PORT: u16 = 32_768;
const PORTS: u64 = 28_232;
/// Ports that are looked at before none counts as free. A peer has so few flows that with these one is found, and a search
/// costs little whatever is in use.
const PROBES: u64 = 128;
/// How far apart they lie: prime, and so no divisor of [`PORTS`], and far, for ports in use lie side by side.
const STRIDE: u64 = 10_007;
/// How far apart the numbers of two connections with the same ports are at least.
const STEP: u32 = 64 << 10;

/// What is known of a port of ours towards some destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Free,
    /// It could be used again, but an old segment of the peer's could be taken for a new one.
    Rests,
    Taken,
}

impl Numbers {
    pub(crate) fn new(seed: &[u8; 32], origin: Instant) -> Self {
        Self { isn: Secret::new(seed, 1), port: Secret::new(seed, 2), origin, opened: 0 }
    }

    /// An initial sequence number: a keyed hash and a clock of 4 µs. `above` is the least one that no straggler of the
    /// connection before can be taken for.
    pub(crate) fn isn(&self, tuple: &FourTuple, above: Option<u32>, now: Instant) -> u32 {
        let ([l0, l1], [r0, r1]) = (words(tuple.local), words(tuple.remote));
        let ports = u64::from(tuple.local_port) << 16 | u64::from(tuple.remote_port);
        let clock = now.saturating_duration_since(self.origin).as_micros() / 4;
        let isn = (self.isn.hash(&[l0, l1, r0, r1, ports]) as u32).wrapping_add(clock as u32);
        match above {
            Some(above) if (isn.wrapping_sub(above) as i32) < 0 => above.wrapping_add(STEP),
            Some(_) | None => isn,
        }
    }

    /// A number that differs from flow to flow.
    pub(crate) fn salt(&self, tuple: &FourTuple) -> u32 {
        let ports = u64::from(tuple.local_port) << 16 | u64::from(tuple.remote_port);
        self.port.hash(&[words(tuple.remote)[1], ports]) as u32
    }

    /// A port of ours towards `remote`: the first free one, else the first that only rests, from a place that differs by
    /// destination and moves on with each connection.
    pub(crate) fn port(
        &mut self,
        local: IpAddr,
        remote: SocketAddr,
        used: impl Fn(&FourTuple) -> Use,
    ) -> Option<FourTuple> {
        let ([l0, l1], [r0, r1]) = (words(local), words(remote.ip()));
        let start = self.port.hash(&[l0, l1, r0, r1, remote.port().into()]).wrapping_add(self.opened);
        self.opened += 1;
        let tuple = |port: u64| FourTuple {
            remote: remote.ip(),
            local,
            remote_port: remote.port(),
            local_port: FIRST_PORT + (port % PORTS) as u16,
        };
        let mut resting = None;
        for probe in (0..PROBES).map(|step| tuple(start % PORTS + step * STRIDE)) {
            match used(&probe) {
                Use::Free => return Some(probe),
                Use::Rests => resting = resting.or(Some(probe)),
                Use::Taken => {}
            }
        }
        resting
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::HashSet;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_free_port_is_found_then_one_that_rests_and_no_search_is_long() {
        let mut numbers = Numbers::new(&[1; 32], Instant::now());
        let (local, remote) = (Ipv4Addr::LOCALHOST.into(), (Ipv4Addr::LOCALHOST, 443).into());
        let (mut taken, probes) = (HashSet::new(), Cell::new(0));
        let mut port = |taken: &HashSet<u16>, other: Use| {
            probes.set(0);
            let found = numbers.port(local, remote, |tuple| {
                probes.set(probes.get() + 1);
                if taken.contains(&tuple.local_port) { other } else { Use::Free }
            });
            assert!(probes.get() <= PROBES);
            found.map(|tuple| tuple.local_port)
        };
        // As many flows as a peer may have, and half as many again.
        for _ in 0..24_576 {
            let found = port(&taken, Use::Taken).expect("a port");
            assert!(found >= FIRST_PORT && taken.insert(found));
        }
        taken.extend(FIRST_PORT..=u16::MAX);
        assert_eq!(port(&taken, Use::Taken), None);
        assert!(port(&taken, Use::Rests).is_some());
        taken.remove(&40_000);
        let free = (0..PORTS).filter(|_| port(&taken, Use::Rests) == Some(40_000));
        assert!(free.count() > 0, "a free one is taken before those that rest");
    }

    #[test]
    fn numbers_differ_by_ports_move_on_with_time_and_lie_above_the_last() {
        let start = Instant::now();
        let numbers = Numbers::new(&[1; 32], start);
        let local = Ipv4Addr::LOCALHOST.into();
        let tuple = |port| FourTuple { remote: local, local, remote_port: 443, local_port: port };
        let isn = numbers.isn(&tuple(1), None, start);
        assert_ne!(isn, numbers.isn(&tuple(2), None, start));
        assert_eq!(numbers.isn(&tuple(1), None, start + Duration::from_secs(1)), isn.wrapping_add(250_000));
        let above = isn.wrapping_add(1000);
        assert!((numbers.isn(&tuple(1), Some(above), start).wrapping_sub(above) as i32) > 0);
        assert_eq!(numbers.isn(&tuple(1), Some(isn.wrapping_sub(5)), start), isn);
    }
}
