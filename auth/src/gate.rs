use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use http::HeaderName;
use parking_lot::Mutex;
use postern_model::{AccountId, Authenticate, Authenticated, Credential, Management, PublicKey, Secret};

use crate::access::{Door, Sessions};
use crate::cache::{Kind, Name, Verified};
use crate::clock::Clock;
use crate::decide::{Answer, Answers, Permit, Proof, Protected, Question, Verdict, decide};
use crate::facts::{Facts, Origin};
use crate::peers::Peers;
use crate::refusal::Refusal;
use crate::{cookie, session};

/// How long a tunnel peer that was let in is not asked about again, unless said otherwise: NetBird's time.
pub const PEER_TTL: Duration = Duration::from_secs(300);

/// How many credentials may be on their way to management at once.
const MOST_FLIGHTS: usize = 1024;

/// Asks, remembers, decides. One for all workers.
pub struct Gate {
    management: Arc<dyn Management>,
    clock: Arc<dyn Clock>,
    verified: Arc<Verified>,
    flights: Mutex<Flights>,
    peers: Peers,
}

/// Questions to management under way, so that the fifty requests of a page's first load cost one. They are told apart
/// by source too: whether there were too many wrong tries depends on it.
type Flights = HashMap<(Name, IpAddr), WeakShared<Flight>>;
type Flight = BoxFuture<'static, Answer>;

impl Gate {
    /// A gate that asks `management`.
    #[must_use]
    pub fn new(management: Arc<dyn Management>, clock: Arc<dyn Clock>) -> Self {
        let peers = Peers::new(management.clone(), clock.clone(), PEER_TTL);
        Self { management, clock, verified: Arc::new(Verified::new()), flights: Mutex::default(), peers }
    }

    /// The same, with another time than [`PEER_TTL`].
    #[must_use]
    pub fn with_peer_ttl(self, ttl: Duration) -> Self {
        let peers = Peers::new(self.management.clone(), self.clock.clone(), ttl);
        Self { peers, ..self }
    }

    /// Forgets what is known of a tunnel peer, and asks again when it comes next.
    pub fn evict(&self, account: &AccountId, peer: PublicKey) {
        self.peers.evict(account, peer);
    }

    /// Forgets what is known of all peers of an account's tunnel.
    pub fn evict_account(&self, account: &AccountId) {
        self.peers.evict_account(account);
    }

