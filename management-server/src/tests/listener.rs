use std::sync::Arc;

use postern_certs::LocalCa;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};

use super::*;
use crate::desired::TlsFiles;
use crate::{Listener, StartError, Tls};

async fn listening(folder: &Path, addr: &str, tls: Tls) -> Result<Running, StartError> {
    let listener = Some(Listener { addr: addr.parse().expect("address"), tls });
    let source = Source::Given(Box::new(desired(&open("a", "http://x:1"))));
    start(Config { data_dir: folder.to_owned(), listener, source }).await
}

/// A channel over TLS that trusts one authority, by a name.
async fn channel(running: &Running, ca_file: &Path, name: &'static str) -> Result<Channel, tonic::transport::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca_file).expect("PEM")).expect("an authority");
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (config, addr) = (Arc::new(config), running.addr().expect("listens"));
    let connector = tower::service_fn(move |_| {
        let config = config.clone();
        async move {
            let stream = TcpStream::connect(addr).await?;
            let name = ServerName::try_from(name).expect("a name");
            TlsConnector::from(config).connect(name, stream).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://management").connect_with_connector(connector).await
}

#[tokio::test]
async fn proxies_elsewhere_come_over_tls() {
    let folder = tempfile::tempdir().expect("tempdir");
    let names = Tls::LocalCa { names: vec!["mgmt.example".into()] };
    let running = listening(folder.path(), "127.0.0.1:0", names).await.expect("starts");
    let ca_file = running.ca_file().expect("a CA").to_owned();
    for name in ["mgmt.example", "localhost", "127.0.0.1"] {
        let channel = channel(&running, &ca_file, name).await.expect(name);
        let mut sync = Calls::over(channel, running.token()).sync("p").await.expect("opens");
        assert_eq!(sync.snapshot().await.len(), 1);
    }
    channel(&running, &ca_file, "other.example").await.expect_err("not its name");
    let plain = Endpoint::from_shared(format!("http://{}", running.addr().expect("listens"))).expect("URL");
    let calls = Calls::over(plain.connect_lazy(), running.token());
    timeout(LONG, calls.sync("p")).await.expect("in time").err().expect("no plaintext");
    running.shutdown().await;
}

#[tokio::test]
async fn a_pair_of_files_is_served() {
    let folder = tempfile::tempdir().expect("tempdir");
    let ca = LocalCa::load_or_create(&folder.path().join("ca")).expect("an authority");
    let pair = ca.issue_pem(&["mgmt.example"]).expect("issues");
    let files = TlsFiles { certificate: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
    let data = folder.path().join("data");
    let tls = Tls::Files(files.clone());
    let refused = listening(&data, "127.0.0.1:0", tls.clone()).await.expect_err("no files").to_string();
    assert!(refused.contains("cert.pem"), "{refused}");
    std::fs::write(&files.certificate, &pair.chain).expect("writes");
    std::fs::write(&files.key, &pair.key).expect("writes");
    let running = listening(&data, "127.0.0.1:0", tls).await.expect("starts");
    assert_eq!(running.ca_file(), None);
    let channel = channel(&running, &ca.ca_file(), "mgmt.example").await.expect("trusted");
    Calls::over(channel, running.token()).sync("p").await.expect("opens").snapshot().await;
}

#[tokio::test]
async fn plaintext_is_for_loopback_or_said_explicitly() {
    let folder = tempfile::tempdir().expect("tempdir");
    let here = Tls::Plaintext { anywhere: false };
    let refused = listening(folder.path(), "0.0.0.0:0", here.clone()).await.expect_err("plaintext").to_string();
    assert!(refused.contains("allow_plaintext = true"), "{refused}");
    for (addr, tls) in
        [("127.0.0.1:0", here.clone()), ("[::1]:0", here), ("0.0.0.0:0", Tls::Plaintext { anywhere: true })]
    {
        let running = listening(folder.path(), addr, tls).await.expect(addr);
        let port = running.addr().expect("listens").port();
        let host = if addr.starts_with('[') { "[::1]" } else { "127.0.0.1" };
        let endpoint = Endpoint::from_shared(format!("http://{host}:{port}")).expect("URL");
        let calls = Calls::over(endpoint.connect().await.expect("connects"), running.token());
        calls.sync("p").await.expect("opens").snapshot().await;
        running.shutdown().await;
    }
}

#[tokio::test]
async fn a_port_in_use_is_one_sentence() {
    let folder = tempfile::tempdir().expect("tempdir");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = taken.local_addr().expect("bound").to_string();
    let plain = Tls::Plaintext { anywhere: false };
    let refused = listening(folder.path(), &addr, plain.clone()).await.expect_err("in use").to_string();
    assert!(refused.contains(&addr) && refused.contains("choose another address"), "{refused}");
    drop(taken);
    listening(folder.path(), &addr, plain).await.expect("free again");
}

/// Connections without a token must not use up what those with one need.
#[tokio::test]
async fn who_says_nothing_is_sent_away() {
    let folder = tempfile::tempdir().expect("tempdir");
    let running = listening(folder.path(), "127.0.0.1:0", Tls::Plaintext { anywhere: false }).await.expect("starts");
    let addr = running.addr().expect("listens");
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).expect("URL");
    let calls = Calls::over(endpoint.connect().await.expect("connects"), running.token());
    let mut sync = calls.sync("p").await.expect("opens");
    sync.snapshot().await;
    let mut silent = TcpStream::connect(addr).await.expect("connects");
    // Speaks HTTP/2 and has no token.
    let mut preface = TcpStream::connect(addr).await.expect("connects");
    preface.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("writes");

    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    for stream in [&mut silent, &mut preface] {
        let mut bytes = Vec::new();
        let _ = timeout(Duration::from_secs(15), stream.read_to_end(&mut bytes)).await.expect("it ends");
    }
    assert!(begun.elapsed() >= Duration::from_secs(8), "it is given a while");
    tokio::time::resume();
    running.apply(desired(&open("b", "http://x:1"))).await.expect("applies");
    assert_eq!(sync.batch().await.mapping.len(), 2, "who has said its token stays");
}
