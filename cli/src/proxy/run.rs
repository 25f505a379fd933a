use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http::Uri;
use postern_certs::{Certificates, StaticPair};
use postern_management_client::{Roots, Transport};
use postern_model::ProxyId;
use postern_proxy::{Config, TunnelConfig};

use super::settings::{self, Server, Settings};
use super::values::{Environment, Given, Values};
use crate::address::everywhere;
use crate::edge::{Edge, Identity};
use crate::failure::Failure;
use crate::logging;
use crate::process::{self, Stop};

/// Runs the proxy until it is told to stop.
pub(crate) async fn run(given: &Given, environment: &Environment) -> Result<(), Failure> {
    let values = Values::read(given, environment);
    let (level, warning) = settings::level(&values);
    logging::start(level, environment);
    for warning in values.warnings.iter().chain(&warning) {
        tracing::warn!("{warning}");
    }
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let settings = settings::settings(&values, workers)?;
    let stop = Stop::listen()?;
    process::raise_file_limit();

    let pair = StaticPair::load(&settings.certificate, &settings.key).map_err(|error| {
        Failure::configuration(format!("{error}; --cert-dir, --cert-file and --cert-key-file say where it is"))
    })?;
    if !pair.covers(&settings.domain) {
        tracing::debug!(domain = %settings.domain, "the certificate does not cover the proxy's own name");
    }
    let transport = transport(&settings.management, settings.allow_insecure)?;
    let (identity, config) = split(settings);
    let domain = identity.domain.clone();
    let edge = Edge::start(transport, identity, config, "--addr", Arc::new(Certificates::fixed(pair))).await?;
    let https = edge.proxy.https_addr();
    match edge.proxy.health_addr() {
        Some(health) => tracing::info!(%https, %health, domain, "listening; services come from management"),
        None => tracing::info!(%https, domain, "listening; services come from management"),
    }
    stop.asked().await;
    edge.shutdown().await;
    Ok(())
}

fn split(settings: Settings) -> (Identity, Config) {
    let tunnel = TunnelConfig {
        listen: SocketAddr::new(everywhere(), settings.tunnel.port),
        data_dir: settings.tunnel.data_dir,
        cluster: settings.domain.to_string(),
        cache_ttl: settings.tunnel.cache_ttl,
        inbound: settings.tunnel.inbound,
    };
    let identity = Identity {
        token: settings.token,
        domain: settings.domain.to_string(),
        require_subdomain: settings.require_subdomain,
        proxy_id: proxy_id(),
    };
    let config = Config {
        health: settings.health,
        trusted_proxies: settings.trusted_proxies,
        forwarded_proto: settings.forwarded_proto,
        upstream: settings.upstream,
        tunnel: Some(tunnel),
        ..Config::new(settings.https)
    };
    (identity, config)
}

/// New with each start, as NetBird's is.
fn proxy_id() -> ProxyId {
    ProxyId::parse(&format!("postern-{}", uuid::Uuid::new_v4())).expect("a UUID is a plain word")
}

fn transport(server: &Server, allow_plaintext: bool) -> Result<Transport, Failure> {
    let roots = match &server.ca_file {
        None => Roots::System,
        Some(file) => Roots::Pem(read(file)?),
    };
    Ok(Transport::Network { url: server.uri(), roots, allow_plaintext })
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|error| {
        Failure::configuration(format!(
            "--mgmt-ca: cannot read {}: {error}; give the file that management prints",
            file.display()
        ))
    })
}

impl Server {
    fn uri(&self) -> Uri {
        let scheme = if self.tls { "https" } else { "http" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{scheme}://{host}:{}", self.port).parse().expect("a checked host and a port")
    }
}
