//! From an accepted connection to HTTP: the side it came in from and its ClientHello decide what is here for it.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use postern_auth::Origin;
use postern_certs::ALPN_H2;
use postern_model::{HostName, TunnelPeer};
use postern_tunnel::Stream as Tunnelled;
use rustls::server::{Acceptor, ClientHello};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::config::Limits;
use crate::connection::{End, Pulse, Watched, drive, linger};
use crate::http::forwarded::Peer;
use crate::http::pipeline;
use crate::http::watch::{Run, Watch};
use crate::listener::Accepted;
use crate::places::Seat;
use crate::table::{Scope, Tls};
use crate::worker::{Among, Conn, Place, Seen, Worker};

/// Serves a connection of the public listener to its end.
pub(crate) async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let Accepted { mut stream, peer, place } = accepted;
    let place = Place::take(Among::Public { _permit: place }, &worker.metrics);
    // Answers are written in one piece where possible; waiting for more would only delay them.
    let _refused_by_the_system = stream.set_nodelay(true);
    let shake_hands = async {
        refuse_plain(&mut stream).await?;
        handshake(&worker, &Scope::Public, stream).await
    };
    if let Some(secured) = in_time(&worker, peer.ip(), shake_hands.boxed_local()).await {
        secured.converse(worker, Scope::Public, Origin::Public, peer.ip(), place).await;
    }
}

/// Serves a connection to the TLS port of an account's tunnel to its end.
pub(crate) async fn serve_peer(worker: Rc<Worker>, stream: Tunnelled, peer: TunnelPeer, seat: Seat) {
    let place = Place::take(Among::Peers { _seat: seat }, &worker.metrics);
    let (scope, address) = (Scope::Account(peer.account().clone()), peer.address());
    let secured = in_time(&worker, address, handshake(&worker, &scope, stream).boxed_local()).await;
    if let Some(secured) = secured {
        secured.converse(worker, scope, Origin::Tunnel(peer), address, place).await;
    }
}

/// Serves a connection to the port for plain HTTP of an account's tunnel to its end.
pub(crate) async fn serve_peer_plain(worker: Rc<Worker>, stream: Tunnelled, peer: TunnelPeer, seat: Seat) {
    let _place = Place::take(Among::Peers { _seat: seat }, &worker.metrics);
    let (scope, end) = (Scope::Account(peer.account().clone()), Peer::new(peer.address()));
    let (origin, pulse) = (Origin::Tunnel(peer), Pulse::new());
    let seen = Seen::default();
    let conn = Rc::new(Conn { worker, scope, origin, peer: end, sni: None, seen, http2: false, pulse, _place });
    ended(http1(&conn, stream).boxed_local().await);
}

/// Waits for a handshake as long as it may take, and writes down why there is none.
async fn in_time<S>(
    worker: &Worker,
    peer: IpAddr,
    handshake: LocalBoxFuture<'_, Result<Secured<S>, Refusal>>,
) -> Option<Secured<S>> {
    let deadline = Instant::now() + worker.shared.config.limits.handshake;
    match timeout_at(deadline, handshake).await.unwrap_or(Err(Refusal::TooSlow)) {
        Ok(secured) => Some(secured),
        Err(refusal) => {
            tracing::debug!(%peer, %refusal, "connection refused");
            worker.metrics.tls_refused(refusal.reason());
            None
        }
    }
}

/// A client behind TLS.
struct Secured<S> {
    /// Behind a pointer, as it is large and handed on often.
    tls: Box<TlsStream<S>>,
    sni: HostName,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Secured<S> {
    /// Speaks HTTP, in the version that ALPN chose.
    async fn converse(self, worker: Rc<Worker>, scope: Scope, origin: Origin, peer: IpAddr, _place: Place) {
        let Self { tls, sni } = self;
        let http2 = tls.get_ref().1.alpn_protocol() == Some(ALPN_H2);
        let (peer, pulse) = (Peer::new(peer), Pulse::new());
        let (sni, seen) = (Some(sni), Seen::default());
        let conn = Rc::new(Conn { worker, scope, origin, peer, sni, seen, http2, pulse, _place });
        // Apart, so that neither makes room for the other.
        ended(if http2 { self::http2(&conn, tls).boxed_local().await } else { http1(&conn, tls).boxed_local().await });
    }
}

fn ended(end: End) {
    match end {
        End::Done(Ok(())) => {}
        End::Done(Err(error)) => tracing::debug!(%error, "connection ended"),
        End::Overdue => tracing::debug!("connection cut"),
    }
}

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the client speaks something else than TLS")]
    NotTls,
    #[error("the client names no host")]
    NoName,
    #[error("the host {0} is not published here")]
    UnknownName(HostName),
    #[error("there is no certificate for the host {0}")]
    NoCertificate(HostName),
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[from] io::Error),
    #[error("the TLS handshake took too long")]
    TooSlow,
}

impl Refusal {
    /// The word the metrics know it by.
    fn reason(&self) -> &'static str {
        match self {
            Self::NotTls => "not_tls",
            Self::NoName => "no_sni",
            Self::UnknownName(_) => "unknown_sni",
            Self::NoCertificate(_) => "no_certificate",
            Self::Handshake(_) => "handshake_failed",
            Self::TooSlow => "handshake_timeout",
        }
    }
}

