//! What an account's home worker does for its tunnel: it runs the driver and serves what the listeners accept.

use std::rc::Rc;
use std::sync::Arc;

use futures_util::FutureExt;
use postern_model::TunnelPeer;
use postern_tunnel::{Listener, Stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::acceptor;
use crate::orders::{Listeners, Load};
use crate::worker::Worker;

/// Carries a tunnel to its end. Its connections are counted apart from the public ones, so that neither side can use up the
/// other's places.
pub(crate) fn carry(worker: &Rc<Worker>, load: Load) {
    let Load { account, driver, listeners, ended } = load;
    tokio::task::spawn_local(async move {
        let reason = match driver.run().await {
            Ok(()) => "it was closed".to_owned(),
            Err(error) => {
                tracing::warn!(%account, %error, "a tunnel has broken down");
                format!("the tunnel has broken down: {error}")
            }
        };
        let _nobody_asks = ended.send(reason);
    });
    let Some(Listeners { https, http }) = listeners else { return };
    let places = Arc::new(Semaphore::new(worker.shared.config.limits.connections));
    let (secure, plain) = (Rc::clone(worker), Rc::clone(worker));
    tokio::task::spawn_local(accept(Rc::clone(worker), https, Arc::clone(&places), move |stream, peer, place| {
        secure.tasks.spawn_local(acceptor::serve_peer(Rc::clone(&secure), stream, peer, place));
    }));
    tokio::task::spawn_local(accept(Rc::clone(worker), http, places, move |stream, peer, place| {
        plain.tasks.spawn_local(acceptor::serve_peer_plain(Rc::clone(&plain), stream, peer, place));
    }));
}

/// Accepts until the tunnel ends or the worker drains. What waits at the end is still accepted, as closing the listener would
/// reset it.
async fn accept(
    worker: Rc<Worker>,
    mut listener: Listener,
    places: Arc<Semaphore>,
    serve: impl Fn(Stream, TunnelPeer, OwnedSemaphorePermit),
) {
    let draining = worker.draining.clone();
    while let Some(place) = draining.run_until_cancelled(Arc::clone(&places).acquire_owned()).await {
        let place = place.expect("the semaphore is never closed");
        match draining.run_until_cancelled(listener.accept()).await {
            Some(Some((stream, peer))) => serve(stream, peer, place),
            Some(None) => return,
            None => break,
        }
    }
    while let Ok(place) = Arc::clone(&places).try_acquire_owned() {
        let Some(Some((stream, peer))) = listener.accept().now_or_never() else { break };
        serve(stream, peer, place);
    }
}
