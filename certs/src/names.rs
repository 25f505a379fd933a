use postern_model::HostName;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The DNS names a certificate stands for: its subjectAltNames. The common name counts for nothing (RFC 9525 §2).
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    exact: Vec<String>,
    /// `.example.com` for `*.example.com`.
    suffixes: Vec<String>,
}

impl Names {
    /// Reads the names of a certificate; `Err` says what is wrong with it.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        let alternatives = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
        let mut names = Self::default();
        for name in alternatives.iter().flat_map(|extension| &extension.value.general_names) {
            if let GeneralName::DNSName(name) = name {
                names.add(name);
            }
        }
        Ok(names)
    }

    fn add(&mut self, name: &str) {
        match name.strip_prefix('*') {
            None => self.exact.push(name.to_ascii_lowercase()),
            // A `*` stands for one whole label, so a dot and a name follow it; anything else matches nothing.
            Some(rest) if rest.len() > 1 && rest.starts_with('.') && !rest.contains('*') => {
                self.suffixes.push(rest.to_ascii_lowercase());
            }
            Some(_) => {}
        }
    }

    /// Whether one of the names is `host`, or a wildcard with exactly one label more.
    pub(crate) fn cover(&self, host: &HostName) -> bool {
        let host = host.as_str();
        let parent = host.find('.').map(|dot| &host[dot..]);
        self.exact.iter().any(|name| name == host)
            || parent.is_some_and(|parent| self.suffixes.iter().any(|suffix| suffix == parent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cover(names: &[&str], host: &str) -> bool {
        let mut all = Names::default();
        for name in names {
            all.add(name);
        }
        all.cover(&HostName::parse(host).unwrap())
    }

    #[test]
    fn a_wildcard_covers_exactly_one_label() {
        let names = ["*.p.example.com", "exact.example.com"];
        for covered in ["svc.p.example.com", "SVC.P.example.com", "exact.example.com"] {
            assert!(cover(&names, covered), "{covered}");
        }
        for other in ["a.b.p.example.com", "p.example.com", "other.example.com"] {
            assert!(!cover(&names, other), "{other}");
        }
    }

    #[test]
    fn what_is_no_wildcard_matches_nothing() {
        assert!(cover(&["*.COM"], "example.com"));
        for name in ["*example.com", "**.example.com", "*", "*.", "", "*.*.com"] {
            for host in ["a.example.com", "aexample.com", "example.com", "a.b.com"] {
                assert!(!cover(&[name], host), "{name} {host}");
            }
        }
    }
}
