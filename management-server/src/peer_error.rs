use ipnet::{IpNet, Ipv4Net};

use crate::store::StoreError;

/// Why the peers stay as they are. Each text is one sentence that ends with what to do.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The name is none.
    #[error(
        "a peer's name has 1 to 64 letters, digits, hyphens, dots and underscores, a letter or a digit first; choose another name"
    )]
    Name,
    /// The name is another's.
    #[error("there is a peer named {0} already; choose another name, or remove that one first")]
    Taken(String),
    /// There is no such peer.
    #[error("there is no peer named {0}; `postern peer list` shows those that there are")]
    Unknown(String),
    /// Nobody has a peer by this user.
    #[error("no peer belongs to the user {0}; `postern peer list` shows whose they are")]
    NoneOf(String),
    /// The user's name is none.
    #[error(
        "a user's name has up to 255 characters without colons, control characters and spaces around them; choose another"
    )]
    User,
    /// A group's name is none.
    #[error(
        "a group's name has up to 255 characters without commas, control characters and spaces around them; choose another"
    )]
    Group,
    /// The key is none.
    #[error("this is not a WireGuard public key; give the 44 characters that `wg pubkey` prints")]
    Key,
    /// The key is another's.
    #[error("the key is that of {0} already; make a key of its own with `wg genkey`")]
    KeyTaken(String),
    /// Whoever is behind a site comes with its key.
    #[error("a peer with a site stands for whoever is there and never for a user; leave the user or the ranges away")]
    SiteOfUser,
    /// A range with bits after its prefix.
    #[error("{range} has bits after its prefix; write {}", .range.trunc())]
    RangeBits {
        /// What was asked for.
        range: IpNet,
    },
    /// A range that means something else.
    #[error("nothing in {0} can lie behind a peer; give the ranges of the network there, such as 10.9.0.0/16")]
    RangeUnusable(IpNet),
    /// A range with addresses of the tunnel itself.
    #[error(
        "{range} overlaps {network}, which is the tunnel's own; give other ranges, or set another `network` in [tunnel]"
    )]
    RangeOfTunnel {
        /// What was asked for.
        range: IpNet,
        /// What the tunnel has.
        network: IpNet,
    },
    /// A range with addresses of another peer's.
    #[error(
        "{range} overlaps {theirs} of the peer {peer}; give ranges that no other peer has, or remove that one first"
    )]
    RangeTaken {
        /// What was asked for.
        range: IpNet,
        /// What the other has.
        theirs: IpNet,
        /// The other.
        peer: String,
    },
    /// The same addresses twice.
    #[error("{0} overlaps another range of the same peer; give each address once")]
    RangeTwice(IpNet),
    /// It would never be let in.
    #[error("the peer would have expired already; give a time to come, or none")]
    Expired,
    /// Not an endpoint.
    #[error("`{0}` is not an endpoint; write a name or an address with a port, such as vpn.example.com:51820")]
    Endpoint(String),
    /// No addresses are left.
    #[error(
        "the tunnel's network {0} has no address that nobody had within the last day; remove peers, or set a larger `network` in [tunnel]"
    )]
    Full(Ipv4Net),
    /// More proxies than anybody runs.
    #[error("{0} proxies have a tunnel here already; stop some of them")]
    TooManyProxies(usize),
    /// A network that no tunnel can have.
    #[error("the tunnel's network cannot be {0}; set `network` in [tunnel] to a private range from /8 to /29")]
    Network(Ipv4Net),
    /// A network that the peers do not fit into.
    #[error("the tunnel's network {network} has no place for the peer {peer}; set a larger `network` in [tunnel]")]
    NetworkTooSmall {
        /// What was asked for.
        network: Ipv4Net,
        /// Who does not fit.
        peer: String,
    },
    /// The system has no randomness.
    #[error("the system gave no randomness for a key; try again, or make one with `wg genkey` and give its public key")]
    Randomness,
    /// It could not be written down.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server is stopping.
    #[error("the management server is stopping; start it again")]
    Stopping,
}
