use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use http::HeaderName;
use postern_management_client::Client;
use postern_model::{
    AccountId, Authenticate, Authenticated, Credential, Management, ManagementError, Secret, ServiceId, ServiceState,
};
use postern_proto::management::ProxyStatus;
use tonic::Status;

use crate::world::{World, connect, soon, status, until};

async fn authenticate(client: &Client, value: &str) -> Result<Authenticated, ManagementError> {
    let request = Authenticate {
        service: ServiceId::parse("one").expect("id"),
        account: AccountId::parse("acc-1").expect("id"),
        credential: Credential::Header { name: HeaderName::from_static("x-key"), value: Secret::from(value) },
        source: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    soon(client.authenticate(request)).await
}

#[tokio::test(start_paused = true)]
async fn only_a_yes_with_a_token_is_a_yes() {
    let (world, _streams) = World::new();
    let (client, _events) = connect(world.in_memory());
    let yes = authenticate(&client, "right").await;
    assert!(matches!(yes, Ok(Authenticated::Yes { session_token }) if session_token.expose() == "jwt"));
    assert!(matches!(authenticate(&client, "wrong").await, Ok(Authenticated::No)));
    assert!(matches!(authenticate(&client, "hollow").await, Err(ManagementError::Refused(_))));
    assert!(matches!(authenticate(&client, "never").await, Err(ManagementError::Unavailable(_))), "after the deadline");

    world.next_fails("Authenticate", Status::resource_exhausted("too many wrong tries"));
    assert!(matches!(authenticate(&client, "right").await, Ok(Authenticated::TooMany)));
    world.next_fails("Authenticate", Status::failed_precondition("no such service"));
    assert!(matches!(authenticate(&client, "right").await, Err(ManagementError::Refused(_))));
    world.next_fails("Authenticate", Status::unavailable("starting"));
    assert!(matches!(authenticate(&client, "right").await, Err(ManagementError::Unavailable(_))));
    assert!(matches!(authenticate(&client, "right").await, Ok(Authenticated::Yes { .. })));
}

#[tokio::test]
async fn a_server_that_is_away_gives_no_verdict() {
    let (world, _streams) = World::new();
    let server = world.on_loopback(0);
    let (client, _events) = connect(server.transport());
    assert!(matches!(authenticate(&client, "right").await, Ok(Authenticated::Yes { .. })));
    drop(server);
    assert!(matches!(authenticate(&client, "right").await, Err(ManagementError::Unavailable(_))));
}

fn delivered(world: &World) -> Vec<(String, ProxyStatus)> {
    world.statuses().into_iter().map(|s| (s.service_id.clone(), s.status())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_status_is_delivered_once_and_the_newest_wins() {
    let (world, _streams) = World::new();
    world.always_fails("SendStatusUpdate", Status::unavailable("starting"));
    let (client, _events) = connect(world.in_memory());
    client.report(status("one", ServiceState::Pending));
    client.report(status("two", ServiceState::Error));
    until(|| world.calls("SendStatusUpdate").len() >= 2).await;
    client.report(status("one", ServiceState::Active));
    world.works_again("SendStatusUpdate");

    until(|| delivered(&world).len() == 2).await;
    // What comes after shows that nothing else was still to come.
    client.report(status("three", ServiceState::Active));
    until(|| delivered(&world).len() == 3).await;
    let expected = [("one", ProxyStatus::Active), ("two", ProxyStatus::Error), ("three", ProxyStatus::Active)];
    assert_eq!(delivered(&world), expected.map(|(service, status)| (service.to_owned(), status)));
}

#[tokio::test(start_paused = true)]
async fn a_status_that_is_refused_is_not_offered_again() {
    let (world, _streams) = World::new();
    world.next_fails("SendStatusUpdate", Status::not_found("no such service"));
    let (client, _events) = connect(world.in_memory());
    client.report(status("gone", ServiceState::Active));
    until(|| world.calls("SendStatusUpdate").len() == 1).await;

    // Nor one that the server fails over and over, and neither holds up the others.
    for _ in 0..3 {
        world.next_fails("SendStatusUpdate", Status::internal("store"));
    }
    client.report(status("one", ServiceState::Active));
    until(|| world.calls("SendStatusUpdate").len() == 4).await;
    client.report(status("two", ServiceState::Active));
    until(|| !delivered(&world).is_empty()).await;
    client.shutdown(Duration::from_secs(5)).await;
    assert_eq!(delivered(&world), [("two".to_owned(), ProxyStatus::Active)]);
    assert_eq!(world.calls("SendStatusUpdate").len(), 5);
}

#[tokio::test(start_paused = true)]
async fn statuses_are_flushed_at_shutdown() {
    let (world, _streams) = World::new();
    let (client, _events) = connect(world.in_memory());
    for number in 0..100 {
        client.report(status(&format!("s{number:03}"), ServiceState::TunnelNotCreated));
    }
    client.shutdown(Duration::from_secs(5)).await;
    assert_eq!(delivered(&world).len(), 100);
}

#[tokio::test]
async fn statuses_survive_a_server_that_dies() {
    let (world, _streams) = World::new();
    let server = world.on_loopback(0);
    let addr = server.addr;
    let (client, _events) = connect(server.transport());
    client.report(status("one", ServiceState::Active));
    until(|| delivered(&world).len() == 1).await;
    drop(server);
    client.report(status("two", ServiceState::Active));
    let _server = world.on_loopback(addr.port());
    until(|| delivered(&world).len() == 2).await;
    client.shutdown(Duration::from_secs(5)).await;
    assert_eq!(delivered(&world).len(), 2, "the first was not sent again");
}
