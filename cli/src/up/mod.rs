//! `postern up`: everything in one process.

mod demo;
mod peer;
mod ready;
mod services;
mod welcome;

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use postern_certs::{Certificates, LocalCa, StaticPair};
use postern_management_client::{InMemory, Transport};
use postern_management_server::desired::{Desired, ProxySettings, TunnelSettings};
use postern_management_server::{self as management_server, Listener};
use postern_model::ProxyId;
use postern_proxy::{Config, TunnelConfig};

use crate::address::{everywhere, listen_address};
use crate::args;
use crate::edge::{Edge, Identity};
use crate::failure::Failure;
use crate::logging::colours;
use crate::management;
use crate::paths;
use crate::process::{self, Stop};
use crate::proxy::Environment;
use crate::shell::program;

use demo::Demo;
use ready::Ready;
use services::{OWN_ID, Published};
use welcome::{Style, welcome};

/// The cluster of a proxy that serves its own management server; nobody else sees the name.
const OWN_DOMAIN: &str = "localhost";

/// Runs management server, proxy and, without a file, the demo, until told to stop.
pub(crate) async fn run(args: &args::Up, environment: &Environment) -> Result<(), Failure> {
    let file = args.file.as_deref();
    let desired = management::load(file)?;
    management::start_log(&args.log, &desired, environment);
    let data_dir = paths::data_dir(args.data.data_dir.as_deref(), environment)?;
    let addresses = Addresses::choose(args, &desired)?;
    let ready_file = args.ready_file.as_deref().map(paths::absolute).transpose()?;
    let stop = Stop::listen()?;
    process::raise_file_limit();

    let demo = if file.is_none() { Some(Demo::start().await?) } else { None };
    let (desired, published) = match &demo {
        Some(demo) => services::demo(demo.address()),
        None => (desired.clone(), services::configured(&desired)),
    };
    let (proxy_settings, tunnel_settings) = (desired.settings.proxy.clone(), desired.settings.tunnel.clone());
    let listener = Listener { addr: addresses.management, tls: management::secured(&desired) };
    let source = management::source(file, desired)?;
    let config = management_server::Config { data_dir, listener: Some(listener), source };
    let server = management_server::start(config).await.map_err(|error| management::no_start(&error))?;
    if let Some(file) = &ready_file {
        // One from an earlier run must not be taken for ours; that no other runs is known by now.
        let _ = std::fs::remove_file(file);
    }
    let (certificates, ca_file) = certificates(&proxy_settings, server.data_dir())?;
    let tunnel = tunnel(&tunnel_settings, server.data_dir());
    let edge = edge(&server, &addresses, proxy_settings, tunnel, certificates).await?;
    let tunnel = async {
        edge.proxy.ready().await;
        peer::tunnel(&server, &published, demo.is_some()).await
    };

    tokio::select! {
        tunnel = tunnel => {
            let ready = ready(&server, &edge, ca_file, &published, tunnel?);
            announce(args, environment, &ready, demo.is_some());
            if let Some(file) = &ready_file {
                ready.write(file)?;
            }
            stop.asked().await;
        }
        () = stop.asked() => {}
    }
    edge.shutdown().await;
    server.shutdown().await;
    Ok(())
}

/// Where everything listens.
struct Addresses {
    https: SocketAddr,
    management: SocketAddr,
    health: Option<SocketAddr>,
}

impl Addresses {
    /// A flag wins over the file. What nobody asked for gives way to what is there already.
    fn choose(args: &args::Up, desired: &Desired) -> Result<Self, Failure> {
        let settings = &desired.settings;
        let health = match args.health_addr.as_deref() {
            Some("") => None,
            asked => Some(address("--health-addr", asked, None, "127.0.0.1:8080")?),
        };
        Ok(Self {
            https: address("--https", args.https.as_deref(), settings.proxy.https, "127.0.0.1:8443")?,
            management: address(
                "--management",
                args.management.as_deref(),
                settings.management.listen,
                management::DEFAULT_LISTEN,
            )?,
            health,
        })
    }
}

fn address(flag: &str, asked: Option<&str>, file: Option<SocketAddr>, usual: &str) -> Result<SocketAddr, Failure> {
    match (asked, file) {
        (Some(text), _) => listen_address(text).map_err(|mistake| Failure::configuration(format!("{flag}: {mistake}"))),
        (None, Some(address)) => Ok(address),
        (None, None) => Ok(free(usual.parse().expect("a constant"))),
    }
}

/// The usual address, or a free port beside it.
fn free(usual: SocketAddr) -> SocketAddr {
    match TcpListener::bind(usual) {
        Ok(_) => usual,
        Err(_) => SocketAddr::new(usual.ip(), 0),
    }
}

