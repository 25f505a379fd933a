use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_model::{Generation, HostName, Principal, PublicKey, ServiceId, TunnelPeer};
use tokio::sync::SetOnce;

use crate::access::Door;
use crate::decide::Answer;

/// How many verdicts are kept for an account, and how many questions may be under way for it: NetBird's number.
const MOST: usize = 1024;

/// A peer of one account at a door. Whatever could change the verdict is part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Visit {
    peer: PublicKey,
    generation: Generation,
    address: IpAddr,
    service: ServiceId,
    host: HostName,
    epoch: u64,
}

impl Visit {
    pub(crate) fn new(peer: &TunnelPeer, door: &Door) -> Self {
        Self {
            peer: peer.key(),
            generation: peer.generation(),
            address: peer.address(),
            service: door.service.clone(),
            host: door.host.clone(),
            epoch: door.epoch,
        }
    }
}

/// Each request looks for one, and peer and service tell nearly all of them apart.
impl Hash for Visit {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.peer.hash(state);
        self.service.hash(state);
    }
}

/// Where everybody who asked the same waits for the answer. Each one made is another.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending(Arc<SetOnce<Answer>>);

impl Pending {
    /// For everybody who waits, and who will. The first word counts.
    pub(crate) fn tell(&self, answer: Answer) {
        let _ = self.0.set(answer);
    }

    pub(crate) async fn answer(&self) -> Answer {
        self.0.wait().await.clone()
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What is known of a visit.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// It is let in.
    Hit(Arc<Principal>),
    /// Somebody asks already.
    Join(Pending),
    /// Whoever looked shall ask, and complete it in any case.
    Fetch(Pending),
    /// Too many questions are under way.
    Full,
}

/// Who of an account's peers was let in where, and what is being asked. A pure machine: time comes in, and never goes back.
#[derive(Debug)]
pub(crate) struct PeerCache {
    life: Duration,
    most: usize,
    kept: HashMap<Visit, Arc<Principal>>,
    /// What is kept, each once and the oldest first, with the time it fades: all live as long, so the oldest fades first.
    order: VecDeque<(Instant, Visit)>,
    asked: HashMap<Visit, Pending>,
}

impl PeerCache {
    /// Verdicts are kept for `life`.
    pub(crate) fn new(life: Duration) -> Self {
        Self::with_room(life, MOST)
    }

    fn with_room(life: Duration, most: usize) -> Self {
        Self { life, most, kept: HashMap::new(), order: VecDeque::new(), asked: HashMap::new() }
    }

    pub(crate) fn lookup(&mut self, visit: &Visit, now: Instant) -> Lookup {
        self.fade(now);
        if let Some(principal) = self.kept.get(visit) {
            return Lookup::Hit(principal.clone());
        }
        if let Some(pending) = self.asked.get(visit) {
            return Lookup::Join(pending.clone());
        }
        if self.asked.len() >= self.most {
            return Lookup::Full;
        }
        let pending = Pending::default();
        self.asked.insert(visit.clone(), pending.clone());
        Lookup::Fetch(pending)
    }

    /// A question has its answer. Only a yes is kept, and only if nothing was evicted since it was asked.
    pub(crate) fn complete(&mut self, visit: Visit, asked: &Pending, answer: &Answer, now: Instant) {
        if !self.asked.get(&visit).is_some_and(|pending| pending.is(asked)) {
            return;
        }
        self.asked.remove(&visit);
        match answer {
            Answer::Yes(proof) => self.keep(visit, proof.principal.clone(), now),
            Answer::No | Answer::TooMany | Answer::Unavailable => {}
        }
    }

    /// Forgets a peer, and what is being asked about it: that answer may be older than the reason to forget, so whoever waits
    /// for it gets none.
    pub(crate) fn evict(&mut self, peer: PublicKey) {
        self.kept.retain(|visit, _| visit.peer != peer);
        self.order.retain(|(_, visit)| visit.peer != peer);
        for (_, pending) in self.asked.extract_if(|visit, _| visit.peer == peer) {
            pending.tell(Answer::Unavailable);
        }
    }

    /// The same for all peers.
    pub(crate) fn evict_all(&mut self) {
        self.kept.clear();
        self.order.clear();
        for (_, pending) in self.asked.drain() {
            pending.tell(Answer::Unavailable);
        }
    }

    fn keep(&mut self, visit: Visit, principal: Arc<Principal>, now: Instant) {
        self.fade(now);
        if self.order.len() >= self.most {
            self.drop_oldest();
        }
        self.order.push_back((now + self.life, visit.clone()));
        self.kept.insert(visit, principal);
    }

