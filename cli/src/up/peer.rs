//! The tunnel, and the peer that comes with the demo.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_connector::conf;
use postern_management_server::admin::{AddPeer, AdminError, Client};
use postern_management_server::{self as management_server};
use postern_model::PublicKey;
use tokio::time::timeout;

use super::ready::private;
use super::services::{DEMO_GROUP, DEMO_USER, Published};
use crate::failure::Failure;

const NAME: &str = "demo";
/// The proxy is in the same process: if its tunnel is not there by then, it will not be.
const TUNNEL: Duration = Duration::from_secs(15);

/// Waits for the tunnel, if one of the services needs it: whoever is told that everything answers may add a peer at once.
pub(super) async fn tunnel(server: &management_server::Running, published: &[Published]) {
    let needed = published.iter().any(Published::needs_tunnel);
    if needed && timeout(TUNNEL, server.proxy_peer_ready()).await.is_err() {
        tracing::error!("the tunnel is not there: `postern status` says why");
    }
}

/// The wg-quick file of a peer that opens the private demo service. An earlier run's stays as it is, so that whoever uses it
/// goes on; it is made anew where it does not fit any more.
pub(super) async fn demo(server: &management_server::Running) -> Result<Option<PathBuf>, Failure> {
    let file = server.data_dir().join("demo-peer.conf");
    let client = Client::new(server.data_dir());
    let failed = |error: AdminError| Failure::running(format!("the demo's tunnel peer: {error}"));
    if client.peers().await.map_err(failed)?.iter().any(|peer| peer.name == NAME) {
        let known = client.peer(NAME, None).await.map_err(failed)?;
        if fits(&file, &known.peer.public_key, &known.conf) {
            return Ok(Some(file));
        }
        client.remove_peer(NAME).await.map_err(failed)?;
    }
    let peer = AddPeer {
        name: NAME.to_owned(),
        user: Some(DEMO_USER.to_owned()),
        groups: BTreeSet::from([DEMO_GROUP.to_owned()]),
        ..AddPeer::default()
    };
    let made = client.add_peer(&peer).await.map_err(failed)?;
    write(&file, &made.conf).map_err(|error| {
        Failure::running(format!(
            "cannot write {}: {error}; give --data-dir a folder this user may write to",
            file.display()
        ))
    })?;
    Ok(Some(file))
}

/// Whether the file has the private key of the peer, and otherwise says what it would say today.
fn fits(file: &Path, public_key: &str, today: &str) -> bool {
    let Ok(text) = std::fs::read_to_string(file) else { return false };
    let Ok(kept) = conf::parse(&text) else { return false };
    let settings = |text: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("PrivateKey"));
        lines.filter(|line| !line.starts_with("# The device has the private key")).map(str::to_owned).collect()
    };
    PublicKey(kept.key.public()).to_string() == public_key && settings(&text) == settings(today)
}

/// Whole or not at all, and for this user alone.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let mut file = private(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(temporary, path)
}
