//! What tells flows apart.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

/// Both ends of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FourTuple {
    pub(crate) remote: IpAddr,
    pub(crate) local: IpAddr,
    pub(crate) remote_port: u16,
    pub(crate) local_port: u16,
}

impl FourTuple {
    pub(crate) fn remote(&self) -> SocketAddr {
        (self.remote, self.remote_port).into()
    }

    pub(crate) fn local(&self) -> SocketAddr {
        (self.local, self.local_port).into()
    }
}

impl Hash for FourTuple {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u32(u32::from(self.remote_port) << 16 | u32::from(self.local_port));
        for address in [self.remote, self.local] {
            match address {
                IpAddr::V4(address) => state.write_u32(address.to_bits()),
                IpAddr::V6(address) => {
                    state.write_u64((address.to_bits() >> 64) as u64);
                    state.write_u64(address.to_bits() as u64);
                }
            }
        }
    }
}
