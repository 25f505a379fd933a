use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

use parking_lot::Mutex;
use postern_proto::management::AccessLog;
use prost::Message;

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
    /// Encoded, as they came but for their length: most are never looked at.
    newest: VecDeque<Box<[u8]>>,
    known: HashSet<u64, BuildHasherDefault<Hashed>>,
    order: VecDeque<u64>,
}

impl AccessLogs {
    /// Takes encoded lines in, with the `log_id` of each: it is unique, and a line that comes again does not count.
    pub(crate) fn store<'a>(&self, lines: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) {
        let mut inner = self.inner.lock();
        for (id, line) in lines {
            if !id.is_empty() && !inner.remember(self.hasher.hash_one(id)) {
                continue;
            }
            inner.total += 1;
            if inner.newest.len() == KEPT {
                inner.newest.pop_front();
            }
            inner.newest.extend(short(line));
        }
    }

    /// How many lines there were in this run.
    pub(crate) fn total(&self) -> u64 {
        self.inner.lock().total
    }

    /// The newest lines, oldest first; without those that turn out to be none.
    pub(crate) fn newest(&self, count: usize) -> Vec<LogLine> {
        let inner = self.inner.lock();
        let skipped = inner.newest.len().saturating_sub(count);
        let lines = inner.newest.iter().skip(skipped).filter_map(|line| AccessLog::decode(line.as_ref()).ok());
        lines.map(LogLine::from_wire).collect()
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

/// What is put into the set is a hash with a key of ours already.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only hashes are hashed");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Memory is bounded by the number of lines, so no line may be large. `None` for a large one that cannot be read.
fn short(line: &[u8]) -> Option<Box<[u8]>> {
    const USUAL: usize = 1024;
    if line.len() <= USUAL {
        return Some(line.into());
    }
    let mut line = AccessLog::decode(line).ok()?;
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
    Some(line.encode_to_vec().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(logs: &AccessLogs, ids: std::ops::Range<usize>) {
        for log_id in ids.map(|id| format!("line-{id}")) {
            let line = AccessLog { log_id: log_id.clone(), ..AccessLog::default() };
            logs.store([(log_id.as_bytes(), line.encode_to_vec().as_slice())]);
        }
    }

    #[test]
    fn each_line_counts_once_and_the_newest_stay() {
        let logs = AccessLogs::default();
        store(&logs, 0..3000);
        store(&logs, 2500..3500);
        assert_eq!(logs.total(), 3500);
        assert_eq!(logs.newest(2).iter().map(|line| line.id.as_str()).collect::<Vec<_>>(), ["line-3498", "line-3499"]);
        assert_eq!(logs.newest(usize::MAX).len(), KEPT);
        logs.store([(&b""[..], &b""[..]); 2]);
        assert_eq!(logs.total(), 3502, "lines without an id are all counted");
    }

    #[test]
    fn memory_is_bounded() {
        let logs = AccessLogs::default();
        store(&logs, 0..REMEMBERED + 5000);
        let inner = logs.inner.lock();
        assert_eq!((inner.known.len(), inner.order.len(), inner.newest.len()), (REMEMBERED, REMEMBERED, KEPT));
    }

    #[test]
    fn long_lines_are_cut_and_what_is_none_is_not_shown() {
        let logs = AccessLogs::default();
        let line = AccessLog { path: "x".repeat(100_000), method: "GET".into(), ..AccessLog::default() };
        logs.store([(&b"1"[..], line.encode_to_vec().as_slice()), (b"2", b"\x12\x01\xff"), (b"3", &[0xff; 2000])]);
        assert!(logs.inner.lock().newest.iter().all(|line| line.len() < 1100));
        let shown = logs.newest(3);
        assert_eq!(
            shown.iter().map(|line| (line.method.as_str(), line.path.chars().count())).collect::<Vec<_>>(),
            [("GET", 1025)]
        );
        assert_eq!(logs.total(), 3);
    }
}
