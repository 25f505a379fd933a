//! Netstacks that talk to each other through a simulated network.

mod bare;
mod cost;
mod life;
mod world;
#[cfg(feature = "sim")]
mod worlds;
