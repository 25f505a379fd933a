//! Real TLS handshakes, in memory, with a client that trusts `ca.pem` and nothing else.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, fs};

use postern_certs::{ALPN_H2, ALPN_HTTP1, Certificates, Error, LocalCa, StaticPair, server_config};
use postern_model::HostName;
use rustls::client::Tls13ClientSessionValue;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup, RootCertStore, ServerConfig, ServerConnection,
    SignatureAlgorithm, SignatureScheme, SupportedProtocolVersion, version,
};
use tempfile::TempDir;

#[test]
fn a_client_that_trusts_the_local_ca_is_served() {
    let (_folder, ca) = local_ca();
    let certificates = Certificates::local(ca.clone());
    let config = certificates.server_config(&host("hello.localhost")).unwrap();
    for version in [&version::TLS12, &version::TLS13] {
        let client = client(ca.ca_pem(), version);
        let server = handshake(&client, &config, "hello.localhost").unwrap();
        assert_eq!(server.protocol_version(), Some(version.version));
        assert_eq!(server.alpn_protocol(), Some(ALPN_H2));
        // The certificate is the host's own.
        assert!(handshake(&client, &config, "vault.localhost").is_err());
    }
}

#[test]
fn another_machines_ca_is_not_trusted() {
    let (_folder, ca) = local_ca();
    let (_other_folder, other) = local_ca();
    let config = Certificates::local(ca).server_config(&host("hello.localhost")).unwrap();
    assert!(handshake(&client(other.ca_pem(), &version::TLS13), &config, "hello.localhost").is_err());
}

#[test]
fn the_authority_outlives_a_restart_and_its_key_is_private() {
    let folder = TempDir::new().unwrap();
    let nested = folder.path().join("data/tls");
    let first = LocalCa::load_or_create(&nested).unwrap();
    let again = LocalCa::load_or_create(&nested).unwrap();
    assert_eq!(first.ca_pem(), again.ca_pem());
    assert_eq!(first.ca_file(), nested.join("ca.pem"));
    assert_eq!(mode(&nested.join("ca-key.pem")), 0o600);
    assert_eq!(mode(&nested.join("ca.pem")), 0o644);
    assert_eq!(fs::read_dir(&nested).unwrap().count(), 2, "no temporary file stays");
    assert!(!format!("{first:?}").contains("PRIVATE"));

    let config = server_config(again.issue(&["a.p.test", "127.0.0.1"]).unwrap(), &[ALPN_HTTP1]).unwrap();
    for name in ["a.p.test", "127.0.0.1"] {
        handshake(&client(first.ca_pem(), &version::TLS13), &config, name).unwrap();
    }
}

#[test]
fn a_broken_authority_says_what_to_do() {
    let (folder, _ca) = local_ca();
    let key = folder.path().join("ca-key.pem");
    let good = fs::read(&key).unwrap();

    fs::remove_file(&key).unwrap();
    assert!(matches!(LocalCa::load_or_create(folder.path()), Err(Error::Read { .. })));
    let (other, _ca) = local_ca();
    fs::copy(other.path().join("ca-key.pem"), &key).unwrap();
    assert!(matches!(LocalCa::load_or_create(folder.path()), Err(Error::Mismatch { .. })));
    fs::write(&key, "no key").unwrap();
    let error = LocalCa::load_or_create(folder.path()).unwrap_err();
    assert!(error.to_string().contains("ca-key.pem holds no usable private key"), "{error}");

    fs::write(&key, good).unwrap();
    LocalCa::load_or_create(folder.path()).unwrap();
}

#[test]
fn the_key_is_ecdsa_p256() {
    let (_folder, ca) = local_ca();
    let key = ca.issue(&["a.test"]).unwrap();
    let signer = key.key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).expect("P-256");
    assert_eq!(signer.scheme(), SignatureScheme::ECDSA_NISTP256_SHA256);
    assert_eq!(key.key.algorithm(), SignatureAlgorithm::ECDSA);
}

#[test]
fn a_session_resumes_for_its_own_host_only() {
    let (folder, ca) = local_ca();
    let pair = pair(folder.path(), &ca, &["*.p.test"]);
    let fixed = Certificates::fixed(pair);
    let local = Certificates::local(ca.clone());
    for certificates in [&fixed, &local] {
        for version in [&version::TLS12, &version::TLS13] {
            let mut client = (*client(ca.ca_pem(), version)).clone();
            client.resumption = Resumption::store(Arc::new(Reuse::default()));
            let client = Arc::new(client);
            let kind = |name| {
                let config = certificates.server_config(&host(name)).unwrap();
                handshake(&client, &config, name).unwrap().handshake_kind().unwrap()
            };
            assert!(!resumed(kind("a.p.test")));
            assert!(resumed(kind("a.p.test")), "the same host resumes, {version:?}");
            assert!(!resumed(kind("b.p.test")), "a ticket of a.p.test is worth nothing at b.p.test, {version:?}");
        }
    }
}

