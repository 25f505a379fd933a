use std::fmt;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};
use postern_model::{AuthMechanism, Challenge, Principal};

use crate::access::{Access, Door, HeaderScheme, Rule, Scheme};
use crate::facts::Facts;
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

/// Why somebody stays out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A credential is missing, or wrong (401).
    Challenge {
        /// One `WWW-Authenticate` each; empty where the schemes have none.
        www_authenticate: Vec<HeaderValue>,
        /// A credential was there, and it was wrong.
        wrong: bool,
    },
    /// No credential would help (403).
    Denied(DenyReason),
    /// A page of another origin wants to open a WebSocket with this browser's credentials (403).
    CrossOrigin,
    /// Too many wrong tries; this one was not looked at (429).
    TooMany,
    /// Nobody could say whether the credential is right (502).
    Unavailable,
}

/// Why no credential helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenyReason {
    /// The rule names no scheme at all.
    NoScheme,
}

impl Refusal {
    /// The status to answer with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Challenge { .. } => StatusCode::UNAUTHORIZED,
            Self::Denied(_) | Self::CrossOrigin => StatusCode::FORBIDDEN,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::BAD_GATEWAY,
        }
    }

    /// One word for the access log.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Challenge { wrong: false, .. } => "credential_missing",
            Self::Challenge { wrong: true, .. } => "credential_wrong",
            Self::Denied(DenyReason::NoScheme) => "no_scheme",
            Self::CrossOrigin => "cross_origin",
            Self::TooMany => "too_many_tries",
            Self::Unavailable => "auth_unavailable",
        }
    }

    /// One `WWW-Authenticate` each, to send along.
    #[must_use]
    pub fn www_authenticate(&self) -> &[HeaderValue] {
        match self {
            Self::Challenge { www_authenticate, .. } => www_authenticate,
            Self::Denied(_) | Self::CrossOrigin | Self::TooMany | Self::Unavailable => &[],
        }
    }

    /// What kept them out, as the access log names it: the header where one was presented.
    #[must_use]
    pub fn mechanism(&self) -> AuthMechanism {
        match self {
            Self::Challenge { wrong: true, .. } | Self::TooMany | Self::Unavailable => AuthMechanism::Header,
            Self::Challenge { wrong: false, .. } | Self::Denied(_) | Self::CrossOrigin => AuthMechanism::None,
        }
    }
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
    match session(&door.door, sessions_count, facts, answers).unwrap_or_else(|| evaluate(rule, facts, answers)) {
        Outcome::Met(proof) => Verdict::Permit(Permit {
            principal: Some(proof.principal),
            mechanism: AuthMechanism::Header,
            session: proof.session.filter(|_| sessions_count),
            inside: door.inside.clone(),
        }),
        Outcome::Ask(question) => Verdict::Ask(question),
        Outcome::Unmet(lack) => Verdict::Refuse(refusal(rule, lack)),
    }
}

/// How far a rule is met.
enum Outcome {
    Met(Proof),
    Unmet(Lack),
    Ask(Question),
}

/// Why a rule is not met.
#[derive(Clone, Copy)]
enum Lack {
    NoScheme,
    Absent,
    Wrong,
    TooMany,
    Unavailable,
}

/// `None` where no session speaks for the request. A bad cookie is as good as none.
fn session(door: &Door, sessions_count: bool, facts: &Facts<'_>, answers: &Answers) -> Option<Outcome> {
    if door.sessions.is_none() || !sessions_count || cookie::session_tokens(facts.headers).next().is_none() {
        return None;
    }
    match answers.to(&Question::Session) {
        None => Some(Outcome::Ask(Question::Session)),
        Some(Answer::Yes(proof)) => Some(Outcome::Met(proof.clone())),
        Some(Answer::No | Answer::TooMany | Answer::Unavailable) => None,
    }
}

fn evaluate(rule: &Rule, facts: &Facts<'_>, answers: &Answers) -> Outcome {
    match rule {
        Rule::Any(rules) => any(rules, facts, answers),
        Rule::All(rules) => all(rules, facts, answers),
        Rule::Scheme(Scheme::Header(scheme)) => header(scheme, facts, answers),
    }
}

fn any(rules: &[Rule], facts: &Facts<'_>, answers: &Answers) -> Outcome {
    let mut lack = Lack::NoScheme;
    for rule in rules {
        match evaluate(rule, facts, answers) {
            Outcome::Unmet(Lack::NoScheme) => {}
            Outcome::Unmet(Lack::Absent) => lack = Lack::Absent,
            decided => return decided,
        }
    }
    Outcome::Unmet(lack)
}

