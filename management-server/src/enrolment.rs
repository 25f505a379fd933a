use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use postern_model::{AccountId, HostName, PublicKey, Secret};

use crate::absence::Absence;
use crate::catalog::Published;
use crate::clock::unix_now;
use crate::desired::{Endpoint, TunnelSettings};
use crate::hub::Hub;
use crate::keypair;
use crate::peer::{Device, Peer, Proxy};
use crate::peer_error::PeerError;
use crate::peer_reports::{AddPeer, NewPeer, PeerChanges, PeerState, PeerStatus, TunnelProxy, TunnelStatus};
use crate::peer_warnings::{opens_nothing, unsaid};
use crate::peers::Peers;
use crate::roster::{NewDevice, Roster};
use crate::statuses::Statuses;
use crate::wg_quick::{self, Conf, ProxySection};

/// What people do with the peers of one account: add, look at, change, remove.
#[derive(Clone, Debug)]
pub(crate) struct Enrolment {
    pub(crate) account: AccountId,
    pub(crate) peers: Arc<Peers>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) statuses: Arc<Statuses>,
    /// `[tunnel]`, as the process was started with it.
    pub(crate) tunnel: TunnelSettings,
}

impl Enrolment {
    pub(crate) async fn add(&self, ask: AddPeer) -> Result<NewPeer, PeerError> {
        let AddPeer { name, user, groups, public_key, endpoint, site, expires } = ask;
        let endpoint = endpoint.as_deref().map(parse_endpoint).transpose()?;
        let (private_key, key) = match public_key {
            Some(text) => (None, PublicKey::parse(text.trim()).map_err(|_| PeerError::Key)?),
            None => {
                keypair::generate().map(|(private, key)| (Some(private), key)).map_err(|_| PeerError::Randomness)?
            }
        };
        let mut change = self.peers.change(&self.account).await;
        let device = NewDevice { name: name.clone(), key, user, groups, site, expires };
        change.roster.add(device, unix_now())?;
        change.commit().await?;
        tracing::info!(peer = %name, %key, "peer added");
        self.configured(&name, private_key.as_ref(), endpoint)
    }