    /// Lets a request in, or says why not. Takes as long as management does, and no time if the credential was verified
    /// within the last minute, or the peer within its time. Must run in a tokio runtime with time.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub async fn admit<T>(&self, door: &Protected<T>, facts: &Facts<'_>) -> Result<Permit<T>, Refusal> {
        let mut answers = Answers::default();
        loop {
            match decide(door, facts, &answers) {
                Verdict::Permit(permit) => return Ok(permit),
                Verdict::Refuse(refusal) => return Err(refusal),
                Verdict::Ask(question) => {
                    let answer = self.ask(&question, door.door(), facts).await;
                    answers.record(question, answer);
                }
            }
        }
    }

    /// Cannot fail: what goes wrong is the answer [`Answer::Unavailable`], and that lets nobody in.
    async fn ask(&self, question: &Question, door: &Door, facts: &Facts<'_>) -> Answer {
        match (question, door.sessions, facts.origin) {
            (Question::Session, Some(sessions), _) => self.session(door, sessions, facts),
            (Question::Header(name), Some(sessions), _) => self.header(door, sessions, facts, name).await,
            (Question::Peer, _, Origin::Tunnel(peer)) => self.peers.answer(peer, door).await,
            (Question::Session | Question::Header(_), None, _) | (Question::Peer, _, Origin::Public) => {
                Answer::Unavailable
            }
        }
    }

    fn session(&self, door: &Door, sessions: Sessions, facts: &Facts<'_>) -> Answer {
        let (steady, wall) = (self.clock.steady(), self.clock.wall());
        for token in cookie::session_tokens(facts.headers) {
            let name = self.verified.name(door, Kind::Session, token.as_bytes());
            if let Some(principal) = self.verified.get(&name, steady, wall) {
                return Answer::Yes(Proof { principal, session: None });
            }
            if let Ok(session) = session::verify(token, &sessions.key, &door.host, wall) {
                let principal = Arc::new(session.principal);
                self.verified.put(name, principal.clone(), session.expires, steady, wall);
                return Answer::Yes(Proof { principal, session: None });
            }
        }
        Answer::No
    }

    async fn header(&self, door: &Door, sessions: Sessions, facts: &Facts<'_>, header: &HeaderName) -> Answer {
        let Some(value) = facts.headers.get(header).and_then(|value| str::from_utf8(value.as_bytes()).ok()) else {
            return Answer::No;
        };
        let name = self.verified.name(door, Kind::Header(header.as_str()), value.as_bytes());
        if let Some(principal) = self.verified.get(&name, self.clock.steady(), self.clock.wall()) {
            return Answer::Yes(Proof { principal, session: None });
        }
        let request = Authenticate {
            service: door.service.clone(),
            account: door.account.clone(),
            credential: Credential::Header { name: header.clone(), value: Secret::from(value) },
            source: facts.source,
        };
        match self.join(name, request, door, sessions) {
            Some(mut joined) => joined.answer().await,
            None => Answer::Unavailable,
        }
    }

    /// Joins the flight of the same question, or starts it. `None` if too many are in the air.
    fn join(&self, name: Name, request: Authenticate, door: &Door, sessions: Sessions) -> Option<Joined<'_>> {
        let key = (name, request.source);
        let mut flights = self.flights.lock();
        let under_way = flights.get(&key).and_then(WeakShared::upgrade);
        let flight = match under_way {
            Some(flight) => flight,
            None if flights.len() >= MOST_FLIGHTS => return None,
            None => {
                let flight = self.flight(name, request, door, sessions).shared();
                flights.insert(key, flight.downgrade()?);
                flight
            }
        };
        Some(Joined { flights: &self.flights, key, flight: Some(flight) })
    }

    fn flight(&self, name: Name, request: Authenticate, door: &Door, sessions: Sessions) -> Flight {
        let (management, clock, verified) = (self.management.clone(), self.clock.clone(), self.verified.clone());
        let host = door.host.clone();
        async move {
            let service = request.service.clone();
            let token = match management.authenticate(request).await {
                Ok(Authenticated::Yes { session_token }) => session_token,
                Ok(Authenticated::No) => return Answer::No,
                Ok(Authenticated::TooMany) => return Answer::TooMany,
                Err(error) => {
                    tracing::debug!(%service, %error, "a credential could not be verified");
                    return Answer::Unavailable;
                }
            };
            let (steady, wall) = (clock.steady(), clock.wall());
            let Ok(session) = session::verify_fresh(token.expose(), &sessions.key, &host, wall) else {
                tracing::warn!(%service, "management let somebody in with a session token that is not valid here");
                return Answer::Unavailable;
            };
            let principal = Arc::new(session.principal);
            verified.put(name, principal.clone(), session.expires, steady, wall);
            Answer::Yes(Proof { principal, session: cookie::set_cookie(&token, sessions.max_age) })
        }
        .boxed()
    }
}

/// A share in a flight. It goes on as long as anybody waits for it, whoever started it; the last to leave clears up.
struct Joined<'a> {
    flights: &'a Mutex<Flights>,
    key: (Name, IpAddr),
    flight: Option<Shared<Flight>>,
}

