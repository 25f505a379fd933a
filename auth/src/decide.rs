use std::fmt;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use postern_model::{AuthMechanism, Challenge, Principal};

use crate::access::{Access, Door, HeaderScheme, Rule, Scheme};
use crate::facts::{Facts, Origin};
use crate::refusal::{DenyReason, Refusal};
use crate::{basic, cookie, origin};

/// Something that is only had through a door. There is no way to it but [`Permit::redeem`].
pub struct Protected<T> {
    door: Door,
    inside: Arc<T>,
}

impl<T> Protected<T> {
    /// Puts `inside` behind `door`.
    pub fn new(door: Door, inside: T) -> Self {
        Self { door, inside: Arc::new(inside) }
    }

    /// The door.
    #[must_use]
    pub fn door(&self) -> &Door {
        &self.door
    }
}

impl<T> fmt::Debug for Protected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protected").field("door", &self.door).finish_non_exhaustive()
    }
}

/// The key to what is behind one door. [`decide`] alone makes it.
pub struct Permit<T> {
    principal: Option<Arc<Principal>>,
    mechanism: AuthMechanism,
    session: Option<HeaderValue>,
    inside: Arc<T>,
}

impl<T> Permit<T> {
    /// Who was let in; `None` where the door is open to everybody.
    #[must_use]
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        self.principal.as_ref()
    }

    /// What let them in, as the access log names it.
    #[must_use]
    pub fn mechanism(&self) -> AuthMechanism {
        self.mechanism
    }

    /// The `Set-Cookie` to send with the answer, after a login by header.
    #[must_use]
    pub fn session(&self) -> Option<&HeaderValue> {
        self.session.as_ref()
    }

    /// Opens the door.
    #[must_use]
    pub fn redeem(self) -> Arc<T> {
        self.inside
    }
}

impl<T> fmt::Debug for Permit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("principal", &self.principal).finish_non_exhaustive()
    }
}

/// Something [`decide`] must know and cannot find out by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether one of the request's session cookies is valid at this door.
    Session,
    /// Whether the request's value of this header is right.
    Header(HeaderName),
    /// Whether management lets in the peer that the connection came from.
    Peer,
}

/// The answer to a [`Question`].
#[derive(Clone, Debug)]
pub enum Answer {
    /// It is right, and this is who it is.
    Yes(Proof),
    /// It is wrong.
    No,
    /// Too many were wrong; it was not looked at.
    TooMany,
    /// Nobody could say.
    Unavailable,
}

/// A credential that was found right.
#[derive(Clone, Debug)]
pub struct Proof {
    /// Whose it is.
    pub principal: Arc<Principal>,
    /// The `Set-Cookie` that starts a session, where the login is fresh.
    pub session: Option<HeaderValue>,
}

/// The answers so far for one request.
#[derive(Clone, Debug, Default)]
pub struct Answers(Vec<(Question, Answer)>);

impl Answers {
    /// Keeps the answer to a question that [`decide`] asked.
    pub fn record(&mut self, question: Question, answer: Answer) {
        self.0.push((question, answer));
    }

    fn to(&self, question: &Question) -> Option<&Answer> {
        self.0.iter().find(|(asked, _)| asked == question).map(|(_, answer)| answer)
    }
}

/// What comes of a decision.
#[derive(Debug)]
pub enum Verdict<T> {
    /// Come in.
    Permit(Permit<T>),
    /// Find this out, record it, and decide again.
    Ask(Question),
    /// Stay out.
    Refuse(Refusal),
}

