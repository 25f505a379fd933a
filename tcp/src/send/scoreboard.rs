//! What is in flight: which bytes, sent when, and what became of them.
//!
//! Two views of the same bytes. *Ranges* are in stream order and without gaps from the first unacknowledged byte to the last
//! one sent; SACK splits them and sacked neighbours melt, so that there are as many as there are holes. *Transmissions* are
//! in order of sending, one for each time that bytes were handed out, and hold what loss detection and rate samples need to
//! know about that moment. A range names its last transmission. A range is found by bisection, each transmission is passed
//! once, and the lost ones have an index: nothing scans.

use std::collections::{BTreeSet, VecDeque};

use super::range::{Range, State};
use super::transmission::{Delivered, Only, Snapshot, Transmission};
use crate::clock::Instant;

/// Everything between the first unacknowledged offset and the last one sent.
#[derive(Debug, Default)]
pub(crate) struct Scoreboard {
    start: u64,
    end: u64,
    /// In stream order, without gaps.
    ranges: VecDeque<Range>,
    transmissions: VecDeque<Transmission>,
    /// Number of the first of `transmissions`.
    first: u64,
    /// Number of the first transmission that may have bytes in flight.
    oldest: u64,
    /// Starts of the ranges that are lost and not sent again.
    lost: BTreeSet<u64>,
    in_flight: u64,
    sacked: u64,
    /// Ranges visited so far: what the cost of an acknowledgement is measured in.
    steps: u64,
}

/// Memory for records, without any.
#[derive(Default)]
pub(crate) struct Records {
    ranges: VecDeque<Range>,
    transmissions: VecDeque<Transmission>,
}

/// As many records as an exchange of requests and answers has on its way.
const FEW: usize = 4;

impl Scoreboard {
    /// The memory of the records, if it is little: for the scoreboard of the next connection.
    #[inline(always)]
    pub(crate) fn take_records(&mut self) -> Records {
        let mut records = Records {
            ranges: std::mem::take(&mut self.ranges),
            transmissions: std::mem::take(&mut self.transmissions),
        };
        records.ranges.clear();
        records.transmissions.clear();
        if records.ranges.capacity().max(records.transmissions.capacity()) > FEW {
            return Records::default();
        }
        records
    }

    /// Goes on in the memory of another's records; for a scoreboard without any.
    pub(crate) fn use_records(&mut self, records: Records) {
        (self.ranges, self.transmissions) = (records.ranges, records.transmissions);
    }

    /// The first unacknowledged offset (SND.UNA).
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// One past the last offset sent (SND.NXT).
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes believed to be in the network: neither acknowledged, nor sacked, nor lost ("pipe" of RFC 6675).
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Bytes that the peer has reported beyond a hole.
    pub(crate) fn sacked(&self) -> u64 {
        self.sacked
    }

    /// Whether nothing is unacknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How many ranges there are: the memory taken grows with them.
    pub(crate) fn ranges(&self) -> usize {
        self.ranges.len()
    }

    /// Ranges visited so far.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether some bytes are lost and not sent again.
    pub(crate) fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// The first bytes that are lost and not sent again.
    pub(crate) fn first_lost(&self) -> Option<(u64, u64)> {
        self.lost.first().map(|start| (*start, self.ranges[self.index(*start)].end))
    }

    /// The last bytes sent that the peer has not reported, at most `most` of them: what a tail loss probe repeats.
    pub(crate) fn last_unreported(&self, most: u64) -> Option<(u64, u64)> {
        let range = self.ranges.iter().rev().find(|range| range.state != State::Sacked)?;
        Some((range.end.saturating_sub(most).max(range.start), range.end))
    }

    /// The oldest transmission that still has bytes in flight, and when it was sent. Each is passed at most once.
    pub(crate) fn oldest_in_flight(&mut self) -> Option<(u64, Instant)> {
        loop {
            let transmission = self.transmission(self.oldest)?;
            if transmission.flying > 0 {
                return Some((self.oldest, transmission.at));
            }
            self.oldest += 1;
            self.steps += 1;
        }
    }

    /// Whether transmission `number` has bytes in flight before offset `until`.
    pub(crate) fn flies_before(&mut self, number: u64, until: u64) -> bool {
        let Some(&Transmission { start, .. }) = self.transmission(number) else { return false };
        let start = start.max(self.start);
        if start >= until {
            return false;
        }
        let from = self.index(start);
        let mut ranges = self.ranges.range(from..).take_while(|range| range.start < until).inspect(|_| self.steps += 1);
        ranges.any(|range| range.state == State::InFlight && range.sent_as == number)
    }