impl Joined<'_> {
    async fn answer(&mut self) -> Answer {
        match &mut self.flight {
            Some(flight) => flight.await,
            None => Answer::Unavailable,
        }
    }
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        self.flight = None;
        let mut flights = self.flights.lock();
        if flights.get(&self.key).is_some_and(|flight| flight.upgrade().is_none()) {
            flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::{Duration, Instant, SystemTime};

    use base64::Engine;
    use http::header::{AUTHORIZATION, COOKIE};
    use http::{HeaderMap, HeaderValue};
    use postern_model::{
        AccessLogLine, AccountId, Challenge, HostName, ManagementError, Principal, ServiceId, StatusUpdate,
    };
    use tokio::sync::Semaphore;

    use super::*;
    use crate::access::{Access, HeaderScheme, Rule, Scheme};
    use crate::session::SigningKey;

    /// A clock that stands still until it is moved.
    struct Hands {
        start: (Instant, SystemTime),
        passed: Mutex<Duration>,
    }

    impl Hands {
        fn advance(&self, by: Duration) {
            *self.passed.lock() += by;
        }
    }

    impl Clock for Hands {
        fn wall(&self) -> SystemTime {
            self.start.1 + *self.passed.lock()
        }

        fn steady(&self) -> Instant {
            self.start.0 + *self.passed.lock()
        }
    }

    /// A management that lets in `Basic YTpi` (a:b), and answers only as often as it has been allowed to.
    struct Fake {
        key: SigningKey,
        clock: Arc<Hands>,
        allowed: Semaphore,
        asked: Mutex<Vec<Authenticate>>,
        verdict: Mutex<Answering>,
    }

    type Answering = fn(Secret) -> Result<Authenticated, ManagementError>;

    fn yes(session_token: Secret) -> Result<Authenticated, ManagementError> {
        Ok(Authenticated::Yes { session_token })
    }

    impl Management for Fake {
        fn authenticate(
            &self,
            request: Authenticate,
        ) -> postern_model::BoxFuture<'_, Result<Authenticated, ManagementError>> {
            Box::pin(async move {
                let Credential::Header { value, .. } = request.credential.clone();
                self.asked.lock().push(request);
                self.allowed.acquire().await.expect("open").forget();
                if value.expose() != "Basic YTpi" {
                    return Ok(Authenticated::No);
                }
                let token = self.key.sign(&alice(), &host(), self.clock.wall(), Duration::from_secs(3600));
                let verdict = *self.verdict.lock();
                verdict(token)
            })
        }

        fn report(&self, _: StatusUpdate) {}

        fn log(&self, _: AccessLogLine) {}

        fn lines_dropped(&self) -> u64 {
            0
        }
    }

    struct World {
        gate: Gate,
        management: Arc<Fake>,
        clock: Arc<Hands>,
    }

    fn world() -> World {
        let clock = Arc::new(Hands { start: (Instant::now(), SystemTime::now()), passed: Mutex::default() });
        let management = Arc::new(Fake {
            key: SigningKey::from_seed(&[3; 32]),
            clock: clock.clone(),
            allowed: Semaphore::new(1000),
            asked: Mutex::default(),
            verdict: Mutex::new(yes),
        });
        World { gate: Gate::new(management.clone(), clock.clone()), management, clock }
    }

    fn host() -> HostName {
        HostName::parse("app.example.com").expect("a host")
    }

    fn alice() -> Principal {
        Principal {
            subject: "user:alice".to_owned(),
            email: Some("alice".to_owned()),
            groups: Vec::new(),
            method: "header".to_owned(),
        }
    }

    fn door(world: &World) -> Protected<&'static str> {
        let challenge = Some(Challenge::Basic { realm: "App".to_owned() });
        let key = world.management.key.public();
        let door = Door {
            service: ServiceId::parse("svc").expect("an id"),
            account: AccountId::parse("acc").expect("an id"),
            host: host(),
            access: Access::Rule(Rule::Scheme(Scheme::Header(HeaderScheme { name: AUTHORIZATION, challenge }))),
            sessions: Some(Sessions { key, max_age: Duration::from_secs(86_400) }),
            epoch: 1,
        };
        Protected::new(door, "the upstream")
    }

    impl World {
        async fn admit(
            &self,
            door: &Protected<&'static str>,
            headers: &HeaderMap,
            last: u8,
        ) -> Result<Permit<&'static str>, Refusal> {
            let source = IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
            let host = host();
            let (origin, host) = (&Origin::Public, &host);
            self.gate.admit(door, &Facts { source, origin, tls: true, headers, upgrade: false, host, port: None }).await
        }

        fn asked(&self) -> usize {
            self.management.asked.lock().len()
        }
    }

    fn basic(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))])
    }

    fn cookie(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(value).expect("a header value"))])
    }

    /// The token in a `Set-Cookie`, as a browser sends it back.
    fn returned(permit: &Permit<&'static str>) -> String {
        let set = permit.session().expect("a fresh login").to_str().expect("text");
        set.split(';').next().expect("a pair").to_owned()
    }

    const RIGHT: &str = "Basic YTpi";
    const WRONG: &str = "Basic YTpj";

    #[tokio::test]
    async fn a_login_starts_a_session_that_costs_no_question() {
        let world = world();
        let door = door(&world);
        let permit = world.admit(&door, &basic(RIGHT), 1).await.expect("right");
        assert_eq!(permit.principal().map(|who| &**who), Some(&alice()));
        assert_eq!(world.management.asked.lock()[0].source.to_string(), "192.0.2.1");
        let pair = returned(&permit);
        assert_eq!(*permit.redeem(), "the upstream");
        for _ in 0..3 {
            let permit = world.admit(&door, &cookie(&pair), 2).await.expect("a session");
            assert_eq!((permit.principal().map(|who| &**who), permit.session()), (Some(&alice()), None));
            world.clock.advance(Duration::from_secs(45));
        }
        assert_eq!(world.asked(), 1);
        world.clock.advance(Duration::from_secs(3600));
        let refusal = world.admit(&door, &cookie(&pair), 2).await.expect_err("expired");
        assert_eq!(refusal.reason(), "credential_missing");
    }

    #[tokio::test]
    async fn a_header_is_remembered_for_a_minute_if_it_was_right() {
        let world = world();
        let door = door(&world);
        assert!(world.admit(&door, &basic(RIGHT), 1).await.expect("right").session().is_some());
        world.clock.advance(Duration::from_secs(59));
        assert!(world.admit(&door, &basic(RIGHT), 1).await.expect("right").session().is_none());
        assert_eq!(world.asked(), 1);
        world.clock.advance(Duration::from_secs(1));
        assert!(world.admit(&door, &basic(RIGHT), 1).await.is_ok());
        assert_eq!(world.asked(), 2);
        for asked in 3..6 {
            let refusal = world.admit(&door, &basic(WRONG), 1).await.expect_err("wrong");
            assert_eq!((refusal.reason(), world.asked()), ("credential_wrong", asked));
        }
    }

    #[tokio::test]
    async fn a_changed_access_ends_what_was_remembered() {
        let world = world();
        let before = door(&world);
        let pair = returned(&world.admit(&before, &basic(RIGHT), 1).await.expect("right"));
        let epoch = Protected::new(Door { epoch: 2, ..before.door().clone() }, "the upstream");
        assert!(world.admit(&epoch, &basic(RIGHT), 1).await.is_ok());
        assert_eq!(world.asked(), 2, "another epoch asks again");
        assert!(world.admit(&epoch, &cookie(&pair), 1).await.is_ok(), "the key is the same");
        let key = SigningKey::from_seed(&[4; 32]).public();
        let sessions = Some(Sessions { key, max_age: Duration::from_secs(60) });
        let rotated = Protected::new(Door { sessions, ..before.door().clone() }, "the upstream");
        assert!(world.admit(&rotated, &cookie(&pair), 1).await.is_err(), "the key is another");
        assert!(world.admit(&before, &cookie(&pair), 1).await.is_ok());
    }

    #[tokio::test]
    async fn a_tossed_cookie_does_not_hide_the_real_one() {
        let world = world();
        let door = door(&world);
        let pair = returned(&world.admit(&door, &basic(RIGHT), 1).await.expect("right"));
        assert!(world.admit(&door, &cookie(&format!("nb_session=x.y.z; nb_session=; {pair}")), 1).await.is_ok());
        let other =
            SigningKey::from_seed(&[5; 32]).sign(&alice(), &host(), world.clock.wall(), Duration::from_secs(60));
        let tossed = format!("nb_session={}", other.expose());
        assert!(world.admit(&door, &cookie(&format!("{tossed}; {pair}")), 1).await.is_ok());
        assert!(world.admit(&door, &cookie(&tossed), 1).await.is_err());
    }

    #[tokio::test]
    async fn fifty_first_requests_are_one_question() {
        let world = world();
        let door = door(&world);
        world.management.allowed.forget_permits(1000);
        let (right, wrong) = (basic(RIGHT), basic(WRONG));
        let mut waiting: Vec<_> = (0..50).map(|_| Box::pin(world.admit(&door, &right, 1))).collect();
        let mut others: Vec<_> = (0..50).map(|_| Box::pin(world.admit(&door, &wrong, 1))).collect();
        let mut elsewhere = Box::pin(world.admit(&door, &right, 200));
        for one in waiting.iter_mut().chain(&mut others).chain([&mut elsewhere]) {
            assert!(futures_util::poll!(one).is_pending());
        }
        assert_eq!(world.asked(), 3, "right, wrong, and right from elsewhere");
        drop(waiting.remove(0));
        world.management.allowed.add_permits(3);
        for one in waiting.into_iter().chain([elsewhere]) {
            assert!(one.await.expect("right").session().is_some(), "whoever began it may hang up");
        }
        for one in others {
            assert_eq!(one.await.expect_err("wrong").reason(), "credential_wrong");
        }
        assert!(world.gate.flights.lock().is_empty());
    }

    #[tokio::test]
    async fn hung_up_callers_leave_nothing_behind() {
        let world = world();
        let door = door(&world);
        world.management.allowed.forget_permits(1000);
        let headers: Vec<_> = (0..MOST_FLIGHTS)
            .map(|n| {
                let pair = base64::engine::general_purpose::STANDARD.encode(format!("a:{n}"));
                let value = HeaderValue::try_from(format!("Basic {pair}")).expect("a header value");
                HeaderMap::from_iter([(AUTHORIZATION, value)])
            })
            .collect();
        let mut waiting: Vec<_> = headers.iter().map(|headers| Box::pin(world.admit(&door, headers, 1))).collect();
        for one in &mut waiting {
            assert!(futures_util::poll!(one).is_pending());
        }
        let refusal = world.admit(&door, &basic(RIGHT), 1).await.expect_err("too many in the air");
        assert_eq!(refusal, Refusal::Unavailable);
        drop(waiting);
        assert!(world.gate.flights.lock().is_empty());
        world.management.allowed.add_permits(1);
        assert!(world.admit(&door, &basic(RIGHT), 1).await.is_ok());
    }

    #[tokio::test]
    async fn whatever_goes_wrong_lets_nobody_in() {
        let verdicts: [(Answering, Refusal); 6] = [
            (|_| Err(ManagementError::Unavailable("down".to_owned())), Refusal::Unavailable),
            (|_| Err(ManagementError::Refused("no".to_owned())), Refusal::Unavailable),
            (|_| Ok(Authenticated::TooMany), Refusal::TooMany),
            (|_| yes(Secret::from("")), Refusal::Unavailable),
            (|_| yes(Secret::from("a.b.c")), Refusal::Unavailable),
            (|token| yes(Secret::new(format!("{}x", token.expose()))), Refusal::Unavailable),
        ];
        for (verdict, refusal) in verdicts {
            let world = world();
            let door = door(&world);
            *world.management.verdict.lock() = verdict;
            for _ in 0..2 {
                assert_eq!(world.admit(&door, &basic(RIGHT), 1).await.err(), Some(refusal.clone()));
            }
            assert_eq!(world.asked(), 2, "only what is right is remembered");
            *world.management.verdict.lock() = yes;
            assert!(world.admit(&door, &basic(RIGHT), 1).await.is_ok());
        }
    }

    #[tokio::test]
    async fn without_a_key_no_credential_counts() {
        let world = world();
        let door = Protected::new(Door { sessions: None, ..door(&world).door().clone() }, "the upstream");
        assert_eq!(world.admit(&door, &basic(RIGHT), 1).await.err(), Some(Refusal::Unavailable));
        assert_eq!(world.asked(), 0);
    }

    #[test]
    fn the_gate_is_for_all_workers() {
        fn shared<T: Send + Sync>(_: &T) {}
        fn sent<T: Send>(_: &T) {}
        let world = world();
        shared(&world.gate);
        sent(&world.admit(&door(&world), &HeaderMap::new(), 1));
    }
}
