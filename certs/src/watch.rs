use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::StaticPair;

/// Certificate and key are two files: what changes within this time is one change (NetBird: 500 ms).
const DEBOUNCE: Duration = Duration::from_millis(500);
/// Network file systems send no events, and a folder may be replaced as a whole (NetBird: 30 s).
const POLL: Duration = Duration::from_secs(30);

/// Reloads the pair whenever its folders change, and now and then in any case.
pub(crate) async fn follow(pair: &StaticPair) {
    let (changed, mut changes) = mpsc::channel(1);
    let _watcher = watch(pair, changed)
        .inspect_err(|error| tracing::warn!(%error, "certificate files are only looked at every 30 s"))
        .ok();
    let mut complaint = String::new();
    loop {
        // Without a watcher the channel is closed at once, and the deadline alone decides.
        let poll = Instant::now() + POLL;
        match timeout_at(poll, changes.recv()).await {
            Ok(Some(())) => tokio::time::sleep_until(Instant::now() + DEBOUNCE).await,
            Ok(None) => tokio::time::sleep_until(poll).await,
            Err(_) => {}
        }
        let _ = changes.try_recv();
        reload(pair, &mut complaint);
    }
}

/// A complaint is said once, not at every look.
fn reload(pair: &StaticPair, complaint: &mut String) {
    match pair.reload() {
        Ok(changed) => {
            complaint.clear();
            if changed {
                tracing::info!(file = %pair.paths()[0].display(), "certificate reloaded");
            }
        }
        Err(error) => {
            let now = error.to_string();
            if now != *complaint {
                tracing::warn!(error = %now, "the new certificate is not taken, the old one stays");
                *complaint = now;
            }
        }
    }
}

/// Watches folders, not files: a rename over a file, or over the `..data` link that Kubernetes mounts secrets by, is a
/// change of the folder and ends a watch on the file.
fn watch(pair: &StaticPair, changed: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading is an access too.
        let noteworthy = event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_)));
        if noteworthy {
            // Full means that a look is due anyway.
            let _ = changed.try_send(());
        }
    })?;
    let folders: BTreeSet<&Path> = pair.paths().into_iter().map(folder_of).collect();
    for folder in folders {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}
