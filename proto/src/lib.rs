//! The wire: the messages and services of `management.ProxyService` and `postern.v1`, and the conversions between
//! them and [`postern_model`].
//!
//! The code in `src/gen` is made from `proto/*.proto` by `tests/generated.rs`, which also proves it fresh. Debug output of
//! messages that carry secrets is written by hand and leaves them out.

/// NetBird's package `management`, with our fields from 1000 on.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic)]
pub mod management {
    include!("gen/management.rs");
}

/// Our own package; `proto/postern.proto` tells what it is for.
pub mod postern {
    /// The first version, the only one.
    #[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic)]
    pub mod v1 {
        include!("gen/postern.v1.rs");
    }
}

pub mod convert;
pub mod fuzz;
mod masked;