/// Decides whether a request may enter. Pure: what it cannot see in the request, it asks for, each thing once, so that
/// after at most one answer per scheme and one for the session there is a verdict. Only [`Answer::Yes`] ever lets in.
pub fn decide<T>(door: &Protected<T>, facts: &Facts<'_>, answers: &Answers) -> Verdict<T> {
    let rule = match &door.door.access {
        Access::Open => {
            return Verdict::Permit(Permit {
                principal: None,
                mechanism: AuthMechanism::None,
                session: None,
                inside: door.inside.clone(),
            });
        }
        Access::Rule(rule) => rule,
    };
    if facts.upgrade && origin::is_foreign(facts) {
        return Verdict::Refuse(Refusal::CrossOrigin);
    }
    let sessions_count = rule.one_proof_suffices();
    let scene = Scene { door: &door.door, facts, answers };
    match scene.session(sessions_count).unwrap_or_else(|| scene.evaluate(rule)) {
        Outcome::Met(mechanism, proof) => Verdict::Permit(Permit {
            principal: Some(proof.principal),
            mechanism,
            session: proof.session.filter(|_| sessions_count),
            inside: door.inside.clone(),
        }),
        Outcome::Ask(question) => Verdict::Ask(question),
        Outcome::Unmet(lack) => Verdict::Refuse(refusal(rule, lack)),
    }
}

/// How far a rule is met.
enum Outcome {
    Met(AuthMechanism, Proof),
    Unmet(Lack),
    Ask(Question),
}

/// Why a rule is not met.
#[derive(Clone, Copy)]
enum Lack {
    Denied(DenyReason),
    Absent,
    Wrong,
    TooMany,
    Unavailable,
}

/// What a rule is judged by.
#[derive(Clone, Copy)]
struct Scene<'a> {
    door: &'a Door,
    facts: &'a Facts<'a>,
    answers: &'a Answers,
}

impl Scene<'_> {
    /// `None` where no session speaks for the request. A bad cookie is as good as none.
    fn session(self, sessions_count: bool) -> Option<Outcome> {
        let none = self.door.sessions.is_none() || !sessions_count;
        if none || cookie::session_tokens(self.facts.headers).next().is_none() {
            return None;
        }
        match self.answers.to(&Question::Session) {
            None => Some(Outcome::Ask(Question::Session)),
            Some(Answer::Yes(proof)) => Some(Outcome::Met(AuthMechanism::Header, proof.clone())),
            Some(Answer::No | Answer::TooMany | Answer::Unavailable) => None,
        }
    }

    fn evaluate(self, rule: &Rule) -> Outcome {
        match rule {
            Rule::Any(rules) => self.any(rules),
            Rule::All(rules) => self.all(rules),
            Rule::Scheme(Scheme::Header(scheme)) => self.header(scheme),
            Rule::Scheme(Scheme::Private) => self.peer(),
        }
    }

    /// Nobody chooses to be a peer: one that may not enter, as anybody who is none, can still prove something else.
    fn any(self, rules: &[Rule]) -> Outcome {
        let mut lack = Lack::Denied(DenyReason::NoScheme);
        for rule in rules {
            match (self.evaluate(rule), lack) {
                (Outcome::Unmet(Lack::Absent), _) => lack = Lack::Absent,
                (Outcome::Unmet(Lack::Denied(reason)), Lack::Denied(DenyReason::NoScheme)) => {
                    lack = Lack::Denied(reason);
                }
                (Outcome::Unmet(Lack::Denied(_)), _) => {}
                (decided, _) => return decided,
            }
        }
        Outcome::Unmet(lack)
    }

    fn all(self, rules: &[Rule]) -> Outcome {
        let mut first = None;
        for rule in rules {
            match self.evaluate(rule) {
                Outcome::Met(mechanism, proof) => first = first.or(Some((mechanism, proof))),
                undecided => return undecided,
            }
        }
        let none = Outcome::Unmet(Lack::Denied(DenyReason::NoScheme));
        first.map_or(none, |(mechanism, proof)| Outcome::Met(mechanism, proof))
    }

    fn header(self, scheme: &HeaderScheme) -> Outcome {
        match presented(scheme, self.facts) {
            Presented::Nothing => return Outcome::Unmet(Lack::Absent),
            Presented::Nonsense => return Outcome::Unmet(Lack::Wrong),
            Presented::Value => {}
        }
        let question = Question::Header(scheme.name.clone());
        match self.answers.to(&question) {
            None => Outcome::Ask(question),
            Some(Answer::Yes(proof)) => Outcome::Met(AuthMechanism::Header, proof.clone()),
            Some(Answer::No) => Outcome::Unmet(Lack::Wrong),
            Some(Answer::TooMany) => Outcome::Unmet(Lack::TooMany),
            Some(Answer::Unavailable) => Outcome::Unmet(Lack::Unavailable),
        }
    }

    fn peer(self) -> Outcome {
        let denied = |reason| Outcome::Unmet(Lack::Denied(reason));
        match self.facts.origin {
            Origin::Public => return denied(DenyReason::NotAPeer),
            Origin::Tunnel(peer) if *peer.account() != self.door.account => return denied(DenyReason::OtherAccount),
            Origin::Tunnel(_) => {}
        }
        match self.answers.to(&Question::Peer) {
            None => Outcome::Ask(Question::Peer),
            Some(Answer::Yes(proof)) => Outcome::Met(AuthMechanism::TunnelPeer, proof.clone()),
            Some(Answer::No) => denied(DenyReason::PeerDenied),
            Some(Answer::TooMany | Answer::Unavailable) => denied(DenyReason::PeerUnverified),
        }
    }
}

