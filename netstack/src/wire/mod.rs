//! Packets as bytes: what arrives is read in place, what leaves is written once.

pub(crate) mod checksum;
pub(crate) mod emit;
pub(crate) mod icmp;
pub(crate) mod ip;
pub(crate) mod tcp;
