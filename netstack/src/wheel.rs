//! Deadlines of flows: set, moved and taken away at constant cost, however many there are.

use std::time::{Duration, Instant};

/// A hierarchical timer wheel (Varghese, Lauck 1987). Entries are small numbers, the slots of a slab, and each has at most one
/// deadline. Deadlines are rounded up to whole ticks, so that none rings early.
pub(crate) struct Wheel {
    origin: Instant,
    /// Everything up to here has rung.
    current: u64,
    levels: Box<[Level; LEVELS]>,
    nodes: Vec<Node>,
}

/// 2^16 ns: a third of what one packet takes at 50 Mbit/s.
const TICK_BITS: u32 = 16;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// 48 bits of ticks: five centuries.
const LEVELS: usize = 8;
const LAST_TICK: u64 = (1 << (SLOT_BITS * LEVELS as u32)) - 1;
const NOBODY: u32 = u32::MAX;
const NOWHERE: u16 = u16::MAX;

#[derive(Clone, Copy)]
struct Level {
    /// Which slots have entries.
    occupied: u64,
    heads: [u32; SLOTS],
    /// No entry of the slot is due before this tick.
    least: [u64; SLOTS],
}

#[derive(Clone, Copy)]
struct Node {
    tick: u64,
    prev: u32,
    next: u32,
    /// Level and slot in one, or [`NOWHERE`].
    place: u16,
}

impl Wheel {
    pub(crate) fn new(origin: Instant) -> Self {
        let level = Level { occupied: 0, heads: [NOBODY; SLOTS], least: [0; SLOTS] };
        Self { origin, current: 0, levels: Box::new([level; LEVELS]), nodes: Vec::new() }
    }

    /// Sets, moves or takes away an entry's deadline.
    pub(crate) fn set(&mut self, entry: u32, at: Option<Instant>) {
        let index = entry as usize;
        if index >= self.nodes.len() {
            self.nodes.resize(index + 1, Node { tick: 0, prev: NOBODY, next: NOBODY, place: NOWHERE });
        }
        let tick = at.map(|at| self.tick(at).max(self.current + 1).min(LAST_TICK));
        let node = self.nodes[index];
        if node.place != NOWHERE {
            if tick == Some(node.tick) {
                return;
            }
            self.unlink(entry);
        }
        if let Some(tick) = tick {
            self.link(entry, tick);
        }
    }

    /// Takes out what is due and appends it to `due`.
    pub(crate) fn expire(&mut self, now: Instant, due: &mut Vec<u32>) {
        let nanos = now.saturating_duration_since(self.origin).as_nanos();
        let target = ((nanos >> TICK_BITS) as u64).min(LAST_TICK);
        while let Some((level, slot)) = self.first() {
            let start = self.start(level, slot);
            if start > target {
                break;
            }
            self.current = self.current.max(start);
            let mut entry = self.levels[level].heads[slot];
            self.levels[level].heads[slot] = NOBODY;
            self.levels[level].occupied &= !(1 << slot);
            while entry != NOBODY {
                let node = self.nodes[entry as usize];
                self.nodes[entry as usize].place = NOWHERE;
                if node.tick <= target {
                    due.push(entry);
                } else {
                    self.link(entry, node.tick);
                }
                entry = node.next;
            }
        }
        self.current = self.current.max(target);
    }

    /// When to call [`expire`](Self::expire): never later than the next deadline, and earlier only if one was taken away.
    pub(crate) fn next(&self) -> Option<Instant> {
        let (level, slot) = self.first()?;
        let tick = self.levels[level].least[slot];
        Some(self.origin + Duration::from_nanos(tick << TICK_BITS))
    }

