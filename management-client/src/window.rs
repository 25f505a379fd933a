use std::collections::VecDeque;

use postern_proto::convert::access_log_to_wire;
use postern_proto::postern::v1::AccessLogBatch;

use crate::queue::Encoded;

/// Batches that the server has not accepted yet, oldest first: those written to the present stream, then the others. Pure.
pub(crate) struct Window {
    batches: VecDeque<Batch>,
    written: usize,
    sequence: u64,
}

struct Batch {
    sequence: u64,
    lines: Vec<Encoded>,
}

/// How many batches may be on their way.
pub(crate) const WINDOW: usize = 8;

impl Window {
    pub(crate) fn new() -> Self {
        Self { batches: VecDeque::new(), written: 0, sequence: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.batches.len() < WINDOW
    }

    pub(crate) fn push(&mut self, lines: Vec<Encoded>) {
        self.sequence += 1;
        self.batches.push_back(Batch { sequence: self.sequence, lines });
    }

    /// The next batch to write to the present stream.
    pub(crate) fn write(&mut self) -> Option<AccessLogBatch> {
        let batch = self.batches.get(self.written)?;
        self.written += 1;
        Some(AccessLogBatch { sequence: batch.sequence, lines: access_log_to_wire(&batch.lines) })
    }

    /// The server has stored what was written up to this number. How many lines that were.
    pub(crate) fn accepted(&mut self, sequence: u64) -> usize {
        let mut lines = 0;
        while self.written > 0 && self.batches.front().is_some_and(|batch| batch.sequence <= sequence) {
            lines += self.batches.pop_front().map_or(0, |batch| batch.lines.len());
            self.written -= 1;
        }
        lines
    }

    /// The stream is gone: whatever was not accepted is to be written again.
    pub(crate) fn restart(&mut self) {
        self.written = 0;
    }

    /// All lines that were not accepted, for another way of delivery.
    pub(crate) fn take_lines(&mut self) -> Vec<Encoded> {
        self.written = 0;
        self.batches.drain(..).flat_map(|batch| batch.lines).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use postern_model::RequestId;
    use postern_proto::convert::{access_log_keys, access_log_message};

    use super::*;
    use crate::queue::tests::line;

    #[derive(Clone, Debug)]
    enum Happens {
        Push(u8),
        Write,
        /// Of so many written batches.
        Accept(u8),
        Restart,
    }

    fn anything() -> impl Strategy<Value = Happens> {
        prop_oneof![
            (1u8..4).prop_map(Happens::Push),
            Just(Happens::Write),
            (0u8..12).prop_map(Happens::Accept),
            Just(Happens::Restart),
        ]
    }

    proptest! {
        /// The server stores what is written to it and answers when it likes; whatever happens, each line that was pushed
        /// is either accepted, and then stored, or still in the window.
        #[test]
        fn nothing_is_lost(history in vec(anything(), 0..80)) {
            let mut window = Window::new();
            let (mut pushed, mut accepted, mut on_stream) = (0u64, 0usize, Vec::<u64>::new());
            let mut stored = BTreeSet::new();
            for happens in history {
                match happens {
                    Happens::Push(lines) if window.has_room() => {
                        window.push((pushed..pushed + u64::from(lines)).map(|n| line(n, "/")).collect());
                        pushed += u64::from(lines);
                    }
                    Happens::Push(_) => {}
                    Happens::Write => {
                        if let Some(batch) = window.write() {
                            prop_assert!(on_stream.last().is_none_or(|last| batch.sequence == last + 1), "in order");
                            on_stream.push(batch.sequence);
                            stored.extend(batch.lines.iter().map(|line| access_log_keys(line).expect("a line").id.to_vec()));
                        }
                    }
                    Happens::Accept(sequence) => accepted += window.accepted(sequence.into()),
                    Happens::Restart => {
                        window.restart();
                        on_stream.clear();
                    }
                }
                prop_assert!(stored.len() >= accepted, "only what was written is accepted");
            }
            let waiting: Vec<_> = window.take_lines().iter().map(|line| access_log_message(line).log_id).collect();
            prop_assert_eq!(accepted + waiting.len(), usize::try_from(pushed).expect("small"));
            let expected: Vec<_> = (accepted as u64..pushed).map(|n| RequestId::new(0, n).to_string()).collect();
            prop_assert_eq!(waiting, expected);
        }
    }
}
