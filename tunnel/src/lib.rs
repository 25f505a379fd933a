//! The tokio driver of a netstack: UDP socket, listeners and streams of one account's tunnel.
//!
//! [`Tunnel::bind`] takes the port and gives a handle and a [`Driver`]. The driver is spawned on the runtime where the tunnel
//! lives; handles, [`Listener`]s and [`Stream`]s may be used from any. [`Identity`] keeps the key on disk, in a
//! [`Folder`] that is ours alone.
//!
//! The netstack is a machine without IO or clock behind one lock that is held for a call or a batch. What a handle does in it
//! the driver carries out; what arrives the driver takes in, wakes whom it concerns, lets them run, and sends what came of
//! all that at once.

mod driver;
mod folder;
mod identity;
mod listener;
mod map;
mod owner;
mod shared;
mod socket;
mod status;
mod stream;
mod tunnel;

pub use driver::Driver;
pub use folder::{Folder, FolderError};
pub use identity::{Identity, IdentityError, parse_private_key};
pub use listener::Listener;
pub use map::Misfit;
pub use postern_netstack::{Limits, PrivateKey};
pub use socket::BindError;
pub use status::{PeerStatus, Status};
pub use stream::Stream;
pub use tunnel::{Config, ConnectError, ListenError, Tunnel};
