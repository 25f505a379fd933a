use std::net::IpAddr;
use std::time::SystemTime;

use postern_auth::{basic, session};
use postern_model::{AccountId, Authenticate, Change, Credential, HostName, Mapping, ServiceId, SessionKey};
use postern_proto::convert::{authenticate_to_wire, batch};
use postern_proto::management::{
    AuthenticateRequest, AuthenticateResponse, PasswordRequest, ProxyMappingUpdateType as Kind, authenticate_request,
};
use tonic::Code;

use super::*;

const VAULT: &str = "[service.vault]\nhost = 'vault.example'\nupstream = 'http://x:1'\n";
const ALICE: &str = "[user.alice]\npassword = 'right'\ngroups = ['staff', 'ops']\n";
const BOB: &str = "[user.bob]\npassword = 'bob'\n";

fn both() -> String {
    format!("{ALICE}{BOB}{VAULT}access = {{ basic = ['alice', 'bob'] }}\n{}", open("hello", "http://x:2"))
}

fn ask(user: &str, password: &str) -> AuthenticateRequest {
    ask_from(user, password, [192, 0, 2, 1].into())
}

fn ask_from(user: &str, password: &str, source: IpAddr) -> AuthenticateRequest {
    let value = basic::build(user, &Secret::from(password)).expect("builds");
    authenticate_to_wire(&Authenticate {
        service: ServiceId::parse("vault").expect("id"),
        account: AccountId::parse("default").expect("id"),
        credential: Credential::Header {
            name: http::header::AUTHORIZATION,
            value: Secret::from(value.to_str().expect("ascii")),
        },
        source,
    })
}

impl Calls {
    async fn authenticate(&self, ask: AuthenticateRequest) -> Result<AuthenticateResponse, Status> {
        let mut proxy = self.proxy.clone();
        timeout(LONG, proxy.authenticate(ask)).await.expect("in time").map(tonic::Response::into_inner)
    }
}

/// The service as a proxy understands it.
async fn vault(sync: &mut Sync) -> Mapping {
    let mapping = sync.snapshot().await.into_iter().find(|mapping| mapping.id == "vault").expect("published");
    understood(mapping)
}

fn understood(mapping: ProxyMapping) -> Mapping {
    match batch(vec![mapping], true).batch.changes.remove(0) {
        Change::Upsert(mapping, _) => *mapping,
        change => panic!("{change:?}"),
    }
}

fn key(mapping: &Mapping) -> SessionKey {
    mapping.authentication.session_key.expect("a session key")
}

fn host() -> HostName {
    HostName::parse("vault.example").expect("host")
}

#[tokio::test]
async fn the_right_password_opens_a_session() {
    let world = World::new(&both()).await;
    let calls = world.connect().await;
    let mapping = vault(&mut calls.sync("p").await.expect("opens")).await;
    assert_eq!(mapping.authentication.headers.len(), 2, "one entry for each user");
    assert_eq!(mapping.authentication.deliberately_open, Some(false));
    let answer = calls.authenticate(ask("alice", "right")).await.expect("a verdict");
    assert!(answer.success);
    let now = SystemTime::now();
    let session = session::verify_fresh(&answer.session_token, &key(&mapping), &host(), now).expect("verifies");
    let principal = session.principal;
    assert_eq!((principal.subject.as_str(), principal.email.as_deref()), ("user:alice", Some("alice")));
    assert_eq!(principal.method, "header");
    let groups: Vec<_> = principal.groups.iter().map(|group| (group.id.as_str(), group.name.as_str())).collect();
    assert_eq!(groups, [("staff", "staff"), ("ops", "ops")]);
    let life = session.expires.expect("ends").duration_since(now).expect("later").as_secs();
    assert!((86_390..=86_400).contains(&life), "{life}");
}

#[tokio::test]
async fn everything_else_opens_nothing() {
    let world = World::new(&both()).await;
    let calls = world.connect().await;
    let mut bearer = ask("alice", "right");
    let mut header = ask("alice", "right");
    for (request, change) in [(&mut bearer, "Bearer abc"), (&mut header, "")] {
        let Some(authenticate_request::Request::HeaderAuth(header)) = &mut request.request else { panic!("a header") };
        if change.is_empty() {
            header.header_name = "x-api-key".into();
        } else {
            header.header_value = change.into();
        }
    }
    for (n, wrong) in
        [ask("alice", "wrong"), ask("mallory", "right"), ask("bob", "right"), bearer, header].into_iter().enumerate()
    {
        let answer = calls.authenticate(wrong).await.expect("a verdict");
        assert_eq!(answer, AuthenticateResponse::default(), "{n}");
    }
    let of = |service: &str, account: &str| AuthenticateRequest {
        id: service.into(),
        account_id: account.into(),
        ..ask("alice", "right")
    };
    let password = AuthenticateRequest {
        request: Some(authenticate_request::Request::Password(PasswordRequest { password: "right".into() })),
        ..ask("alice", "right")
    };
    for (refused, code) in [
        (of("nowhere", "default"), Code::FailedPrecondition),
        (of("hello", "default"), Code::FailedPrecondition),
        (of("vault", "other"), Code::PermissionDenied),
        (of("vault", ""), Code::PermissionDenied),
        (password, Code::FailedPrecondition),
        (AuthenticateRequest { request: None, ..ask("a", "b") }, Code::InvalidArgument),
    ] {
        assert_eq!(calls.authenticate(refused).await.expect_err("no verdict").code(), code);
    }
}

