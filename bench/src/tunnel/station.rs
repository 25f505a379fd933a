//! The two machines of the suite and what is fixed about them. Everything lies in networks of their own: no address, port or
//! key has to be chosen at run time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::ValueEnum;
use postern_model::PublicKey;
use postern_tunnel::PrivateKey;

/// One of two machines with a cable between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Station {
    /// The benchmark's own, which stands for a server.
    Near,
    /// The other one, which stands for its clients.
    Far,
}

impl Station {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Near => Self::Far,
            Self::Far => Self::Near,
        }
    }

    /// A secret of nobody.
    pub(super) fn key_bytes(self) -> [u8; 32] {
        [self.number(); 32]
    }

    pub(super) fn key(self) -> PrivateKey {
        PrivateKey::from_bytes(self.key_bytes())
    }

    pub(super) fn public_key(self) -> PublicKey {
        PublicKey(self.key().public())
    }

    /// On the cable.
    pub(super) fn outside(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 88, 0, self.number())
    }

    /// In the tunnel.
    pub(super) fn inside(self) -> IpAddr {
        IpAddr::from([10, 99, 0, self.number()])
    }

    /// Where our WireGuard listens.
    pub(super) fn ours(self) -> SocketAddr {
        (self.outside(), 51820).into()
    }

    /// Where wireguard-go listens.
    pub(super) fn theirs(self) -> SocketAddr {
        (self.outside(), 51821).into()
    }

    /// Where the relay takes what this station sends, in a range of ports that begins at `base`.
    pub(super) fn relay(self, base: u16) -> SocketAddr {
        (Self::Near.outside(), base + u16::from(self.number())).into()
    }

    fn number(self) -> u8 {
        match self {
            Self::Near => 1,
            Self::Far => 2,
        }
    }
}
