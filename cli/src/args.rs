use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;

use crate::proxy::Given;

/// Publishes services over HTTPS, open or behind a login, steered by a management server.
#[derive(Parser)]
#[command(
    name = "postern",
    version,
    after_help = "\
Examples:
  postern up                          try it: three demo services, nothing to configure
  postern up postern.toml             publish your own services; the file is followed as it changes
  postern status                      how the services and proxies stand
  postern peer add laptop --user you@example.com --groups eng --out laptop.conf
                                      a WireGuard configuration for somebody's machine
  postern connect laptop.conf         be that machine without root: a SOCKS5 proxy into the tunnel
  postern management postern.toml     only the management server, for proxies on other machines
  postern proxy --help                only a proxy, for any server that speaks as NetBird's does"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run everything in one process: management server, proxy and, without a file, three demo services
    Up(Up),
    /// Run the proxy alone, against any management server
    Proxy(Proxy),
    /// Run the management server alone, for several proxies
    Management(Management),
    /// Make, list and remove the tokens by which proxies are let in
    #[command(subcommand)]
    Token(Token),
    /// Let machines into the tunnel: make, list, change and remove WireGuard peers
    #[command(subcommand)]
    Peer(Peer),
    /// Be a peer without root: a SOCKS5 proxy that leads into the tunnel
    Connect(Connect),
    /// Show services, proxies and peers, and what is wrong with them
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
    /// What to publish; without it, three demo services
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

#[derive(Subcommand)]
#[command(after_help = "\
Examples:
  postern peer add laptop --user you@example.com --groups eng --out laptop.conf
  postern peer add phone --user you@example.com --groups eng --public-key KEY
                                      the private key stays on the phone
  postern peer add office --site 192.168.7.0/24
                                      a network behind one router
  postern peer list
  postern peer set laptop --groups eng,ops
  postern peer remove laptop          its connections end at once

A peer opens the private services whose groups it is in, and nothing else:
  [service.wiki]
  host = \"wiki.example.com\"
  upstream = \"http://127.0.0.1:3000\"
  access = { private = [\"eng\"] }")]
pub(crate) enum Peer {
    /// Add a peer and print its WireGuard configuration (wg-quick); its private key is never shown again
    Add(AddPeer),
    /// List the peers
    List {
        /// Print one JSON array
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        data: DataDir,
    },
    /// Show one peer: whose it is, its groups, what it opens, and its configuration without the private key
    Show {
        /// Its name
        name: String,
        /// Where the peer reaches this machine by UDP [default: `endpoint` of [tunnel], else loopback]
        #[arg(long, value_name = "HOST:PORT")]
        endpoint: Option<String>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        data: DataDir,
    },
    /// Change whose a peer is or what it may do; its connections end and it has to be let in anew
    Set(SetPeer),
    /// Remove a peer, or all of a user; their connections end at once
    #[command(group = clap::ArgGroup::new("who").required(true).args(["name", "user"]))]
    Remove {
        /// Its name
        name: Option<String>,
        /// Remove every peer of this user
        #[arg(long, value_name = "USER")]
        user: Option<String>,
        #[command(flatten)]
        data: DataDir,
    },
}

#[derive(Args)]
pub(crate) struct AddPeer {
    /// What to call it
    pub(crate) name: String,
    /// Whose it is: what X-NetBird-User says
    #[arg(long, value_name = "USER", conflicts_with = "site")]
    pub(crate) user: Option<String>,
    /// Its groups, separated by commas
    #[arg(long, value_name = "GROUPS", value_delimiter = ',')]
    pub(crate) groups: Vec<String>,
    /// The peer's own public key: its private key stays where it is
    #[arg(long, value_name = "KEY")]
    pub(crate) public_key: Option<String>,
    /// Where peers reach this machine by UDP [default: `endpoint` of [tunnel], else loopback]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) endpoint: Option<String>,
    /// Write the configuration to this file, which only this user may read, instead of printing it
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// A range or an address behind the peer; it is then a site, which nobody is identified by
    #[arg(long, value_name = "CIDR", value_parser = range)]
    pub(crate) site: Vec<IpNet>,
    /// How many days it is let in
    #[arg(long, value_name = "DAYS", value_parser = days)]
    pub(crate) expires: Option<u32>,
    #[command(flatten)]
    pub(crate) data: DataDir,
}

