//! A certificate for the peer, of the kind Postern's local CA issues: ECDSA P-256, signed by a P-256 CA.

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256};

/// PEM texts.
pub(crate) struct Pair {
    pub(crate) ca: String,
    pub(crate) chain: String,
    pub(crate) key: String,
}

/// A CA made up for this run and its certificate for `host`.
pub(crate) fn issue(host: &str) -> Result<Pair> {
    let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a key");
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "benchmark CA");
    let ca = CertifiedIssuer::self_signed(ca, key()?).context("cannot make a CA")?;

    let leaf_key = key()?;
    let leaf = CertificateParams::new([host.to_owned()]).context("cannot describe a certificate")?;
    let leaf = leaf.signed_by(&leaf_key, &ca).context("cannot issue a certificate")?;
    Ok(Pair { ca: ca.pem(), chain: leaf.pem(), key: leaf_key.serialize_pem() })
}
