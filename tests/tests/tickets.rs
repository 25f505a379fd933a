//! S11: a TLS session of one host resumes nothing on another, though one certificate serves both.

use std::fmt;
use std::sync::Arc;

use postern_tests::edge::Edge;
use postern_tests::stock::{State, Stock, mapping};
use postern_tests::upstream::Upstream;
use postern_tests::within;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::ServerName;
use rustls::{HandshakeKind, NamedGroup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_ticket_is_worth_nothing_elsewhere() {
    let upstream = Upstream::named("app").await;
    let snapshot = ["app", "more"].map(|name| mapping(name, &format!("{name}.test"), &upstream.url()));
    let server = Stock::start(State { snapshot: snapshot.into(), ..State::default() }).await;
    let edge = Edge::start(&server);
    edge.serves("app.test", "app").await;
    edge.serves("more.test", "app").await;
    let client = edge.client.resuming(Resumption::store(Arc::new(Reuse(ClientSessionMemoryCache::new(32)))));
    let kind = async |host: &str| {
        let mut tls = within("a handshake", client.tls(host)).await.expect("the handshake succeeds");
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        tls.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        // The ticket comes before the answer does.
        within("an answer", tls.read_to_string(&mut answer)).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        tls.get_ref().1.handshake_kind().expect("it is complete")
    };
    assert_eq!(kind("app.test").await, HandshakeKind::Full);
    // Workers share the key of the tickets, so it does not matter which one is met.
    assert_eq!(kind("app.test").await, HandshakeKind::Resumed);
    assert_eq!(kind("more.test").await, HandshakeKind::Full, "offered at another host, a ticket opens nothing");
    assert_eq!(kind("more.test").await, HandshakeKind::Resumed);
}

/// A client that offers whatever session it got last to whomever it meets.
struct Reuse(ClientSessionMemoryCache);

impl fmt::Debug for Reuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reuse")
    }
}

fn anybody() -> ServerName<'static> {
    ServerName::try_from("anybody").expect("a name")
}

impl ClientSessionStore for Reuse {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(anybody(), group);
    }
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&anybody())
    }
    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(anybody(), value);
    }
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&anybody())
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&anybody());
    }
    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(anybody(), value);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&anybody())
    }
}
