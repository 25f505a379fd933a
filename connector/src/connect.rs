//! Becoming a peer, and serving SOCKS5 with it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use postern_model::{AccountId, Generation, HostName, MappedPeer, PeerMap};
use postern_tunnel::{BindError, Config, ConnectError, Limits, Misfit, Stream, Tunnel};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::conf::{Conf, ConfPeer};
use crate::relay::relay;
use crate::socks::{self, Destination, Reply};
use crate::watch::{News, Watch};

/// How long a connection into the tunnel may usually take, a handshake with the peer included.
pub const DIAL: Duration = Duration::from_secs(15);
/// From the client's connection to the end of its SOCKS request.
const GREETING: Duration = Duration::from_secs(10);
/// SOCKS connections open at once; more wait in the system's queue.
const CLIENTS: usize = 1024;
/// A proxy's name may lead elsewhere by the next day.
const RESOLVE_AGAIN: Duration = Duration::from_secs(60);
/// How often it is looked whether the peers answer.
const LOOK: Duration = Duration::from_millis(250);

/// Why there is no connection. One sentence with the next action.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The name of an endpoint leads nowhere.
    #[error("the endpoint {endpoint} cannot be resolved: {source}; check the name and this machine's DNS")]
    Endpoint {
        /// As the file has it.
        endpoint: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// The tunnel has no socket.
    #[error(transparent)]
    Tunnel(#[from] BindError),
    /// The SOCKS proxy cannot listen.
    #[error("cannot listen on {address} for SOCKS: {source}; choose another address with --socks")]
    Socks {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// A peer at work. Dropping it ends it at once; [`Connected::shutdown`] says goodbye first.
#[derive(Debug)]
pub struct Connected {
    tunnel: Tunnel,
    socks: SocketAddr,
    stop: CancellationToken,
    /// None of them ends by itself while the tunnel works.
    tasks: JoinSet<()>,
    watch: Watch,
}

/// Becomes the peer that `conf` describes and serves SOCKS5 at `socks`; a connection into the tunnel may take as long as `dial`
/// ([`DIAL`]). Has to be called on a tokio runtime. Whether the other end answers, [`Connected::news`] tells.
///
/// # Errors
/// [`StartError`].
pub async fn start(conf: Conf, socks: SocketAddr, dial: Duration) -> Result<Connected, StartError> {
    let map = map(&conf, &[]).await?;
    let in_use = |source| StartError::Socks { address: socks, source };
    let listener = TcpListener::bind(socks).await.map_err(in_use)?;
    let socks = listener.local_addr().map_err(in_use)?;

    // Of both families: a name may lead to the other one tomorrow.
    let any = IpAddr::from(Ipv6Addr::UNSPECIFIED);
    let account = AccountId::parse("connect").expect("a plain word");
    let config = Config { account, key: conf.key.clone(), listen: SocketAddr::new(any, 0), limits: Limits::default() };
    let (tunnel, driver) = Tunnel::bind(config)?;
    put_in_force(&tunnel, &map);

    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        if let Err(error) = driver.run().await {
            tracing::error!("the tunnel has ended: {error}; start it again");
        }
    });
    let entry = Entry { tunnel: tunnel.clone(), hosts: conf.hosts.clone(), dial };
    let watch = Watch::new(conf.peers.iter().map(|peer| (peer.key, peer.endpoint.clone())));
    let until = stop.clone();
    tasks.spawn(async move {
        let _stopped = until.run_until_cancelled(serve(listener, Arc::new(entry))).await;
    });
    if conf.peers.iter().any(|peer| peer.endpoint.parse::<SocketAddr>().is_err()) {
        let (until, tunnel) = (stop.clone(), tunnel.clone());
        tasks.spawn(async move {
            let _stopped = until.run_until_cancelled(follow_names(tunnel, conf, map)).await;
        });
    }
    Ok(Connected { tunnel, socks, stop, tasks, watch })
}

impl Connected {
    /// Where SOCKS5 is served.
    #[must_use]
    pub fn socks_addr(&self) -> SocketAddr {
        self.socks
    }

    /// The next thing that people should know: that a peer answers, or has not for a while. `None` once nothing works any
    /// more, and the log says why. Nothing is lost if the future is dropped.
    pub async fn news(&mut self) -> Option<News> {
        loop {
            let now = Instant::now();
            if let Some(news) = self.watch.look(&self.tunnel.status().peers, now.into_std()) {
                return Some(news);
            }
            tokio::select! {
                _ = self.tasks.join_next() => return None,
                () = sleep_until(now + LOOK) => {}
            }
        }
    }

    /// Accepts nothing more and ends every connection in order.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        self.tunnel.close();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// An endpoint stays where it was `before` as long as its name leads there too: of several addresses any may be the first today.
async fn map(conf: &Conf, before: &[MappedPeer]) -> Result<PeerMap, StartError> {
    let mut peers = Vec::new();
    for peer in &conf.peers {
        peers.push(MappedPeer {
            name: peer.endpoint.clone(),
            key: peer.key,
            generation: Generation(0),
            allowed_ips: peer.allowed_ips.clone(),
            endpoint: Some(resolve(peer, before).await?),
            keep_alive: peer.keep_alive,
        });
    }
    Ok(PeerMap { addresses: conf.addresses.clone(), mtu: conf.mtu, peers })
}

async fn resolve(peer: &ConfPeer, before: &[MappedPeer]) -> Result<SocketAddr, StartError> {
    let failed = |source| StartError::Endpoint { endpoint: peer.endpoint.clone(), source };
    let found: Vec<_> = lookup_host(&peer.endpoint).await.map_err(failed)?.collect();
    let present = before.iter().find(|known| known.key == peer.key).and_then(|known| known.endpoint);
    let present = present.filter(|present| found.contains(present));
    present.or_else(|| chosen(found.into_iter())).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
}

/// The first in the system's order, but for `localhost`: a proxy that only this machine reaches is at 127.0.0.1.
fn chosen(mut found: impl Iterator<Item = SocketAddr>) -> Option<SocketAddr> {
    let first = found.next()?;
    let other = found.find(|address| address.ip() == Ipv4Addr::LOCALHOST);
    Some(other.filter(|_| first.ip() == Ipv6Addr::LOCALHOST).unwrap_or(first))
}

fn put_in_force(tunnel: &Tunnel, map: &PeerMap) {
    for misfit in tunnel.set_map(map) {
        match misfit {
            // A proxy that everything goes through has our own address in its ranges.
            Misfit::OwnAddress { .. } => {}
            Misfit::SameKey { .. } | Misfit::OwnKey { .. } | Misfit::SameRange { .. } | Misfit::Nested { .. } => {
                tracing::warn!("{misfit}");
            }
        }
    }
}

/// Asks for the endpoints' names again and again; an address that changed takes effect, a resolver that fails does not.
async fn follow_names(tunnel: Tunnel, conf: Conf, mut before: PeerMap) {
    loop {
        sleep_until(Instant::now() + RESOLVE_AGAIN).await;
        match map(&conf, &before.peers).await {
            Ok(map) if map != before => {
                put_in_force(&tunnel, &map);
                before = map;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("{error}"),
        }
    }
}

/// The way into the tunnel.
#[derive(Debug)]
struct Entry {
    tunnel: Tunnel,
    hosts: BTreeMap<HostName, Vec<IpAddr>>,
    dial: Duration,
}

async fn serve(listener: TcpListener, entry: Arc<Entry>) {
    let clients = TaskTracker::new();
    let ending = CancellationToken::new();
    let _end_them = ending.clone().drop_guard();
    let places = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((client, _)) => {
                let (entry, ending) = (Arc::clone(&entry), ending.clone());
                clients.spawn(async move {
                    ending.run_until_cancelled(entry.connect(client)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for the moment");
                sleep_until(Instant::now() + Duration::from_millis(100)).await;
            }
        }
    }
}

impl Entry {
    async fn connect(&self, mut client: TcpStream) {
        let _refused_by_the_system = client.set_nodelay(true);
        let destination = match timeout(GREETING, socks::request(&mut client)).await {
            Ok(Ok(destination)) => destination,
            Ok(Err(error)) => return tracing::warn!("{error}"),
            Err(_) => return tracing::debug!("a client said nothing"),
        };
        match self.dial(&destination).await {
            Ok(stream) => {
                if socks::reply(&mut client, Reply::Succeeded).await.is_ok() {
                    relay(client, stream, Stream::abort).await;
                }
            }
            Err(refusal) => {
                tracing::warn!("{destination}: {refusal}");
                let _gone = socks::reply(&mut client, refusal.reply()).await;
            }
        }
    }

    /// Tries the addresses of a name in order.
    async fn dial(&self, destination: &Destination) -> Result<Stream, Refusal> {
        let (addresses, port) = match destination {
            Destination::Address(address) => (vec![address.ip()], address.port()),
            Destination::Name(name, port) => {
                let host = HostName::parse(name).map_err(|_| Refusal::UnknownName)?;
                (self.hosts.get(&host).ok_or(Refusal::UnknownName)?.clone(), *port)
            }
        };
        let mut last = Refusal::UnknownName;
        for address in addresses {
            match self.tunnel.connect(SocketAddr::new(address, port), self.dial).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Refusal::Connect(error),
            }
        }
        Err(last)
    }
}

/// Why a client gets no connection.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(
        "this name is not among the private services of the configuration; make the configuration anew, or use an address \
         (names are not looked up in the tunnel yet)"
    )]
    UnknownName,
    #[error(transparent)]
    Connect(ConnectError),
}

