//! Tunnel peers, each with a tunnel of its own.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use postern_model::{AccountId, CreateProxyPeer, Generation, MappedPeer, PeerMap, PublicKey};
use postern_tunnel::{Config, Limits, PrivateKey, Stream, Tunnel};
use rustls_pki_types::ServerName;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::basics::{Heard, heard, request, soon};
use super::peers::PROXY;
use super::world::World;

/// A peer at home at one address of an account's tunnel.
pub(super) struct Device {
    name: String,
    address: IpAddr,
    public_key: PublicKey,
    pub(super) tunnel: Tunnel,
    driver: JoinHandle<()>,
}

impl Device {
    /// A peer that nobody knows yet.
    pub(super) fn new(name: &str, address: &str) -> Self {
        let key = PrivateKey::generate();
        let public_key = PublicKey(key.public());
        let config = Config {
            account: AccountId::parse("peer").unwrap(),
            key,
            listen: "127.0.0.1:0".parse().unwrap(),
            limits: Limits::default(),
        };
        let (tunnel, driver) = Tunnel::bind(config).unwrap();
        let driver = tokio::spawn(async move {
            let _closed = driver.run().await;
        });
        Self { name: name.into(), address: address.parse().unwrap(), public_key, tunnel, driver }
    }

    /// How management's map has it.
    pub(super) fn mapped(&self, generation: u64) -> MappedPeer {
        MappedPeer {
            name: self.name.clone(),
            key: self.public_key,
            generation: Generation(generation),
            allowed_ips: vec![self.address.into()],
            endpoint: Some(SocketAddr::new([127, 0, 0, 1].into(), self.tunnel.port())),
            keep_alive: None,
        }
    }

    /// Reads its configuration: where the proxy is, and by which key it is known.
    pub(super) fn knows(&self, proxy: &CreateProxyPeer) {
        let peer = MappedPeer {
            name: "proxy".into(),
            key: proxy.key,
            generation: Generation(0),
            allowed_ips: vec![PROXY.parse::<IpAddr>().unwrap().into()],
            endpoint: Some(SocketAddr::new([127, 0, 0, 1].into(), proxy.port)),
            keep_alive: None,
        };
        let misfits = self.tunnel.set_map(&PeerMap { addresses: vec![self.address], mtu: 1420, peers: vec![peer] });
        assert!(misfits.is_empty(), "{misfits:?}");
    }

    /// A connection to a port of the proxy.
    pub(super) async fn connect(&self, port: u16) -> Result<Stream, postern_tunnel::ConnectError> {
        let to = SocketAddr::new(PROXY.parse().unwrap(), port);
        soon(self.tunnel.connect(to, Duration::from_secs(10))).await
    }

    /// A TLS connection to the proxy for `name`.
    pub(super) async fn tls(&self, world: &World, name: &str) -> std::io::Result<TlsStream<Stream>> {
        let tcp = self.connect(443).await.map_err(std::io::Error::other)?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        soon(TlsConnector::from(Arc::clone(&world.tls)).connect(name, tcp)).await
    }

    /// One GET of `https://host/path`.
    pub(super) async fn get(&self, world: &World, host: &str, path: &str, headers: &[(&'static str, &str)]) -> Heard {
        let tls = self.tls(world, host).await.unwrap();
        ask(tls, host, path, headers).await
    }

    /// One GET of `http://host/path`.
    pub(super) async fn get_plain(&self, host: &str, path: &str, headers: &[(&'static str, &str)]) -> Heard {
        ask(self.connect(80).await.unwrap(), host, path, headers).await
    }

    /// Answers every request to `port` with `text` and what it was asked.
    pub(super) fn serve(&self, port: u16, text: &'static str) -> JoinHandle<()> {
        let mut listener = self.tunnel.listen(port).unwrap();
        tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            while let Some((stream, _)) = listener.accept().await {
                let answer = move |request: http::Request<hyper::body::Incoming>| async move {
                    let body = format!("{text} {}", request.uri());
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body))))
                };
                let http = hyper::server::conn::http1::Builder::new();
                tasks.spawn(http.serve_connection(TokioIo::new(stream), service_fn(answer)));
            }
        })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn ask<S>(stream: S, host: &str, path: &str, headers: &[(&'static str, &str)]) -> Heard
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = request(http::Method::GET, host, path, headers, "");
    heard(soon(sender.send_request(request)).await.unwrap()).await
}