/// The pair that the file names, or what the local CA issues.
fn certificates(settings: &ProxySettings, data_dir: &Path) -> Result<(Arc<Certificates>, Option<PathBuf>), Failure> {
    match &settings.tls {
        Some(files) => {
            let pair = StaticPair::load(&files.certificate, &files.key).map_err(Failure::configuration)?;
            Ok((Arc::new(Certificates::fixed(pair)), None))
        }
        None => {
            let ca = LocalCa::load_or_create(data_dir).map_err(Failure::running)?;
            let file = ca.ca_file();
            Ok((Arc::new(Certificates::local(Arc::new(ca))), Some(file)))
        }
    }
}

/// A port that somebody wrote is open to every machine: WireGuard answers no stranger.
fn tunnel(settings: &TunnelSettings, data_dir: &Path) -> TunnelConfig {
    if let Some(sentence) = forwarded(settings) {
        tracing::info!("{sentence}");
    }
    let port = settings.listen_port();
    let ip = if port.is_some() { everywhere() } else { Ipv4Addr::LOCALHOST.into() };
    TunnelConfig {
        listen: SocketAddr::new(ip, port.unwrap_or_default()),
        data_dir: data_dir.join("tunnel"),
        cluster: OWN_DOMAIN.to_owned(),
        cache_ttl: postern_proxy::PEER_TTL,
        inbound: true,
    }
}

/// Where peers are told another port than the one that is listened on, which only somebody else can make the same.
fn forwarded(settings: &TunnelSettings) -> Option<String> {
    let (endpoint, port) = (settings.endpoint.as_ref()?, settings.port?);
    (endpoint.port() != port).then(|| {
        format!(
            "peers come to UDP {endpoint}, and this machine listens on port {port}: what stands before it has to forward the \
             one to the other; without `port` in [tunnel] it listens on {}",
            endpoint.port()
        )
    })
}

async fn edge(
    server: &management_server::Running,
    addresses: &Addresses,
    settings: ProxySettings,
    tunnel: TunnelConfig,
    certificates: Arc<Certificates>,
) -> Result<Edge, Failure> {
    let transport = Transport::InMemory(InMemory::new(server.in_memory()));
    let identity = Identity {
        token: server.token(),
        domain: OWN_DOMAIN.to_owned(),
        require_subdomain: false,
        proxy_id: ProxyId::parse(OWN_ID).expect("a plain word"),
    };
    let config = Config {
        health: addresses.health,
        trusted_proxies: settings.trusted_proxies,
        tunnel: Some(tunnel),
        ..Config::new(addresses.https)
    };
    Edge::start(transport, identity, config, "--https", certificates).await
}

fn ready(
    server: &management_server::Running,
    edge: &Edge,
    ca_file: Option<PathBuf>,
    published: &[Published],
    tunnel: peer::Tunnel,
) -> Ready {
    let https = edge.proxy.https_addr();
    let (without_tunnel, lacks) = (tunnel.problem.as_deref(), server.lacks());
    Ready {
        pid: std::process::id(),
        https,
        management: server.addr(),
        health: edge.proxy.health_addr(),
        ca_file,
        data_dir: server.data_dir().to_owned(),
        demo_peer_conf: tunnel.demo_peer_conf,
        services: published.iter().map(|service| service.ready(https.port(), without_tunnel, &lacks)).collect(),
    }
}

/// Says it to people or to a script. A reader that went away is no failure.
fn announce(args: &args::Up, environment: &Environment, ready: &Ready, demo: bool) {
    let text = if args.json {
        ready.json() + "\n"
    } else {
        welcome(ready, &Style { colours: colours(environment, &io::stdout()), program: program(), demo })
    };
    let _ = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(endpoint: Option<&str>, port: Option<u16>) -> TunnelSettings {
        let endpoint = endpoint.map(|endpoint| endpoint.parse().unwrap());
        TunnelSettings { endpoint, port, ..TunnelSettings::default() }
    }

    #[test]
    fn a_port_that_is_written_is_open_to_every_machine() {
        let listen = |endpoint, port| tunnel(&settings(endpoint, port), Path::new("/d")).listen;
        for (endpoint, port, bound) in [
            (Some("vpn.example.com:51820"), None, 51_820),
            (None, Some(51_999), 51_999),
            (Some("vpn.example.com:443"), Some(51_999), 51_999),
        ] {
            let listen = listen(endpoint, port);
            assert!(listen.ip().is_unspecified() && listen.port() == bound, "{endpoint:?} {port:?}: {listen}");
        }
        assert_eq!(listen(None, None), "127.0.0.1:0".parse().unwrap(), "the demo is for this machine");
    }

    #[test]
    fn two_ports_that_differ_are_told_of() {
        let told = forwarded(&settings(Some("vpn.example.com:443"), Some(51_999))).unwrap();
        assert!(told.contains("UDP vpn.example.com:443") && told.contains("port 51999"), "{told}");
        for (endpoint, port) in [(Some("vpn.example.com:443"), Some(443)), (Some("h:1"), None), (None, Some(1))] {
            assert_eq!(forwarded(&settings(endpoint, port)), None);
        }
    }
}
