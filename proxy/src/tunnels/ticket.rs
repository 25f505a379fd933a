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
pub(super) struct Tickets(VecDeque<(Instant, Ticket)>);

impl Tickets {
    pub(super) fn put(&mut self, ticket: Ticket, now: Instant) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((now, ticket));
    }

    /// The newest, if management still knows it.
    pub(super) fn take(&mut self, now: Instant) -> Option<Ticket> {
        let (since, ticket) = self.0.pop_back()?;
        if now.saturating_duration_since(since) < LIFE {
            return Some(ticket);
        }
        self.0.clear();
        None
    }

    /// Whether [`Tickets::take`] would find one.
    pub(super) fn any(&self, now: Instant) -> bool {
        self.0.back().is_some_and(|(since, _)| now.saturating_duration_since(*since) < LIFE)
    }
}

/// More than a few tries are never made before others come.
const KEPT: usize = 8;

/// How long NetBird's management knows a token, less what the way may take.
const LIFE: Duration = Duration::from_secs(5 * 60 - 15);
