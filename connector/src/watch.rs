//! Whether the peers answer, as people want to hear of it: a pure machine.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use postern_model::PublicKey;
use postern_tunnel::PeerStatus;

/// Something that people should know of a peer. One sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum News {
    /// There is a session with it: the first one, or the first after it was silent.
    #[error("connected: {endpoint} answers")]
    Answers {
        /// As the file has it.
        endpoint: String,
    },
    /// It was sent something, and nothing came back.
    #[error(
        "{endpoint} has not answered for {} s: check its address, and with `postern peer list` that this peer is still let in",
        SILENCE.as_secs()
    )]
    Silent {
        /// As the file has it.
        endpoint: String,
    },
}

/// Three handshakes are lost by then, each on its own.
const SILENCE: Duration = Duration::from_secs(15);
/// WireGuard's REJECT_AFTER_TIME: a session is over by then.
const SESSION: Duration = Duration::from_secs(180);

/// All peers of a file, and what was told of them.
#[derive(Debug)]
pub(crate) struct Watch(HashMap<PublicKey, Line>);

/// The line to one peer.
#[derive(Debug)]
struct Line {
    endpoint: String,
    state: State,
    told: Option<Told>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// There is no session. It had been sent this many bytes when that was found.
    Idle { sent: u64 },
    /// There is none although it was sent something since.
    Trying { since: Instant },
    /// There is one.
    Up,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Answers,
    Silent,
}

impl Watch {
    pub(crate) fn new(peers: impl Iterator<Item = (PublicKey, String)>) -> Self {
        let line = |endpoint| Line { endpoint, state: State::Idle { sent: 0 }, told: None };
        Self(peers.map(|(key, endpoint)| (key, line(endpoint))).collect())
    }

    /// One thing that is to be told. Whatever else there is, the next look finds.
    pub(crate) fn look(&mut self, peers: &[PeerStatus], now: Instant) -> Option<News> {
        peers.iter().find_map(|peer| self.0.get_mut(&peer.key)?.look(peer, now))
    }
}

impl Line {
    fn look(&mut self, peer: &PeerStatus, now: Instant) -> Option<News> {
        let up = peer.last_handshake.is_some_and(|at| now.saturating_duration_since(at) < SESSION);
        self.state = match self.state {
            _ if up => State::Up,
            State::Up => State::Idle { sent: peer.sent },
            State::Idle { sent } if peer.sent > sent => State::Trying { since: now },
            State::Idle { .. } | State::Trying { .. } => self.state,
        };
        let tell = match self.state {
            State::Up => Told::Answers,
            State::Trying { since } if now.saturating_duration_since(since) >= SILENCE => Told::Silent,
            State::Trying { .. } | State::Idle { .. } => return None,
        };
        if self.told.replace(tell) == Some(tell) {
            return None;
        }
        let endpoint = self.endpoint.clone();
        Some(match tell {
            Told::Answers => News::Answers { endpoint },
            Told::Silent => News::Silent { endpoint },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        watch: Watch,
        start: Instant,
    }

    impl World {
        fn new() -> Self {
            let peers = [(PublicKey([1; 32]), "a:1".to_owned()), (PublicKey([2; 32]), "b:2".to_owned())];
            Self { watch: Watch::new(peers.into_iter()), start: Instant::now() }
        }

        /// How the first peer stands so many seconds after the start; the second is never spoken to.
        fn look(&mut self, at: u64, sent: u64, handshake: Option<u64>) -> String {
            let after = |seconds| self.start + Duration::from_secs(seconds);
            let status = |key, sent, last_handshake| PeerStatus {
                key: PublicKey([key; 32]),
                endpoint: None,
                last_handshake,
                received: 0,
                sent,
            };
            let peers = [status(1, sent, handshake.map(after)), status(2, 0, None)];
            let news = self.watch.look(&peers, after(at)).map(|news| news.to_string());
            news.and_then(|news| news.split_whitespace().next().map(str::to_owned)).unwrap_or_default()
        }
    }

    #[test]
    fn who_answers_is_told_once() {
        let mut world = World::new();
        assert_eq!(world.look(0, 148, None), "");
        assert_eq!(world.look(1, 300, Some(1)), "connected:");
        assert_eq!(world.look(2, 400, Some(1)), "");
        assert_eq!(world.look(500, 400, Some(1)), "", "an idle peer is not silent");
        assert_eq!(world.look(800, 400, Some(1)), "");
        assert_eq!(world.look(801, 500, Some(801)), "", "and that it comes back is no news");
    }

    #[test]
    fn who_is_silent_is_told_once_and_when_it_answers_after_all() {
        let mut world = World::new();
        assert_eq!(world.look(0, 148, None), "");
        assert_eq!(world.look(14, 444, None), "");
        assert_eq!(world.look(15, 592, None), "a:1");
        assert_eq!(world.look(600, 5_000, None), "");
        assert_eq!(world.look(601, 5_200, Some(601)), "connected:");
    }

    #[test]
    fn who_falls_silent_is_told_when_its_session_is_over() {
        let mut world = World::new();
        world.look(0, 148, Some(0));
        assert_eq!(world.look(179, 3_000, Some(0)), "", "the keys are good that long");
        assert_eq!(world.look(180, 3_100, Some(0)), "");
        assert_eq!(world.look(185, 3_248, Some(0)), "");
        assert_eq!(world.look(200, 3_400, Some(0)), "a:1");
    }
}
