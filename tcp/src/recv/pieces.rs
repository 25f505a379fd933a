//! What arrived beyond a hole: ranges of stream offsets, and which of them to tell the peer about.

use std::collections::BTreeMap;

/// Disjoint ranges that do not touch each other, and the places where something arrived last.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    ranges: BTreeMap<u64, u64>,
    /// A point inside each of the ranges that changed last, newest first: points survive merging, ranges do not.
    recent: [Option<u64>; RECENT],
}

/// RFC 2018 section 4 wants each block repeated at least three times; four blocks fit into a header.
const RECENT: usize = 4;

impl Pieces {
    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether all of `from..to` is known.
    pub(crate) fn contain(&self, from: u64, to: u64) -> bool {
        self.at(from).is_some_and(|(_, end)| to <= end)
    }

    /// The end of the last range.
    pub(crate) fn end(&self) -> Option<u64> {
        self.ranges.last_key_value().map(|(_, end)| *end)
    }

    /// Adds `from..to`, which is not empty, merging it with what it touches.
    pub(crate) fn insert(&mut self, from: u64, to: u64) {
        let (mut start, mut end) = (from, to);
        while let Some((&left, &right)) = self.ranges.range(..=end).next_back() {
            if right < start {
                break;
            }
            (start, end) = (start.min(left), end.max(right));
            self.ranges.remove(&left);
        }
        self.ranges.insert(start, end);
        self.remember(from, start, end);
    }

    /// Everything before `next` has arrived: drops what it covers and returns how far it really goes, over the range that
    /// it touches.
    pub(crate) fn advance(&mut self, next: u64) -> u64 {
        let mut next = next;
        while let Some(first) = self.ranges.first_entry() {
            if *first.key() > next {
                break;
            }
            next = next.max(first.remove());
        }
        for point in &mut self.recent {
            *point = point.filter(|point| *point >= next);
        }
        next
    }

    /// Up to four ranges, the one that changed last first (RFC 2018 section 4).
    pub(crate) fn newest(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.recent.iter().flatten().filter_map(|point| self.at(*point))
    }

    fn at(&self, point: u64) -> Option<(u64, u64)> {
        self.ranges.range(..=point).next_back().map(|(start, end)| (*start, *end)).filter(|(_, end)| point < *end)
    }

    fn remember(&mut self, point: u64, start: u64, end: u64) {
        let others = self.recent.into_iter().flatten().filter(|other| !(start..end).contains(other));
        let mut recent = [None; RECENT];
        for (slot, point) in recent.iter_mut().zip(std::iter::once(point).chain(others)) {
            *slot = Some(point);
        }
        self.recent = recent;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agree_with_a_set_of_bytes(steps in prop::collection::vec((1..200u64, 1..20u64), 1..60)) {
            let mut pieces = Pieces::default();
            let mut model = vec![false; 256];
            for (from, len) in steps {
                pieces.insert(from, from + len);
                model[from as usize..(from + len) as usize].fill(true);
                let newest = pieces.newest().next().expect("one was just inserted");
                prop_assert!(newest.0 <= from && from + len <= newest.1);
                let blocks: Vec<_> = pieces.newest().collect();
                let mut distinct = blocks.clone();
                distinct.sort_unstable();
                distinct.dedup();
                prop_assert_eq!(blocks.len(), distinct.len());
                prop_assert_eq!(blocks.len(), pieces.len().min(RECENT).min(blocks.len()));
                for at in 1..250 {
                    prop_assert_eq!(pieces.contain(at, at + 1), model[at as usize]);
                }
            }
            let first = model.iter().skip(1).position(|held| !held).expect("the last is never set") as u64 + 1;
            prop_assert_eq!(pieces.advance(1), first);
            prop_assert!(pieces.newest().all(|(start, _)| start > first));
        }
    }

    #[test]
    fn blocks_stay_in_order_of_arrival() {
        let mut pieces = Pieces::default();
        for from in [10, 30, 50, 70, 90] {
            pieces.insert(from, from + 5);
        }
        let order = |pieces: &Pieces| pieces.newest().map(|(start, _)| start).collect::<Vec<_>>();
        assert_eq!(order(&pieces), [90, 70, 50, 30]);
        pieces.insert(35, 40);
        assert_eq!(order(&pieces), [30, 90, 70, 50]);
        pieces.insert(55, 70);
        assert_eq!(order(&pieces), [50, 30, 90]);
    }
}
