use std::time::Duration;

use postern_management_client::{CAPACITY, LineCounts};
use postern_model::Management;
use tonic::Status;

use crate::world::{World, connect, line, soon, until};

const GRACE: Duration = Duration::from_secs(10);

fn all_sent(lines: usize) -> LineCounts {
    LineCounts { sent: lines as u64, ..LineCounts::default() }
}

#[tokio::test(start_paused = true)]
async fn five_thousand_lines_a_second_arrive_whole() {
    let (world, _streams) = World::new();
    let (client, _events) = connect(world.in_memory());
    let mut clock = tokio::time::interval(Duration::from_millis(10));
    for number in 0..50_000 {
        if number % 50 == 0 {
            clock.tick().await;
        }
        client.log(line(number));
    }
    client.shutdown(GRACE).await;
    assert_eq!((world.lines(), world.lines_repeated()), (50_000, 0));
    assert_eq!(client.lines(), all_sent(50_000));
    assert_eq!(world.calls("SendAccessLog").len(), 0);
    assert_eq!(world.calls("StreamAccessLogs").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stock_server_gets_them_one_by_one() {
    let (world, _streams) = World::new();
    world.always_fails("StreamAccessLogs", Status::unimplemented("unknown service postern.v1.Proxy"));
    let (client, _events) = connect(world.in_memory());
    let mut clock = tokio::time::interval(Duration::from_millis(10));
    for number in 0..10_000 {
        if number % 50 == 0 {
            clock.tick().await;
        }
        client.log(line(number));
    }
    client.shutdown(GRACE).await;
    assert_eq!((world.lines(), world.lines_repeated()), (10_000, 0));
    assert_eq!(client.lines(), all_sent(10_000));
    assert_eq!(world.calls("StreamAccessLogs").len(), 1, "remembered");
    assert_eq!(world.calls("SendAccessLog").len(), 10_000);
}

/// Lines before, during and after an outage, while a server dies in the middle of them.
async fn over_a_restart(world: &World) {
    let server = world.on_loopback(0);
    let addr = server.addr;
    let (client, _events) = connect(server.transport());
    let log = |from: usize, to: usize| (from..to).for_each(|number| client.log(line(number)));
    log(0, 2_000);
    until(|| world.lines() > 100).await;
    drop(server);
    log(2_000, 6_000);
    let server = world.on_loopback(addr.port());
    log(6_000, 8_000);
    until(|| world.lines() > 6_000).await;
    drop(server);
    log(8_000, 10_000);
    let _server = world.on_loopback(addr.port());
    until(|| client.lines().waiting == 0).await;
    client.shutdown(GRACE).await;
    assert_eq!(client.lines(), all_sent(10_000));
    let expected: Vec<_> = (0..10_000).map(|number| line(number).id.to_string()).collect();
    assert!(world.line_ids() == expected, "{} of 10000 lines", world.lines());
}

#[tokio::test]
async fn batches_survive_a_server_that_dies() {
    let (world, _streams) = World::new();
    over_a_restart(&world).await;
    assert_eq!(world.calls("SendAccessLog").len(), 0);
}

#[tokio::test]
async fn single_lines_survive_a_server_that_dies() {
    let (world, _streams) = World::new();
    world.always_fails("StreamAccessLogs", Status::unimplemented(""));
    over_a_restart(&world).await;
}

/// A gateway says Unimplemented while the server behind it starts, or a stock server makes room for ours.
#[tokio::test(start_paused = true)]
async fn after_an_outage_the_stream_is_tried_again() {
    let (world, _streams) = World::new();
    for call in ["StreamAccessLogs", "SendAccessLog"] {
        world.always_fails(call, Status::unimplemented("no such page"));
    }
    let (client, _events) = connect(world.in_memory());
    (0..100).for_each(|number| client.log(line(number)));
    until(|| !world.calls("SendAccessLog").is_empty()).await;
    for call in ["StreamAccessLogs", "SendAccessLog"] {
        world.works_again(call);
    }
    until(|| client.lines().waiting == 0).await;
    let one_by_one = world.calls("SendAccessLog").len();
    (100..3_000).for_each(|number| client.log(line(number)));
    client.shutdown(GRACE).await;
    assert_eq!(client.lines(), all_sent(3_000));
    assert_eq!(world.calls("SendAccessLog").len(), one_by_one, "the rest came over the stream");
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_kept_until_it_is_accepted() {
    let (world, _streams) = World::new();
    world.silent(true);
    let (client, _events) = connect(world.in_memory());
    (0..100).for_each(|number| client.log(line(number)));
    until(|| world.lines() == 100).await;
    assert_eq!(client.lines(), LineCounts { waiting: 100, ..LineCounts::default() });
    world.silent(false);
    until(|| client.lines().waiting == 0).await;
    assert_eq!(client.lines(), all_sent(100));
    assert_eq!((world.lines(), world.lines_repeated()), (100, 100), "sent again under the same ids");
}

#[tokio::test(start_paused = true)]
async fn what_a_full_queue_drops_is_counted() {
    let (world, _streams) = World::new();
    world.always_fails("StreamAccessLogs", Status::unavailable("starting"));
    let (client, _events) = connect(world.in_memory());
    let logged = CAPACITY + 20_000;
    (0..logged).for_each(|number| client.log(line(number)));
    assert_eq!(client.lines_dropped(), 20_000);
    world.works_again("StreamAccessLogs");
    client.shutdown(Duration::from_secs(60)).await;
    assert_eq!(world.lines(), CAPACITY);
    assert_eq!(client.lines(), LineCounts { sent: CAPACITY as u64, dropped: 20_000, ..LineCounts::default() });
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_flushed_at_shutdown_and_the_rest_is_counted() {
    for stream in [true, false] {
        let (world, _streams) = World::new();
        if !stream {
            world.always_fails("StreamAccessLogs", Status::unimplemented(""));
        }
        let (client, _events) = connect(world.in_memory());
        (0..3_000).for_each(|number| client.log(line(number)));
        soon(client.shutdown(GRACE)).await;
        assert_eq!((world.lines(), client.lines()), (3_000, all_sent(3_000)));
        client.log(line(3_000));
        assert_eq!(client.lines_dropped(), 1, "after the end");

        let (world, _streams) = World::new();
        world.always_fails("StreamAccessLogs", Status::unavailable("away"));
        world.always_fails("SendAccessLog", Status::unavailable("away"));
        let (client, _events) = connect(world.in_memory());
        (0..3_000).for_each(|number| client.log(line(number)));
        soon(client.shutdown(GRACE)).await;
        assert_eq!(client.lines(), LineCounts { dropped: 3_000, ..LineCounts::default() });
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_refused_holds_up_no_other() {
    let (world, _streams) = World::new();
    world.always_fails("StreamAccessLogs", Status::unimplemented(""));
    world.next_fails("SendAccessLog", Status::permission_denied("not your account"));
    for _ in 0..3 {
        world.next_fails("SendAccessLog", Status::internal("store"));
    }
    let (client, _events) = connect(world.in_memory());
    (0..100).for_each(|number| client.log(line(number)));
    until(|| client.lines().waiting == 0).await;
    let lines = client.lines();
    assert_eq!((lines.sent + lines.refused, lines.dropped), (100, 0));
    assert!((1..=2).contains(&lines.refused), "{lines:?}");
    assert_eq!(world.lines() as u64, lines.sent);
}
