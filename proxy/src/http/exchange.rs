//! One request from its head to the last byte of its answer. Whatever ends it, its `Drop` writes the access log.

use std::cell::{Cell, OnceCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper::body::{Body as _, Incoming};
use postern_auth::Permit;
use postern_model::{AccessLogLine, AuthMechanism, HostName, Principal, RequestId};

use crate::http::canonical;
use crate::http::path::Path;
use crate::http::upload::{Flow, State};
use crate::http::watch::Watch;
use crate::table::{Route, Upstream};
use crate::worker::Conn;

/// What is known of a request so far. Its fields are filled in as the pipeline learns them, through shared references, so that
/// a revocation can be watched for at the same time.
pub(crate) struct Exchange {
    conn: Rc<Conn>,
    started: Instant,
    method: Method,
    accept: Option<HeaderValue>,
    has_body: bool,
    asked: OnceCell<Asked>,
    watch: Rc<Watch>,
    mechanism: Cell<AuthMechanism>,
    principal: OnceCell<Arc<Principal>>,
    flow: OnceCell<Rc<Flow>>,
    uploaded: Cell<u64>,
    downloaded: Cell<u64>,
    status: Cell<Option<StatusCode>>,
    refused: Cell<bool>,
    reason: Cell<&'static str>,
    complete: Cell<bool>,
    id: OnceCell<RequestId>,
}

struct Asked {
    host: HostName,
    path: Path,
    client: IpAddr,
}

impl Exchange {
    /// Behind a pointer, since it goes through many hands with the answer's body.
    pub(crate) fn open(conn: Rc<Conn>, watch: Rc<Watch>, request: &Request<Incoming>) -> Box<Self> {
        conn.pulse.exchange_opened();
        conn.worker.metrics.request_started();
        Box::new(Self {
            started: Instant::now(),
            method: request.method().clone(),
            accept: request.headers().get(header::ACCEPT).cloned(),
            has_body: !request.body().is_end_stream(),
            asked: OnceCell::new(),
            watch,
            mechanism: Cell::new(AuthMechanism::None),
            principal: OnceCell::new(),
            flow: OnceCell::new(),
            uploaded: Cell::new(0),
            downloaded: Cell::new(0),
            status: Cell::new(None),
            refused: Cell::new(false),
            reason: Cell::new(""),
            complete: Cell::new(false),
            id: OnceCell::new(),
            conn,
        })
    }

    pub(crate) fn conn(&self) -> &Rc<Conn> {
        &self.conn
    }

    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    /// What the client would like to get.
    pub(crate) fn accept(&self) -> Option<&str> {
        self.accept.as_ref()?.to_str().ok()
    }

    /// The request's id, made when it is first needed.
    pub(crate) fn id(&self) -> RequestId {
        *self.id.get_or_init(|| self.conn.worker.shared.ids.next())
    }

    /// The request has a canonical form, and came from `client`.
    pub(crate) fn asked(&self, request: &canonical::Request, client: IpAddr) {
        let asked = Asked { host: request.host.clone(), path: request.path.clone(), client };
        self.asked.set(asked).ok().expect("a request is read once");
    }

    /// What its runner sees of it.
    pub(crate) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// It has a route. From here on a revocation reaches it.
    pub(crate) fn enter(&self, route: &Arc<Route>) {
        self.watch.enter(&self.conn.worker.live, route, &self.conn.origin);
    }

    /// It may pass.
    pub(crate) fn admitted(&self, permit: &Permit<Upstream>) {
        self.mechanism.set(permit.mechanism());
        if let Some(principal) = permit.principal() {
            self.principal.get_or_init(|| Arc::clone(principal));
        }
    }

    /// Its body goes to the upstream.
    pub(crate) fn uploads(&self, flow: &Rc<Flow>) {
        self.flow.get_or_init(|| Rc::clone(flow));
    }

    /// An answer goes out.
    pub(crate) fn answers(&self, status: StatusCode) {
        self.status.set(Some(status));
    }

    /// We answer in the upstream's place.
    pub(crate) fn refused(&self, mechanism: AuthMechanism) {
        self.refused.set(true);
        if mechanism != AuthMechanism::None {
            self.mechanism.set(mechanism);
        }
    }

    /// Says in the log why it ended as it did; the first word stays.
    pub(crate) fn because(&self, reason: &'static str) {
        if self.reason.get().is_empty() {
            self.reason.set(reason);
        }
    }

    /// The last byte of the answer is handed over. Whether nothing of the client's body is left unread.
    pub(crate) fn complete(&self) -> bool {
        self.complete.set(true);
        let read = match self.flow.get() {
            Some(flow) => flow.finish(),
            None => !self.has_body,
        };
        if !read {
            self.conn.pulse.leave_unread();
        }
        read
    }

    /// Whether part of the client's body is still to come.
    pub(crate) fn has_unread_body(&self) -> bool {
        self.has_body && self.flow.get().is_none_or(|flow| flow.state() != State::Complete)
    }

    pub(crate) fn count_up(&self, bytes: usize) {
        self.uploaded.set(self.uploaded.get() + bytes as u64);
    }

    pub(crate) fn count_down(&self, bytes: usize) {
        self.downloaded.set(self.downloaded.get() + bytes as u64);
    }

    /// Who asks, as far as it is known.
    pub(crate) fn client(&self) -> IpAddr {
        self.asked.get().map_or(self.conn.peer.address, |asked| asked.client)
    }

    /// The host asked for, or nothing.
    pub(crate) fn host(&self) -> &str {
        self.asked.get().map_or("", |asked| asked.host.as_str())
    }

    /// The path asked for, or nothing.
    pub(crate) fn path(&self) -> &str {
        self.asked.get().map_or("", |asked| asked.path.as_str())
    }

    fn line(&self, duration: Duration) -> AccessLogLine {
        let status = self.status.get().map_or(CLIENT_CLOSED_REQUEST, |status| status.as_u16());
        let service = self.watch.route().map(|route| &route.service);
        AccessLogLine {
            timestamp: SystemTime::now(),
            id: self.id(),
            account: service.map(|service| service.account.clone()),
            service: service.map(|service| service.id.clone()),
            host: self.asked.get().map(|asked| asked.host.clone()),
            path: self.asked.get().map(|asked| asked.path.text()).unwrap_or_default(),
            duration,
            method: self.method.clone(),
            status,
            source: self.client(),
            mechanism: self.mechanism.get(),
            user_id: self.principal.get().map(|principal| principal.subject.clone()).unwrap_or_default(),
            auth_success: !(self.refused.get() && matches!(status, 401 | 403)),
            bytes_upload: self.uploaded.get() + self.flow.get().map_or(0, |flow| flow.received()),
            bytes_download: self.downloaded.get(),
            reason: self.reason.get(),
        }
    }
}

/// nginx's status for a client that went before there was an answer.
const CLIENT_CLOSED_REQUEST: u16 = 499;

impl Drop for Exchange {
    fn drop(&mut self) {
        let worker = &self.conn.worker;
        let now = Instant::now();
        self.conn.pulse.exchange_closed(now.into());
        let duration = now - self.started;
        worker.metrics.request_ended(duration);
        if !self.complete.get() {
            self.because("client_gone");
            if let Some(flow) = self.flow.get() {
                flow.finish();
            }
        }
        if self.watch.route().is_none_or(|route| route.log) {
            worker.shared.management.log(self.line(duration));
        }
    }
}
