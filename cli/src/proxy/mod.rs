//! `postern proxy`: the proxy alone, with NetBird's flags and variables.

mod run;
mod settings;
mod table;
#[cfg(test)]
mod tests;
mod values;

pub(crate) use run::run;
pub(crate) use values::{Environment, Given};
