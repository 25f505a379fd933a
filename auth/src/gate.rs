use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use http::HeaderName;
use parking_lot::Mutex;
use postern_model::{Authenticate, Authenticated, Credential, Management, Secret};

use crate::access::{Door, Sessions};
use crate::cache::{Kind, Name, Verified};
use crate::clock::Clock;
use crate::decide::{Answer, Answers, Facts, Permit, Proof, Protected, Question, Refusal, Verdict, decide};
use crate::{cookie, session};

/// How many credentials may be on their way to management at once.
const MOST_FLIGHTS: usize = 1024;

/// Asks, remembers, decides. One for all workers.
pub struct Gate {
    management: Arc<dyn Management>,
    clock: Arc<dyn Clock>,
    verified: Arc<Verified>,
    flights: Mutex<Flights>,
}

/// Questions to management under way, so that the fifty requests of a page's first load cost one. They are told apart
/// by source too: whether there were too many wrong tries depends on it.
type Flights = HashMap<(Name, IpAddr), WeakShared<Flight>>;
type Flight = BoxFuture<'static, Answer>;

impl Gate {
    /// A gate that asks `management`.
    #[must_use]
    pub fn new(management: Arc<dyn Management>, clock: Arc<dyn Clock>) -> Self {
        Self { management, clock, verified: Arc::new(Verified::new()), flights: Mutex::default() }
    }

    /// Lets a request in, or says why not. Takes as long as management does, and no time if the credential was verified
    /// within the last minute.
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
        let Some(sessions) = door.sessions else {
            return Answer::Unavailable;
        };
        match question {
            Question::Session => self.session(door, sessions, facts),
            Question::Header(name) => self.header(door, sessions, facts, name).await,
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
        let mut flights = self.flights.lock();
        self.flight = None;
        if flights.get(&self.key).is_some_and(|flight| flight.upgrade().is_none()) {
            flights.remove(&self.key);
        }
    }
}