    fn fade(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(fades, _)| *fades <= now) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, visit)) = self.order.pop_front() {
            self.kept.remove(&visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::decide::Proof;

    const LIFE: Duration = Duration::from_secs(10);
    const ROOM: usize = 3;

    /// The same visit for the same number; the parts of other visits differ one by one.
    fn visit(number: u8) -> Visit {
        Visit {
            peer: PublicKey([number & 1; 32]),
            generation: Generation(u64::from(number >> 1 & 1)),
            address: IpAddr::from([100, 72, 0, number >> 2 & 1]),
            service: ServiceId::parse("svc").expect("an id"),
            host: HostName::parse("app.example.com").expect("a host"),
            epoch: 1,
        }
    }

    fn yes(subject: String) -> Answer {
        let principal = Principal { subject, email: None, groups: Vec::new(), method: String::new() };
        Answer::Yes(Proof { principal: Arc::new(principal), session: None })
    }

    fn fetch(cache: &mut PeerCache, visit: &Visit, now: Instant) -> Pending {
        match cache.lookup(visit, now) {
            Lookup::Fetch(pending) => pending,
            other => panic!("to be asked: {other:?}"),
        }
    }

    #[test]
    fn whatever_could_change_a_verdict_makes_another_visit() {
        let now = Instant::now();
        let mut cache = PeerCache::new(LIFE);
        let one = visit(0);
        let asked = fetch(&mut cache, &one, now);
        cache.complete(one.clone(), &asked, &yes("u1".to_owned()), now);
        assert!(matches!(cache.lookup(&one, now), Lookup::Hit(_)));
        let others = [
            visit(1),
            visit(2),
            visit(4),
            Visit { service: ServiceId::parse("svc2").expect("an id"), ..one.clone() },
            Visit { host: HostName::parse("b.example.com").expect("a host"), ..one.clone() },
            Visit { epoch: 2, ..one.clone() },
        ];
        for other in others {
            assert!(matches!(cache.lookup(&other, now), Lookup::Fetch(_)), "{other:?}");
        }
    }

    #[test]
    fn the_oldest_makes_room() {
        let now = Instant::now();
        let mut cache = PeerCache::new(LIFE);
        let visits: Vec<_> = (0..=MOST as u64).map(|epoch| Visit { epoch, ..visit(0) }).collect();
        for visit in &visits {
            let asked = fetch(&mut cache, visit, now);
            cache.complete(visit.clone(), &asked, &yes("u1".to_owned()), now);
        }
        assert!(visits[1..].iter().all(|visit| matches!(cache.lookup(visit, now), Lookup::Hit(_))));
        assert!(matches!(cache.lookup(&visits[0], now), Lookup::Fetch(_)));
        assert_eq!((cache.kept.len(), cache.order.len()), (MOST, MOST));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Lookup(u8),
        /// Of all that was ever asked, the one at this place.
        Complete(usize, bool),
        Evict(u8),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..8_u8).prop_map(Step::Lookup),
            4 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(at, right)| Step::Complete(at, right)),
            1 => (0..2_u8).prop_map(Step::Evict),
            2 => (0..6_u64).prop_map(Step::Pass),
        ]
    }

    /// What was ever asked has a number: its place.
    #[derive(Default)]
    struct Model {
        /// Visit, number of the question, when it was answered.
        kept: Vec<(u8, usize, u64)>,
        /// Visit and number.
        asked: Vec<(u8, usize)>,
    }

    #[derive(Debug, PartialEq)]
    enum Seen {
        Hit(usize),
        Join(usize),
        Fetch,
        Full,
    }

    impl Model {
        fn lookup(&mut self, visit: u8, next: usize, now: u64) -> Seen {
            let live = |(kept, _, at): &&(u8, usize, u64)| *kept == visit && now < at + LIFE.as_secs();
            if let Some((_, number, _)) = self.kept.iter().find(live) {
                return Seen::Hit(*number);
            }
            if let Some((_, number)) = self.asked.iter().find(|(asked, _)| *asked == visit) {
                return Seen::Join(*number);
            }
            if self.asked.len() == ROOM {
                return Seen::Full;
            }
            self.asked.push((visit, next));
            Seen::Fetch
        }

        fn complete(&mut self, number: usize, right: bool, now: u64) {
            let Some(at) = self.asked.iter().position(|(_, asked)| *asked == number) else { return };
            let (visit, _) = self.asked.remove(at);
            if right {
                self.kept.retain(|(_, _, at)| now < at + LIFE.as_secs());
                self.kept.drain(..(self.kept.len() + 1).saturating_sub(ROOM));
                self.kept.push((visit, number, now));
            }
        }

        fn evict(&mut self, peer: u8) {
            self.kept.retain(|(visit, ..)| visit & 1 != peer);
            self.asked.retain(|(visit, _)| visit & 1 != peer);
        }
    }

    fn seen(lookup: &Lookup, ever: &[(u8, Pending)]) -> Seen {
        let number = |pending: &Pending| ever.iter().position(|(_, other)| other.is(pending));
        match lookup {
            Lookup::Hit(principal) => Seen::Hit(principal.subject.parse().expect("a number")),
            Lookup::Join(pending) => Seen::Join(number(pending).expect("it was asked")),
            Lookup::Fetch(_) => Seen::Fetch,
            Lookup::Full => Seen::Full,
        }
    }

    proptest! {
        #[test]
        fn the_cache_agrees_with_the_model(steps in vec(step(), 0..200)) {
            let start = Instant::now();
            let mut passed = 0;
            let (mut cache, mut model) = (PeerCache::with_room(LIFE, ROOM), Model::default());
            let mut ever: Vec<(u8, Pending)> = Vec::new();
            for step in steps {
                let now = start + Duration::from_secs(passed);
                match step {
                    Step::Lookup(number) => {
                        let lookup = cache.lookup(&visit(number), now);
                        prop_assert_eq!(seen(&lookup, &ever), model.lookup(number, ever.len(), passed));
                        if let Lookup::Fetch(pending) = lookup {
                            ever.push((number, pending));
                        }
                    }
                    Step::Complete(_, _) if ever.is_empty() => {}
                    Step::Complete(at, right) => {
                        let at = at % ever.len();
                        let (number, pending) = &ever[at];
                        let answer = if right { yes(at.to_string()) } else { Answer::No };
                        cache.complete(visit(*number), pending, &answer, now);
                        model.complete(at, right, passed);
                    }
                    Step::Evict(peer) => {
                        cache.evict(PublicKey([peer; 32]));
                        model.evict(peer);
                    }
                    Step::Pass(seconds) => passed += seconds,
                }
                prop_assert!(cache.order.len() <= ROOM && cache.asked.len() <= ROOM);
                prop_assert_eq!(cache.order.len(), cache.kept.len());
            }
        }
    }
}
