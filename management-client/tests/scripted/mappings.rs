use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postern_model::{Change, Delivery, Management, MappingEvents, ServiceState, SyncEvent};
use tokio::time::Instant;
use tonic::Status;

use crate::world::{TOKEN, World, config, connect, connect_with, mapping, next, opened, soon, status, until};

fn ids(delivery: &Delivery) -> Vec<String> {
    let SyncEvent::Batch(batch) = &delivery.event else { panic!("no batch: {:?}", delivery.event) };
    let id = |change: &Change| match change {
        Change::Upsert(mapping, _) => mapping.id.to_string(),
        other => panic!("{other:?}"),
    };
    batch.changes.iter().map(id).collect()
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_acknowledged_when_it_is_applied() {
    let (world, mut streams) = World::new();
    let (client, mut events) = connect(world.in_memory());
    let mut stream = opened(&mut streams).await;
    assert_eq!(
        (&*stream.init.proxy_id, &*stream.init.version, &*stream.init.address),
        ("proxy-1", "1.2.3", "proxy.example.com")
    );

    stream.send(vec![mapping("one")], false);
    assert!(matches!(next(&mut events).await.event, SyncEvent::Opened));
    let first = next(&mut events).await;
    assert_eq!(ids(&first), ["one"]);

    // What is called later on the same connection arrives later: an early acknowledgement would be here by now.
    client.report(status("one", ServiceState::Active));
    until(|| world.statuses().len() == 1).await;
    let mut requests = stream.requests.take().expect("requests");
    let early = tokio::select! {
        biased;
        early = requests.message() => Some(early),
        () = std::future::ready(()) => None,
    };
    assert!(early.is_none(), "{early:?}");
    assert!(!client.health().borrow().synced);

    stream.requests = Some(requests);
    first.ack.ack();
    stream.acknowledged().await;
    stream.send(vec![mapping("two")], true);
    let second = next(&mut events).await;
    assert_eq!(ids(&second), ["two"]);
    second.ack.ack();
    stream.acknowledged().await;
    assert!(client.health().borrow().synced);

    // After the snapshot too.
    stream.send(vec![], false);
    let third = next(&mut events).await;
    assert!(ids(&third).is_empty());
    third.ack.ack();
    stream.acknowledged().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_not_applied_comes_again_in_a_new_epoch() {
    let (world, mut streams) = World::new();
    let (_client, mut events) = connect(world.in_memory());
    let stream = opened(&mut streams).await;
    stream.send(vec![mapping("one")], true);
    assert!(matches!(next(&mut events).await.event, SyncEvent::Opened));
    drop(next(&mut events).await);
    assert!(matches!(next(&mut events).await.event, SyncEvent::Lost));

    let mut stream = opened(&mut streams).await;
    stream.send(vec![mapping("one")], true);
    assert!(matches!(next(&mut events).await.event, SyncEvent::Opened));
    let batch = next(&mut events).await;
    assert_eq!(ids(&batch), ["one"]);
    batch.ack.ack();
    stream.acknowledged().await;
}

#[tokio::test(start_paused = true)]
async fn an_old_server_is_followed_by_its_own_call_for_good() {
    let (world, mut streams) = World::new();
    world.always_fails("SyncMappings", Status::unimplemented("unknown method SyncMappings"));
    let (client, mut events) = connect(world.in_memory());
    for epoch in 1..=3 {
        let stream = opened(&mut streams).await;
        assert!(stream.requests.is_none());
        assert_eq!(stream.init.proxy_id, "proxy-1");
        stream.send(vec![mapping("one")], true);
        assert!(matches!(next(&mut events).await.event, SyncEvent::Opened));
        let batch = next(&mut events).await;
        assert_eq!(ids(&batch), ["one"]);
        batch.ack.ack();
        stream.fail(Status::cancelled("context canceled"));
        assert!(matches!(next(&mut events).await.event, SyncEvent::Lost));
        assert_eq!((world.calls("SyncMappings").len(), world.calls("GetMappingUpdate").len()), (1, epoch));
    }
    assert!(client.health().borrow().synced, "what was applied once stays");
}

#[tokio::test(start_paused = true)]
async fn each_stream_is_an_epoch_however_it_ends() {
    let (world, mut streams) = World::new();
    let (client, mut events) = connect(world.in_memory());
    for end in [None, Some(Status::cancelled("superseded")), Some(Status::unknown("send snapshot")), None] {
        let mut stream = opened(&mut streams).await;
        stream.send(vec![mapping("one")], false);
        assert!(matches!(next(&mut events).await.event, SyncEvent::Opened));
        assert!(client.health().borrow().connected);
        next(&mut events).await.ack.ack();
        stream.acknowledged().await;
        match end {
            Some(status) => stream.fail(status),
            None => drop(stream),
        }
        assert!(matches!(next(&mut events).await.event, SyncEvent::Lost));
        assert!(!client.health().borrow().connected);
    }
    assert!(!client.health().borrow().synced, "no snapshot was ever whole");
}

/// Between two tries, in seconds.
fn waits(tries: &[Instant]) -> Vec<f64> {
    tries.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_no_answer_that_would_reset_the_wait() {
    let (world, _streams) = World::new();
    let (client, mut events) = connect_with(world.in_memory(), "nbx_wrong");
    until(|| world.calls("SyncMappings").len() == 9).await;
    let mut longest = 0.8;
    for wait in waits(&world.calls("SyncMappings")) {
        assert!(wait > longest / 2.0 - 0.01 && wait < longest + 0.01, "{wait} of {longest}");
        longest = f64::min(longest * 1.7, 10.0);
    }
    assert!(!client.health().borrow().connected);
    drop(client);
    assert!(soon(events.next()).await.is_none(), "a stream that never opened is no event");
}

#[tokio::test(start_paused = true)]
async fn only_a_message_resets_the_wait() {
    let (world, mut streams) = World::new();
    world.always_fails("SyncMappings", Status::unavailable("starting"));
    let (_client, mut events) = connect(world.in_memory());
    until(|| world.calls("SyncMappings").len() == 6).await;
    world.works_again("SyncMappings");

    // Opened, and closed without a word: still no answer.
    drop(opened(&mut streams).await);
    let stream = opened(&mut streams).await;
    let wait = *waits(&world.calls("SyncMappings")).last().expect("a wait");
    assert!(wait > 4.9, "{wait}");

    stream.send(vec![], true);
    assert!(matches!(next(&mut events).await.event, SyncEvent::Opened));
    next(&mut events).await.ack.ack();
    drop(stream);
    assert!(matches!(next(&mut events).await.event, SyncEvent::Lost));
    let _stream = opened(&mut streams).await;
    let wait = *waits(&world.calls("SyncMappings")).last().expect("a wait");
    assert!(wait < 0.9, "{wait}");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_asked_for_comes_once_and_not_too_often() {
    let (world, mut streams) = World::new();
    let (client, mut events) = connect(world.in_memory());
    let begun = Instant::now();
    for round in 1..=3 {
        let mut stream = opened(&mut streams).await;
        // What was asked for before the stream comes with it, and what is asked for during the snapshot waits for its end.
        client.resync();
        stream.send(vec![mapping("one")], false);
        assert!(matches!(next(&mut events).await.event, SyncEvent::Opened));
        next(&mut events).await.ack.ack();
        stream.acknowledged().await;
        stream.send(vec![mapping("two")], true);
        next(&mut events).await.ack.ack();
        stream.acknowledged().await;
        for _ in 0..100 {
            client.resync();
        }
        // A change in between loses nothing.
        stream.send(vec![mapping("three")], false);
        let change = next(&mut events).await;
        assert_eq!(ids(&change), ["three"]);
        change.ack.ack();
        assert!(matches!(next(&mut events).await.event, SyncEvent::Lost));
        assert_eq!(world.calls("SyncMappings").len(), round);
        let soonest = 30 * u64::try_from(round).expect("a small number");
        assert!((soonest..soonest + 5).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }
    let stream = opened(&mut streams).await;
    stream.send(vec![], true);
    assert!(matches!(next(&mut events).await.event, SyncEvent::Opened));
    next(&mut events).await.ack.ack();
    let quiet = tokio::time::timeout(Duration::from_secs(300), events.next()).await;
    assert!(quiet.is_err(), "nobody asked again: {:?}", quiet.map(|delivery| delivery.map(|delivery| delivery.event)));
}

#[tokio::test]
async fn a_server_that_dies_is_found_again() {
    let (world, mut streams) = World::new();
    let server = world.on_loopback(0);
    let (client, mut events) = connect(server.transport());
    let addr = server.addr;
    let mut stream = opened(&mut streams).await;
    stream.send(vec![mapping("one")], true);
    assert!(matches!(next(&mut events).await.event, SyncEvent::Opened));
    next(&mut events).await.ack.ack();
    stream.acknowledged().await;

    drop(server);
    assert!(matches!(next(&mut events).await.event, SyncEvent::Lost));
    assert!(client.health().borrow().synced && !client.health().borrow().connected);

    let _server = world.on_loopback(addr.port());
    let stream = opened(&mut streams).await;
    stream.send(vec![mapping("one"), mapping("two")], true);
    assert!(matches!(next(&mut events).await.event, SyncEvent::Opened));
    assert_eq!(ids(&next(&mut events).await), ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn the_stream_ends_with_the_client() {
    let (world, mut streams) = World::new();
    let (client, mut events) = connect(world.in_memory());
    let mut stream = opened(&mut streams).await;
    let clone = client.clone();
    drop(client);
    stream.send(vec![], true);
    assert!(matches!(next(&mut events).await.event, SyncEvent::Opened), "one is left");
    next(&mut events).await.ack.ack();
    stream.acknowledged().await;

    drop(clone);
    assert!(soon(events.next()).await.is_none());
    let requests = stream.requests.as_mut().expect("requests");
    assert!(!matches!(soon(requests.message()).await, Ok(Some(_))), "the server sees the end");

    let (client, mut events) = connect(world.in_memory());
    client.shutdown(Duration::from_secs(1)).await;
    assert!(soon(events.next()).await.is_none());
}

#[tokio::test]
async fn a_configuration_prints_no_token() {
    let (world, _streams) = World::new();
    let shown = format!("{:?}", config(world.in_memory(), TOKEN));
    assert!(shown.contains("proxy-1") && !shown.contains(TOKEN), "{shown}");
}

/// What is logged by this thread, as text.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Logged {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

impl io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A gateway that buffers answers pings and keeps the mappings.
#[tokio::test(start_paused = true)]
async fn a_stream_that_brings_nothing_is_told_of() {
    let logged = Logged::default();
    let writer = logged.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let (world, mut streams) = World::new();
    let (client, mut events) = connect(world.in_memory());
    let stream = opened(&mut streams).await;
    let begun = Instant::now();
    until(|| logged.text().contains("has not answered") || begun.elapsed() > Duration::from_secs(90)).await;
    assert!((29..35).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert!(logged.text().contains("gateway") && logged.text().contains("WARN"), "{}", logged.text());

    stream.send(vec![mapping("one")], true);
    assert!(matches!(next(&mut events).await.event, SyncEvent::Opened), "it was waited for");
    next(&mut events).await.ack.ack();
    until(|| client.health().borrow().synced || begun.elapsed() > Duration::from_secs(90)).await;
    let later = Instant::now();
    until(|| later.elapsed() > Duration::from_secs(60)).await;
    assert_eq!(logged.text().matches("has not answered").count(), 1, "a stream on which nothing changes is in order");
    assert!(client.health().borrow().connected);
}
