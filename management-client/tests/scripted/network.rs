use std::net::{IpAddr, Ipv4Addr};

use http::HeaderName;
use postern_management_client::{Roots, Transport};
use postern_model::{
    AccountId, Authenticate, Authenticated, Credential, Management, ManagementError, Secret, ServiceId,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tonic::transport::{Identity, Server, ServerTlsConfig};

use crate::world::{World, connect, soon};

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

#[tokio::test]
async fn tls_trusts_the_given_authority_and_no_other() {
    let (ours, other) = (authority(), authority());
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, &ours).expect("a certificate");
    let identity = Identity::from_pem(certificate.pem(), key.serialize_pem());

    let (world, _streams) = World::new();
    let server = Server::builder().tls_config(ServerTlsConfig::new().identity(identity)).expect("TLS");
    let server = world.serve(server, 0);
    let ask = |host: &str, roots: &CertifiedIssuer<'static, KeyPair>| {
        let url = format!("https://{host}:{}/ignored", server.addr.port()).parse().expect("URL");
        let roots = Roots::Pem(roots.pem().into_bytes());
        let (client, _events) = connect(Transport::Network { url, roots, allow_plaintext: false });
        async move { soon(client.authenticate(credential())).await }
    };
    assert!(matches!(ask("localhost", &ours).await, Ok(Authenticated::Yes { .. })));
    for (host, roots) in [("localhost", &other), ("127.0.0.1", &ours)] {
        match ask(host, roots).await {
            Err(ManagementError::Unavailable(reason)) => assert!(reason.contains("certificate"), "{reason}"),
            answer => panic!("{host}: {answer:?}"),
        }
    }
}

fn credential() -> Authenticate {
    Authenticate {
        service: ServiceId::parse("one").expect("id"),
        account: AccountId::parse("acc-1").expect("id"),
        credential: Credential::Header { name: HeaderName::from_static("x-key"), value: Secret::from("right") },
        source: IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}
