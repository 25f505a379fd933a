//! What an account's home worker does for its tunnel: it runs the driver and serves what the listeners accept.

use std::rc::Rc;

use futures_util::FutureExt;
use postern_model::TunnelPeer;
use postern_tunnel::{Listener, Stream};

use crate::acceptor;
use crate::orders::{Listeners, Load};
use crate::places::{Places, Seat};
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
    let places = Places::new(worker.shared.config.limits.connections);
    let (secure, plain) = (Rc::clone(worker), Rc::clone(worker));
    tokio::task::spawn_local(accept(Rc::clone(worker), https, Rc::clone(&places), move |stream, peer, seat| {
        secure.tasks.spawn_local(acceptor::serve_peer(Rc::clone(&secure), stream, peer, seat));
    }));
    tokio::task::spawn_local(accept(Rc::clone(worker), http, places, move |stream, peer, seat| {
        plain.tasks.spawn_local(acceptor::serve_peer_plain(Rc::clone(&plain), stream, peer, seat));
    }));
}

/// Accepts until the tunnel ends or the worker drains, and never waits for a place: who has its share already must not stand in
/// the way of others. What waits at the end is still accepted, as closing the listener would reset it.
async fn accept(
    worker: Rc<Worker>,
    mut listener: Listener,
    places: Rc<Places>,
    serve: impl Fn(Stream, TunnelPeer, Seat),
) {
    let admit = |(stream, peer): (Stream, TunnelPeer)| match places.take(peer.key()) {
        Some(seat) => serve(stream, peer, seat),
        None => {
            tracing::debug!(peer = %peer.address(), "connection reset: the peer has its share of connections open");
            stream.abort();
        }
    };
    while let Some(Some(accepted)) = worker.draining.run_until_cancelled(listener.accept()).await {
        admit(accepted);
        tokio::task::consume_budget().await;
    }
    while let Some(Some(accepted)) = listener.accept().now_or_never() {
        admit(accepted);
    }
}
