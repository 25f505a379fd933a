use std::io;
use std::path::PathBuf;

/// Why there is no certificate. Each text is one sentence that ends with what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}: {source}; check that the file is there and that this user may read it", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}; check that this user may write to its folder", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not the PEM that it should be.
    #[error("{} holds no usable {what}: {detail}; put a PEM file there", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
        /// What the parser says.
        detail: String,
    },
    /// Certificate and key do not belong together.
    #[error(
        "the key in {} does not belong to the certificate in {}; put the pair that was issued together",
        .key.display(), .certificate.display()
    )]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The local authority can no longer sign.
    #[error(
        "the local CA in {} has expired; delete ca.pem and ca-key.pem there, start again, and trust the new ca.pem",
        .folder.display()
    )]
    Expired {
        /// The authority's folder.
        folder: PathBuf,
    },
    /// A certificate cannot be issued for these names.
    #[error("cannot issue a certificate for {names}: {detail}; use plain DNS names or addresses")]
    Issue {
        /// The names, comma separated.
        names: String,
        /// What the encoder says.
        detail: String,
    },
    /// The TLS library refuses a key.
    #[error("TLS cannot be set up: {0}; use an ECDSA P-256 or RSA 2048 key")]
    Tls(#[from] rustls::Error),
}
