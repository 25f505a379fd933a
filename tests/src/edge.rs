//! `postern proxy` as a process, steered by a scripted management server.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::client::Client;
use crate::eventually;
use crate::process::Postern;
use crate::stock::Stock;

/// The token it shows.
pub const TOKEN: &str = "nbx_0123456789abcdefghijklmnopqrst000000";

/// A running proxy with a certificate for `app.test`, `more.test`, `vault.test` and `far.test`.
pub struct Edge {
    /// The process.
    pub process: Postern,
    /// Trusts its certificate, speaks HTTP/1.1.
    pub client: Client,
    certs: TempDir,
}

impl Edge {
    /// A proxy without any setting of its own.
    #[must_use]
    pub fn start(server: &Stock) -> Self {
        Self::with(server, &[])
    }

    /// A proxy with these flags beside those it needs.
    #[must_use]
    pub fn with(server: &Stock, flags: &[&str]) -> Self {
        let certs = tempfile::tempdir().expect("a folder");
        crate::certificate::write(certs.path(), &["app.test", "more.test", "vault.test", "far.test"]);
        let mgmt = format!("http://{}", server.addr);
        // A port that was free a moment ago: the proxy prints what it bound, but a client needs it before.
        let addr = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
        let (text, folder) = (addr.to_string(), certs.path().to_str().expect("UTF-8").to_owned());
        let own = ["proxy", "--mgmt", &mgmt, "--addr", &text, "--domain", "proxy.test"];
        let places = ["--cert-dir", &folder, "--health-addr", ""];
        let variables = [("NB_PROXY_TOKEN", TOKEN), ("NB_PROXY_ALLOW_INSECURE", "true")];
        let process = Postern::start(&[&own[..], &places, flags].concat(), &variables);
        let client = Client::new(addr, &certs.path().join("ca.pem"));
        Self { process, client, certs }
    }

    /// The certificate of the CA that signed its own.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.certs.path().join("ca.pem")
    }

    /// Waits until `host` answers `text`.
    pub async fn serves(&self, host: &str, text: &str) {
        eventually(&format!("{host} to answer {text}"), || async {
            self.client.tls(host).await.ok()?;
            (self.client.get(host, "/").await.text() == text).then_some(())
        })
        .await;
    }

    /// Waits until the name `host` is refused.
    pub async fn refuses(&self, host: &str) {
        eventually(&format!("{host} to be refused"), || async { self.client.tls(host).await.is_err().then_some(()) })
            .await;
    }
}