#[derive(Args)]
#[command(override_usage = "postern peer set <NAME> <OPTIONS>", group = clap::ArgGroup::new("change").required(true).multiple(true)
    .args(["user", "no_user", "groups", "enable", "disable", "expires", "no_expiry"]))]
pub(crate) struct SetPeer {
    /// Its name
    pub(crate) name: String,
    /// Whose it is
    #[arg(long, value_name = "USER", conflicts_with = "no_user")]
    pub(crate) user: Option<String>,
    /// It is nobody's any more
    #[arg(long)]
    pub(crate) no_user: bool,
    /// All its groups, separated by commas; empty for none
    #[arg(long, value_name = "GROUPS", value_delimiter = ',', num_args = 0..=1, default_missing_value = "")]
    pub(crate) groups: Option<Vec<String>>,
    /// Let it in again
    #[arg(long, conflicts_with = "disable")]
    pub(crate) enable: bool,
    /// Keep it out without forgetting it
    #[arg(long)]
    pub(crate) disable: bool,
    /// How many days from today it is let in
    #[arg(long, value_name = "DAYS", value_parser = days, conflicts_with = "no_expiry")]
    pub(crate) expires: Option<u32>,
    /// It is let in for good
    #[arg(long)]
    pub(crate) no_expiry: bool,
    #[command(flatten)]
    pub(crate) data: DataDir,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  postern connect laptop.conf
  curl --proxy socks5h://127.0.0.1:1080 https://wiki.example.com/
  curl --proxy socks5h://127.0.0.1:1080 --cacert ca.pem https://inside.localhost/

The last is for proxies whose certificates come from the local CA of `postern up`, which prints where its file lies.

The private services that the file lists in its comments are known by name; other names are not looked up in \
the tunnel yet. A WireGuard client of the system takes the same file, and then everything on the machine is the peer.")]
pub(crate) struct Connect {
    /// The file that `postern peer add` printed
    #[arg(value_name = "CONF")]
    pub(crate) conf: PathBuf,
    /// Where programs on this machine find the SOCKS5 proxy
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1080")]
    pub(crate) socks: String,
    #[command(flatten)]
    pub(crate) log: Log,
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

/// An address is the range of that address alone.
fn range(text: &str) -> Result<IpNet, &'static str> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse().ok().or_else(address).ok_or("write a range such as 192.168.7.0/24, or an address")
}

/// More than a century is a slip.
fn days(text: &str) -> Result<u32, &'static str> {
    match text.parse() {
        Ok(days @ 1..=36_500) => Ok(days),
        Ok(0) => {
            Err("it would never be let in; give at least 1, or keep it out with `postern peer set NAME --disable`")
        }
        Ok(_) | Err(_) => Err("give a whole number of days, up to 36500"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn a_site_is_ranges_and_addresses() {
        assert_eq!(range("10.9.0.0/16"), Ok("10.9.0.0/16".parse().unwrap()));
        assert_eq!(range("10.20.0.5"), Ok("10.20.0.5/32".parse().unwrap()));
        assert_eq!(range("fd00::5"), Ok("fd00::5/128".parse().unwrap()));
        assert!(range("10.20.0.5/40").is_err() && range("office").is_err());
    }

    #[test]
    fn an_end_is_some_days_away() {
        assert_eq!((days("1"), days("36500")), (Ok(1), Ok(36_500)));
        assert!(days("0").unwrap_err().contains("--disable"));
        assert!(days("-1").is_err() && days("99999").is_err() && days("soon").is_err());
    }

    #[test]
    fn a_change_sets_or_clears_and_is_not_empty() {
        let understood = |arguments: &[&str]| {
            Cli::try_parse_from([&["postern", "peer", "set", "laptop"], arguments].concat()).is_ok()
        };
        for good in
            [&["--no-user"][..], &["--no-expiry"], &["--user", "a"], &["--expires", "3", "--no-user"], &["--groups"]]
        {
            assert!(understood(good), "{good:?}");
        }
        for bad in
            [&[][..], &["--user", "a", "--no-user"], &["--expires", "3", "--no-expiry"], &["--enable", "--disable"]]
        {
            assert!(!understood(bad), "{bad:?}");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
