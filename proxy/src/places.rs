//! How many connections each peer of a tunnel may have open with us.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use postern_model::PublicKey;

/// The places of an account's tunnel. A peer takes one more only while it has less than an eighth of those that are left, so
/// that peers who take all they get leave most of it to the next (dynamic thresholds; Choudhury, Hahne 1998): it would take
/// dozens of keys to leave nothing.
pub(crate) struct Places {
    inner: RefCell<Inner>,
}

struct Inner {
    left: usize,
    taken: HashMap<PublicKey, usize>,
}

/// A place that a peer has taken. Dropping it gives it back.
pub(crate) struct Seat {
    places: Rc<Places>,
    peer: PublicKey,
}

impl Places {
    pub(crate) fn new(all: usize) -> Rc<Self> {
        Rc::new(Self { inner: RefCell::new(Inner { left: all, taken: HashMap::new() }) })
    }

    /// A place for `peer`, unless it has its share already.
    pub(crate) fn take(self: &Rc<Self>, peer: PublicKey) -> Option<Seat> {
        let mut inner = self.inner.borrow_mut();
        let taken = inner.taken.get(&peer).copied().unwrap_or_default();
        if taken.saturating_mul(8) >= inner.left {
            return None;
        }
        inner.left -= 1;
        inner.taken.insert(peer, taken + 1);
        Some(Seat { places: Rc::clone(self), peer })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.places.inner.borrow_mut();
        inner.left += 1;
        let taken = inner.taken.get_mut(&self.peer).expect("a seat is counted as long as it is held");
        *taken -= 1;
        if *taken == 0 {
            inner.taken.remove(&self.peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes all that a peer gets.
    fn all(places: &Rc<Places>, peer: u8) -> Vec<Seat> {
        std::iter::from_fn(|| places.take(PublicKey([peer; 32]))).collect()
    }

    #[test]
    fn who_takes_all_it_gets_has_an_eighth_of_what_it_leaves() {
        let places = Places::new(16_384);
        let mut greedy: Vec<_> = (0..60).map(|peer| all(&places, peer)).collect();
        let counts: Vec<_> = greedy.iter().map(Vec::len).collect();
        assert_eq!(counts[..3], [1821, 1619, 1439]);
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        assert!(places.inner.borrow().left > 8, "and there is something for the next");

        greedy.clear();
        let inner = places.inner.borrow();
        assert_eq!((inner.left, inner.taken.len()), (16_384, 0), "what is given back is there again");
    }
}
