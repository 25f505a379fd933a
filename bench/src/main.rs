//! Side-by-side benchmarks: Postern and a peer do the same work on the same machine in interleaved rounds, and what
//! counts is the ratio. `make bench SUITE=http` runs one suite; its rows replace their elders in `bench/results.json`.
//!
//! One core carries the proxy under test, another the load generator and the upstream, so requests per second are a
//! lower bound; CPU time per request is the figure that carries over to other machines. The kernel charges the work of
//! loopback to whoever sends, on both sides alike.
#![expect(clippy::print_stdout, reason = "a command-line tool that reports on the terminal")]

mod certificate;
mod client;
mod http;
mod load;
mod machine;
mod measure;
mod nginx;
mod postern;
mod process;
mod report;
mod run;

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};

/// Compares Postern with its peers on this machine and prints ratios.
#[derive(Parser)]
#[command(name = "postern-bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// HTTPS reverse proxying on kernel sockets, against nginx.
    Http(Options),
    /// nginx against itself: how far from 1 a ratio of the suite http lies by chance. Keeps no result.
    Calibrate(Options),
    /// The load of `handshake_cpu`: a new TLS connection per request. Started by the suites.
    #[command(hide = true)]
    Connections(client::Connections),
}

/// How long and how often a suite measures.
#[derive(Args, Clone, Copy)]
struct Options {
    /// Interleaved rounds; a row is the median of them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Seconds per load, side and round.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
}

impl Options {
    fn duration(self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Http(options) => {
            release_build()?;
            http::against_nginx(options)
        }
        Command::Calibrate(options) => {
            release_build()?;
            http::nginx_against_itself(options)
        }
        Command::Connections(load) => load.run(),
    }
}

fn release_build() -> Result<()> {
    ensure!(!cfg!(debug_assertions), "this is a debug build, whose figures mean nothing: run `make bench SUITE=http`");
    Ok(())
}
