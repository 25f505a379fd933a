//! The handle of a tunnel.

use std::fmt;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_model::{AccountId, PeerMap, PublicKey};
use postern_netstack::{Limits, Netstack, PrivateKey, StreamError};
use rand::TryRng;
use rand::rngs::SysRng;

use crate::driver::Driver;
use crate::listener::Listener;
use crate::map::{self, Misfit};
use crate::owner::Owner;
use crate::shared::{Closed, Core, Shared};
use crate::socket::{self, BindError};
use crate::status::Status;
use crate::stream::{Failed, Stream};

/// Before the first map the tunnel has no addresses, so that none of this is ever in use.
const MTU_BEFORE_THE_MAP: u16 = 1420;

/// WireGuard's REJECT_AFTER_TIME: keys that are older are not used.
const KEY_LIFE: Duration = Duration::from_secs(180);

/// Everything a tunnel is told when it begins.
#[derive(Debug)]
pub struct Config {
    /// Whose tunnel it is.
    pub account: AccountId,
    /// Our key in it.
    pub key: PrivateKey,
    /// Where WireGuard's datagrams come in. Port 0 takes a free one; `[::]` hears IPv4 too.
    pub listen: SocketAddr,
    /// Bounds on what peers can make us spend.
    pub limits: Limits,
}

/// One account's tunnel. Clones are the same tunnel; it closes with the last of them, of its listeners and of its streams.
#[derive(Clone)]
pub struct Tunnel {
    owner: Arc<Owner>,
}

/// Why a port of the tunnel cannot be listened on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// The port is taken, or none.
    #[error(transparent)]
    Port(postern_netstack::ListenError),
    /// The tunnel has ended.
    #[error("the tunnel is closed")]
    Closed,
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// It cannot even be tried: there is no such peer, or no room.
    #[error("cannot reach {to} through the tunnel: {reason}")]
    Untried {
        /// Whom.
        to: SocketAddr,
        /// Why.
        reason: postern_netstack::ConnectError,
    },
    /// The peer that has the address has not answered WireGuard's handshake.
    #[error("the tunnel's peer that has {0} is not there: start it, and check its key and endpoint")]
    NotUp(IpAddr),
    /// The peer is there, and nobody listens.
    #[error("{0} refuses the connection: nobody listens there")]
    Refused(SocketAddr),
    /// The peer is there, and the address does not answer.
    #[error("{0} does not answer in the tunnel")]
    TimedOut(SocketAddr),
    /// The map of peers changed meanwhile.
    #[error("{0} was taken out of the tunnel while it was dialled")]
    Ended(SocketAddr),
    /// The tunnel has ended.
    #[error("the tunnel is closed")]
    Closed,
}

impl Tunnel {
    /// Takes the UDP port. Nothing moves before the driver runs. Needs no runtime.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(config: Config) -> Result<(Self, Driver), BindError> {
        let Config { account, key, listen, limits } = config;
        let socket = socket::bind(listen)?;
        let local = socket.local_addr().map_err(|source| BindError::Unusable { address: listen, source })?;
        let public_key = PublicKey(key.public());
        let mut seed = [0; 32];
        SysRng.try_fill_bytes(&mut seed).expect("the system has randomness");
        let netstack = postern_netstack::Config { key, addresses: Vec::new(), mtu: MTU_BEFORE_THE_MAP, limits, seed };
        let netstack = Netstack::new(netstack, Instant::now());
        let shared = Arc::new(Shared::new(account, public_key, local, netstack));
        let driver = Driver::new(socket, shared.clone());
        Ok((Self { owner: Arc::new(Owner { shared }) }, driver))
    }

    /// Puts a map in force: who is in it under the same generation stays connected, who is not is cut off at once. Returns
    /// what in the map contradicts itself.
    pub fn set_map(&self, map: &PeerMap) -> Vec<Misfit> {
        let (peers, misfits) = map::peers(map, self.public_key());
        // A closed tunnel has no peers to set.
        let _ = self.owner.shared.act(|core| {
            let now = Instant::now();
            core.netstack.set_addresses(map.addresses.clone(), map.mtu, now);
            core.netstack.set_peers(&peers, now);
            core.addresses.clone_from(&map.addresses);
        });
        misfits
    }

    /// The UDP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.owner.shared.local.port()
    }

    /// What peers know us by.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.owner.shared.public_key
    }

    /// Our addresses inside; none before the first map.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.owner.shared.look(|core| core.addresses.clone())
    }

    /// Listens on a port of all our addresses inside, whatever they are at the time.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn listen(&self, port: u16) -> Result<Listener, ListenError> {
        let listened = self.owner.shared.act(|core| {
            // The listener before this one may have been dropped a moment ago.
            core.bury(Instant::now());
            let id = core.netstack.listen(port)?;
            core.adopt_listener(id);
            Ok(id)
        });
        let id = listened.map_err(|Closed| ListenError::Closed)?.map_err(ListenError::Port)?;
        Ok(Listener::new(self.owner.clone(), id))
    }

    /// Dials an address inside. `patience` is how long that may take in all, a handshake with the peer included. Dropping the
    /// future gives up.
    ///
    /// # Errors
    /// [`ConnectError`], after `patience` at the latest.
    pub async fn connect(&self, to: SocketAddr, patience: Duration) -> Result<Stream, ConnectError> {
        let begun = self.owner.shared.act(|core| {
            let id = core.netstack.connect(to, patience, Instant::now())?;
            core.adopt(id);
            Ok((id, core.netstack.local_addr(id).expect("it was opened a moment ago")))
        });
        let begun = begun.map_err(|Closed| ConnectError::Closed)?;
        let (id, local) = begun.map_err(|reason| ConnectError::Untried { to, reason })?;
        let stream = Stream::new(self.owner.clone(), id, local, to);
        poll_fn(|cx| stream.poll_connected(cx)).await.map_err(|failed| self.explain(to, &failed))?;
        Ok(stream)
    }

    /// The tunnel at this moment.
    #[must_use]
    pub fn status(&self) -> Status {
        self.owner.shared.look(|core| Status::of(&core.netstack, core.refused))
    }

    /// Ends the tunnel: peers are told that their connections are over, streams become errors, listeners end, the driver
    /// returns and the port is free.
    pub fn close(&self) {
        self.owner.shared.close();
    }

    fn explain(&self, to: SocketAddr, failed: &Failed) -> ConnectError {
        let Failed::Stream(error) = failed else { return ConnectError::Closed };
        match error {
            StreamError::Refused | StreamError::Reset => ConnectError::Refused(to),
            StreamError::TimedOut if !self.owner.shared.look(|core| is_up(core, to.ip())) => {
                ConnectError::NotUp(to.ip())
            }
            StreamError::TimedOut => ConnectError::TimedOut(to),
            StreamError::Ended => ConnectError::Ended(to),
            StreamError::Closed => ConnectError::Closed,
        }
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = &self.owner.shared;
        f.debug_struct("Tunnel").field("account", &shared.account).field("local", &shared.local).finish_non_exhaustive()
    }
}

fn is_up(core: &Core, address: IpAddr) -> bool {
    let peer = core.netstack.peer_at(address);
    peer.and_then(|peer| peer.last_handshake).is_some_and(|since| since.elapsed() < KEY_LIFE)
}