    /// Records that `start..end` was sent: new data at the end, or a lost range, or part of one, again.
    #[inline(always)]
    pub(crate) fn sent(&mut self, start: u64, end: u64, at: Instant, mut sample: Snapshot) {
        let number = self.first + self.transmissions.len() as u64;
        let range = Range { start, end, state: State::InFlight, sent_as: number, resent: start < self.end };
        if range.resent {
            let index = self.take_out(start, end);
            self.ranges[index] = range;
            self.forget();
        } else {
            debug_assert_eq!(start, self.end);
            self.end = end;
            self.ranges.push_back(range);
        }
        self.in_flight += end - start;
        sample.in_flight = self.in_flight;
        self.transmissions.push_back(Transmission { start, end, at, sample, flying: end - start, live: end - start });
    }

    /// Records that everything before `ack` was delivered, if that is all there is, and is one transmission's, sent once: the
    /// usual case of an exchange. Otherwise nothing happens.
    pub(crate) fn take_only(&mut self, ack: u64) -> Option<Only> {
        let range = self.ranges.front()?;
        let simple = range.state == State::InFlight && !range.resent && self.ranges.len() == 1;
        if ack != self.end || !simple || range.sent_as != self.first || self.transmissions.len() != 1 {
            return None;
        }
        let only = Only { start: range.start, number: range.sent_as, transmission: self.transmissions.pop_front()? };
        self.ranges.clear();
        self.first += 1;
        (self.start, self.oldest, self.in_flight) = (ack, self.first, 0);
        self.steps += 1;
        Some(only)
    }

