//! Tunnel peers at the gate: what management is asked, what is remembered, and that nothing else lets them in.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::poll;
use http::HeaderMap;
use parking_lot::Mutex;
use postern_auth::session::SigningKey;
use postern_auth::{
    Access, Clock, DenyReason, Door, Facts, Gate, Origin, PEER_TTL, Permit, Protected, Refusal, Rule, Scheme, Sessions,
};
use postern_model::{
    AccessLogLine, AccountId, AuthMechanism, Authenticate, Authenticated, BoxFuture, Generation, Group, HostName,
    Management, ManagementError, PeerKind, Principal, PublicKey, Secret, ServiceId, StatusUpdate, TunnelPeer,
    TunnelVerdict, ValidateTunnelPeer,
};
use tokio::sync::Semaphore;

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

/// Answers only as often as it has been allowed to.
struct Fake {
    key: SigningKey,
    clock: Arc<Hands>,
    allowed: Semaphore,
    asked: Mutex<Vec<ValidateTunnelPeer>>,
    verdict: Mutex<Answering>,
}

/// Given a session token that is right.
type Answering = fn(Secret) -> Result<TunnelVerdict, ManagementError>;

fn valid(session_token: Secret) -> Result<TunnelVerdict, ManagementError> {
    Ok(TunnelVerdict::Valid {
        session_token,
        user_id: "u1".to_owned(),
        email: Some("alice@example.com".to_owned()),
        groups: vec![group()],
    })
}

fn group() -> Group {
    Group { id: "g1".to_owned(), name: "eng".to_owned() }
}

impl Management for Fake {
    fn authenticate(&self, _: Authenticate) -> BoxFuture<'_, Result<Authenticated, ManagementError>> {
        panic!("a tunnel peer has no credential")
    }

    fn validate_tunnel_peer(
        &self,
        request: ValidateTunnelPeer,
    ) -> BoxFuture<'_, Result<TunnelVerdict, ManagementError>> {
        Box::pin(async move {
            let somebody =
                Principal { subject: "u1".to_owned(), email: None, groups: Vec::new(), method: "oidc".to_owned() };
            let token = self.key.sign(&somebody, &request.host, self.clock.wall(), Duration::from_secs(3600));
            self.asked.lock().push(request);
            self.allowed.acquire().await.expect("open").forget();
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
        allowed: Semaphore::new(10_000),
        asked: Mutex::default(),
        verdict: Mutex::new(valid),
    });
    World { gate: Gate::new(management.clone(), clock.clone()), management, clock }
}

fn host() -> HostName {
    HostName::parse("inside.example.com").expect("a host")
}

fn account(name: &str) -> AccountId {
    AccountId::parse(name).expect("an id")
}

const KEY: PublicKey = PublicKey([7; 32]);

#[derive(Clone)]
struct Peer {
    account: &'static str,
    key: PublicKey,
    generation: u64,
    last: u8,
    kind: PeerKind,
}

const LAPTOP: Peer = Peer { account: "acc", key: KEY, generation: 1, last: 3, kind: PeerKind::Device };

impl Peer {
    #[expect(clippy::disallowed_methods, reason = "a test has no tunnel")]
    fn origin(&self) -> Origin {
        let address = IpAddr::V4(Ipv4Addr::new(100, 72, 0, self.last));
        let generation = Generation(self.generation);
        Origin::Tunnel(TunnelPeer::minted(account(self.account), self.key, generation, address, self.kind))
    }
}

type Place = Protected<&'static str>;

impl World {
    fn door(&self) -> Door {
        Door {
            service: ServiceId::parse("svc").expect("an id"),
            account: account("acc"),
            host: host(),
            access: Access::Rule(Rule::Scheme(Scheme::Private)),
            sessions: Some(Sessions { key: self.management.key.public(), max_age: Duration::from_secs(86_400) }),
            epoch: 1,
        }
    }

    fn place(&self) -> Place {
        Protected::new(self.door(), "the upstream")
    }

