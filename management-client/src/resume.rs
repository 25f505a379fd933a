use std::time::Instant;

use postern_model::SyncEvent;

use crate::backoff::Backoff;

/// Which call carries the mapping stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// `SyncMappings`.
    Sync,
    /// `GetMappingUpdate`, for servers that know no `SyncMappings`.
    Legacy,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The server does not know the call.
    Unimplemented,
    /// Any other way; a clean end too.
    Lost,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Open a stream.
    Connect(Method),
    /// Do nothing until then.
    Wait(Instant),
}

/// The life of the mapping stream across reconnects. Pure: it is told what happened and when.
///
/// A stream counts as opened with its first message: a server that refuses the token, or that is not there, has opened
/// nothing, and each stream that has begins a new epoch of the consumer. That a server does not know `SyncMappings` is
/// remembered for good once it has answered `GetMappingUpdate`; a gateway that knows neither teaches nothing.
pub(crate) struct Resume {
    method: Method,
    backoff: Backoff,
    /// No stream before this.
    not_before: Option<Instant>,
    answered: bool,
}

impl Resume {
    pub(crate) fn new(seed: u64) -> Self {
        Self { method: Method::Sync, backoff: Backoff::new(seed), not_before: None, answered: false }
    }

    /// While no stream is open: what to do.
    pub(crate) fn step(&self, now: Instant) -> Step {
        match self.not_before {
            Some(until) if now < until => Step::Wait(until),
            Some(_) | None => Step::Connect(self.method),
        }
    }

    /// The open stream brought a message. What to deliver before it.
    pub(crate) fn received(&mut self) -> Option<SyncEvent> {
        if self.answered {
            return None;
        }
        self.answered = true;
        self.backoff.answered();
        Some(SyncEvent::Opened)
    }

    /// The stream, or the try to open one, ended. What to deliver.
    pub(crate) fn ended(&mut self, end: End, now: Instant) -> Option<SyncEvent> {
        let lost = std::mem::take(&mut self.answered);
        if end == End::Unimplemented && !lost {
            match self.method {
                Method::Sync => {
                    self.method = Method::Legacy;
                    self.not_before = None;
                    return None;
                }
                Method::Legacy => self.method = Method::Sync,
            }
        }
        self.not_before = Some(now + self.backoff.failed());
        lost.then_some(SyncEvent::Lost)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Happens {
        Message,
        Ended(End),
    }

    fn anything() -> impl Strategy<Value = Happens> {
        prop_oneof![
            3 => Just(Happens::Message),
            2 => Just(Happens::Ended(End::Lost)),
            1 => Just(Happens::Ended(End::Unimplemented)),
        ]
    }

    /// What must hold, written without the machine's state: everything is derived from the history.
    #[derive(Default)]
    struct Reference {
        legacy: bool,
        messages: usize,
        failures: i32,
    }

    proptest! {
        #[test]
        fn follows_the_reference(seed: u64, history in vec(anything(), 0..60)) {
            let mut now = Instant::now();
            let mut resume = Resume::new(seed);
            let mut reference = Reference::default();
            for happens in history {
                let method = if reference.legacy { Method::Legacy } else { Method::Sync };
                prop_assert_eq!(resume.step(now), Step::Connect(method));
                match happens {
                    Happens::Message => {
                        let opened = matches!(resume.received(), Some(SyncEvent::Opened));
                        prop_assert_eq!(opened, reference.messages == 0, "opened once for each stream");
                        reference.messages += 1;
                        reference.failures = 0;
                    }
                    Happens::Ended(end) => {
                        let lost = matches!(resume.ended(end, now), Some(SyncEvent::Lost));
                        let answered = std::mem::take(&mut reference.messages) > 0;
                        prop_assert_eq!(lost, answered, "lost only what was opened");
                        if end == End::Unimplemented && !answered {
                            reference.legacy = !reference.legacy;
                            if reference.legacy {
                                continue;
                            }
                        }
                        let Step::Wait(until) = resume.step(now) else {
                            return Err(TestCaseError::fail("a failure is followed by a wait"));
                        };
                        let longest = (0.8 * 1.7f64.powi(reference.failures)).min(10.0);
                        let wait = (until - now).as_secs_f64();
                        prop_assert!(wait >= longest / 2.0 - 1e-6 && wait <= longest + 1e-6);
                        reference.failures += 1;
                        prop_assert!(matches!(resume.step(until - Duration::from_nanos(1)), Step::Wait(_)));
                        now = until;
                    }
                }
            }
        }
    }

    #[test]
    fn an_old_server_is_remembered() {
        let now = Instant::now();
        let mut resume = Resume::new(1);
        assert_eq!(resume.step(now), Step::Connect(Method::Sync));
        assert!(resume.ended(End::Unimplemented, now).is_none());
        assert_eq!(resume.step(now), Step::Connect(Method::Legacy), "at once");
        assert!(matches!(resume.received(), Some(SyncEvent::Opened)));
        assert!(matches!(resume.ended(End::Lost, now), Some(SyncEvent::Lost)));
        assert_eq!(resume.step(now + Duration::from_secs(10)), Step::Connect(Method::Legacy));
    }
}