    /// Records that everything before `ack` was delivered; tells `each` about what is news.
    pub(crate) fn acknowledge(&mut self, ack: u64, mut each: impl FnMut(Delivered<'_>)) {
        debug_assert!(ack <= self.end);
        if ack <= self.start {
            return;
        }
        self.split(ack);
        while let Some(range) = self.ranges.front_mut().filter(|range| range.start < ack) {
            self.steps += 1;
            let gone = *range;
            if gone.state != State::Sacked {
                self.ranges.pop_front();
                each(self.settle(gone));
                continue;
            }
            self.sacked -= gone.end.min(ack) - gone.start;
            range.start = ack;
            if gone.end <= ack {
                self.ranges.pop_front();
            }
        }
        self.start = ack;
        self.forget();
    }

    /// Records that everything was delivered and nothing more will be sent: there is nothing to tell.
    pub(crate) fn finish(&mut self) {
        self.first += self.transmissions.len() as u64;
        self.clear();
        (self.start, self.oldest, self.in_flight, self.sacked) = (self.end, self.first, 0, 0);
    }

    /// Records that `left..right` has been reported by SACK; tells `each` about what is news.
    pub(crate) fn sack(&mut self, left: u64, right: u64, mut each: impl FnMut(Delivered<'_>)) {
        debug_assert!(self.start <= left && left < right && right <= self.end);
        let index = self.index(left);
        self.steps += 1;
        if self.ranges[index].state == State::Sacked && self.ranges[index].end >= right {
            return;
        }
        self.split(left);
        self.split(right);
        let mut index = self.index(left);
        while let Some(range) = self.ranges.get_mut(index).filter(|range| range.start < right) {
            self.steps += 1;
            let news = *range;
            index += 1;
            if news.state != State::Sacked {
                *range = Range { state: State::Sacked, sent_as: FORGOTTEN, resent: false, ..news };
                self.sacked += news.end - news.start;
                each(self.settle(news));
                index = self.melt(index - 1) + 1;
            }
        }
        self.forget();
    }

    /// Takes for lost what is in flight of transmission `number` before offset `until`.
    pub(crate) fn lose_transmission(&mut self, number: u64, until: u64) -> u64 {
        let Some(&Transmission { start, end, .. }) = self.transmission(number) else { return 0 };
        self.lose_where(start, end.min(until), |range| range.sent_as == number)
    }

    /// Takes for lost what is in flight of `start..end`.
    pub(crate) fn lose(&mut self, start: u64, end: u64) -> u64 {
        self.lose_where(start.max(self.start), end.min(self.end), |_| true)
    }

    /// The peer has forgotten what it reported (RFC 2018 section 8), so that everything must be sent again.
    pub(crate) fn forget_sacks(&mut self) {
        for range in &mut self.ranges {
            if range.state == State::Sacked {
                *range = Range { state: State::Lost, sent_as: FORGOTTEN, resent: true, ..*range };
                self.lost.insert(range.start);
            }
        }
        self.sacked = 0;
    }

    /// Whether the first unacknowledged byte is one that the peer has reported: it has forgotten it.
    pub(crate) fn reneged(&self) -> bool {
        self.ranges.front().is_some_and(|range| range.state == State::Sacked)
    }

    /// What was taken for lost and not sent again is in flight after all.
    pub(crate) fn revive(&mut self) {
        for start in std::mem::take(&mut self.lost) {
            self.steps += 1;
            let index = self.index(start);
            let range = &mut self.ranges[index];
            let Some(transmission) = transmission(&mut self.transmissions, self.first, range.sent_as) else {
                self.lost.insert(start);
                continue;
            };
            range.state = State::InFlight;
            transmission.flying += range.end - start;
            self.in_flight += range.end - start;
            self.oldest = self.oldest.min(range.sent_as);
        }
    }

    /// Gives back what vectors have kept.
    pub(crate) fn release_idle_memory(&mut self) {
        self.transmissions.shrink_to_fit();
        self.ranges.shrink_to_fit();
    }

    /// Checks that the counters are the sums of the ranges and that ranges leave no gap; for tests.
    #[cfg(any(test, feature = "world"))]
    pub(crate) fn audit(&self) {
        let mut at = self.start;
        let (mut in_flight, mut sacked, mut last) = (0, 0, None);
        for range in &self.ranges {
            let bytes = range.end - range.start;
            assert_eq!(range.start, at, "a gap");
            assert!(range.end > range.start, "an empty range");
            assert!(!(last == Some(State::Sacked) && range.state == State::Sacked), "sacked neighbours melt");
            match range.state {
                State::InFlight => in_flight += bytes,
                State::Sacked => sacked += bytes,
                State::Lost => {}
            }
            assert_eq!(range.state == State::Lost, self.lost.contains(&range.start));
            (at, last) = (range.end, Some(range.state));
        }
        assert_eq!((at, in_flight, sacked), (self.end, self.in_flight, self.sacked));
        assert!(self.lost.len() <= self.ranges.len());
        let flying: u64 = self.transmissions.iter().map(|transmission| transmission.flying).sum();
        let live: u64 = self.transmissions.iter().map(|transmission| transmission.live).sum();
        assert!(flying <= live && live <= self.end - self.start - self.sacked);
    }

    /// Forgets all records, and keeps their memory if it is little.
    fn clear(&mut self) {
        if !self.lost.is_empty() {
            self.lost.clear();
        }
        self.ranges.clear();
        self.transmissions.clear();
        if self.ranges.capacity().max(self.transmissions.capacity()) > FEW {
            self.release_idle_memory();
        }
    }

    fn transmission(&self, number: u64) -> Option<&Transmission> {
        self.transmissions.get(number.checked_sub(self.first)? as usize)
    }

    /// Index of the range that holds offset `at`, which is not before the first.
    fn index(&self, at: u64) -> usize {
        // Mostly there is one range, or the first is meant.
        match self.ranges.front() {
            Some(first) if at < first.end => 0,
            _ => self.ranges.partition_point(|range| range.end <= at),
        }
    }

    /// Makes `at` a boundary of ranges, except within sacked ones: they only melt.
    fn split(&mut self, at: u64) {
        let index = self.index(at);
        let Some(range) = self.ranges.get_mut(index) else { return };
        self.steps += 1;
        if range.start >= at || range.state == State::Sacked {
            return;
        }
        let rest = Range { start: at, ..*range };
        range.end = at;
        if rest.state == State::Lost {
            self.lost.insert(at);
        }
        self.ranges.insert(index + 1, rest);
    }

    /// Settles `start..end`, which lies within one range and is not sacked, because it is sent again. Returns its index.
    fn take_out(&mut self, start: u64, end: u64) -> usize {
        self.split(start);
        self.split(end);
        let index = self.index(start);
        let range = self.ranges[index];
        debug_assert_eq!((range.start, range.end), (start, end));
        self.settle(range);
        index
    }

    /// A range as it was no longer counts: neither here nor in its transmission.
    fn settle(&mut self, range: Range) -> Delivered<'_> {
        let Range { start, end, sent_as, resent, .. } = range;
        let bytes = end - start;
        let was_lost = range.state == State::Lost;
        if was_lost {
            self.lost.remove(&start);
        } else {
            self.in_flight -= bytes;
        }
        let transmission = transmission(&mut self.transmissions, self.first, sent_as).map(|transmission| {
            transmission.live -= bytes;
            transmission.flying -= if was_lost { 0 } else { bytes };
            &*transmission
        });
        Delivered { start, end, number: sent_as, transmission, resent, was_lost }
    }

    /// Joins the sacked range at `index` with sacked neighbours. Returns where it is then.
    fn melt(&mut self, index: usize) -> usize {
        let mut index = index;
        let sacked = |range: &Range| range.state == State::Sacked;
        if let Some(next) = self.ranges.get(index + 1).copied().filter(sacked) {
            self.ranges[index].end = next.end;
            self.ranges.remove(index + 1);
        }
        if let Some(before) = index.checked_sub(1).map(|before| self.ranges[before]).filter(sacked) {
            self.ranges[index].start = before.start;
            index -= 1;
            self.ranges.remove(index);
        }
        index
    }

    fn lose_where(&mut self, start: u64, end: u64, which: impl Fn(&Range) -> bool) -> u64 {
        if start >= end {
            return 0;
        }
        self.split(start);
        self.split(end);
        let (first, mut bytes) = (self.index(start), 0);
        for range in self.ranges.range_mut(first..).take_while(|range| range.start < end) {
            self.steps += 1;
            if range.state == State::InFlight && which(range) {
                range.state = State::Lost;
                self.lost.insert(range.start);
                bytes += range.end - range.start;
                if let Some(transmission) = transmission(&mut self.transmissions, self.first, range.sent_as) {
                    transmission.flying -= range.end - range.start;
                }
            }
        }
        self.in_flight -= bytes;
        bytes
    }

    /// Drops the oldest transmissions that have no bytes left.
    fn forget(&mut self) {
        while self.transmissions.front().is_some_and(|transmission| transmission.live == 0) {
            self.transmissions.pop_front();
            self.first += 1;
        }
        self.oldest = self.oldest.max(self.first);
    }
}

/// The number of no transmission: of ranges that were sacked.
const FORGOTTEN: u64 = u64::MAX;

/// The transmission of a number; a function of its own because ranges are borrowed where it is needed.
fn transmission(all: &mut VecDeque<Transmission>, first: u64, number: u64) -> Option<&mut Transmission> {
    all.get_mut(usize::try_from(number.checked_sub(first)?).ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The model: what became of each byte, one by one.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Byte {
        InFlight(u64),
        Sacked,
        Lost,
    }

    #[derive(Debug, Clone)]
    enum Step {
        Send(u64),
        Resend(u64),
        Acknowledge(u64),
        Sack(u64, u64),
        Lose(u64, u64),
        LoseTransmission(u64),
        Revive,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (1..40u64).prop_map(Step::Send),
            2 => (1..40u64).prop_map(Step::Resend),
            1 => (0..60u64).prop_map(Step::Acknowledge),
            4 => (0..200u64, 1..30u64).prop_map(|(at, len)| Step::Sack(at, len)),
            1 => (0..200u64, 1..30u64).prop_map(|(at, len)| Step::Lose(at, len)),
            1 => (0..30u64).prop_map(Step::LoseTransmission),
            1 => Just(Step::Revive),
        ];
        prop::collection::vec(step, 1..80)
    }

    proptest! {
        #[test]
        fn agrees_with_a_list_of_bytes(steps in steps()) {
            let now = Instant::START;
            let sample = Snapshot { delivered: 0, delivered_at: now, first_at: now, lost: 0, in_flight: 0, app_limited: false };
            let mut board = Scoreboard::default();
            // Index is the offset; what is acknowledged is before `start`.
            let (mut model, mut start, mut number) = (Vec::<Byte>::new(), 0, 0);
            for step in steps {
                let end = model.len() as u64;
                let clamp = |at: u64, len: u64| ((start + at).min(end), (start + at + len).min(end));
                match step {
                    Step::Send(len) => {
                        board.sent(end, end + len, now, sample);
                        model.extend(vec![Byte::InFlight(number); len as usize]);
                        number += 1;
                    }
                    Step::Resend(most) => {
                        let first = (start..end).find(|at| model[*at as usize] == Byte::Lost);
                        prop_assert_eq!(board.first_lost().map(|(start, _)| start), first);
                        let Some((from, to)) = board.first_lost() else { continue };
                        let to = to.min(from + most);
                        board.sent(from, to, now, sample);
                        model[from as usize..to as usize].fill(Byte::InFlight(number));
                        number += 1;
                    }
                    Step::Acknowledge(len) => {
                        let (_, ack) = clamp(0, len);
                        let mut news = 0;
                        let only = if len % 2 == 0 { board.take_only(ack) } else { None };
                        match only {
                            Some(only) => news = only.transmission.end - only.start,
                            None => board.acknowledge(ack, |delivered| news += delivered.end - delivered.start),
                        }
                        let expected = (start..ack).filter(|at| model[*at as usize] != Byte::Sacked).count() as u64;
                        prop_assert_eq!(news, expected);
                        start = ack;
                    }
                    Step::Sack(at, len) => {
                        let (left, right) = clamp(at, len);
                        if left == right {
                            continue;
                        }
                        let mut news = 0;
                        board.sack(left, right, |delivered| news += delivered.end - delivered.start);
                        let bytes = &mut model[left as usize..right as usize];
                        prop_assert_eq!(news, bytes.iter().filter(|byte| **byte != Byte::Sacked).count() as u64);
                        bytes.fill(Byte::Sacked);
                    }
                    Step::Lose(at, len) => {
                        let (left, right) = clamp(at, len);
                        board.lose(left, right);
                        for byte in &mut model[left as usize..right as usize] {
                            if matches!(byte, Byte::InFlight(_)) {
                                *byte = Byte::Lost;
                            }
                        }
                    }
                    Step::LoseTransmission(number) => {
                        board.lose_transmission(number, u64::MAX);
                        for byte in &mut model[start as usize..] {
                            if *byte == Byte::InFlight(number) {
                                *byte = Byte::Lost;
                            }
                        }
                    }
                    Step::Revive => {
                        let lost: u64 = model[start as usize..].iter().filter(|byte| **byte == Byte::Lost).count() as u64;
                        let before = board.in_flight();
                        board.revive();
                        prop_assert_eq!(board.in_flight(), before + lost);
                        // Whose they are again, only the scoreboard knows: lost once more, all is as it was.
                        board.audit();
                        if lost > 0 {
                            for (at, byte) in model.iter().enumerate().skip(start as usize) {
                                if *byte == Byte::Lost {
                                    board.lose(at as u64, at as u64 + 1);
                                }
                            }
                        }
                    }
                }
                board.audit();
                let count = |which: fn(&Byte) -> bool| model[start as usize..].iter().filter(|byte| which(byte)).count();
                prop_assert_eq!(board.in_flight(), count(|byte| matches!(byte, Byte::InFlight(_))) as u64);
                prop_assert_eq!(board.sacked(), count(|byte| *byte == Byte::Sacked) as u64);
                let oldest = model[start as usize..].iter().filter_map(|byte| match byte {
                    Byte::InFlight(number) => Some(*number),
                    Byte::Sacked | Byte::Lost => None,
                });
                prop_assert_eq!(board.oldest_in_flight().map(|(number, _)| number), oldest.min());
            }
        }
    }

    #[test]
    fn an_end_leaves_nothing() {
        let now = Instant::START;
        let sample =
            Snapshot { delivered: 0, delivered_at: now, first_at: now, lost: 0, in_flight: 0, app_limited: false };
        let mut board = Scoreboard::default();
        board.sent(0, 100, now, sample);
        board.sent(100, 200, now, sample);
        board.lose(0, 50);
        board.sack(150, 200, |_| {});
        board.finish();
        board.audit();
        assert_eq!((board.start(), board.end(), board.in_flight(), board.sacked()), (200, 200, 0, 0));
        assert!(board.is_empty() && !board.has_lost());
    }

    #[test]
    fn a_peer_that_forgets_is_sent_everything_again() {
        let now = Instant::START;
        let sample =
            Snapshot { delivered: 0, delivered_at: now, first_at: now, lost: 0, in_flight: 0, app_limited: false };
        let mut board = Scoreboard::default();
        board.sent(0, 100, now, sample);
        board.sack(50, 100, |_| {});
        board.acknowledge(50, |_| {});
        assert!(board.reneged());
        board.forget_sacks();
        board.audit();
        assert_eq!(board.first_lost(), Some((50, 100)));
        board.sent(50, 100, now, sample);
        board.audit();
        assert_eq!((board.in_flight(), board.first_lost()), (50, None));
    }
}
