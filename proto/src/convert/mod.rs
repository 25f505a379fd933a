//! Wire to model and back.
//!
//! From the wire nothing is taken on trust: a value that cannot be understood is an [`Invalid`] that names its field, and
//! never a default. Fields that are not known are skipped; values of an enumeration that are not known are refused, since
//! what they ask for is unknown.

mod access;
mod batch;
mod calls;
mod invalid;
mod mapping;
mod path;

pub use batch::{Received, batch};
pub use calls::{
    Hello, access_log_to_wire, authenticate_from_wire, authenticate_to_wire, authenticated_from_wire,
    authenticated_to_wire, status_from_wire, status_to_wire,
};
pub use invalid::Invalid;
pub use mapping::mapping_to_wire;
