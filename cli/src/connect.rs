//! `postern connect`: a peer without root.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

use postern_connector::{Conf, conf};

use crate::address::listen_address;
use crate::args;
use crate::failure::Failure;
use crate::logging::{self, Level};
use crate::process::{self, Stop};
use crate::proxy::Environment;
use crate::shell::quoted;

/// Is the peer of a configuration until told to stop.
pub(crate) async fn run(args: &args::Connect, environment: &Environment) -> Result<(), Failure> {
    let (level, warning) = Level::parse_or_info(args.log.log_level.as_deref().unwrap_or("info"));
    logging::start(level, environment);
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
    let conf = read(&args.conf)?;
    let socks = listen_address(&args.socks).map_err(|error| Failure::configuration(format!("--socks: {error}")))?;
    if !socks.ip().is_loopback() {
        tracing::warn!("whoever reaches {socks} is this peer: SOCKS5 asks nobody for a password");
    }
    let stop = Stop::listen()?;
    process::raise_file_limit();
    let told = Told::of(&conf);
    let connected = postern_connector::start(conf, socks).await.map_err(Failure::running)?;
    // A reader that went away is no failure.
    let text = told.text(connected.socks_addr().to_string().as_str());
    let _ = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
    stop.asked().await;
    connected.shutdown().await;
    Ok(())
}

fn read(file: &Path) -> Result<Conf, Failure> {
    let name = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::configuration(format!("cannot read {name}: {error}; give the file that `postern peer add` printed"))
    })?;
    conf::parse(&text)
        .map_err(|mistakes| Failure::mistakes(mistakes.iter().map(|mistake| format!("{name}: {mistake}")).collect()))
}

/// What people are told of a configuration.
struct Told {
    endpoints: String,
    addresses: String,
    hosts: Vec<String>,
}

impl Told {
    fn of(conf: &Conf) -> Self {
        let joined = |parts: Vec<String>| parts.join(", ");
        Self {
            endpoints: joined(conf.peers.iter().map(|peer| peer.endpoint.clone()).collect()),
            addresses: joined(conf.addresses.iter().map(ToString::to_string).collect()),
            hosts: conf.hosts.keys().map(ToString::to_string).collect(),
        }
    }

    fn text(&self, socks: &str) -> String {
        let mut text = format!("Peer {} of {}; SOCKS5 at {socks}\n", self.addresses, self.endpoints);
        for host in &self.hosts {
            let line = format!(
                "  curl --proxy {} {}",
                quoted(&format!("socks5h://{socks}")),
                quoted(&format!("https://{host}/"))
            );
            writeln!(text, "{line}").expect("a String takes everything");
        }
        if self.hosts.is_empty() {
            text += "  no private services yet: once there are some, make the file anew, or reach them by address\n";
        }
        text
    }
}