fn all(rules: &[Rule], facts: &Facts<'_>, answers: &Answers) -> Outcome {
    let mut first = None;
    for rule in rules {
        match evaluate(rule, facts, answers) {
            Outcome::Met(proof) => first = first.or(Some(proof)),
            undecided => return undecided,
        }
    }
    first.map_or(Outcome::Unmet(Lack::NoScheme), Outcome::Met)
}

fn header(scheme: &HeaderScheme, facts: &Facts<'_>, answers: &Answers) -> Outcome {
    match presented(scheme, facts) {
        Presented::Nothing => return Outcome::Unmet(Lack::Absent),
        Presented::Nonsense => return Outcome::Unmet(Lack::Wrong),
        Presented::Value => {}
    }
    let question = Question::Header(scheme.name.clone());
    match answers.to(&question) {
        None => Outcome::Ask(question),
        Some(Answer::Yes(proof)) => Outcome::Met(proof.clone()),
        Some(Answer::No) => Outcome::Unmet(Lack::Wrong),
        Some(Answer::TooMany) => Outcome::Unmet(Lack::TooMany),
        Some(Answer::Unavailable) => Outcome::Unmet(Lack::Unavailable),
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
        Lack::NoScheme => Refusal::Denied(DenyReason::NoScheme),
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

    use http::HeaderMap;
    use http::header::{AUTHORIZATION, COOKIE, ORIGIN};
    use postern_model::{AccountId, HostName, ServiceId, SessionKey};
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

    /// Answers what is asked, and says what was.
    fn run(
        access: Access,
        headers: &HeaderMap,
        upgrade: bool,
        mut answer: impl FnMut(&Question) -> Answer,
    ) -> (Result<Permit<&'static str>, Refusal>, Vec<Question>) {
        let door = protected(access);
        let host = host();
        let facts = Facts { source: IpAddr::V4(Ipv4Addr::LOCALHOST), headers, upgrade, host: &host, port: Some(443) };
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
                Question::Header(_) | Question::Session => Answer::No,
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
        let leaf = (0..NAMES.len()).prop_map(|n| scheme(HeaderName::from_static(NAMES[n]), None));
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Rule::Any),
                proptest::collection::vec(inner, 0..4).prop_map(Rule::All),
            ]
        })
    }

    fn name_of(scheme: &Scheme) -> usize {
        let Scheme::Header(header) = scheme;
        NAMES.iter().position(|name| header.name == *name).expect("a header of the model")
    }

    /// Whether a rule is met by headers in these states; `None` if nothing it wants is there.
    fn reference(rule: &Rule, states: &[State]) -> Option<bool> {
        match rule {
            Rule::Scheme(scheme) => match states[name_of(scheme)] {
                State::Absent => None,
                state => Some(state == State::Right),
            },
            Rule::Any(rules) => rules.iter().find_map(|rule| reference(rule, states)),
            Rule::All(rules) => rules
                .iter()
                .map(|rule| reference(rule, states))
                .find(|outcome| *outcome != Some(true))
                .unwrap_or((!rules.is_empty()).then_some(true)),
        }
    }

    /// How many schemes a rule has, and whether it is met if only that one (by its place) is proved.
    fn met_by_one(rule: &Rule, one: usize, next: &mut usize) -> bool {
        let mut each = |rules: &[Rule]| -> Vec<bool> { rules.iter().map(|rule| met_by_one(rule, one, next)).collect() };
        match rule {
            Rule::Any(rules) => each(rules).contains(&true),
            Rule::All(rules) => !rules.is_empty() && !each(rules).contains(&false),
            Rule::Scheme(_) => {
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
            let (outcome, asked) = run(Access::Rule(rule.clone()), &sent, false, |question| {
                let state = match question {
                    Question::Session => cookie,
                    Question::Header(name) => {
                        states[NAMES.iter().position(|known| name == *known).expect("a header of the model")]
                    }
                };
                positive += usize::from(state == State::Right);
                answer(state)
            });
            prop_assert!(asked.len() <= NAMES.len() + 1);
            prop_assert!(outcome.is_err() || positive > 0, "a permit without a positive fact");
            let by_session = asked.contains(&Question::Session) && cookie == State::Right;
            prop_assert!(!by_session || a_session_is_enough(&rule));
            prop_assert_eq!(outcome.is_ok(), by_session || reference(&rule, &states) == Some(true));
        }
    }
}
