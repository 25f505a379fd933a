use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use postern_model::HostName;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, ServerConfig};

use crate::names::Names;
use crate::tls::{ALPN_H2, ALPN_HTTP1};
use crate::{Error, files, tls};

/// One pair of PEM files for every host (NetBird's static mode).
#[derive(Debug)]
pub struct StaticPair {
    certificate: PathBuf,
    key: PathBuf,
    current: ArcSwap<Loaded>,
}

/// What the files held when they were last good.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) config: Arc<ServerConfig>,
    names: Names,
}

impl StaticPair {
    /// Loads the certificate, with its chain, and the key.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Parse`], [`Error::Mismatch`], [`Error::Tls`].
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, Error> {
        let loaded = load(certificate, key)?;
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), current: ArcSwap::from_pointee(loaded) })
    }

    /// The pair that is in force.
    #[must_use]
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        self.current().key.clone()
    }

    /// Whether the certificate's names cover the host.
    #[must_use]
    pub fn covers(&self, host: &HostName) -> bool {
        self.current().names.cover(host)
    }

    /// Reads the files again and puts them in force if they hold another pair; says whether they did.
    ///
    /// # Errors
    /// As [`StaticPair::load`]; the old pair stays.
    pub fn reload(&self) -> Result<bool, Error> {
        let loaded = load(&self.certificate, &self.key)?;
        if loaded.key.cert == self.current().key.cert {
            return Ok(false);
        }
        self.current.store(Arc::new(loaded));
        Ok(true)
    }

    pub(crate) fn current(&self) -> arc_swap::Guard<Arc<Loaded>> {
        self.current.load()
    }

    pub(crate) fn paths(&self) -> [&Path; 2] {
        [&self.certificate, &self.key]
    }
}

fn load(certificate: &Path, key: &Path) -> Result<Loaded, Error> {
    let bad = |path: &Path, what, detail: String| Error::Parse { path: path.to_owned(), what, detail };
    let chain = CertificateDer::pem_slice_iter(&files::read(certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(certificate, "certificate", error.to_string()))?;
    let leaf = chain.first().ok_or_else(|| bad(certificate, "certificate", "there is none in it".into()))?;
    let names = Names::of(leaf).map_err(|detail| bad(certificate, "certificate", detail))?;
    let private = PrivateKeyDer::from_pem_slice(&files::read(key)?)
        .map_err(|error| bad(key, "private key", error.to_string()))?;
    let pair = CertifiedKey::from_der(chain, private, &tls::provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            Error::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() }
        }
        error => bad(key, "private key", error.to_string()),
    })?;
    let key = Arc::new(pair);
    let config = tls::server_config(key.clone(), &[ALPN_H2, ALPN_HTTP1])?;
    Ok(Loaded { key, config, names })
}