impl Refusal {
    fn reply(&self) -> Reply {
        match self {
            Self::UnknownName => Reply::HostUnreachable,
            Self::Connect(error) => match error {
                ConnectError::Refused(_) => Reply::Refused,
                ConnectError::TimedOut(_) => Reply::TimedOut,
                ConnectError::NotUp(_) => Reply::HostUnreachable,
                ConnectError::Untried { .. } => Reply::NetworkUnreachable,
                ConnectError::Ended(_) | ConnectError::Closed => Reply::Failed,
            },
        }
    }
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name, port) => write!(f, "{}:{port}", name.escape_debug()),
        }
    }
}

#[cfg(test)]
mod tests {
    use postern_model::PublicKey;
    use postern_tunnel::PrivateKey;

    use super::*;

    #[test]
    fn localhost_is_where_a_proxy_listens() {
        let of = |texts: &[&str]| chosen(texts.iter().map(|text| text.parse().unwrap())).map(|found| found.to_string());
        assert_eq!(of(&["[::1]:7", "127.0.0.1:7"]).as_deref(), Some("127.0.0.1:7"));
        assert_eq!(of(&["[::1]:7"]).as_deref(), Some("[::1]:7"));
        assert_eq!(of(&["[fd00::1]:7", "192.0.2.1:7"]).as_deref(), Some("[fd00::1]:7"));
        assert_eq!(of(&[]), None);
    }

    #[tokio::test]
    async fn a_tunnel_that_has_ended_is_told() {
        let peer = ConfPeer {
            key: PublicKey([9; 32]),
            allowed_ips: vec!["100.72.0.1/32".parse().unwrap()],
            endpoint: "127.0.0.1:9".to_owned(),
            keep_alive: None,
        };
        let conf = Conf {
            key: PrivateKey::generate(),
            addresses: vec![[100, 72, 0, 2].into()],
            mtu: 1420,
            peers: vec![peer],
            hosts: BTreeMap::new(),
        };
        let mut connected = start(conf, (Ipv4Addr::LOCALHOST, 0).into(), DIAL).await.unwrap();
        connected.tunnel.close();
        assert_eq!(timeout(Duration::from_secs(60), connected.news()).await.expect("it ends"), None);
    }
}
