use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use postern_certs::Certificates;
use postern_management_client::{self as management_client, Client, Transport};
use postern_model::{Capabilities, ProxyId, Secret};
use postern_proxy::{Config, Running, StartError};
use tokio::task::JoinSet;

use crate::failure::Failure;

/// Orchestrators kill after 30 s by default; what is left of those goes to the log's last lines.
const DRAIN: Duration = Duration::from_secs(20);
const FLUSH: Duration = Duration::from_secs(5);

/// Who a proxy is at its management server.
pub(crate) struct Identity {
    pub(crate) token: Secret,
    /// The domain of its cluster.
    pub(crate) domain: String,
    pub(crate) require_subdomain: bool,
    /// No two proxies of a server have the same.
    pub(crate) proxy_id: ProxyId,
}

/// A proxy with its line to management.
pub(crate) struct Edge {
    pub(crate) proxy: Running,
    client: Client,
    /// Follows the certificate's files; ends with the edge.
    _watch: JoinSet<()>,
}

impl Edge {
    /// Starts to serve, and to follow management, which may still be away. `https_flag` says where HTTPS is served.
    pub(crate) async fn start(
        transport: Transport,
        identity: Identity,
        config: Config,
        https_flag: &str,
        certificates: Arc<Certificates>,
    ) -> Result<Self, Failure> {
        let capabilities = Capabilities {
            require_subdomain: identity.require_subdomain,
            private: config.tunnel.as_ref().is_some_and(|tunnel| tunnel.inbound),
            private_service: true,
            ..Capabilities::default()
        };
        let client = management_client::Config {
            transport,
            token: identity.token,
            proxy_id: identity.proxy_id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            address: identity.domain,
            capabilities,
        };
        let (client, events) = management_client::start(client).map_err(Failure::configuration)?;
        let health = config.health;
        let management = Arc::new(client.clone());
        let proxy = postern_proxy::start(config, management, Box::new(events), certificates.clone())
            .await
            .map_err(|error| no_start(&error, health, https_flag))?;
        let mut watch = JoinSet::new();
        watch.spawn(async move { certificates.watch().await });
        Ok(Self { proxy, client, _watch: watch })
    }

    /// Lets requests finish and delivers what management has not heard yet.
    pub(crate) async fn shutdown(self) {
        self.proxy.shutdown(DRAIN).await;
        self.client.shutdown(FLUSH).await;
    }
}

/// A failed start in one sentence that ends with the flag to change.
fn no_start(error: &StartError, health: Option<SocketAddr>, https_flag: &str) -> Failure {
    let flag = |address: &SocketAddr| if Some(*address) == health { "--health-addr" } else { https_flag };
    Failure::running(match error {
        StartError::InUse { address } => {
            format!("{address} is already in use; stop what listens there, or choose another with {}", flag(address))
        }
        StartError::NotPermitted { address } => format!(
            "this user may not listen on {address}; choose a port above 1023 with {}, or grant CAP_NET_BIND_SERVICE",
            flag(address)
        ),
        StartError::Listen { address, source } => {
            format!("cannot listen on {address}: {source}; choose an address of this machine with {}", flag(address))
        }
        StartError::Thread(_) => format!("{error}; raise the limit of processes (ulimit -u)"),
    })
}