    fn tick(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.origin).as_nanos();
        (nanos.min(u128::from(u64::MAX >> 1)) as u64).div_ceil(1 << TICK_BITS)
    }

    /// The slot with the earliest entries. All of a level lie before all of the next one: entries are placed by the highest
    /// digit in which they differ from `current`.
    fn first(&self) -> Option<(usize, usize)> {
        let level = self.levels.iter().position(|level| level.occupied != 0)?;
        Some((level, self.levels[level].occupied.trailing_zeros() as usize))
    }

    fn start(&self, level: usize, slot: usize) -> u64 {
        let shift = SLOT_BITS * level as u32;
        let above = self.current >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
        above | (slot as u64) << shift
    }

    fn link(&mut self, entry: u32, tick: u64) {
        let digit = 63 - ((tick ^ self.current) | 1).leading_zeros();
        let level = (digit / SLOT_BITS) as usize;
        let slot = (tick >> (SLOT_BITS * level as u32)) as usize % SLOTS;
        let bucket = &mut self.levels[level];
        let next = bucket.heads[slot];
        bucket.heads[slot] = entry;
        bucket.least[slot] = if next == NOBODY { tick } else { bucket.least[slot].min(tick) };
        bucket.occupied |= 1 << slot;
        self.nodes[entry as usize] = Node { tick, prev: NOBODY, next, place: (level * SLOTS + slot) as u16 };
        if next != NOBODY {
            self.nodes[next as usize].prev = entry;
        }
    }

    fn unlink(&mut self, entry: u32) {
        let node = self.nodes[entry as usize];
        let (level, slot) = (usize::from(node.place) / SLOTS, usize::from(node.place) % SLOTS);
        if node.prev == NOBODY {
            self.levels[level].heads[slot] = node.next;
            if node.next == NOBODY {
                self.levels[level].occupied &= !(1 << slot);
            }
        } else {
            self.nodes[node.prev as usize].next = node.next;
        }
        if node.next != NOBODY {
            self.nodes[node.next as usize].prev = node.prev;
        }
        self.nodes[entry as usize].place = NOWHERE;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_nanos(1 << TICK_BITS);

    #[derive(Debug, Clone)]
    enum Step {
        Set(u32, u64),
        Clear(u32),
        Pass(u64),
        ToNext,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let span = prop_oneof![0..1000u64, 0..1_000_000_000u64, 0..10_000_000_000_000u64];
        let step = prop_oneof![
            4 => (0..40u32, span.clone()).prop_map(|(entry, span)| Step::Set(entry, span)),
            1 => (0..40u32).prop_map(Step::Clear),
            2 => span.prop_map(Step::Pass),
            2 => Just(Step::ToNext),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        #[test]
        fn rings_like_a_sorted_map(steps in steps()) {
            let origin = Instant::now();
            let (mut wheel, mut model) = (Wheel::new(origin), BTreeMap::new());
            let mut now = origin;
            for step in steps {
                match step {
                    Step::Set(entry, nanos) => {
                        let at = now + Duration::from_nanos(nanos);
                        wheel.set(entry, Some(at));
                        model.insert(entry, at);
                    }
                    Step::Clear(entry) => {
                        wheel.set(entry, None);
                        model.remove(&entry);
                    }
                    Step::Pass(nanos) => now += Duration::from_nanos(nanos),
                    Step::ToNext => now = wheel.next().unwrap_or(now).max(now),
                }
                let mut due = Vec::new();
                wheel.expire(now, &mut due);
                for entry in due {
                    let at = model.remove(&entry);
                    prop_assert!(at.is_some_and(|at| at <= now), "nothing rings early or twice");
                }
                prop_assert!(model.values().all(|at| *at + 2 * TICK > now), "nothing rings late");
                prop_assert_eq!(wheel.next().is_none(), model.is_empty());
                if let (Some(next), Some(least)) = (wheel.next(), model.values().min()) {
                    prop_assert!(next <= *least + 2 * TICK && next > now);
                }
            }
        }
    }

    #[test]
    fn ten_thousand_far_deadlines_are_not_looked_at() {
        let origin = Instant::now();
        let mut wheel = Wheel::new(origin);
        for entry in 0..10_000 {
            wheel.set(entry, Some(origin + Duration::from_secs(300) + Duration::from_micros(u64::from(entry))));
        }
        let next = wheel.next().expect("a deadline");
        assert!(next >= origin + Duration::from_secs(300), "nobody is woken before");
        let mut due = Vec::new();
        wheel.expire(next, &mut due);
        assert!(!due.is_empty() && due.len() < 200);
    }
}
