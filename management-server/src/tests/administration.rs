use postern_proto::management::{ProxyInboundListener, ProxyStatus, SendStatusUpdateRequest};
use std::os::unix::fs::PermissionsExt;
use tonic::Code;

use super::*;
use crate::StartError;
use crate::admin::{AdminError, Client, InboundStatus};

fn update(service: &str, status: ProxyStatus, error: Option<&str>) -> SendStatusUpdateRequest {
    SendStatusUpdateRequest {
        service_id: service.into(),
        account_id: "default".into(),
        status: status.into(),
        certificate_issued: true,
        error_message: error.map(str::to_owned),
        ..SendStatusUpdateRequest::default()
    }
}

#[tokio::test]
async fn tokens_are_added_listed_and_removed() {
    let world = World::new("# nothing").await;
    let admin = world.admin();
    assert_eq!(admin.tokens().await.expect("lists"), []);
    let made = admin.add_token("edge-1").await.expect("adds");
    assert_eq!((made.name.as_str(), made.token.len(), &made.token[..4]), ("edge-1", 40, "nbx_"));
    assert!(!format!("{made:?}").contains("nbx_"));
    let listed = admin.tokens().await.expect("lists");
    assert_eq!((listed.len(), listed[0].name.as_str(), listed[0].last_used), (1, "edge-1", None));
    for (name, why) in [("edge-1", "already"), ("", "1 to 64"), ("a/b?c", "1 to 64")] {
        let refused = admin.add_token(name).await.expect_err(name);
        assert!(matches!(&refused, AdminError::Refused(message) if message.contains(why)), "{refused}");
    }
    for name in ["", ".", ".."] {
        let refused = admin.add_token(name).await.map(drop).expect_err(name);
        assert!(refused.to_string().contains("a letter or a digit first"), "{refused}");
        let refused = admin.remove_token(name).await.expect_err(name);
        assert!(
            matches!(&refused, AdminError::Refused(message) if message.contains("is no name")),
            "never a path elsewhere: {refused}"
        );
    }
    world.connect_with(&made.token).await.sync("p").await.expect("opens").snapshot().await;
    let world = world.restart("# nothing").await;
    let admin = world.admin();
    assert!(admin.tokens().await.expect("lists")[0].last_used.is_some(), "kept over a restart");
    admin.remove_token("edge-1").await.expect("removes");
    let refused = admin.remove_token("edge-1").await.expect_err("gone");
    assert!(refused.to_string().contains("no token named edge-1"), "{refused}");
    let refused = admin.remove_token("a/b?c#d e").await.expect_err("no name");
    assert!(refused.to_string().contains("no token named a/b?c#d e"), "{refused}");
}

