use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::files::{self, Readers};
use crate::{Error, tls};

/// Long enough that nobody has to trust a new one soon, and it signs for this machine only.
const CA_LIFE: Duration = Duration::days(3652);
/// Browsers refuse longer ones (CA/Browser Forum ballot SC31: 398 days); the hour goes to clocks that run behind.
const LEAF_LIFE: Duration = Duration::days(397);
const CLOCK_SKEW: Duration = Duration::hours(1);

/// A certificate authority for this machine: ECDSA P-256, ten years, in `ca.pem` and `ca-key.pem` of one folder.
pub struct LocalCa {
    folder: PathBuf,
    certificate: CertificateDer<'static>,
    pem: String,
    expires: OffsetDateTime,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key as text for files.
pub struct IssuedPem {
    /// The leaf, then the authority.
    pub chain: String,
    /// PKCS #8. A secret.
    pub key: String,
}

impl LocalCa {
    /// Takes the authority of `folder`, or makes one. Without `ca.pem` nobody can trust the old one, so a new one is
    /// made; a `ca.pem` without its key is an error, because people may trust it.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Write`], [`Error::Parse`], [`Error::Mismatch`], [`Error::Expired`].
    pub fn load_or_create(folder: &Path) -> Result<Self, Error> {
        files::make_folder(folder)?;
        let path = folder.join("ca.pem");
        let there = path.try_exists().map_err(|source| Error::Read { path, source })?;
        if there { Self::load(folder) } else { Self::create(folder) }
    }

    /// The certificate to trust, as a file for `curl --cacert` and the like.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The same as text.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.pem
    }

    /// A fresh certificate for DNS names and addresses, with a key of its own, valid for 397 days at most.
    ///
    /// # Errors
    /// [`Error::Issue`] for a name that is neither; [`Error::Expired`].
    pub fn issue(&self, names: &[&str]) -> Result<Arc<CertifiedKey>, Error> {
        let (leaf, key) = self.sign(names)?;
        let chain = vec![leaf.der().clone(), self.certificate.clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Arc::new(CertifiedKey::from_der(chain, key, &tls::provider())?))
    }

    /// The same as text for files.
    ///
    /// # Errors
    /// As [`LocalCa::issue`].
    pub fn issue_pem(&self, names: &[&str]) -> Result<IssuedPem, Error> {
        let (leaf, key) = self.sign(names)?;
        Ok(IssuedPem { chain: leaf.pem() + &self.pem, key: key.serialize_pem() })
    }

    fn sign(&self, names: &[&str]) -> Result<(Certificate, KeyPair), Error> {
        let refused = |error: rcgen::Error| Error::Issue { names: names.join(", "), detail: error.to_string() };
        let now = OffsetDateTime::now_utc();
        if self.expires <= now {
            return Err(Error::Expired { folder: self.folder.clone() });
        }
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).map_err(refused)?;
        params.distinguished_name = called("Postern");
        params.not_before = now - CLOCK_SKEW;
        params.not_after = (params.not_before + LEAF_LIFE).min(self.expires);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(refused)?;
        let leaf = params.signed_by(&key, &self.issuer).map_err(refused)?;
        Ok((leaf, key))
    }

    fn create(folder: &Path) -> Result<Self, Error> {
        let refused = |error: rcgen::Error| Error::Issue { names: "the local CA".into(), detail: error.to_string() };
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::default();
        // The year and day tell two authorities of one machine apart in a browser's list.
        params.distinguished_name = called(&format!("Postern local CA {}", now.date()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = now - CLOCK_SKEW;
        params.not_after = now + CA_LIFE;
        let key = KeyPair::generate().map_err(refused)?;
        let certificate = params.self_signed(&key).map_err(refused)?;
        // The key first: a crash in between leaves no `ca.pem`, and the next start begins afresh.
        files::replace(&folder.join("ca-key.pem"), &key.serialize_pem(), Readers::Owner)?;
        files::replace(&folder.join("ca.pem"), &certificate.pem(), Readers::Everybody)?;
        Self::load(folder)
    }

    fn load(folder: &Path) -> Result<Self, Error> {
        let (path, key_path) = (folder.join("ca.pem"), folder.join("ca-key.pem"));
        let bad = |path: &Path, what, detail: String| Error::Parse { path: path.to_owned(), what, detail };
        let text = files::read(&path)?;
        let certificate =
            CertificateDer::from_pem_slice(&text).map_err(|error| bad(&path, "certificate", error.to_string()))?;
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|error| bad(&path, "certificate", error.to_string()))?;
        let expires = parsed.validity().not_after.to_datetime();
        if expires <= OffsetDateTime::now_utc() {
            return Err(Error::Expired { folder: folder.to_owned() });
        }
        let key_text = String::from_utf8_lossy(&files::read(&key_path)?).into_owned();
        let key = KeyPair::from_pem(&key_text).map_err(|error| bad(&key_path, "private key", error.to_string()))?;
        if parsed.public_key().subject_public_key.data != key.public_key_raw() {
            return Err(Error::Mismatch { certificate: path, key: key_path });
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| bad(&path, "certificate", error.to_string()))?;
        let pem = String::from_utf8_lossy(&text).into_owned();
        Ok(Self { folder: folder.to_owned(), certificate: certificate.clone(), pem, expires, issuer })
    }
}

impl fmt::Debug for LocalCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCa").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl fmt::Debug for IssuedPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IssuedPem")
    }
}

fn called(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
