use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use postern_model::{AuthMechanism, Challenge, HostName, Principal};

use crate::access::{Access, Door, HeaderScheme, Rule, Scheme};
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
    pub fn principal(&self) -> Option<&Principal> {
        self.principal.as_deref()
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

/// What a request says, as far as it bears on who may enter.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The client's address.
    pub source: IpAddr,
    /// The headers as the client sent them, credentials included.
    pub headers: &'a HeaderMap,
    /// Whether the connection is to be handed over (WebSocket).
    pub upgrade: bool,
    /// The host asked for.
    pub host: &'a HostName,
    /// The port asked for, where the request names one.
    pub port: Option<u16>,
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