#[tokio::test]
async fn too_many_wrong_tries_from_one_network_are_not_looked_at() {
    let world = World::new(&both()).await;
    let calls = world.connect().await;
    for n in 0..5 {
        let source = [192, 0, 2, n].into();
        let answer = calls.authenticate(ask_from("alice", &format!("guess {n}"), source)).await.expect("a verdict");
        assert!(!answer.success);
    }
    let mut refused = 0;
    for n in 5..8 {
        let source = [192, 0, 2, n].into();
        match calls.authenticate(ask_from("alice", &format!("guess {n}"), source)).await {
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted);
                refused += 1;
            }
            Ok(answer) => assert!(!answer.success),
        }
    }
    assert!(refused > 0, "a network that guesses must wait");
    let elsewhere = ask_from("alice", "right", [198, 51, 100, 1].into());
    assert!(calls.authenticate(elsewhere).await.expect("a verdict").success, "others need not");
}

#[tokio::test]
async fn a_change_of_who_may_enter_ends_sessions_and_nothing_else_does() {
    let world = World::new(&both()).await;
    let mut sync = world.connect().await.sync("p").await.expect("opens");
    let first = vault(&mut sync).await;

    // Another upstream: the service changes, its sessions stay.
    world.apply(&both().replace("http://x:1", "http://x:9")).await;
    let changed = understood(sync.batch().await.mapping.remove(0));
    assert_eq!(key(&changed), key(&first));

    let mut before = key(&first);
    for text in [
        format!("{ALICE}{VAULT}access = {{ basic = ['alice'] }}\n{}", open("hello", "http://x:2")),
        format!("{}{VAULT}access = {{ basic = ['alice'] }}\n", ALICE.replace("right", "new")),
        format!("{}{VAULT}access = {{ basic = ['alice'] }}\n", ALICE.replace("right", "new").replace("ops", "dev")),
    ] {
        world.apply(&text).await;
        let change = sync.batch().await.mapping.into_iter().find(|mapping| mapping.id == "vault").expect("told");
        assert_eq!(change.r#type(), Kind::UpdateTypeModified);
        let now = key(&understood(change));
        assert_ne!(now, before, "{text}");
        before = now;
    }
}

/// A stock proxy takes a mapping without a login for an open one, whatever our own field says.
#[tokio::test]
async fn a_service_that_lets_nobody_in_is_not_published() {
    let world = World::new(&both()).await;
    let vault_id = ServiceId::parse("vault").expect("id");
    let mut desired = desired(&both());
    let vault_now = desired.services.get_mut(&vault_id).expect("there");
    vault_now.access = crate::desired::Access::Basic(Vec::new());
    let refused = world.running.apply(desired.clone()).await.expect_err("nobody may enter").to_string();
    assert!(refused.contains("vault") && refused.contains("name at least one user"), "{refused}");
    let in_force = vault(&mut world.connect().await.sync("p").await.expect("opens")).await;
    assert_eq!(in_force.authentication.headers.len(), 2, "what was in force stays");
    desired.services.get_mut(&vault_id).expect("there").access = crate::desired::Access::Basic(vec!["alice".into()]);
    world.running.apply(desired).await.expect("one may");
}

#[tokio::test]
async fn sessions_outlive_a_restart_and_end_with_what_changed_meanwhile() {
    let world = World::new(&both()).await;
    let calls = world.connect().await;
    let before = vault(&mut calls.sync("p").await.expect("opens")).await;
    let token = calls.authenticate(ask("alice", "right")).await.expect("a verdict").session_token;
    let world = world.restart(&both()).await;
    let calls = world.connect().await;
    let after = vault(&mut calls.sync("p").await.expect("opens")).await;
    assert_eq!(after, before, "the same mapping, so nobody is disturbed");
    session::verify_fresh(&token, &key(&after), &host(), SystemTime::now()).expect("still good");
    assert!(calls.authenticate(ask("alice", "right")).await.expect("a verdict").success);

    let world = world.restart(&both().replace("'right'", "'other'")).await;
    let after = vault(&mut world.connect().await.sync("p").await.expect("opens")).await;
    session::verify_fresh(&token, &key(&after), &host(), SystemTime::now()).expect_err("the password has changed");
}

/// An Argon2 for each of them, at any of these starts, would take longer than the test waits.
#[tokio::test]
async fn thousands_of_users_are_ready_at_once() {
    use std::fmt::Write;
    let count = 3_000;
    let text = (0..count).fold(String::new(), |mut text, n| {
        write!(text, "[user.u{n}]\npassword = 'p{n}'\n").expect("a text");
        text
    });
    let names = (0..count).map(|n| format!("'u{n}'")).collect::<Vec<_>>().join(",");
    let text = format!("{text}{VAULT}access = {{ basic = [{names}] }}\n");
    let starts = async {
        let world = World::new(&text).await.restart(&text).await;
        let before = vault(&mut world.connect().await.sync("p").await.expect("opens")).await;
        let world = world.restart(&text).await;
        let calls = world.connect().await;
        assert_eq!(vault(&mut calls.sync("p").await.expect("opens")).await, before);
        assert!(calls.authenticate(ask("u2999", "p2999")).await.expect("a verdict").success);
        assert!(!calls.authenticate(ask("u2999", "p2998")).await.expect("a verdict").success);
    };
    timeout(LONG, starts).await.expect("in time");
}
