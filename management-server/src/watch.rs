use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

/// An editor writes in several steps: the content counts once two looks this far apart agree.
const SETTLE: Duration = Duration::from_millis(100);
/// Network file systems send no events, and a folder may be replaced as a whole.
const POLL: Duration = Duration::from_secs(2);

/// What the file holds, or why it cannot be read.
pub(crate) type Content = Result<Vec<u8>, String>;

/// Follows the content of one file.
#[derive(Debug)]
pub(crate) struct Watch {
    path: PathBuf,
    seen: Content,
    hints: mpsc::Receiver<()>,
    _watcher: Option<RecommendedWatcher>,
}

impl Watch {
    /// Begins with what the file holds now, which is returned.
    pub(crate) async fn begin(path: PathBuf) -> (Self, Content) {
        let (hint, hints) = mpsc::channel(1);
        let watcher = watcher(&path, hint)
            .inspect_err(|error| tracing::warn!(%error, file = %path.display(), "the file is only looked at every 2 s"))
            .ok();
        let seen = read(&path).await;
        (Self { path, seen: seen.clone(), hints, _watcher: watcher }, seen)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next content that is different. Nothing is lost if the future is dropped.
    pub(crate) async fn changed(&mut self) -> Content {
        loop {
            let poll = Instant::now() + POLL;
            if let Ok(None) = timeout_at(poll, self.hints.recv()).await {
                sleep_until(poll).await;
            }
            let content = self.settled().await;
            if content != self.seen {
                self.seen = content.clone();
                return content;
            }
        }
    }

    async fn settled(&self) -> Content {
        let mut content = read(&self.path).await;
        while content != self.seen {
            sleep_until(Instant::now() + SETTLE).await;
            let again = read(&self.path).await;
            if again == content {
                break;
            }
            content = again;
        }
        content
    }
}

async fn read(path: &Path) -> Content {
    tokio::fs::read(path).await.map_err(|error: io::Error| error.to_string())
}

/// Watches the folder, not the file: a rename over the file, or over the link that Kubernetes mounts it by, is a change of
/// the folder and ends a watch on the file.
fn watcher(path: &Path, hint: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading is an access too.
        if event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_))) {
            // Full means that a look is due anyway.
            let _ = hint.try_send(());
        }
    })?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    #[tokio::test]
    async fn changes_come_whole_whatever_way_they_are_made() {
        const LONG: Duration = Duration::from_secs(20);
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("postern.toml");
        std::fs::write(&path, "one").expect("writes");
        let (mut watch, first) = Watch::begin(path.clone()).await;
        assert_eq!(first, Ok(b"one".to_vec()));
        std::fs::write(&path, "two").expect("writes");
        assert_eq!(timeout(LONG, watch.changed()).await.expect("in time"), Ok(b"two".to_vec()));
        let temporary = folder.path().join("temporary");
        std::fs::write(&temporary, "three").expect("writes");
        std::fs::rename(&temporary, &path).expect("renames");
        assert_eq!(timeout(LONG, watch.changed()).await.expect("in time"), Ok(b"three".to_vec()));
        std::fs::remove_file(&path).expect("removes");
        timeout(LONG, watch.changed()).await.expect("in time").expect_err("gone");
        std::fs::write(&path, "four").expect("writes");
        assert_eq!(timeout(LONG, watch.changed()).await.expect("in time"), Ok(b"four".to_vec()));
    }
}
