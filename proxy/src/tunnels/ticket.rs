//! The one-time tokens that come with mappings: with one, this proxy becomes a peer of its account's tunnel.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use postern_model::{AccountId, OneTimeToken, ServiceId};

/// A token and the mapping that it came with.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    /// The mapping's account.
    pub account: AccountId,
    /// The service it maps.
    pub service: ServiceId,
    /// Good for one call.
    pub token: OneTimeToken,
}

/// The tickets of one account that nobody has used, the newest last. Every snapshot and every change brings others.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    unused: VecDeque<(Instant, Ticket)>,
    /// The one that was taken last.
    taken: Option<(Instant, Ticket)>,
}

impl Tickets {
    pub(super) fn put(&mut self, ticket: Ticket, now: Instant) {
        if self.unused.len() == KEPT {
            self.unused.pop_front();
        }
        self.unused.push_back((now, ticket));
    }

    /// The newest, if management still knows it.
    pub(super) fn take(&mut self, now: Instant) -> Option<Ticket> {
        self.taken = self.unused.pop_back().filter(|(since, _)| lives(*since, now));
        if self.taken.is_none() {
            self.unused.clear();
        }
        self.taken.as_ref().map(|(_, ticket)| ticket.clone())
    }

    /// The one that was taken last was not used. What came meanwhile is newer.
    pub(super) fn put_back(&mut self) {
        if let Some(taken) = self.taken.take() {
            let newer = self.unused.iter().rev().take_while(|(since, _)| *since > taken.0).count();
            self.unused.insert(self.unused.len() - newer, taken);
            self.unused.truncate(KEPT);
        }
    }

    /// Whether [`Tickets::take`] would find one.
    pub(super) fn any(&self, now: Instant) -> bool {
        self.unused.back().is_some_and(|(since, _)| lives(*since, now))
    }
}

fn lives(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < LIFE
}

/// More than a few tries are never made before others come.
const KEPT: usize = 8;

/// How long NetBird's management knows a token, less what the way may take.
const LIFE: Duration = Duration::from_secs(5 * 60 - 15);