#[test]
fn a_static_pair_answers_every_name_and_covers_its_own() {
    let (folder, ca) = local_ca();
    let pair = pair(folder.path(), &ca, &["*.p.example.com", "exact.example.com"]);
    let certificates = Certificates::fixed(pair);
    for covered in ["svc.p.example.com", "exact.example.com"] {
        assert!(certificates.covers(&host(covered)), "{covered}");
        let config = certificates.server_config(&host(covered)).unwrap();
        handshake(&client(ca.ca_pem(), &version::TLS13), &config, covered).unwrap();
    }
    for other in ["a.b.p.example.com", "p.example.com", "other.example.com"] {
        assert!(!certificates.covers(&host(other)), "{other}");
        assert!(certificates.select(&host(other)).is_some(), "{other}");
    }
}

#[test]
fn a_bad_pair_is_refused_and_the_old_one_stays() {
    let (folder, ca) = local_ca();
    let files = folder.path();
    let pair = pair(files, &ca, &["old.test"]);
    assert!(!pair.reload().unwrap(), "nothing changed");

    let old_key = fs::read_to_string(files.join("tls.key")).unwrap();
    write_pair(files, &ca, &["new.test"]);
    let new_key = fs::read_to_string(files.join("tls.key")).unwrap();
    for (key, reason) in [(&*old_key, "does not belong"), ("", "no usable private key")] {
        fs::write(files.join("tls.key"), key).unwrap();
        let error = pair.reload().unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(pair.covers(&host("old.test")) && !pair.covers(&host("new.test")));
    }
    fs::write(files.join("tls.key"), new_key).unwrap();
    assert!(pair.reload().unwrap());
    assert!(!pair.covers(&host("old.test")) && pair.covers(&host("new.test")));
}

#[test]
fn a_missing_file_is_named() {
    let folder = TempDir::new().unwrap();
    let error = StaticPair::load(&folder.path().join("tls.crt"), &folder.path().join("tls.key")).unwrap_err();
    assert!(error.to_string().contains("tls.crt"), "{error}");
}

/// Kubernetes mounts a secret as links into a folder that the link `..data` names, and moves a new `..data` over it.
#[tokio::test]
async fn a_new_pair_is_taken_up_through_a_swapped_link() {
    let (folder, ca) = local_ca();
    let mount = folder.path().join("mount");
    for (version, name) in [("..1", "old.test"), ("..2", "new.test")] {
        fs::create_dir_all(mount.join(version)).unwrap();
        write_pair(&mount.join(version), &ca, &[name]);
    }
    symlink("..1", mount.join("..data")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(file), mount.join(file)).unwrap();
    }
    let pair = StaticPair::load(&mount.join("tls.crt"), &mount.join("tls.key")).unwrap();
    let certificates = Certificates::fixed(pair);
    assert!(certificates.covers(&host("old.test")));

    let mut looks = tokio::time::interval(Duration::from_millis(10));
    let swap = async {
        symlink("..2", mount.join("..new")).unwrap();
        fs::rename(mount.join("..new"), mount.join("..data")).unwrap();
        while !certificates.covers(&host("new.test")) {
            looks.tick().await;
        }
    };
    let both = async {
        tokio::select! {
            biased;
            () = certificates.watch() => unreachable!("a watch does not end"),
            () = swap => {}
        }
    };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("the swap is seen long before the poll");
}

fn local_ca() -> (TempDir, Arc<LocalCa>) {
    let folder = TempDir::new().unwrap();
    let ca = LocalCa::load_or_create(folder.path()).unwrap();
    (folder, Arc::new(ca))
}

fn write_pair(folder: &Path, ca: &LocalCa, names: &[&str]) {
    let issued = ca.issue_pem(names).unwrap();
    fs::write(folder.join("tls.crt"), issued.chain).unwrap();
    fs::write(folder.join("tls.key"), issued.key).unwrap();
}

fn pair(folder: &Path, ca: &LocalCa, names: &[&str]) -> StaticPair {
    write_pair(folder, ca, names);
    StaticPair::load(&folder.join("tls.crt"), &folder.join("tls.key")).unwrap()
}

fn host(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn resumed(kind: HandshakeKind) -> bool {
    kind == HandshakeKind::Resumed
}

fn client(ca_pem: &str, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_HTTP1.to_vec()];
    Arc::new(config)
}

/// Hands bytes to and fro until both ends are content, the tickets after the handshake included.
fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &'static str,
) -> Result<ServerConnection, rustls::Error> {
    let mut client = ClientConnection::new(client.clone(), ServerName::try_from(name).unwrap())?;
    let mut server = ServerConnection::new(server.clone())?;
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(server)
}

/// A client that offers whatever session it has to whomever it meets.
struct Reuse(ClientSessionMemoryCache);

impl Default for Reuse {
    fn default() -> Self {
        Self(ClientSessionMemoryCache::new(32))
    }
}

impl fmt::Debug for Reuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reuse")
    }
}

fn anybody() -> ServerName<'static> {
    ServerName::try_from("anybody").unwrap()
}

impl ClientSessionStore for Reuse {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(anybody(), group);
    }
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&anybody())
    }
    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(anybody(), value);
    }
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&anybody())
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&anybody());
    }
    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(anybody(), value);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&anybody())
    }
}