    /// By name.
    pub(crate) fn list(&self) -> Vec<PeerStatus> {
        let roster = self.peers.roster(&self.account);
        let mut all: Vec<_> =
            roster.devices().filter_map(|(_, device)| self.status(&roster, &device.name).ok()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// A peer and its configuration, without the private key.
    pub(crate) fn show(&self, name: &str, endpoint: Option<&str>) -> Result<NewPeer, PeerError> {
        self.configured(name, None, endpoint.map(parse_endpoint).transpose()?)
    }

    pub(crate) async fn set(&self, name: &str, changes: &PeerChanges) -> Result<PeerStatus, PeerError> {
        let mut change = self.peers.change(&self.account).await;
        change.roster.set(name, changes, unix_now())?;
        change.commit().await?;
        tracing::info!(peer = %name, "peer changed");
        self.status(&self.peers.roster(&self.account), name)
    }

    pub(crate) async fn remove(&self, name: &str) -> Result<(), PeerError> {
        let mut change = self.peers.change(&self.account).await;
        change.roster.remove(name, unix_now())?;
        change.commit().await?;
        tracing::info!(peer = %name, "peer removed");
        Ok(())
    }

    /// Removes every peer of a user and says their names.
    pub(crate) async fn remove_of(&self, user: &str) -> Result<Vec<String>, PeerError> {
        let mut change = self.peers.change(&self.account).await;
        let names = change.roster.remove_of(user, unix_now());
        if names.is_empty() {
            return Err(PeerError::NoneOf(user.to_owned()));
        }
        change.commit().await?;
        tracing::info!(%user, peers = names.len(), "peers removed");
        Ok(names)
    }

    pub(crate) fn tunnel(&self) -> TunnelStatus {
        let (roster, now) = (self.peers.roster(&self.account), unix_now());
        let proxy = |(number, peer, proxy): (u32, &Peer, &Proxy)| TunnelProxy {
            name: proxy.name.clone(),
            public_key: peer.key.to_string(),
            addresses: roster.addresses(number).to_vec(),
            port: proxy.port,
            connected: self.peers.is_here(&self.account, peer.key),
            last_seen: proxy.last_seen,
        };
        TunnelStatus {
            networks: roster.network().ranges().to_vec(),
            peers: roster.devices().count(),
            active_peers: roster.devices().filter(|(_, device)| device.state(now) == PeerState::Active).count(),
            proxies: roster.proxies().map(proxy).collect(),
        }
    }

    /// Returns once the proxy in this process can be named in a configuration, or has said why not.
    pub(crate) async fn proxy_peer_ready(&self) -> Result<(), String> {
        let (mut arrivals, mut reports) = (self.peers.arrivals(), self.statuses.watch());
        loop {
            let roster = self.peers.roster(&self.account);
            let named = |(_, peer, proxy): (u32, &Peer, &Proxy)| {
                proxy.port != 0 && self.peers.is_in_process(&self.account, peer.key)
            };
            if roster.proxies().any(named) {
                return Ok(());
            }
            if let Some((_, reason)) = self.absence().reason(|proxy| proxy.in_process) {
                return Err(reason);
            }
            // Neither ends before what is held here.
            tokio::select! {
                _ = arrivals.changed() => {}
                _ = reports.changed() => {}
            }
        }
    }

    fn absence(&self) -> Absence<'_> {
        Absence { account: &self.account, hub: &self.hub, statuses: &self.statuses }
    }

    fn configured(
        &self,
        name: &str,
        private_key: Option<&Secret>,
        endpoint: Option<Endpoint>,
    ) -> Result<NewPeer, PeerError> {
        let roster = self.peers.roster(&self.account);
        let peer = self.status(&roster, name)?;
        let (number, kept, device) = roster.device(name)?;
        let mut warnings: Vec<String> = peer.sentence.iter().chain(&peer.warnings).cloned().collect();
        let proxies = self.sections(&roster, endpoint, &mut warnings);
        if !roster.proxies().any(|(_, peer, _)| self.peers.is_here(&self.account, peer.key)) {
            let again = format!("; then print the configuration again with `postern peer show {name}`");
            let again = if proxies.is_empty() { again.as_str() } else { "" };
            warnings.push(self.absence().sentence() + again);
        }
        let serving = proxies.first().map(|proxy| proxy.addresses[0]);
        let services = serving.map(|at| self.opened(device).map(|host| (at, host)).collect()).unwrap_or_default();
        let conf = Conf {
            name,
            user: device.user(),
            key: kept.key,
            private_key,
            addresses: roster.addresses(number),
            mtu: self.peers.mtu(),
            proxies,
            services,
        };
        Ok(NewPeer { peer, conf: wg_quick::render(&conf), warnings })
    }

    fn status(&self, roster: &Roster, name: &str) -> Result<PeerStatus, PeerError> {
        let (number, peer, device) = roster.device(name)?;
        let state = device.state(unix_now());
        Ok(PeerStatus {
            name: device.name.clone(),
            public_key: peer.key.to_string(),
            addresses: roster.addresses(number).to_vec(),
            user: device.user().map(str::to_owned),
            groups: device.all_groups(),
            site: device.site.clone(),
            expires: device.expires,
            created: device.created,
            state,
            sentence: state.sentence(name, device.user()).or_else(|| self.lost(name, number, peer.key)),
            opens: self.opened(device).collect(),
            warnings: unsaid(device).into_iter().chain(self.opens_nothing(roster, device)).collect(),
        })
    }

    /// Why a device with its old file does not find its way in.
    fn lost(&self, name: &str, number: u32, key: PublicKey) -> Option<String> {
        self.peers.has_moved(&self.account, number, key).then(|| {
            format!(
                "the peer {name} has other addresses since the tunnel's network is another; give its device the file that \
                 `postern peer show {name}` prints"
            )
        })
    }

    fn opens_nothing(&self, roster: &Roster, device: &Device) -> Option<String> {
        let (catalog, _) = self.hub.catalog();
        let own = catalog.values().filter(|published| published.mapping.account == self.account);
        let let_in: BTreeSet<_> = own.filter_map(|published| published.private.as_ref()).flatten().cloned().collect();
        opens_nothing(device, &let_in, &roster.users())
    }

    /// The hosts of the private services that a device's groups open.
    fn opened(&self, device: &Device) -> impl Iterator<Item = String> {
        let groups = device.all_groups();
        let opens = |published: &Published| {
            published.mapping.account == self.account
                && published.private.as_ref().is_some_and(|access| !access.is_disjoint(&groups))
        };
        let (catalog, _) = self.hub.catalog();
        let hosts: Vec<_> =
            catalog.values().filter(|p| opens(p)).map(|published| published.mapping.host.to_string()).collect();
        hosts.into_iter()
    }

    /// The proxies that peers can reach: those that are here, or else those that were lately. First comes the one whose
    /// services peers open: in this process, or there for the longest.
    fn proxies<'r>(&self, roster: &'r Roster) -> Vec<(u32, &'r Peer, &'r Proxy)> {
        let mut all: Vec<_> = roster.proxies().filter(|(_, _, proxy)| proxy.port != 0).collect();
        if all.iter().any(|(_, peer, _)| self.peers.is_here(&self.account, peer.key)) {
            all.retain(|(_, peer, _)| self.peers.is_here(&self.account, peer.key));
        }
        let serves = |proxy: &Proxy| self.hub.serves_private(&self.account, &proxy.name);
        all.sort_by_key(|(number, _, proxy)| (!serves(proxy), !proxy.in_process, *number));
        all
    }

