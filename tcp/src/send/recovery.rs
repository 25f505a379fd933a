//! Whether a loss is being repaired, and whether it was one.
//!
//! F-RTO (RFC 5682) asks after a timeout whether what comes back was sent before it. The scoreboard knows that for every
//! byte, so one rule serves timeouts and fast recovery alike: an acknowledgement *proves a mistake* if it delivers bytes that
//! were taken for lost and not sent again, or were sent again less than the least round-trip time ago, or if a DSACK reports
//! them as repeated. A timeout was a mistake at the first proof that comes without a delivery which the repair could explain;
//! a fast recovery, when there is a proof for every byte that was taken for lost.

/// The episode of repair that a flow is in.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    episode: Option<Episode>,
}

#[derive(Debug)]
struct Episode {
    cause: Cause,
    /// Everything sent before the episode began ends here: it is over when that is acknowledged.
    until: u64,
    /// Bytes taken for lost and not proven a mistake.
    doubtful: u64,
}

/// Why an episode began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Loss detection.
    Loss,
    /// A retransmission timeout.
    Timeout,
}

/// What one acknowledgement says about the bytes that were taken for lost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Evidence {
    /// Bytes that were taken for lost by mistake.
    pub(crate) mistaken: u64,
    /// Whether it also delivers bytes that were repaired long enough ago.
    pub(crate) repaired: bool,
}

/// How an episode ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything lost is repaired.
    Repaired,
    /// Nothing had been lost.
    Mistake,
}

impl Recovery {
    /// Whether there is an episode.
    pub(crate) fn under_way(&self) -> bool {
        self.episode.is_some()
    }

    /// Takes note of `lost` bytes. Returns whether an episode begins with them.
    pub(crate) fn lost(&mut self, lost: u64, sent_until: u64) -> bool {
        if let Some(episode) = &mut self.episode {
            episode.doubtful += lost;
            return false;
        }
        self.episode = Some(Episode { cause: Cause::Loss, until: sent_until, doubtful: lost });
        true
    }

    /// A timeout has taken `lost` bytes for lost: a new episode, whatever the old one was.
    pub(crate) fn timed_out(&mut self, lost: u64, sent_until: u64) {
        self.episode = Some(Episode { cause: Cause::Timeout, until: sent_until, doubtful: lost });
    }

    /// Everything before `acknowledged` has been acknowledged. Returns how the episode ended, if it did.
    pub(crate) fn progressed(&mut self, evidence: Evidence, acknowledged: u64) -> Option<End> {
        let episode = self.episode.as_mut()?;
        let end = match episode.cause {
            Cause::Timeout if evidence.mistaken > 0 && !evidence.repaired => End::Mistake,
            Cause::Loss if evidence.mistaken > 0 && episode.doubtful <= evidence.mistaken => End::Mistake,
            Cause::Timeout | Cause::Loss if acknowledged >= episode.until => End::Repaired,
            Cause::Timeout | Cause::Loss => {
                episode.doubtful = episode.doubtful.saturating_sub(evidence.mistaken);
                return None;
            }
        };
        self.episode = None;
        Some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Evidence = Evidence { mistaken: 0, repaired: false };

    #[test]
    fn a_loss_is_repaired_when_all_that_was_sent_is_acknowledged() {
        let mut recovery = Recovery::default();
        assert!(recovery.lost(1000, 9000));
        assert!(!recovery.lost(1000, 12_000));
        assert_eq!(recovery.progressed(NOTHING, 8999), None);
        assert_eq!(recovery.progressed(Evidence { mistaken: 0, repaired: true }, 9000), Some(End::Repaired));
        assert!(!recovery.under_way());
    }

    #[test]
    fn a_loss_is_a_mistake_when_every_byte_is_proven_one() {
        let mut recovery = Recovery::default();
        recovery.lost(2000, 9000);
        assert_eq!(recovery.progressed(Evidence { mistaken: 1000, repaired: false }, 100), None);
        assert_eq!(recovery.progressed(Evidence { mistaken: 1000, repaired: false }, 200), Some(End::Mistake));
    }

    #[test]
    fn a_timeout_is_a_mistake_at_the_first_clear_proof() {
        let mut recovery = Recovery::default();
        recovery.timed_out(9000, 9000);
        assert_eq!(recovery.progressed(Evidence { mistaken: 1000, repaired: true }, 2000), None);
        assert_eq!(recovery.progressed(Evidence { mistaken: 1000, repaired: false }, 3000), Some(End::Mistake));
    }
}
