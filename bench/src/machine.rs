//! What the machine says about itself in /proc: cores to pin to, how idle it is, what a process has used.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The unit of the times in /proc/PID/stat: USER_HZ, 100 on every architecture this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Who runs where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cores {
    /// Load generator and upstream.
    pub(crate) load: usize,
    /// The proxy under test, alone.
    pub(crate) proxy: usize,
}

impl Cores {
    /// The first two cores this process may use.
    pub(crate) fn choose() -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
        match first_two(list.trim()) {
            Some((load, proxy)) => Ok(Self { load, proxy }),
            None => bail!("only core {list} may be used: the benchmark needs two, one for the proxy, one for the load"),
        }
    }
}

/// The two lowest cores of a list such as `0-3,8`.
fn first_two(list: &str) -> Option<(usize, usize)> {
    let mut cores = list.split(',').flat_map(|range| {
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        match (low.parse::<usize>(), high.parse::<usize>()) {
            (Ok(low), Ok(high)) => low..high + 1,
            _ => 0..0,
        }
    });
    Some((cores.next()?, cores.next()?))
}

/// CPU seconds, user and system, that a process and its descendants have used in all their threads.
pub(crate) fn cpu_seconds(root: u32) -> Result<f64> {
    let mut processes = HashMap::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may be gone between the listing and the reading.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some(stat) = parse_stat(&stat) {
            processes.insert(pid, stat);
        }
    }
    if !processes.contains_key(&root) {
        bail!("process {root} has ended");
    }
    let ticks: u64 =
        processes.iter().filter(|(pid, _)| descends(**pid, root, &processes)).map(|(_, stat)| stat.ticks).sum();
    #[expect(clippy::cast_precision_loss, reason = "ticks of one benchmark are far below 2^52")]
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

struct Stat {
    parent: u32,
    ticks: u64,
}

fn parse_stat(stat: &str) -> Option<Stat> {
    // The command name, in parentheses, may itself hold spaces and parentheses.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat { parent: fields.get(1)?.parse().ok()?, ticks: number(11)? + number(12)? })
}

fn descends(mut pid: u32, root: u32, processes: &HashMap<u32, Stat>) -> bool {
    while pid != root {
        match processes.get(&pid) {
            Some(stat) if stat.parent != 0 => pid = stat.parent,
            Some(_) | None => return false,
        }
    }
    true
}

/// Waits for a quiet machine, for so long in a whole run.
pub(crate) struct Patience {
    left: Duration,
    /// Measurements begun on a busy machine.
    pub(crate) disturbed: u32,
}

impl Patience {
    /// Idle share of all cores from which on the machine counts as quiet.
    const QUIET: f64 = 0.93;
    /// How long that share is observed.
    const WINDOW: Duration = Duration::from_millis(500);

    pub(crate) fn new(limit: Duration) -> Self {
        Self { left: limit, disturbed: 0 }
    }

    /// Returns once the machine is quiet, or, saying so, once patience is at its end.
    pub(crate) fn wait_for_quiet(&mut self) -> Result<()> {
        loop {
            let idle = idle_share(Self::WINDOW)?;
            if idle >= Self::QUIET {
                return Ok(());
            }
            self.left = self.left.saturating_sub(Self::WINDOW);
            if self.left.is_zero() {
                self.disturbed += 1;
                println!("  the machine is only {:.0} % idle: measuring all the same", idle * 100.0);
                return Ok(());
            }
        }
    }
}

fn idle_share(window: Duration) -> Result<f64> {
    let read = || parse_times(&fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?);
    let (idle_before, total_before) = read()?;
    pause(window);
    let (idle, total) = read()?;
    #[expect(clippy::cast_precision_loss, reason = "differences over half a second are small")]
    Ok(idle.saturating_sub(idle_before) as f64 / total.saturating_sub(total_before).max(1) as f64)
}

/// Idle (waiting for disks included) and total ticks of all cores.
fn parse_times(stat: &str) -> Result<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).context("/proc/stat has no line `cpu`")?;
    // guest times, the ninth and tenth, are part of user times already
    let ticks: Vec<u64> = line.split_ascii_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    match ticks.get(3..5) {
        Some([idle, waiting]) => Ok((idle + waiting, ticks.iter().sum())),
        Some(_) | None => bail!("/proc/stat is not understood: {line}"),
    }
}

/// Asks `ready` until it has an answer, at most for `limit`.
pub(crate) fn poll<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ready()? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        pause(Duration::from_millis(10));
    }
}

#[expect(clippy::disallowed_methods, reason = "/proc and foreign processes are polled: they have nothing to wait on")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_lowest_cores_are_taken() {
        assert_eq!(first_two("0-1"), Some((0, 1)));
        assert_eq!(first_two("2,5-7"), Some((2, 5)));
        assert_eq!(first_two("0-63"), Some((0, 1)));
        assert_eq!(first_two("3"), None);
        assert_eq!(first_two(""), None);
    }

    #[test]
    fn times_are_read_past_a_hostile_name() {
        let stat = "42 (a b) c) S 7 42 42 0 -1 4194560 1 0 0 0 130 20 5 5 20 0 1 0 100 0 0";
        let stat = parse_stat(stat).expect("a stat line");
        assert_eq!((stat.parent, stat.ticks), (7, 150));
        assert!(parse_stat("42 (cut").is_none());
    }

    #[test]
    fn only_descendants_count() {
        let processes = [(1, 0), (7, 1), (8, 7), (9, 1)]
            .into_iter()
            .map(|(pid, parent)| (pid, Stat { parent, ticks: 1 }))
            .collect();
        let family: Vec<u32> = (1..10).filter(|pid| descends(*pid, 7, &processes)).collect();
        assert_eq!(family, [7, 8]);
    }

    #[test]
    fn own_work_is_seen() {
        let id = std::process::id();
        let before = cpu_seconds(id).expect("this process runs");
        let used = poll("a tick of CPU", Duration::from_secs(20), || {
            let mut sum = 0_u64;
            for number in 0..3_000_000_u64 {
                sum = std::hint::black_box(sum ^ number);
            }
            Ok(Some(cpu_seconds(id)? - before).filter(|used| *used > 0.0))
        });
        assert!(used.expect("work takes CPU") > 0.0);
        assert!(cpu_seconds(u32::MAX).is_err());
    }

    #[test]
    fn idle_is_idle_and_waiting() {
        assert_eq!(parse_times("cpu  1 2 3 10 5 0 0 4 9 9\ncpu0 1").expect("a cpu line"), (15, 25));
        assert!(parse_times("intr 1").is_err());
        assert!(parse_times("cpu  1 2 3").is_err());
    }
}
