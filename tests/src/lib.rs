//! What the end-to-end tests share: upstreams that remember what they received, clients that can say what no polite
//! client says, a management server that follows a script, and `postern` itself as a process.
//!
//! The tests themselves stand in `tests/tests`. Everything binds a free loopback port and ends with its owner.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says why and ends")]

pub mod certificate;
pub mod client;
pub mod edge;
pub mod frames;
pub mod netns;
pub mod process;
pub mod stock;
pub mod tun;
pub mod upstream;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How long a test waits for something that must happen. Long, because machines are shared; a passing test never
/// waits for it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `probe` yields a value, asking again every few milliseconds.
///
/// # Panics
/// When [`PATIENCE`] runs out, naming `what` was waited for.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep_until(Instant::now() + Duration::from_millis(5)).await;
    }
}

/// Bounds a future by [`PATIENCE`].
///
/// # Panics
/// When it runs out, naming `what` was waited for.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

/// An address that stays free while nobody listens on it, for a server that comes back where it was. A port of 127.0.0.1
/// that was free a moment ago may be anybody's by then; this loopback address is the process's own, and its ports lie
/// below those that the system gives away.
///
/// # Panics
/// When a process asks for thousands of them.
pub fn lasting_addr() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    // Linux keeps process ids below 2^22: they fill what is left of 127.64.0.0/10.
    let host = Ipv4Addr::from_bits(Ipv4Addr::new(127, 64, 0, 0).to_bits() | (std::process::id() & 0x003f_ffff));
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(port < 30_000, "one process has no use for so many addresses");
    (host, port).into()
}
