//! The one binary: flags, variables and files become configurations, and those are run.
//!
//! This is the only place that names concrete back ends.

mod address;
mod admin;
mod args;
mod connect;
mod dashes;
mod edge;
mod failure;
mod golang;
mod logging;
mod management;
mod paths;
mod peer;
mod private_file;
mod process;
mod proxy;
mod shell;
mod up;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Command};
use failure::Failure;
use proxy::Environment;

/// A request makes some forty small allocations; this costs a tenth of the CPU less than the system's, and memory is given back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let arguments = dashes::doubled(&Cli::command(), std::env::args_os());
    let matches = Cli::command().get_matches_from(arguments);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match run(cli.command, &environment()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            failure.exit_code()
        }
    }
}

fn run(command: Command, environment: &Environment) -> Result<(), Failure> {
    // Crates that leave the choice of cryptography to the process find it made.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // Requests are served by threads of the proxy's own; what runs here is control.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|error| Failure::running(format!("cannot start threads: {error}; raise the limit of processes")))?;
    runtime.block_on(async {
        match command {
            Command::Up(up) => up::run(&up, environment).await,
            Command::Proxy(proxy) => proxy::run(&proxy.given, environment).await,
            Command::Management(management) => management::run(&management, environment).await,
            Command::Token(token) => admin::token(&token, environment).await,
            Command::Peer(peer) => peer::run(&peer, environment).await,
            Command::Connect(connect) => connect::run(&connect, environment).await,
            Command::Status(status) => admin::status(&status, environment).await,
        }
    })
}

/// The environment is read once. What is not UTF-8 is none of our variables.
fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
