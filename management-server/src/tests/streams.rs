use std::collections::HashSet;
use std::fmt::Write;

use futures_util::FutureExt;
use postern_proto::management::{
    CheckLlmPolicyLimitsRequest, GetMappingUpdateRequest, GetOidcurlRequest, ProxyMappingUpdateType as Kind,
    RecordLlmUsageRequest, SendStatusUpdateRequest, SyncMappingsAck, SyncMappingsRequest, ValidateSessionRequest,
    sync_mappings_request::Msg,
};
use tonic::Code;

use super::*;
use crate::token::ProxyToken;

#[tokio::test]
async fn a_snapshot_comes_in_batches_each_after_an_ack() {
    let mut text = String::new();
    for n in 0..1201 {
        write!(text, "{}", open(&format!("s{n}"), "http://127.0.0.1:1")).expect("text");
    }
    let world = World::new(&text).await;
    let calls = world.connect().await;
    let mut sync = calls.sync("p").await.expect("opens");
    let mut ids = HashSet::new();
    let mut tokens = HashSet::new();
    for (count, last) in [(500, false), (500, false), (201, true)] {
        let batch = sync.batch().await;
        assert_eq!((batch.mapping.len(), batch.initial_sync_complete), (count, last));
        for mapping in batch.mapping {
            assert_eq!(mapping.r#type(), Kind::UpdateTypeCreated);
            assert_eq!(mapping.auth.expect("auth").open, Some(true));
            assert!(mapping.path[0].options.as_ref().expect("options").direct_upstream);
            assert_eq!(mapping.auth_token.len(), 44);
            tokens.insert(mapping.auth_token);
            ids.insert(mapping.id);
        }
        // Another call goes there and back on the same connection, and still nothing has come.
        let mut other = calls.proxy.clone();
        other.validate_session(ValidateSessionRequest::default()).await.expect_err("not there");
        assert!(sync.replies.message().now_or_never().is_none(), "a batch came without an ack");
        sync.ack().await;
    }
    assert_eq!((ids.len(), tokens.len()), (1201, 1201));
}

#[tokio::test]
async fn only_what_changed_is_sent() {
    let (a, b, b2, c) =
        (open("a", "http://x:1"), open("b", "http://x:1"), open("b", "http://x:2"), open("c", "http://x:1"));
    let world = World::new(&format!("{a}{b}")).await;
    let mut sync = world.connect().await.sync("p").await.expect("opens");
    assert_eq!(sync.snapshot().await.len(), 2);
    world.apply(&format!("{b}{a}")).await;
    world.apply(&format!("{a}{b2}")).await;
    let batch = sync.batch().await;
    let [modified] = batch.mapping.as_slice() else { panic!("one change: {batch:?}") };
    assert_eq!((modified.id.as_str(), modified.r#type()), ("b", Kind::UpdateTypeModified));
    assert!(!batch.initial_sync_complete && !modified.auth_token.is_empty());
    sync.ack().await;
    world.apply(&format!("{b2}{c}")).await;
    let changes: Vec<_> = sync.batch().await.mapping.iter().map(|m| (m.id.clone(), m.r#type())).collect();
    assert_eq!(changes, [("a".to_owned(), Kind::UpdateTypeRemoved), ("c".to_owned(), Kind::UpdateTypeCreated)]);
}

#[tokio::test]
async fn what_is_no_ack_ends_the_snapshot_and_no_services_are_a_snapshot_too() {
    let world = World::new("# nothing").await;
    let calls = world.connect().await;
    let mut sync = calls.sync("p").await.expect("opens");
    let batch = sync.batch().await;
    assert_eq!((batch.mapping.len(), batch.initial_sync_complete), (0, true));
    let again = SyncMappingsRequest { msg: Some(Msg::Init(init("p"))) };
    sync.requests.send(again).await.expect("open");
    assert_eq!(sync.end().await.expect_err("refused").code(), Code::Unknown);

    let mut sync = calls.sync("p").await.expect("opens");
    assert_eq!(sync.snapshot().await, []);
    drop(sync.requests);
    assert!(timeout(LONG, sync.replies.message()).await.expect("in time").expect("closed in peace").is_none());
}

#[tokio::test]
async fn who_does_not_introduce_itself_gets_no_stream() {
    let world = World::new("# nothing").await;
    let calls = world.connect().await;
    let (requests, receiver) = mpsc::channel(1);
    requests.send(SyncMappingsRequest { msg: Some(Msg::Ack(SyncMappingsAck {})) }).await.expect("open");
    let refused = calls.proxy.clone().sync_mappings(ReceiverStream::new(receiver)).await.expect_err("no init");
    assert_eq!(refused.code(), Code::InvalidArgument);
    for (proxy_id, address) in [("", "proxy.example"), ("p", ""), ("p", "no domain"), ("p", "https://x")] {
        let request = GetMappingUpdateRequest {
            proxy_id: proxy_id.into(),
            address: address.into(),
            ..GetMappingUpdateRequest::default()
        };
        let refused = calls.proxy.clone().get_mapping_update(request).await.expect_err("no introduction");
        assert_eq!(refused.code(), Code::InvalidArgument, "{proxy_id:?} {address:?}");
    }
}

#[tokio::test]
async fn a_legacy_stream_has_no_acks() {
    let world = World::new(&open("a", "http://x:1")).await;
    let calls = world.connect().await;
    let request = GetMappingUpdateRequest {
        proxy_id: "old".into(),
        address: "*.proxy.example".into(),
        ..GetMappingUpdateRequest::default()
    };
    let mut replies = calls.proxy.clone().get_mapping_update(request).await.expect("opens").into_inner();
    let batch = replies.message().await.expect("no error").expect("no end");
    assert_eq!((batch.mapping.len(), batch.initial_sync_complete), (1, true));
    world.apply("# nothing").await;
    let batch = timeout(LONG, replies.message()).await.expect("in time").expect("no error").expect("no end");
    assert_eq!(batch.mapping[0].r#type(), Kind::UpdateTypeRemoved);
}

#[tokio::test]
async fn a_new_stream_of_the_same_proxy_ends_the_old_one() {
    let world = World::new(&open("a", "http://x:1")).await;
    let mut first = world.connect().await.sync("p").await.expect("opens");
    first.snapshot().await;
    let mut other = world.connect().await.sync("q").await.expect("opens");
    other.snapshot().await;
    let mut second = world.connect().await.sync("p").await.expect("opens");
    second.snapshot().await;
    let ended = first.end().await.expect_err("superseded");
    assert_eq!((ended.code(), ended.message().contains("superseded")), (Code::Cancelled, true));
    drop(first);
    world.apply("# nothing").await;
    assert_eq!(second.batch().await.mapping.len(), 1, "the new one goes on");
    assert_eq!(other.batch().await.mapping.len(), 1, "others go on");
}

#[tokio::test]
async fn without_a_valid_token_there_is_nothing() {
    let world = World::new(&open("a", "http://x:1")).await;
    let good = world.admin().add_token("edge").await.expect("adds").token;
    let unknown = ProxyToken::random().into_secret();
    for bad in ["", "nonsense", unknown.expose()] {
        let calls = world.connect_with(bad).await;
        let refused = calls.sync("p").await.err().expect("refused");
        assert_eq!(refused.code(), Code::Unauthenticated, "{bad}");
        let refused = calls.logs.clone().stream_access_logs(tokio_stream::empty()).await.expect_err("refused");
        assert_eq!(refused.code(), Code::Unauthenticated, "{bad}");
    }
    let calls = world.connect_with(&good).await;
    let mut sync = calls.sync("p").await.expect("opens");
    sync.snapshot().await;
    let (_batches, receiver) = mpsc::channel(1);
    let mut logs =
        calls.logs.clone().stream_access_logs(ReceiverStream::new(receiver)).await.expect("opens").into_inner();
    world.admin().remove_token("edge").await.expect("removes");
    assert_eq!(sync.end().await.expect_err("revoked").code(), Code::Unauthenticated);
    let ended = timeout(LONG, logs.message()).await.expect("in time").expect_err("revoked");
    assert_eq!(ended.code(), Code::Unauthenticated);
    assert_eq!(calls.sync("p").await.err().expect("revoked").code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_token_sees_its_own_account_only() {
    let (folder, token) = with_foreign_token().await;
    let world = World::on(folder, &open("a", "http://x:1")).await;
    let mut own = world.connect().await.sync("p").await.expect("opens");
    assert_eq!(own.snapshot().await.len(), 1);
    let calls = world.connect_with(token.into_secret().expose()).await;
    let mut sync = calls.sync("p").await.expect("opens");
    assert_eq!(sync.snapshot().await, []);
    for (account_id, code) in [("default", Code::PermissionDenied), ("other", Code::NotFound)] {
        let update = SendStatusUpdateRequest {
            service_id: "a".into(),
            account_id: account_id.into(),
            ..SendStatusUpdateRequest::default()
        };
        assert_eq!(calls.proxy.clone().send_status_update(update).await.expect_err("refused").code(), code);
    }
    world.apply(&open("a", "http://x:2")).await;
    assert_eq!(own.batch().await.mapping.len(), 1, "its namesake in another account was not superseded");
}

#[tokio::test]
async fn what_is_missing_says_so() {
    let world = World::new(&open("a", "http://x:1")).await;
    let calls = world.connect().await;
    let proxy = || calls.proxy.clone();
    let refusals = [
        proxy().get_oidcurl(GetOidcurlRequest::default()).await.expect_err("missing"),
        proxy().validate_session(ValidateSessionRequest::default()).await.expect_err("missing"),
        proxy().check_llm_policy_limits(CheckLlmPolicyLimitsRequest::default()).await.expect_err("missing"),
        proxy().record_llm_usage(RecordLlmUsageRequest::default()).await.expect_err("missing"),
    ];
    for refused in refusals {
        assert_eq!(refused.code(), Code::Unimplemented);
        assert!(refused.message().contains("yet"), "{}", refused.message());
    }
}

#[tokio::test]
async fn a_stop_ends_streams_with_a_word() {
    let world = World::new(&open("a", "http://x:1")).await;
    let mut sync = world.connect().await.sync("p").await.expect("opens");
    sync.snapshot().await;
    let (ended, ()) = tokio::join!(sync.end(), world.running.shutdown());
    assert_eq!(ended.expect_err("stopped").code(), Code::Unavailable);
}
