//! The tunnel, and the peer that comes with the demo.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_connector::conf;
use postern_management_server as management_server;
use postern_management_server::admin::{AddPeer, AdminError, Client};
use postern_model::PublicKey;
use tokio::time::timeout;

use super::services::{DEMO_GROUP, DEMO_USER, OWN_ID, Published};
use crate::failure::Failure;
use crate::private_file;

const NAME: &str = "demo";
/// The proxy is in the same process: if its tunnel is not there by then, it will not be.
const TUNNEL: Duration = Duration::from_secs(15);

/// The tunnel, once it is known how it stands.
pub(super) struct Tunnel {
    /// Why it is not there, and what to do.
    pub(super) problem: Option<String>,
    /// The wg-quick file of the demo's peer, if there is a demo and a tunnel.
    pub(super) demo_peer_conf: Option<PathBuf>,
}

/// Waits for the tunnel, if one of the services needs it, while it can still come: whoever is told that everything answers may
/// add a peer at once.
pub(super) async fn tunnel(
    server: &management_server::Running,
    published: &[Published],
    demo: bool,
) -> Result<Tunnel, Failure> {
    let problem = if published.iter().any(Published::needs_tunnel) {
        let late = || Err("the tunnel is not there yet; `postern status` says how it stands".to_owned());
        timeout(TUNNEL, server.proxy_peer_ready()).await.unwrap_or_else(|_| late()).err()
    } else {
        None
    };
    let demo_peer_conf = if demo && problem.is_none() { Some(demo_peer(server).await?) } else { None };
    Ok(Tunnel { problem, demo_peer_conf })
}

/// The wg-quick file of a peer that opens the private demo service. An earlier run's stays as it is, so that whoever uses it
/// goes on; it is made anew where it does not fit any more.
async fn demo_peer(server: &management_server::Running) -> Result<PathBuf, Failure> {
    let file = server.data_dir().join("demo-peer.conf");
    let client = Client::new(server.data_dir());
    let failed = |error: AdminError| Failure::running(format!("the demo's tunnel peer: {error}"));
    if client.peers().await.map_err(failed)?.iter().any(|peer| peer.name == NAME) {
        let known = client.peer(NAME, None).await.map_err(failed)?;
        if fits(&file, &known.peer.public_key, &known.conf) {
            return Ok(file);
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
    private_file::replace(&file, &made.conf).map_err(|error| {
        Failure::running(format!(
            "cannot write {}: {error}; give --data-dir a folder this user may write to",
            file.display()
        ))
    })?;
    Ok(file)
}

/// Whether the file has the private key of the peer, and otherwise leads to our own proxy as it would today. Proxies elsewhere
/// come and go, and nobody tries the demo with them.
fn fits(file: &Path, public_key: &str, today: &str) -> bool {
    let Ok(text) = std::fs::read_to_string(file) else { return false };
    let Ok(kept) = conf::parse(&text) else { return false };
    PublicKey(kept.key.public()).to_string() == public_key && ours(&text) == ours(today)
}

/// The lines of a file without its private key and without the sections of other proxies.
fn ours(text: &str) -> Vec<&str> {
    let own = format!("# proxy {OWN_ID}");
    let paragraphs = text.split("\n\n").map(str::trim);
    let paragraphs =
        paragraphs.filter(|part| !part.starts_with("[Peer]") || part.lines().any(|line| line.trim() == own));
    let lines = paragraphs.flat_map(str::lines).map(str::trim);
    lines
        .filter(|line| !line.starts_with("PrivateKey") && !line.starts_with("# The device has the private key"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 32 equal bytes: nobody's.
    const PRIVATE: &str = "PrivateKey = AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    const COMMENT: &str = "# The device has the private key. Put it here, as PrivateKey: it belongs to X";

    fn text(key: &str, proxies: &[(&str, u16)]) -> String {
        let section = |(name, port): &(&str, u16)| {
            let public = if *name == OWN_ID {
                "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
            } else {
                "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM="
            };
            format!(
                "\n[Peer]\n# proxy {name}\nPublicKey = {public}\nAllowedIPs = 100.72.0.1/32\nEndpoint = 127.0.0.1:{port}\n"
            )
        };
        let sections: String = proxies.iter().map(section).collect();
        format!(
            "# Postern peer demo\n[Interface]\n{key}\nAddress = 100.72.0.2/32\n{sections}\n# 100.72.0.1 inside.localhost\n"
        )
    }

    #[test]
    fn only_our_own_proxy_makes_the_file_another() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("demo-peer.conf");
        std::fs::write(&file, text(PRIVATE, &[(OWN_ID, 7)])).unwrap();
        let kept = conf::parse(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let key = PublicKey(kept.key.public()).to_string();
        assert!(fits(&file, &key, &text(COMMENT, &[(OWN_ID, 7)])));
        assert!(fits(&file, &key, &text(COMMENT, &[(OWN_ID, 7), ("elsewhere", 8)])), "another proxy beside ours");
        assert!(!fits(&file, &key, &text(COMMENT, &[(OWN_ID, 8)])), "our proxy has moved");
        assert!(!fits(&file, &key, &text(COMMENT, &[("elsewhere", 7)])), "ours is gone");
        assert!(!fits(&file, "another", &text(COMMENT, &[(OWN_ID, 7)])));
        assert!(!fits(&folder.path().join("none"), &key, &text(COMMENT, &[(OWN_ID, 7)])));
    }
}
