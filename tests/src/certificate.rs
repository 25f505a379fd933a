//! A certificate for a proxy whose operator brings one.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

/// Writes `tls.crt` and `tls.key` for `names` into `folder`, and `ca.pem`, the CA that signed them.
pub fn write(folder: &Path, names: &[&str]) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, "a CA for tests");
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(names).and_then(|params| params.signed_by(&key, &ca)).expect("a leaf");
    for (file, text) in [("tls.crt", leaf.pem()), ("tls.key", key.serialize_pem()), ("ca.pem", ca.pem())] {
        std::fs::write(folder.join(file), text).expect("the folder is writable");
    }
}
