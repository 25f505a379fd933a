//! Accepting connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// An accepted connection and its place among those a worker may have open.
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) place: OwnedSemaphorePermit,
}

/// Opens a listener on `address` that others may open as well if `shared`.
pub(crate) fn bind(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` means everybody, as operators expect.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    // What is accepted has it from here: nobody else would notice that the client of a silent stream has vanished.
    socket.set_tcp_keepalive(&keepalive())?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// A peer that vanished without a word is noticed within two minutes, however silent the connection is.
pub(crate) fn keepalive() -> socket2::TcpKeepalive {
    socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4)
}

/// Accepts until `draining` fires and hands each connection to `serve`. Never fails outward: what keeps it from accepting is
/// logged and waited for. What waits in the backlog at the end is still accepted, as closing the listener would reset it.
pub(crate) async fn run(
    listener: TcpListener,
    places: Arc<Semaphore>,
    draining: CancellationToken,
    mut serve: impl FnMut(Accepted),
) {
    let mut back_off = BackOff::default();
    while let Some(place) = draining.run_until_cancelled(Arc::clone(&places).acquire_owned()).await {
        let place = place.expect("the semaphore is never closed");
        match draining.run_until_cancelled(listener.accept()).await {
            None => break,
            Some(Ok((stream, peer))) => {
                back_off = BackOff::default();
                serve(Accepted { stream, peer, place });
            }
            Some(Err(error)) => {
                if let Some(wait) = back_off.after(&error) {
                    tracing::warn!(%error, ?wait, "cannot accept connections for the moment");
                    draining.run_until_cancelled(sleep_until(Instant::now() + wait)).await;
                }
            }
        }
    }
    while let Ok(place) = Arc::clone(&places).try_acquire_owned() {
        let Some(Ok((stream, peer))) = listener.accept().now_or_never() else { break };
        serve(Accepted { stream, peer, place });
    }
}

/// How long to wait after a failed accept: not at all if it was the connection's fault, else ever longer.
#[derive(Default)]
struct BackOff(Duration);

impl BackOff {
    fn after(&mut self, error: &io::Error) -> Option<Duration> {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
        if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | WouldBlock) {
            return None;
        }
        self.0 = (self.0 * 2).clamp(Duration::from_millis(5), Duration::from_secs(1));
        Some(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_up_to_a_second() {
        let mut back_off = BackOff::default();
        let exhausted = io::Error::from_raw_os_error(24);
        let waits: Vec<_> = (0..10).filter_map(|_| back_off.after(&exhausted)).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(back_off.after(&io::ErrorKind::ConnectionAborted.into()), None);
    }

    #[tokio::test]
    async fn what_waits_in_the_backlog_is_served_before_the_end() {
        let listener = TcpListener::from_std(bind("127.0.0.1:0".parse().unwrap(), true).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let _waiting = TcpStream::connect(address).await.unwrap();
        let draining = CancellationToken::new();
        draining.cancel();
        let mut served = 0;
        let serve = |accepted: Accepted| {
            served += 1;
            assert!(socket2::SockRef::from(&accepted.stream).keepalive().unwrap(), "it is inherited");
        };
        run(listener, Arc::new(Semaphore::new(8)), draining, serve).await;
        assert_eq!(served, 1);
    }
}
