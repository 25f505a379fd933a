//! Side-by-side benchmarks: Postern and a peer do the same work on the same machine in interleaved rounds, and what
//! counts is the ratio. `make bench SUITE=http` runs one suite; its rows replace their elders in `bench/results.json`.
//!
//! One core carries the proxy under test, another the load generator and the upstream, so requests per second are a
//! lower bound; CPU time per request is the figure that carries over to other machines. The kernel charges the work of
//! loopback to whoever sends, on both sides alike.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool that reports on the terminal")]

mod certificate;
mod client;
mod http;
mod load;
mod machine;
mod measure;
mod nginx;
mod options;
mod postern;
mod process;
mod report;
mod run_folder;
mod summary;
mod tcp;
mod tunnel;
mod unpacked;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

use crate::options::Options;

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
    /// A TCP connection of ours, both ends in one process, against smoltcp's socket; over a network, against the kernel's BBR.
    Tcp(Options),
    /// Userspace WireGuard with TCP inside, against wireguard-go with the kernel's TCP and nginx, in network namespaces.
    Tunnel(Options),
    /// nginx against itself: how far from 1 a ratio of the suite http lies by chance. Keeps no result.
    Calibrate(Options),
    /// The load of `handshake_cpu`: a new TLS connection per request. Started by the suites.
    #[command(hide = true)]
    Connections(client::Connections),
    /// One measurement of our TCP, or the kernel's, over a network. Started by the suite `tcp`, in a namespace.
    #[command(hide = true)]
    Crossing(tcp::Crossing),
    /// The suite `tunnel`, in its namespaces. Started by itself.
    #[command(hide = true)]
    TunnelInside(Options),
    /// One end of a connection. Started by the suite `tunnel`.
    #[command(hide = true)]
    TunnelEnd(tunnel::End),
    /// What one core does. Started by the suite `tunnel`.
    #[command(hide = true)]
    TunnelCore(tunnel::Core),
    /// The requests of a tunnel peer. Started by the suite `tunnel`.
    #[command(hide = true)]
    TunnelRequests(tunnel::Requests),
}

/// 0 once everything was measured, whatever the ratios.
fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postern-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Http(options) => {
            release_build()?;
            http::against_nginx(options)
        }
        Command::Tcp(options) => {
            release_build()?;
            tcp::run(options)
        }
        Command::Tunnel(options) => {
            release_build()?;
            tunnel::run(options)
        }
        Command::Calibrate(options) => {
            release_build()?;
            http::nginx_against_itself(options)
        }
        Command::Connections(load) => load.run(),
        Command::Crossing(crossing) => crossing.run(),
        Command::TunnelInside(options) => {
            release_build()?;
            tunnel::run_inside(options)
        }
        Command::TunnelEnd(end) => end.run(),
        Command::TunnelCore(core) => core.run(),
        Command::TunnelRequests(requests) => requests.run(),
    }
}

fn release_build() -> Result<()> {
    ensure!(!cfg!(debug_assertions), "this is a debug build, whose figures mean nothing: run `make bench SUITE=http`");
    Ok(())
}