#[tokio::test]
async fn the_status_tells_of_services_and_proxies() {
    let world = World::new(&format!("{}{}", open("a", "http://x:1"), open("b", "http://x:1"))).await;
    let admin = world.admin();
    let state = |status: &crate::admin::Status, name: &str| {
        let service = status.services.iter().find(|service| service.name == name).expect("listed").clone();
        (service.state, service.sentence.unwrap_or_default())
    };
    let status = admin.status().await.expect("a status");
    assert!(state(&status, "a").1.contains("no proxy is connected"), "{status:?}");

    let calls = world.connect().await;
    let mut sync = calls.sync("p").await.expect("opens");
    sync.snapshot().await;
    let send = |update| {
        let mut proxy = calls.proxy.clone();
        async move { proxy.send_status_update(update).await }
    };
    send(update("a", ProxyStatus::Active, None)).await.expect("taken");
    send(update("b", ProxyStatus::Error, Some("two services claim b.example"))).await.expect("taken");
    let odd = format!("red:\n\u{1b}[31m{}", "x".repeat(5_000));
    send(update("a", ProxyStatus::Error, Some(&odd))).await.expect("taken");
    let (_, told) = state(&admin.status().await.expect("a status"), "a");
    assert!(told.contains("red:") && told.len() < 1_200 && !told.contains(char::is_control), "{told:?}");
    let listener = ProxyInboundListener { tunnel_ip: "100.72.0.1".into(), https_port: 443, http_port: 80 };
    let inbound_listener = Some(listener);
    let listening = SendStatusUpdateRequest { inbound_listener, ..update("a", ProxyStatus::Active, None) };
    send(listening).await.expect("taken");
    let refused = send(update("nowhere", ProxyStatus::Active, None)).await.expect_err("unknown");
    assert_eq!(refused.code(), Code::NotFound);
    let refused = send(update("", ProxyStatus::Active, None)).await.expect_err("no service");
    assert_eq!(refused.code(), Code::InvalidArgument);

    let status = admin.status().await.expect("a status");
    assert_eq!(state(&status, "a"), ("active".into(), String::new()));
    assert_eq!(state(&status, "b"), ("error".into(), "on the proxy p: two services claim b.example".into()));
    let inbound = InboundStatus { proxy: "p".to_owned(), address: [100, 72, 0, 1].into(), https: 443, http: 80 };
    let told: Vec<_> = status.services.iter().map(|service| service.inbound.clone()).collect();
    assert_eq!(told, [vec![inbound], Vec::new()]);
    let [proxy] = status.proxies.as_slice() else { panic!("one proxy: {status:?}") };
    assert_eq!((proxy.id.as_str(), proxy.connected, proxy.token.as_str()), ("p", true, "this process"));
    assert_eq!((status.pid, status.revision), (std::process::id(), 1));

    drop((sync, calls));
    until("the proxy is gone and not forgotten", || async {
        let proxies = admin.status().await.expect("a status").proxies;
        matches!(proxies.as_slice(), [proxy] if proxy.id == "p" && !proxy.connected)
    })
    .await;
}

#[tokio::test]
async fn without_a_server_the_client_says_what_to_do() {
    let folder = tempfile::tempdir().expect("tempdir");
    let refused = Client::new(folder.path()).status().await.expect_err("nobody there").to_string();
    assert!(
        refused.contains("no postern is running on the data folder") && refused.contains("--data-dir"),
        "{refused}"
    );
    let world = World::on(folder, "# nothing").await;
    let socket = crate::admin::socket_path(world.folder.path());
    assert_eq!(std::fs::metadata(&socket).expect("there").permissions().mode() & 0o777, 0o600);
    world.admin().status().await.expect("a status");
    world.running.shutdown().await;
    assert!(!socket.exists());
    // What a crash leaves is a socket on which nobody listens.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("binds"));
    let refused = Client::new(world.folder.path()).status().await.expect_err("nobody there");
    assert!(matches!(refused, AdminError::NotRunning { .. }), "{refused}");
    World::on(world.folder, "# nothing").await.admin().status().await.expect("the left-over is replaced");
}

#[tokio::test]
async fn a_second_server_on_one_folder_is_refused_and_harms_nobody() {
    let world = World::new("# nothing").await;
    let config = Config {
        data_dir: world.folder.path().to_owned(),
        listener: None,
        source: Source::Given(Box::new(desired("# nothing"))),
    };
    let refused = start(config).await.expect_err("in use");
    assert!(matches!(refused, StartError::DataDir(_)), "{refused}");
    assert!(refused.to_string().contains("another postern"), "{refused}");
    world.admin().status().await.expect("the first still answers");
}

#[tokio::test]
async fn the_status_tells_what_has_failed() {
    let world = World::new("# nothing").await;
    assert!(world.admin().status().await.expect("a status").problems.is_empty());
    world.running.problems.watch("nothing is written down", async { panic!("for the test") }).await;
    let problems = world.admin().status().await.expect("a status").problems;
    assert!(problems.len() == 1 && problems[0].contains("nothing is written down"), "{problems:?}");
}