enum Presented {
    Nothing,
    /// Not worth a question: several values, no text, too long, or not of the challenge's form.
    Nonsense,
    Value,
}

/// The longest credential that is looked at, in bytes.
const LONGEST: usize = 8 * 1024;

fn presented(scheme: &HeaderScheme, facts: &Facts<'_>) -> Presented {
    let mut values = facts.headers.get_all(&scheme.name).iter();
    match (values.next(), values.next()) {
        (None, _) => Presented::Nothing,
        (Some(_), Some(_)) => Presented::Nonsense,
        (Some(value), None) if value.is_empty() => Presented::Nothing,
        (Some(value), None) => {
            let text = value.len() <= LONGEST && str::from_utf8(value.as_bytes()).is_ok();
            let well_formed = match &scheme.challenge {
                None => true,
                Some(Challenge::Basic { .. }) => basic::parse(value).is_some(),
            };
            if text && well_formed { Presented::Value } else { Presented::Nonsense }
        }
    }
}

fn refusal(rule: &Rule, lack: Lack) -> Refusal {
    match lack {
        Lack::Denied(reason) => Refusal::Denied(reason),
        Lack::Absent => Refusal::Challenge { www_authenticate: rule.challenges(), wrong: false },
        Lack::Wrong => Refusal::Challenge { www_authenticate: rule.challenges(), wrong: true },
        Lack::TooMany => Refusal::TooMany,
        Lack::Unavailable => Refusal::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use http::header::{AUTHORIZATION, COOKIE, ORIGIN};
    use http::{HeaderMap, StatusCode};
    use postern_model::{AccountId, Generation, HostName, PeerKind, PublicKey, ServiceId, SessionKey, TunnelPeer};
    use proptest::prelude::*;

    use super::*;
    use crate::access::Sessions;

    fn host() -> HostName {
        HostName::parse("app.example.com").expect("a host")
    }

    fn protected(access: Access) -> Protected<&'static str> {
        let door = Door {
            service: ServiceId::parse("svc").expect("an id"),
            account: AccountId::parse("acc").expect("an id"),
            host: host(),
            access,
            sessions: Some(Sessions { key: SessionKey([1; 32]), max_age: Duration::from_secs(60) }),
            epoch: 1,
        };
        Protected::new(door, "the upstream")
    }

    fn scheme(name: HeaderName, challenge: Option<Challenge>) -> Rule {
        Rule::Scheme(Scheme::Header(HeaderScheme { name, challenge }))
    }

    fn key() -> Rule {
        scheme(HeaderName::from_static("x-key"), None)
    }

    fn password() -> Rule {
        scheme(AUTHORIZATION, Some(Challenge::Basic { realm: "App".to_owned() }))
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).expect("a header value"));
        }
        headers
    }

    fn proof() -> Proof {
        let principal = Principal { subject: "u1".to_owned(), email: None, groups: Vec::new(), method: String::new() };
        Proof { principal: Arc::new(principal), session: Some(HeaderValue::from_static("cookie")) }
    }

    /// Answers what is asked at a public listener, and says what was.
    fn run(
        access: Access,
        headers: &HeaderMap,
        upgrade: bool,
        answer: impl FnMut(&Question) -> Answer,
    ) -> (Result<Permit<&'static str>, Refusal>, Vec<Question>) {
        run_at(&Origin::Public, access, headers, upgrade, answer)
    }

    fn run_at(
        origin: &Origin,
        access: Access,
        headers: &HeaderMap,
        upgrade: bool,
        mut answer: impl FnMut(&Question) -> Answer,
    ) -> (Result<Permit<&'static str>, Refusal>, Vec<Question>) {
        let door = protected(access);
        let host = host();
        let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let facts = Facts { source, origin, tls: true, headers, upgrade, host: &host, port: Some(443) };
        let (mut answers, mut asked) = (Answers::default(), Vec::new());
        loop {
            match decide(&door, &facts, &answers) {
                Verdict::Permit(permit) => return (Ok(permit), asked),
                Verdict::Refuse(refusal) => return (Err(refusal), asked),
                Verdict::Ask(question) => {
                    assert!(!asked.contains(&question), "asked twice: {question:?}");
                    answers.record(question.clone(), answer(&question));
                    asked.push(question);
                }
            }
        }
    }

    fn refused(rule: Rule, fields: &[(&'static str, &str)], answer: &Answer) -> (Refusal, usize) {
        let (outcome, asked) = run(Access::Rule(rule), &headers(fields), false, |_| answer.clone());
        (outcome.expect_err("refused"), asked.len())
    }

    const BASIC: (&str, &str) = ("authorization", "Basic YTpi");
    const TOKEN: (&str, &str) = ("cookie", "nb_session=a.b.c");

    #[test]
    fn an_open_door_lets_in_without_a_question() {
        let (permit, asked) = run(Access::Open, &headers(&[BASIC, TOKEN]), true, |_| Answer::No);
        let permit = permit.expect("open");
        assert_eq!((permit.principal(), permit.mechanism(), permit.session()), (None, AuthMechanism::None, None));
        assert_eq!((*permit.redeem(), asked.len()), ("the upstream", 0));
    }

    #[test]
    fn empty_rules_let_nobody_in() {
        for rule in [Rule::Any(vec![]), Rule::All(vec![]), Rule::Any(vec![Rule::All(vec![])])] {
            let (refusal, asked) = refused(rule, &[BASIC, TOKEN], &Answer::Yes(proof()));
            assert_eq!((refusal.status(), asked), (StatusCode::FORBIDDEN, 0));
            assert_eq!(refusal, Refusal::Denied(DenyReason::NoScheme));
        }
    }

    #[test]
    fn a_right_header_lets_in_and_starts_a_session() {
        let (permit, asked) = run(Access::Rule(password()), &headers(&[BASIC]), false, |_| Answer::Yes(proof()));
        let permit = permit.expect("right");
        assert_eq!(permit.principal().map(|who| &*who.subject), Some("u1"));
        assert_eq!(permit.mechanism(), AuthMechanism::Header);
        assert_eq!(permit.session(), Some(&HeaderValue::from_static("cookie")));
        assert_eq!(asked, [Question::Header(AUTHORIZATION)]);
    }

    #[test]
    fn what_is_missing_or_wrong_is_asked_for() {
        let challenge = HeaderValue::from_static("Basic realm=\"App\", charset=\"UTF-8\"");
        let (missing, _) = refused(password(), &[], &Answer::Unavailable);
        assert_eq!(missing, Refusal::Challenge { www_authenticate: vec![challenge.clone()], wrong: false });
        assert_eq!((missing.mechanism(), missing.reason()), (AuthMechanism::None, "credential_missing"));
        let (wrong, _) = refused(Rule::Any(vec![password(), password()]), &[BASIC], &Answer::No);
        assert_eq!(wrong, Refusal::Challenge { www_authenticate: vec![challenge.clone()], wrong: true });
        assert_eq!((wrong.mechanism(), wrong.status()), (AuthMechanism::Header, StatusCode::UNAUTHORIZED));
        assert_eq!(wrong.www_authenticate(), [challenge]);
        let (silent, _) = refused(key(), &[], &Answer::No);
        assert_eq!((silent.status(), silent.www_authenticate()), (StatusCode::UNAUTHORIZED, &[][..]));
    }

    #[test]
    fn no_verdict_is_no_permit() {
        assert_eq!(refused(password(), &[BASIC, TOKEN], &Answer::Unavailable).0, Refusal::Unavailable);
        assert_eq!(refused(password(), &[BASIC], &Answer::TooMany).0, Refusal::TooMany);
        assert_eq!(Refusal::Unavailable.status(), StatusCode::BAD_GATEWAY);
        assert_eq!(Refusal::TooMany.status(), StatusCode::TOO_MANY_REQUESTS);
    }

    #[test]
    fn a_credential_given_twice_or_malformed_is_wrong_without_a_question() {
        let long = "v".repeat(LONGEST + 1);
        for (rule, fields) in [
            (password(), vec![BASIC, BASIC]),
            (password(), vec![BASIC, ("authorization", "Bearer x")]),
            (password(), vec![("authorization", "Bearer x")]),
            (password(), vec![("authorization", "Basic !")]),
            (key(), vec![("x-key", "v"), ("x-key", "v")]),
            (key(), vec![("x-key", &*long)]),
        ] {
            let (refusal, asked) = refused(rule, &fields, &Answer::Yes(proof()));
            assert_eq!((refusal.reason(), asked), ("credential_wrong", 0), "{fields:?}");
        }
        let mut latin = HeaderMap::new();
        latin.append("x-key", HeaderValue::from_bytes(b"\xe9").expect("obs-text"));
        assert!(run(Access::Rule(key()), &latin, false, |_| Answer::Yes(proof())).0.is_err());
        assert!(run(Access::Rule(key()), &headers(&[("x-key", "é")]), false, |_| Answer::Yes(proof())).0.is_ok());
    }

    #[test]
    fn the_cookie_comes_first_and_a_bad_one_is_none() {
        let (permit, asked) = run(Access::Rule(password()), &headers(&[BASIC, TOKEN]), false, |_| Answer::Yes(proof()));
        assert!(permit.is_ok());
        assert_eq!(asked, [Question::Session]);
        let by_header = |question: &Question| match question {
            Question::Session => Answer::No,
            Question::Header(_) => Answer::Yes(proof()),
            Question::Peer => Answer::Unavailable,
        };
        let (permit, asked) = run(Access::Rule(password()), &headers(&[BASIC, TOKEN]), false, by_header);
        assert!(permit.is_ok());
        assert_eq!(asked.len(), 2);
        assert_eq!(refused(password(), &[TOKEN], &Answer::No).0.reason(), "credential_missing");
    }

    #[test]
    fn the_first_credential_present_decides() {
        let rule = || Rule::Any(vec![key(), password()]);
        let only = |right: HeaderName| {
            move |question: &Question| match question {
                Question::Header(name) if *name == right => Answer::Yes(proof()),
                Question::Header(_) | Question::Session | Question::Peer => Answer::No,
            }
        };
        let both = headers(&[("x-key", "v"), BASIC]);
        assert!(run(Access::Rule(rule()), &headers(&[BASIC]), false, only(AUTHORIZATION)).0.is_ok());
        assert!(run(Access::Rule(rule()), &both, false, only(HeaderName::from_static("x-key"))).0.is_ok());
        assert!(run(Access::Rule(rule()), &both, false, only(AUTHORIZATION)).0.is_err());
    }

    #[test]
    fn all_of_several_take_no_session_for_an_answer() {
        let rule = Rule::All(vec![key(), password()]);
        let both = headers(&[("x-key", "v"), BASIC, TOKEN]);
        let (permit, asked) = run(Access::Rule(rule.clone()), &both, false, |_| Answer::Yes(proof()));
        assert_eq!(permit.expect("both are right").session(), None);
        assert!(!asked.contains(&Question::Session));
        assert_eq!(refused(rule, &[("x-key", "v"), TOKEN], &Answer::Yes(proof())).0.reason(), "credential_missing");
    }

    #[test]
    fn a_page_of_another_origin_opens_no_websocket() {
        let foreign = headers(&[BASIC, (ORIGIN.as_str(), "https://evil.example")]);
        let own = headers(&[BASIC, (ORIGIN.as_str(), "https://app.example.com")]);
        let outcome = |access, headers: &HeaderMap, upgrade| run(access, headers, upgrade, |_| Answer::Yes(proof())).0;
        let refusal = outcome(Access::Rule(password()), &foreign, true).expect_err("foreign");
        assert_eq!((refusal.status(), &refusal), (StatusCode::FORBIDDEN, &Refusal::CrossOrigin));
        assert!(outcome(Access::Rule(password()), &own, true).is_ok());
        assert!(outcome(Access::Rule(password()), &headers(&[BASIC]), true).is_ok());
        assert!(outcome(Access::Rule(password()), &foreign, false).is_ok());
        assert!(outcome(Access::Open, &foreign, true).is_ok());
    }

    fn private() -> Rule {
        Rule::Scheme(Scheme::Private)
    }

    #[expect(clippy::disallowed_methods, reason = "a test has no tunnel")]
    fn peer_of(account: &str) -> Origin {
        let account = AccountId::parse(account).expect("an id");
        let address = IpAddr::V4(Ipv4Addr::new(100, 72, 0, 3));
        Origin::Tunnel(TunnelPeer::minted(account, PublicKey([2; 32]), Generation(1), address, PeerKind::Device))
    }

    fn refused_at(origin: &Origin, rule: Rule, fields: &[(&'static str, &str)], answer: &Answer) -> (Refusal, usize) {
        let (outcome, asked) = run_at(origin, Access::Rule(rule), &headers(fields), false, |_| answer.clone());
        (outcome.expect_err("refused"), asked.len())
    }

    #[test]
    fn a_peer_that_management_lets_in_enters_a_private_door_and_gets_no_session() {
        let (permit, asked) = run_at(
            &peer_of("acc"),
            Access::Rule(private()),
            &headers(&[BASIC, TOKEN]),
            false,
            |_| Answer::Yes(proof()),
        );
        let permit = permit.expect("let in");
        assert_eq!(asked, [Question::Peer], "neither cookie nor header is looked at");
        assert_eq!((permit.mechanism(), permit.session()), (AuthMechanism::TunnelPeer, None));
        assert_eq!(permit.principal().map(|who| &*who.subject), Some("u1"));
    }

    #[test]
    fn every_other_way_to_a_private_door_ends_in_403_without_a_challenge() {
        let yes = Answer::Yes(proof());
        let cases = [
            (Origin::Public, &yes, DenyReason::NotAPeer, 0, "not_a_peer", AuthMechanism::None),
            (peer_of("other"), &yes, DenyReason::OtherAccount, 0, "other_account", AuthMechanism::TunnelPeer),
            (peer_of("acc"), &Answer::No, DenyReason::PeerDenied, 1, "peer_denied", AuthMechanism::TunnelPeer),
            (
                peer_of("acc"),
                &Answer::Unavailable,
                DenyReason::PeerUnverified,
                1,
                "peer_unverified",
                AuthMechanism::TunnelPeer,
            ),
            (
                peer_of("acc"),
                &Answer::TooMany,
                DenyReason::PeerUnverified,
                1,
                "peer_unverified",
                AuthMechanism::TunnelPeer,
            ),
        ];
        for (origin, answer, reason, questions, word, mechanism) in cases {
            for rule in [private(), Rule::Any(vec![private()]), Rule::All(vec![private(), password()])] {
                let (refusal, asked) = refused_at(&origin, rule, &[BASIC, TOKEN], answer);
                assert_eq!((&refusal, asked), (&Refusal::Denied(reason), questions));
                assert_eq!((refusal.status(), refusal.reason()), (StatusCode::FORBIDDEN, word));
                assert_eq!((refusal.www_authenticate(), refusal.mechanism()), (&[][..], mechanism));
            }
        }
    }

    #[test]
    fn beside_a_header_being_a_peer_is_one_more_way_in() {
        let either = || Rule::Any(vec![password(), private()]);
        let outcome = |origin: &Origin, fields: &[(&'static str, &str)], header: Answer, peer: Answer| {
            let (outcome, asked) =
                run_at(origin, Access::Rule(either()), &headers(fields), false, |question| match question {
                    Question::Session => Answer::No,
                    Question::Header(_) => header.clone(),
                    Question::Peer => peer.clone(),
                });
            (outcome.map(|permit| permit.mechanism()).map_err(|refusal| refusal.reason()), asked.len())
        };
        let (yes, no, away) = (Answer::Yes(proof()), Answer::No, Answer::Unavailable);
        let by_header = || Ok(AuthMechanism::Header);
        assert_eq!(outcome(&peer_of("acc"), &[], no.clone(), yes.clone()), (Ok(AuthMechanism::TunnelPeer), 1));
        assert_eq!(outcome(&peer_of("acc"), &[BASIC], yes.clone(), no.clone()), (by_header(), 1));
        assert_eq!(outcome(&peer_of("acc"), &[BASIC], no.clone(), yes.clone()), (Err("credential_wrong"), 1));
        assert_eq!(outcome(&peer_of("acc"), &[], yes.clone(), no.clone()), (Err("credential_missing"), 1));
        assert_eq!(outcome(&peer_of("acc"), &[], yes.clone(), away), (Err("credential_missing"), 1));
        assert_eq!(outcome(&peer_of("other"), &[], yes.clone(), yes.clone()), (Err("credential_missing"), 0));
        assert_eq!(outcome(&Origin::Public, &[], yes.clone(), yes.clone()), (Err("credential_missing"), 0));
        assert_eq!(outcome(&Origin::Public, &[BASIC], yes.clone(), no), (by_header(), 1));
        let reversed = Access::Rule(Rule::Any(vec![private(), password()]));
        let (permit, _) = run_at(&Origin::Public, reversed, &headers(&[BASIC]), false, |_| yes.clone());
        assert!(permit.is_ok(), "the order does not matter to who is no peer");
    }

    #[test]
    fn a_session_stands_for_a_header_never_for_a_peer() {
        let asks_for_session = |rule: Rule| {
            let (_, asked) = run(Access::Rule(rule), &headers(&[TOKEN]), false, |_| Answer::No);
            asked.contains(&Question::Session)
        };
        assert!(asks_for_session(Rule::Any(vec![password(), private()])));
        assert!(!asks_for_session(private()));
        assert!(!asks_for_session(Rule::Any(vec![private()])));
        assert!(!asks_for_session(Rule::All(vec![password(), private()])));
        assert!(!asks_for_session(Rule::Any(vec![password(), Rule::All(vec![key(), private()])])));
    }

    #[test]
    fn nothing_inside_is_printed() {
        let door = protected(Access::Open);
        assert!(!format!("{door:?}").contains("upstream"));
        let (permit, _) = run(Access::Open, &HeaderMap::new(), false, |_| Answer::No);
        assert!(!format!("{permit:?}").contains("upstream"));
    }

    #[test]
    fn credential_headers_are_named_once() {
        let access = Access::Rule(Rule::Any(vec![password(), Rule::All(vec![key(), password()])]));
        let names: Vec<_> = access.credential_headers().map(HeaderName::as_str).collect();
        assert_eq!(names, ["authorization", "x-key"]);
        assert_eq!(Access::Open.credential_headers().count(), 0);
    }

    /// The headers of the model: `x-h0`, `x-h1` and so on.
    const NAMES: [&str; 4] = ["x-h0", "x-h1", "x-h2", "x-h3"];

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum State {
        Absent,
        Right,
        Wrong,
        TooMany,
        Unavailable,
        Twice,
    }

    fn state() -> impl Strategy<Value = State> {
        prop_oneof![
            3 => Just(State::Absent),
            3 => Just(State::Right),
            1 => Just(State::Wrong),
            1 => Just(State::TooMany),
            1 => Just(State::Unavailable),
            1 => Just(State::Twice),
        ]
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let leaf = prop_oneof![
            4 => (0..NAMES.len()).prop_map(|n| scheme(HeaderName::from_static(NAMES[n]), None)),
            1 => Just(private()),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Rule::Any),
                proptest::collection::vec(inner, 0..4).prop_map(Rule::All),
            ]
        })
    }

    fn place_of(name: &HeaderName) -> usize {
        NAMES.iter().position(|known| name == *known).expect("a header of the model")
    }

    /// Whether a rule is met by headers in these states, and by being a peer that is let in; `None` if nothing it wants is
    /// there.
    fn reference(rule: &Rule, states: &[State], let_in: bool) -> Option<bool> {
        match rule {
            Rule::Scheme(Scheme::Private) => let_in.then_some(true),
            Rule::Scheme(Scheme::Header(header)) => match states[place_of(&header.name)] {
                State::Absent => None,
                state => Some(state == State::Right),
            },
            Rule::Any(rules) => rules.iter().find_map(|rule| reference(rule, states, let_in)),
            Rule::All(rules) => rules
                .iter()
                .map(|rule| reference(rule, states, let_in))
                .find(|outcome| *outcome != Some(true))
                .unwrap_or((!rules.is_empty()).then_some(true)),
        }
    }

    /// How many headers a rule wants, and whether it is met if only that one (by its place) is proved.
    fn met_by_one(rule: &Rule, one: usize, next: &mut usize) -> bool {
        let mut each = |rules: &[Rule]| -> Vec<bool> { rules.iter().map(|rule| met_by_one(rule, one, next)).collect() };
        match rule {
            Rule::Any(rules) => each(rules).contains(&true),
            Rule::All(rules) => !rules.is_empty() && !each(rules).contains(&false),
            Rule::Scheme(Scheme::Private) => false,
            Rule::Scheme(Scheme::Header(_)) => {
                *next += 1;
                *next - 1 == one
            }
        }
    }

    fn a_session_is_enough(rule: &Rule) -> bool {
        let mut schemes = 0;
        met_by_one(rule, usize::MAX, &mut schemes);
        schemes > 0 && (0..schemes).all(|one| met_by_one(rule, one, &mut 0))
    }

    proptest! {
        #[test]
        fn decide_agrees_with_the_reference(
            rule in rule(),
            states in proptest::collection::vec(state(), NAMES.len()),
            cookie in state(),
            peer in state(),
            origin in prop_oneof![Just(Origin::Public), Just(peer_of("acc")), Just(peer_of("other"))],
        ) {
            let mut sent = HeaderMap::new();
            for (name, state) in NAMES.iter().zip(&states) {
                for _ in 0..[0, 1, 2][usize::from(*state != State::Absent) + usize::from(*state == State::Twice)] {
                    sent.append(*name, HeaderValue::from_static("v"));
                }
            }
            if cookie != State::Absent {
                sent.append(COOKIE, HeaderValue::from_static("nb_session=a.b.c"));
            }
            let answer = |state| match state {
                State::Right => Answer::Yes(proof()),
                State::Wrong | State::Twice | State::Absent => Answer::No,
                State::TooMany => Answer::TooMany,
                State::Unavailable => Answer::Unavailable,
            };
            let mut positive = 0;
            let (outcome, asked) = run_at(&origin, Access::Rule(rule.clone()), &sent, false, |question| {
                let state = match question {
                    Question::Session => cookie,
                    Question::Header(name) => states[place_of(name)],
                    Question::Peer => peer,
                };
                positive += usize::from(state == State::Right);
                answer(state)
            });
            prop_assert!(asked.len() <= NAMES.len() + 2);
            prop_assert!(outcome.is_err() || positive > 0, "a permit without a positive fact");
            let by_session = asked.contains(&Question::Session) && cookie == State::Right;
            prop_assert!(!by_session || a_session_is_enough(&rule));
            let in_tunnel = origin == peer_of("acc");
            prop_assert!(in_tunnel || !asked.contains(&Question::Peer));
            let let_in = in_tunnel && peer == State::Right;
            prop_assert_eq!(outcome.is_ok(), by_session || reference(&rule, &states, let_in) == Some(true));
        }
    }
}
