use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::proxy::Given;

/// Publishes services over HTTPS, open or behind a login, steered by a management server.
#[derive(Parser)]
#[command(
    name = "postern",
    version,
    after_help = "\
Examples:
  postern up                          try it: two demo services, nothing to configure
  postern up postern.toml             publish your own services; the file is followed as it changes
  postern status                      how the services and proxies stand
  postern management postern.toml     only the management server, for proxies on other machines
  postern proxy --help                only a proxy, for any server that speaks NetBird's ProxyService"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run everything in one process: management server, proxy and, without a file, two demo services
    Up(Up),
    /// Run the proxy alone, against any management server
    Proxy(Proxy),
    /// Run the management server alone, for several proxies
    Management(Management),
    /// Make, list and remove the tokens by which proxies are let in
    #[command(subcommand)]
    Token(Token),
    /// Show services and proxies, and what is wrong with them
    Status(Status),
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  postern up
  postern up postern.toml --https 0.0.0.0:443
  postern up --json --ready-file /run/postern.json

A postern.toml that publishes one service:
  [service.app]
  host = \"app.localhost\"
  upstream = \"http://127.0.0.1:3000\"
  access = \"open\"")]
pub(crate) struct Up {
    /// What to publish; without it, two demo services
    #[arg(value_name = "POSTERN.TOML")]
    pub(crate) file: Option<PathBuf>,
    /// Where HTTPS is served [default: 127.0.0.1:8443, or a free port if that is taken]
    #[arg(long, value_name = "ADDR")]
    pub(crate) https: Option<String>,
    /// Where proxies on other machines reach the management server [default: 127.0.0.1:33073, or a free port]
    #[arg(long, value_name = "ADDR")]
    pub(crate) management: Option<String>,
    /// Health checks and /metrics; empty turns them off [default: 127.0.0.1:8080, or a free port]
    #[arg(long, value_name = "ADDR")]
    pub(crate) health_addr: Option<String>,
    #[command(flatten)]
    pub(crate) data: DataDir,
    #[command(flatten)]
    pub(crate) log: Log,
    /// Print one JSON object instead of text, once everything answers
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the same object to this file, once everything answers
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
}

#[derive(Args)]
#[command(after_help = "\
Variables without a flag:
  NB_PROXY_TOKEN            the token of this proxy at management (required)
  NB_PROXY_ALLOW_INSECURE   true lets the token travel without TLS
  NB_LOG_FORMAT             json makes the log JSON
  NB_PROXY_MAX_IDLE_CONNS, NB_PROXY_MAX_IDLE_CONNS_PER_HOST, NB_PROXY_IDLE_CONN_TIMEOUT,
  NB_PROXY_TLS_HANDSHAKE_TIMEOUT, NB_PROXY_EXPECT_CONTINUE_TIMEOUT, NB_PROXY_RESPONSE_HEADER_TIMEOUT
                            connections to upstreams

A flag wins over its variable, a variable over the default. One dash works as well as two.

Examples:
  NB_PROXY_TOKEN=nbx_... postern proxy --mgmt https://management.example.com --domain proxy.example.com
  NB_PROXY_TOKEN=nbx_... postern proxy --mgmt https://127.0.0.1:33073 --mgmt-ca ca.pem \\
      --domain proxy.test --addr 127.0.0.1:8443 --cert-dir ./certs")]
pub(crate) struct Proxy {
    #[command(flatten)]
    pub(crate) given: Given,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  postern management postern.toml
  postern management postern.toml --listen 0.0.0.0:33073 --tls-cert fullchain.pem --tls-key key.pem
  postern token add my-proxy          makes the token that a proxy puts into NB_PROXY_TOKEN")]
pub(crate) struct Management {
    /// What to publish
    #[arg(value_name = "POSTERN.TOML")]
    pub(crate) file: Option<PathBuf>,
    /// Where proxies connect [default: 127.0.0.1:33073]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Certificate with its chain (PEM) [default: one of the local CA in the data folder]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Speak without TLS; tokens travel in clear
    #[arg(long, conflicts_with = "tls_cert")]
    pub(crate) allow_plaintext: bool,
    #[command(flatten)]
    pub(crate) data: DataDir,
    #[command(flatten)]
    pub(crate) log: Log,
}

#[derive(Subcommand)]
#[command(after_help = "\
Examples:
  NB_PROXY_TOKEN=$(postern token add berlin-1) postern proxy ...
  postern token list
  postern token remove berlin-1       cuts the proxy off at once")]
pub(crate) enum Token {
    /// Make a token and print it; it is never shown again
    Add {
        /// What to call it
        name: String,
        #[command(flatten)]
        data: DataDir,
    },
    /// List the tokens by name
    List {
        #[command(flatten)]
        data: DataDir,
    },
    /// Remove a token; proxies that use it are cut off
    Remove {
        /// Its name
        name: String,
        #[command(flatten)]
        data: DataDir,
    },
}

#[derive(Args)]
pub(crate) struct Status {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) data: DataDir,
}

#[derive(Args)]
pub(crate) struct DataDir {
    /// Where state lies: the local CA, tokens, the administration socket [default: ~/.local/share/postern]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Log {
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
