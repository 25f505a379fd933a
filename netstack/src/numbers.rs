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
/// How far apart the numbers of two connections with the same ports are at least.
const STEP: u32 = 64 << 10;

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

    /// A port of ours towards `remote` that `is_free` agrees to: the first from a place that differs by destination and moves
    /// on with each connection.
    pub(crate) fn port(
        &mut self,
        local: IpAddr,
        remote: SocketAddr,
        is_free: impl Fn(&FourTuple) -> bool,
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
        (0..PORTS).map(|step| tuple(start % PORTS + step)).find(is_free)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashSet;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_port_is_found_once_and_then_none() {
        let mut numbers = Numbers::new(&[1; 32], Instant::now());
        let (local, remote) = (Ipv4Addr::LOCALHOST.into(), (Ipv4Addr::LOCALHOST, 443).into());
        let used = RefCell::new(HashSet::new());
        for _ in 0..PORTS {
            let tuple =
                numbers.port(local, remote, |tuple| !used.borrow().contains(&tuple.local_port)).expect("a port");
            assert!(tuple.local_port >= FIRST_PORT);
            used.borrow_mut().insert(tuple.local_port);
        }
        assert_eq!(numbers.port(local, remote, |tuple| !used.borrow().contains(&tuple.local_port)), None);
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
