use super::*;
use crate::StartError;
use crate::file::FileError;

async fn on_file(text: &str) -> Result<(World, std::path::PathBuf), StartError> {
    let folder = tempfile::tempdir().expect("tempdir");
    let path = folder.path().join("postern.toml");
    std::fs::write(&path, text).expect("writes");
    let data_dir = folder.path().join("data");
    let running = start(Config { data_dir, listener: None, source: Source::File(path.clone()) }).await?;
    Ok((World { folder, running }, path))
}

#[tokio::test]
async fn a_changed_file_is_taken_up_whole_or_refused_whole() {
    let (a, b) = (open("a", "http://x:1"), open("b", "http://x:1"));
    let (world, path) = on_file(&a).await.expect("starts");
    let admin = crate::admin::Client::new(world.running.data_dir());
    let mut sync = world.connect().await.sync("p").await.expect("opens");
    assert_eq!(sync.snapshot().await.len(), 1);

    std::fs::write(&path, format!("{b}[service.c]\nhost = 'c.example'\nacess = 'open'\n")).expect("writes");
    let file = || async { admin.status().await.expect("a status").file.expect("a file") };
    until("the mistakes are told", || async { !file().await.in_force }).await;
    let refused = file().await;
    assert!(refused.problem.as_deref().is_some_and(|problem| problem.contains("3 mistakes")), "{refused:?}");
    let first = refused.mistakes.first().expect("mistakes");
    assert_eq!(first.line, 5, "{refused:?}");
    let services = admin.status().await.expect("a status").services;
    assert_eq!(services.len(), 1, "what runs stays: {services:?}");

    std::fs::write(&path, format!("{b}[log]\nlevel = 'debug'\n")).expect("writes");
    let batch = sync.batch().await;
    assert_eq!(batch.mapping.iter().map(|m| m.id.as_str()).collect::<Vec<_>>(), ["a", "b"], "one change");
    until("the file is in force", || async { file().await.in_force }).await;
    assert!(file().await.needs_restart, "a log level waits for the next start");
}

#[tokio::test]
async fn a_bad_file_at_start_is_refused_with_all_mistakes() {
    let refused = on_file("[service.a]\nhost = 'a b'\n").await.err().expect("bad");
    let StartError::File(FileError::Mistakes { mistakes, .. }) = &refused else { panic!("{refused}") };
    assert_eq!(mistakes.len(), 3);
    assert!(refused.to_string().contains("\n  line 2, column 8: "), "{refused}");
    on_file(&open("a", "http://x:1")).await.expect("its good twin starts");
}

#[tokio::test]
async fn a_service_for_unknown_users_is_refused_whole() {
    let world = World::new(&open("a", "http://x:1")).await;
    let mut bad = desired(&open("a", "http://x:2"));
    for service in bad.services.values_mut() {
        service.access = crate::desired::Access::Basic(vec!["nobody".into()]);
    }
    let refused = world.running.apply(bad).await.expect_err("unknown user").to_string();
    assert!(refused.contains("nobody"), "{refused}");
    let mut sync = world.connect().await.sync("p").await.expect("opens");
    let snapshot = sync.snapshot().await;
    assert_eq!(snapshot[0].path[0].target, "http://x:1/");
}

#[tokio::test]
async fn two_services_on_one_host_are_refused_whole() {
    let world = World::new(&open("a", "http://x:1")).await;
    let mut both = desired(&format!("{}{}", open("a", "http://x:1"), open("b", "http://x:1")));
    let b = postern_model::ServiceId::parse("b").expect("id");
    let own = both.services.get(&b).expect("there").host.clone();
    both.services.get_mut(&b).expect("there").host = postern_model::HostName::parse("a.example").expect("host");
    let refused = world.running.apply(both.clone()).await.expect_err("one host").to_string();
    assert!(refused.contains("services a and b") && refused.contains("a.example"), "{refused}");
    let mut sync = world.connect().await.sync("p").await.expect("opens");
    assert_eq!(sync.snapshot().await.len(), 1);
    both.services.get_mut(&b).expect("there").host = own;
    world.running.apply(both).await.expect("a host each");
}
