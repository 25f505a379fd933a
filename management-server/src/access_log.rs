use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use parking_lot::Mutex;
use postern_proto::management::AccessLog;

use crate::reports::{self, LogLine};

/// How many lines are kept to be looked at.
const KEPT: usize = 1000;
/// How many lines are remembered, so that one that comes again is not counted again. A proxy sends again what it sent in
/// the last moments of a broken stream.
const REMEMBERED: usize = 65_536;

/// The access log of all proxies: counted to the line, the newest kept.
#[derive(Debug, Default)]
pub(crate) struct AccessLogs {
    inner: Mutex<Inner>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Inner {
    total: u64,
    /// As they came but for their length: most are never looked at.
    newest: VecDeque<AccessLog>,
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

impl AccessLogs {
    /// Takes lines in, each once: `log_id` is unique.
    pub(crate) fn store(&self, lines: Vec<AccessLog>) {
        let mut inner = self.inner.lock();
        for mut line in lines {
            if !line.log_id.is_empty() && !inner.remember(self.hasher.hash_one(&line.log_id)) {
                continue;
            }
            inner.total += 1;
            if inner.newest.len() == KEPT {
                inner.newest.pop_front();
            }
            cut(&mut line);
            inner.newest.push_back(line);
        }
    }

    /// How many lines there were in this run.
    pub(crate) fn total(&self) -> u64 {
        self.inner.lock().total
    }

    /// The newest lines, oldest first.
    pub(crate) fn newest(&self, count: usize) -> Vec<LogLine> {
        let inner = self.inner.lock();
        let skipped = inner.newest.len().saturating_sub(count);
        inner.newest.iter().skip(skipped).cloned().map(LogLine::from_wire).collect()
    }
}

impl Inner {
    /// `false` if it is known already.
    fn remember(&mut self, id: u64) -> bool {
        if !self.known.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// Memory is bounded by the number of lines, so no line may be large.
fn cut(line: &mut AccessLog) {
    line.metadata.clear();
    let texts = [
        &mut line.log_id,
        &mut line.account_id,
        &mut line.service_id,
        &mut line.host,
        &mut line.path,
        &mut line.method,
        &mut line.source_ip,
        &mut line.auth_mechanism,
        &mut line.user_id,
        &mut line.protocol,
        &mut line.reason,
    ];
    for text in texts {
        reports::cut(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(ids: std::ops::Range<usize>) -> Vec<AccessLog> {
        ids.map(|id| AccessLog { log_id: format!("line-{id}"), ..AccessLog::default() }).collect()
    }

    #[test]
    fn each_line_counts_once_and_the_newest_stay() {
        let logs = AccessLogs::default();
        logs.store(lines(0..3000));
        logs.store(lines(2500..3500));
        assert_eq!(logs.total(), 3500);
        assert_eq!(logs.newest(2).iter().map(|line| line.id.as_str()).collect::<Vec<_>>(), ["line-3498", "line-3499"]);
        assert_eq!(logs.newest(usize::MAX).len(), KEPT);
        logs.store(vec![AccessLog::default(), AccessLog::default()]);
        assert_eq!(logs.total(), 3502, "lines without an id are all counted");
    }

    #[test]
    fn memory_is_bounded() {
        let logs = AccessLogs::default();
        logs.store(lines(0..REMEMBERED + 5000));
        let inner = logs.inner.lock();
        assert_eq!((inner.known.len(), inner.order.len(), inner.newest.len()), (REMEMBERED, REMEMBERED, KEPT));
    }
}