    async fn admit(&self, place: &Place, origin: &Origin) -> Result<Permit<&'static str>, Refusal> {
        let (headers, host) = (HeaderMap::new(), host());
        // An address as tunnels have them, at the public listener too: it proves nothing.
        let source = IpAddr::V4(Ipv4Addr::new(100, 72, 0, 3));
        let facts = Facts { source, origin, tls: true, headers: &headers, upgrade: false, host: &host, port: None };
        self.gate.admit(place, &facts).await
    }

    async fn enters(&self, place: &Place, peer: &Peer) -> bool {
        self.admit(place, &peer.origin()).await.is_ok()
    }

    async fn denied(&self, place: &Place, origin: &Origin) -> DenyReason {
        match self.admit(place, origin).await.expect_err("denied") {
            Refusal::Denied(reason) => reason,
            other => panic!("not a denial: {other:?}"),
        }
    }

    fn answers(&self, verdict: Answering) {
        *self.management.verdict.lock() = verdict;
    }

    /// Management keeps its answers back until it is allowed to give some.
    fn hold(&self) {
        self.management.allowed.forget_permits(usize::MAX >> 4);
    }

    fn asked(&self) -> usize {
        self.management.asked.lock().len()
    }

    /// Lets what can run, run.
    async fn settle(&self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_peer_is_who_management_says_and_is_asked_about_once_in_five_minutes() {
    let world = world();
    let place = world.place();
    let permit = world.admit(&place, &LAPTOP.origin()).await.expect("let in");
    let expected = Principal {
        subject: "u1".to_owned(),
        email: Some("alice@example.com".to_owned()),
        groups: vec![group()],
        method: "oidc".to_owned(),
    };
    assert_eq!(permit.principal().map(|who| &**who), Some(&expected));
    assert_eq!((permit.mechanism(), permit.session()), (AuthMechanism::TunnelPeer, None), "a cookie would outlive it");
    let question = ValidateTunnelPeer {
        address: IpAddr::V4(Ipv4Addr::new(100, 72, 0, 3)),
        host: host(),
        account: account("acc"),
        key: KEY,
        generation: Generation(1),
    };
    assert_eq!(*world.management.asked.lock(), [question]);
    world.clock.advance(PEER_TTL - Duration::from_secs(1));
    assert!(world.enters(&place, &LAPTOP).await);
    assert_eq!(world.asked(), 1);
    world.clock.advance(Duration::from_secs(1));
    assert!(world.enters(&place, &LAPTOP).await);
    assert_eq!(world.asked(), 2);
}

#[tokio::test]
async fn the_time_is_a_choice() {
    let World { gate, management, clock } = world();
    let world = World { gate: gate.with_peer_ttl(Duration::from_secs(2)), management, clock };
    let place = world.place();
    for asked in 1..4 {
        assert!(world.enters(&place, &LAPTOP).await);
        assert_eq!(world.asked(), asked);
        world.clock.advance(Duration::from_secs(2));
    }
}

#[tokio::test]
async fn fifty_first_requests_are_one_question_and_whoever_began_it_may_hang_up() {
    let world = world();
    let (place, origin) = (world.place(), LAPTOP.origin());
    world.hold();
    let mut waiting: Vec<_> = (0..50).map(|_| Box::pin(world.admit(&place, &origin))).collect();
    for one in &mut waiting {
        assert!(poll!(one).is_pending());
    }
    drop(waiting.remove(0));
    world.settle().await;
    assert_eq!(world.asked(), 1);
    world.management.allowed.add_permits(1);
    for one in waiting {
        assert!(one.await.is_ok());
    }
    assert_eq!(world.asked(), 1);
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_any_more_is_kept_all_the_same() {
    let world = world();
    let (place, origin) = (world.place(), LAPTOP.origin());
    world.hold();
    let mut only = Box::pin(world.admit(&place, &origin));
    assert!(poll!(&mut only).is_pending());
    drop(only);
    world.management.allowed.add_permits(1);
    world.settle().await;
    assert!(world.enters(&place, &LAPTOP).await);
    assert_eq!(world.asked(), 1);
}

#[tokio::test]
async fn a_refusal_is_never_remembered_and_what_is_no_verdict_lets_nobody_in() {
    let verdicts: [(Answering, DenyReason); 7] = [
        (|_| Ok(TunnelVerdict::Denied("not_in_group".to_owned())), DenyReason::PeerDenied),
        (|_| Err(ManagementError::Unavailable("down".to_owned())), DenyReason::PeerUnverified),
        (|_| Err(ManagementError::Refused("no".to_owned())), DenyReason::PeerUnverified),
        (|_| valid(Secret::from("")), DenyReason::PeerUnverified),
        (|_| valid(Secret::from("a.b.c")), DenyReason::PeerUnverified),
        (|token| valid(Secret::new(format!("{}x", token.expose()))), DenyReason::PeerUnverified),
        (|_| panic!("a verdict that fails"), DenyReason::PeerUnverified),
    ];
    for (verdict, reason) in verdicts {
        let world = world();
        let place = world.place();
        world.answers(verdict);
        for asked in 1..3 {
            assert_eq!(world.denied(&place, &LAPTOP.origin()).await, reason);
            assert_eq!(world.asked(), asked);
        }
        world.answers(valid);
        assert!(world.enters(&place, &LAPTOP).await);
    }
}

#[tokio::test]
async fn a_token_of_another_service_proves_nothing_here() {
    let world = world();
    let elsewhere = Door { host: HostName::parse("other.example.com").expect("a host"), ..world.door() };
    let key = SigningKey::from_seed(&[4; 32]).public();
    let other_key = Door { sessions: Some(Sessions { key, max_age: Duration::from_secs(60) }), ..world.door() };
    assert!(
        world.enters(&Protected::new(elsewhere, ""), &LAPTOP).await,
        "management signs for the host it is asked about"
    );
    assert_eq!(world.denied(&Protected::new(other_key, ""), &LAPTOP.origin()).await, DenyReason::PeerUnverified);
    assert!(world.enters(&world.place(), &LAPTOP).await);
}

#[tokio::test]
async fn a_service_without_sessions_wants_a_token_all_the_same() {
    let world = world();
    let place = Protected::new(Door { sessions: None, ..world.door() }, "the upstream");
    world.answers(|_| valid(Secret::from("")));
    assert_eq!(world.denied(&place, &LAPTOP.origin()).await, DenyReason::PeerUnverified);
    world.answers(|_| valid(Secret::from("opaque")));
    assert!(world.enters(&place, &LAPTOP).await);
}

#[tokio::test]
async fn who_is_no_peer_of_the_account_is_refused_without_a_question() {
    let world = world();
    let place = world.place();
    assert_eq!(world.denied(&place, &Origin::Public).await, DenyReason::NotAPeer);
    let stranger = Peer { account: "other", ..LAPTOP };
    assert_eq!(world.denied(&place, &stranger.origin()).await, DenyReason::OtherAccount);
    assert_eq!(world.asked(), 0);
    assert!(world.enters(&place, &LAPTOP).await);
    assert_eq!(world.denied(&place, &stranger.origin()).await, DenyReason::OtherAccount, "nor what is remembered");
}

#[tokio::test]
async fn a_site_is_never_a_user() {
    let world = world();
    let place = world.place();
    let site = Peer { kind: PeerKind::Site, ..LAPTOP };
    let permit = world.admit(&place, &site.origin()).await.expect("let in");
    let who = permit.principal().expect("a site");
    assert_eq!((&*who.subject, &who.email, &*who.groups), (&*format!("site:{KEY}"), &None, &[][..]));
}

#[tokio::test]
async fn a_peer_without_user_is_itself() {
    let world = world();
    world.answers(|session_token| {
        let email = Some("printer".to_owned());
        Ok(TunnelVerdict::Valid { session_token, user_id: String::new(), email, groups: Vec::new() })
    });
    let permit = world.admit(&world.place(), &LAPTOP.origin()).await.expect("let in");
    let who = permit.principal().expect("a peer");
    assert_eq!((&*who.subject, who.email.as_deref()), (&*format!("peer:{KEY}"), Some("printer")));
}

#[tokio::test]
async fn another_epoch_generation_key_or_address_is_asked_about_anew() {
    let world = world();
    let place = world.place();
    assert!(world.enters(&place, &LAPTOP).await);
    world.answers(|_| Ok(TunnelVerdict::Denied("not_in_group".to_owned())));
    assert!(world.enters(&place, &LAPTOP).await, "remembered");
    let stricter = Protected::new(Door { epoch: 2, ..world.door() }, "the upstream");
    assert_eq!(world.denied(&stricter, &LAPTOP.origin()).await, DenyReason::PeerDenied);
    for other in
        [Peer { generation: 2, ..LAPTOP }, Peer { key: PublicKey([8; 32]), ..LAPTOP }, Peer { last: 4, ..LAPTOP }]
    {
        assert_eq!(world.denied(&place, &other.origin()).await, DenyReason::PeerDenied);
    }
    assert_eq!(world.asked(), 5);
}

#[tokio::test]
async fn an_evicted_peer_is_asked_about_anew_and_no_other() {
    let world = world();
    let place = world.place();
    let phone = Peer { key: PublicKey([8; 32]), last: 4, ..LAPTOP };
    assert!(world.enters(&place, &LAPTOP).await && world.enters(&place, &phone).await);
    world.gate.evict(&account("other"), KEY);
    world.gate.evict_account(&account("other"));
    assert!(world.enters(&place, &LAPTOP).await);
    assert_eq!(world.asked(), 2);

    world.gate.evict(&account("acc"), KEY);
    world.answers(|_| Ok(TunnelVerdict::Denied("peer_not_found".to_owned())));
    assert_eq!(world.denied(&place, &LAPTOP.origin()).await, DenyReason::PeerDenied);
    assert!(world.enters(&place, &phone).await);
    assert_eq!(world.asked(), 3);

    world.gate.evict_account(&account("acc"));
    assert_eq!(world.denied(&place, &phone.origin()).await, DenyReason::PeerDenied);
    world.answers(valid);
    assert!(world.enters(&place, &phone).await && world.enters(&place, &LAPTOP).await);
}

#[tokio::test]
async fn an_answer_older_than_an_eviction_lets_nobody_in_and_is_not_remembered() {
    type Evict = fn(&Gate);
    let evictions: [Evict; 2] = [|gate| gate.evict(&account("acc"), KEY), |gate| gate.evict_account(&account("acc"))];
    for evict in evictions {
        let world = world();
        let (place, origin) = (world.place(), LAPTOP.origin());
        world.hold();
        let mut before = Box::pin(world.admit(&place, &origin));
        assert!(poll!(&mut before).is_pending());
        world.settle().await;
        evict(&world.gate);
        let mut after = Box::pin(world.admit(&place, &origin));
        assert!(poll!(&mut after).is_pending());
        world.settle().await;
        assert_eq!(world.asked(), 2, "the question from before is not joined");
        let refused = before.await.expect_err("whoever it was is nobody any more");
        assert_eq!(refused, Refusal::Denied(DenyReason::PeerUnverified));
        world.management.allowed.add_permits(1);
        world.settle().await;
        world.answers(|_| Ok(TunnelVerdict::Denied("peer_not_found".to_owned())));
        world.management.allowed.add_permits(2);
        assert!(after.await.is_err());
        assert_eq!(world.denied(&place, &origin).await, DenyReason::PeerDenied);
        assert_eq!(world.asked(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_management_that_never_answers_keeps_nobody_waiting_for_ever() {
    let world = world();
    let (place, origin) = (world.place(), LAPTOP.origin());
    world.hold();
    let began = tokio::time::Instant::now();
    assert_eq!(world.denied(&place, &origin).await, DenyReason::PeerUnverified);
    assert_eq!(began.elapsed().as_secs(), 10);
    world.management.allowed.add_permits(1);
    assert!(world.enters(&place, &LAPTOP).await);
    assert_eq!(world.asked(), 2);
}

#[tokio::test]
async fn the_questions_end_with_the_gate() {
    let world = world();
    let (place, origin) = (world.place(), LAPTOP.origin());
    world.hold();
    let mut only = Box::pin(world.admit(&place, &origin));
    assert!(poll!(&mut only).is_pending());
    world.settle().await;
    drop(only);
    let World { gate, management, .. } = world;
    assert!(Arc::strong_count(&management) > 1);
    drop(gate);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(Arc::strong_count(&management), 1);
}
