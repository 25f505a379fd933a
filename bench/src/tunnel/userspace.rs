//! A station's end of our own tunnel.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use postern_model::{AccountId, Generation, MappedPeer, PeerMap, PublicKey};
use postern_tunnel::{Config, Limits, PrivateKey, Tunnel};
use tokio::task::JoinHandle;

use super::station::Station;

/// How long anything may take that needs the other end.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A tunnel at work.
pub(super) struct Userspace {
    pub(super) tunnel: Tunnel,
    driver: JoinHandle<std::io::Result<()>>,
}

impl Userspace {
    /// Listening at `listen`.
    pub(super) fn start(key: PrivateKey, listen: SocketAddr, map: &PeerMap) -> Result<Self> {
        let account = AccountId::parse("bench").context("an account")?;
        let (tunnel, driver) = Tunnel::bind(Config { account, key, listen, limits: Limits::default() })?;
        let misfits = tunnel.set_map(map);
        ensure!(misfits.is_empty(), "the map contradicts itself: {misfits:?}");
        Ok(Self { tunnel, driver: tokio::spawn(driver.run()) })
    }

    /// Tells the other end, and ends.
    pub(super) async fn close(self) -> Result<()> {
        self.tunnel.close();
        tokio::time::timeout(PATIENCE, self.driver)
            .await
            .context("the tunnel does not end")??
            .context("the tunnel failed")
    }
}

/// What a station knows of the other one, which calls by itself without an `endpoint`.
pub(super) fn map(station: Station, endpoint: Option<SocketAddr>) -> PeerMap {
    let other = station.other();
    let allowed_ips = vec![other.inside().into()];
    one_peer(vec![station.inside()], other.public_key(), allowed_ips, endpoint)
}

/// A map with one peer.
pub(super) fn one_peer(
    addresses: Vec<IpAddr>,
    key: PublicKey,
    allowed_ips: Vec<IpNet>,
    endpoint: Option<SocketAddr>,
) -> PeerMap {
    let (name, generation) = ("other".to_owned(), Generation(1));
    let peer = MappedPeer { name, key, generation, allowed_ips, endpoint, keep_alive: None };
    PeerMap { addresses, mtu: 1420, peers: vec![peer] }
}
