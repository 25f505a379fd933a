//! What remains of flows that have ended, in small records: TIME-WAIT, and ports that rest.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use postern_tcp::TimeWait;

use crate::engine::PeerIndex;
use crate::hash::Keyed;
use crate::tuple::FourTuple;

/// Bounded; the oldest go first. Nobody is woken to clear it up: what is too old is not found, and goes when others come.
#[derive(Debug)]
pub(crate) struct Ended {
    records: HashMap<FourTuple, Record, Keyed>,
    /// In the order of their ends. A record that has been replaced has two places; the older one is passed over.
    order: VecDeque<(Instant, FourTuple)>,
    most: usize,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    peer: PeerIndex,
    until: Instant,
    /// `None` for a flow that ended without TIME-WAIT: its ports rest, as long as there are others, so that an old segment is
    /// not taken for one of the next connection.
    wait: Option<TimeWait>,
}

impl Ended {
    /// The 60 seconds of Linux, for both kinds.
    pub(crate) const REST: Duration = Duration::from_secs(60);

    pub(crate) fn new(hasher: Keyed, most: usize) -> Self {
        Self { records: HashMap::with_hasher(hasher), order: VecDeque::new(), most: most.max(1) }
    }

    pub(crate) fn insert(&mut self, tuple: FourTuple, peer: PeerIndex, wait: Option<TimeWait>, now: Instant) {
        while self.order.front().is_some_and(|(until, _)| *until <= now) || self.order.len() >= self.most {
            self.forget_first();
        }
        let until = now + Self::REST;
        self.records.insert(tuple, Record { peer, until, wait });
        self.order.push_back((until, tuple));
    }

    /// Whether the ports of `tuple` rest, and if so, whether that is TIME-WAIT.
    pub(crate) fn rests(&self, tuple: &FourTuple, now: Instant) -> Option<bool> {
        let record = self.records.get(tuple).filter(|record| record.until > now)?;
        Some(record.wait.is_some())
    }

    /// What answers stragglers of `peer`.
    pub(crate) fn time_wait(&self, tuple: &FourTuple, peer: PeerIndex, now: Instant) -> Option<TimeWait> {
        let record = self.records.get(tuple)?;
        record.wait.filter(|_| record.peer == peer && record.until > now)
    }

    pub(crate) fn remove(&mut self, tuple: &FourTuple) {
        self.records.remove(tuple);
    }

    /// Forgets the records of peers that `gone` names.
    pub(crate) fn forget(&mut self, gone: impl Fn(PeerIndex) -> bool) {
        self.records.retain(|_, record| !gone(record.peer));
    }

    fn forget_first(&mut self) {
        let Some((until, tuple)) = self.order.pop_front() else { return };
        if self.records.get(&tuple).is_some_and(|record| record.until == until) {
            self.records.remove(&tuple);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::hash::Secret;

    fn tuple(port: u16) -> FourTuple {
        let local = Ipv4Addr::LOCALHOST.into();
        FourTuple { remote: local, local, remote_port: 443, local_port: port }
    }

    #[test]
    fn a_record_rests_for_a_minute_and_the_oldest_go_first() {
        let start = Instant::now();
        let mut ended = Ended::new(Keyed::new(&Secret::new(&[0; 32], 0)), 10);
        for port in 0..20 {
            ended.insert(tuple(port), PeerIndex(0), None, start + Duration::from_millis(port.into()));
        }
        assert_eq!((ended.records.len(), ended.order.len()), (10, 10));
        assert_eq!((ended.rests(&tuple(9), start), ended.rests(&tuple(10), start)), (None, Some(false)));
        assert_eq!(ended.rests(&tuple(10), start + Ended::REST + Duration::from_millis(10)), None);
        ended.insert(tuple(99), PeerIndex(0), None, start + 2 * Ended::REST);
        assert_eq!((ended.records.len(), ended.order.len()), (1, 1));
    }

    #[test]
    fn a_record_that_is_replaced_rests_from_then() {
        let start = Instant::now();
        let mut ended = Ended::new(Keyed::new(&Secret::new(&[0; 32], 0)), 10);
        let later = start + Duration::from_secs(30);
        ended.insert(tuple(1), PeerIndex(0), None, start);
        ended.insert(tuple(1), PeerIndex(0), None, later);
        ended.insert(tuple(2), PeerIndex(0), None, start + Ended::REST);
        assert_eq!(ended.rests(&tuple(1), start + Ended::REST), Some(false));
    }
}