    fn sections(&self, roster: &Roster, given: Option<Endpoint>, warnings: &mut Vec<String>) -> Vec<ProxySection> {
        let mut given = given.or_else(|| self.tunnel.endpoint.clone());
        let proxies = self.proxies(roster);
        let mut sections = Vec::new();
        for (at, (number, peer, proxy)) in proxies.into_iter().enumerate() {
            let on_loopback = proxy.in_process && self.tunnel.listen_port().is_none();
            let endpoint = match (given.take(), reachable(&proxy.cluster)) {
                (Some(endpoint), _) => {
                    warnings.extend(unheard(&endpoint, proxy).filter(|_| on_loopback));
                    endpoint.to_string()
                }
                (None, Some(cluster)) if at > 0 => format!("{cluster}:{}", proxy.port),
                (None, _) => {
                    let endpoint = format!("{}:{}", Ipv4Addr::LOCALHOST, proxy.port);
                    let or_else = if on_loopback { " and start again" } else { ", or give --endpoint HOST:PORT" };
                    warnings.push(format!(
                        "the endpoint {endpoint} can only be reached from this machine; for others set `endpoint` in \
                         [tunnel]{or_else}"
                    ));
                    endpoint
                }
            };
            let (name, key, addresses) = (proxy.name.clone(), peer.key, roster.addresses(number));
            sections.push(ProxySection { name, key, addresses, endpoint });
        }
        sections
    }
}

/// Why nobody reaches a proxy that listens on loopback where others would look for it, and what to do.
fn unheard(endpoint: &Endpoint, proxy: &Proxy) -> Option<String> {
    let (name, loopback) = (&proxy.name, Ipv4Addr::LOCALHOST);
    let elsewhere = ![loopback.to_string().as_str(), "localhost"].contains(&endpoint.host());
    elsewhere.then(|| {
        format!(
            "the proxy {name} hears peers of this machine alone, on {loopback}, and none at {endpoint}; write \
             `endpoint = \"{endpoint}\"` under [tunnel] in a postern.toml, and start again with it"
        )
    })
}

fn parse_endpoint(text: &str) -> Result<Endpoint, PeerError> {
    text.trim().parse().map_err(|_| PeerError::Endpoint(text.escape_debug().take(80).collect()))
}

/// The domain of a cluster, where it leads somewhere for others.
fn reachable(cluster: &str) -> Option<HostName> {
    let host = HostName::parse(cluster).ok()?;
    let local = host.as_str() == "localhost" || host.as_str().ends_with(".localhost");
    (!local && cluster.parse::<IpAddr>().is_err()).then_some(host)
}
