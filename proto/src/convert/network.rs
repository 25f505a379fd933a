use std::net::IpAddr;

use postern_model::PublicKey;

use super::invalid::{Invalid, quote};

pub(super) fn address(field: &str, text: &str) -> Result<IpAddr, Invalid> {
    text.parse().map_err(|_| Invalid::new(field, format!("{} is no address", quote(text))))
}

pub(super) fn port(field: &str, number: u32) -> Result<u16, Invalid> {
    number.try_into().map_err(|_| Invalid::new(field, format!("{number} is no port")))
}

pub(super) fn key(field: &str, text: &str) -> Result<PublicKey, Invalid> {
    PublicKey::parse(text).map_err(|error| Invalid::new(field, format!("{} is {error}", quote(text))))
}