/// Tells a browser that came by `http://` what is wrong.
async fn refuse_plain(stream: &mut TcpStream) -> Result<(), Refusal> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE_RECORD {
        stream.write_all(PLAIN_REFUSAL).await?;
        stream.shutdown().await?;
        return Err(Refusal::NotTls);
    }
    Ok(())
}

async fn handshake<S>(worker: &Worker, scope: &Scope, stream: S) -> Result<Secured<S>, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let Some(sni) = named(&start.client_hello()) else {
        start.io.write_all(&UNRECOGNIZED_NAME).await?;
        return Err(Refusal::NoName);
    };
    match worker.shared.router.load().tls(scope, &sni) {
        Tls::Terminate => {}
        Tls::Unknown => {
            start.io.write_all(&UNRECOGNIZED_NAME).await?;
            return Err(Refusal::UnknownName(sni));
        }
    }
    let Some(config) = worker.shared.certificates.server_config(&sni) else { return Err(Refusal::NoCertificate(sni)) };
    let tls = start.into_stream(config).await?;
    Ok(Secured { tls: Box::new(tls), sni })
}

/// The host that a client asks for; `None` where it names none, or what cannot be one.
pub(crate) fn named(hello: &ClientHello<'_>) -> Option<HostName> {
    hello.server_name().and_then(|name| HostName::parse(name).ok())
}

/// The content type of the record that a ClientHello comes in (RFC 8446 §5.1).
pub(crate) const HANDSHAKE_RECORD: u8 = 22;

/// A fatal `unrecognized_name` alert as a record (RFC 8446 §6): nothing is encrypted yet.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

const PLAIN_REFUSAL: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 58\r\n\
Connection: close\r\n\r\nThis port speaks HTTPS: use https:// instead of http://.\r\n";

async fn http1<S>(conn: &Rc<Conn>, io: S) -> End
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (worker, pulse) = (&conn.worker, &conn.pulse);
    let io = TokioIo::new(Watched::new(io, Arc::clone(pulse), true));
    let current = RefCell::new(Weak::new());
    let service = service_fn(|request| {
        let watch = Rc::new(Watch::default());
        current.replace(Rc::downgrade(&watch));
        let conn = Rc::clone(conn);
        async move { Ok::<_, Infallible>(pipeline::serve(conn, watch, request).await) }
    });
    // What was accepted while draining gets its one answer, then ends by itself.
    let late = worker.draining.is_cancelled();
    let draining = if late { CancellationToken::new() } else { worker.draining.clone() };
    let mut connection = http1_builder(late).serve_connection(io, service).with_upgrades();
    let revoked = || current.borrow().upgrade().is_some_and(|watch: Rc<Watch>| watch.is_revoked());
    let end = drive(Pin::new(&mut connection), pulse, &worker.shared.config.limits, &draining, revoked).await;
    if let (End::Done(_), Some(parts)) = (&end, connection.into_parts()) {
        linger(parts.io.into_inner(), pulse).boxed_local().await;
    }
    end
}

async fn http2<S>(conn: &Rc<Conn>, io: S) -> End
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (worker, pulse) = (&conn.worker, &conn.pulse);
    let limits = &worker.shared.config.limits;
    let io = TokioIo::new(Watched::new(io, Arc::clone(pulse), false));
    let streams = Streams { next: Rc::default(), patience: limits.write };
    let next = Rc::clone(&streams.next);
    let service = service_fn(move |request| {
        let watch = Rc::new(Watch::default());
        next.set(Some(Rc::clone(&watch)));
        let conn = Rc::clone(conn);
        async move { Ok::<_, Infallible>(pipeline::serve(conn, watch, request).await) }
    });
    let connection = pin!(http2_builder(limits, streams).serve_connection(io, service));
    drive(connection, pulse, limits, &worker.draining, || false).await
}

fn http1_builder(last: bool) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .keep_alive(!last)
        // Deadlines are the driver's.
        .header_read_timeout(None)
        // The number of headers is limited by hyper's own 100: to say so here makes it fill a table for each request.
        .max_header_size(MAX_HEAD);
    builder
}

fn http2_builder(limits: &Limits, streams: Streams) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(250)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .initial_stream_window_size(1 << 20)
        // h2 derives its budget for small frames from this window.
        .initial_connection_window_size(4 << 20)
        // A client that takes nothing can hold this much for each of its streams.
        .max_send_buf_size(64 * 1024)
        // Resets by the client before we answer, and by us because the client misbehaves: beyond this the connection goes.
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(256)
        .keep_alive_interval(limits.idle / 2)
        .keep_alive_timeout(limits.head)
        .enable_connect_protocol();
    builder
}

/// Bytes of one request's head.
const MAX_HEAD: usize = 64 * 1024;

/// Spawns a connection's streams on the worker's own thread. hyper calls the service for a request and then, before anything
/// else, spawns the stream that will poll what the service returned.
#[derive(Clone)]
struct Streams {
    /// The exchange that the next stream carries.
    next: Rc<Cell<Option<Rc<Watch>>>>,
    patience: Duration,
}

impl<F: Future + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        match self.next.take() {
            Some(watch) => tokio::task::spawn_local(Run::new(stream, &watch, self.patience)),
            // What carries the bytes of an upgraded stream.
            None => tokio::task::spawn_local(async move {
                stream.await;
            }),
        };
    }
}
