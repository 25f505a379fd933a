use std::path::Path;

use crate::closest::closest;
use crate::desired::{LogLevel, ManagementSettings, ProxySettings, Settings, TlsFiles, TunnelSettings};

use super::section::{Section, Wrong, printable};
use super::values;

pub(super) const PROXY: [&str; 4] = ["https", "tls_cert", "tls_key", "trusted_proxies"];
pub(super) const MANAGEMENT: [&str; 5] = ["listen", "tls_cert", "tls_key", "names", "allow_plaintext"];
pub(super) const TUNNEL: [&str; 4] = ["network", "mtu", "endpoint", "port"];
pub(super) const LOG: [&str; 1] = ["level"];

/// Relative paths of files are taken from `folder`.
pub(super) fn read(root: &Section<'_>, folder: &Path) -> Settings {
    let proxy = below(root, "proxy", &PROXY).map(|section| ProxySettings {
        https: section.parsed("https", "https = \"127.0.0.1:8443\"", values::address).map(toml::Spanned::into_inner),
        tls: tls_files(&section, folder),
        trusted_proxies: inner(section.parsed_list(
            "trusted_proxies",
            "trusted_proxies = [\"10.0.0.0/8\"]",
            values::cidr,
        )),
    });
    let management = below(root, "management", &MANAGEMENT).map(|section| management(&section, folder));
    let tunnel = below(root, "tunnel", &TUNNEL).map(|section| tunnel(&section));
    let log_level = below(root, "log", &LOG)
        .and_then(|section| section.parsed("level", "level = \"info\"", log_level))
        .map(toml::Spanned::into_inner);
    Settings {
        proxy: proxy.unwrap_or_default(),
        management: management.unwrap_or_default(),
        tunnel: tunnel.unwrap_or_default(),
        log_level,
    }
}

fn tunnel(section: &Section<'_>) -> TunnelSettings {
    TunnelSettings {
        network: section
            .parsed("network", "network = \"100.72.0.0/16\"", values::network)
            .map(toml::Spanned::into_inner),
        // IPv6 asks for 1280 (RFC 8200 section 5); no Ethernet carries more than 9000.
        mtu: section.number("mtu", 1280..=9000, 1420),
        endpoint: section
            .parsed("endpoint", "endpoint = \"vpn.example.com:51820\"", values::endpoint)
            .map(toml::Spanned::into_inner),
        port: section.number("port", 1..=u16::MAX, 51_820),
    }
}

fn management(section: &Section<'_>, folder: &Path) -> ManagementSettings {
    let settings = ManagementSettings {
        listen: section
            .parsed("listen", "listen = \"127.0.0.1:33073\"", values::address)
            .map(toml::Spanned::into_inner),
        tls: tls_files(section, folder),
        names: section
            .parsed_list("names", "names = [\"postern.example.com\"]", values::host)
            .into_iter()
            .map(|name| name.into_inner().to_string())
            .collect(),
        allow_plaintext: section.flag("allow_plaintext").unwrap_or_default(),
    };
    if let (Some(_), true, Some(at)) = (&settings.tls, settings.allow_plaintext, section.key_at("allow_plaintext")) {
        section.findings().add(
            &at,
            "[management] has a certificate and `allow_plaintext = true`",
            "keep one of the two: with `allow_plaintext` there is no TLS",
        );
    }
    settings
}

fn tls_files(section: &Section<'_>, folder: &Path) -> Option<TlsFiles> {
    let file = |key: &str| {
        section.parsed(key, &format!("{key} = \"{key}.pem\""), |text| match text.trim() {
            "" => Err(Wrong::new(format!("`{key}` names no file"), "write the path of a PEM file")),
            _ => Ok(folder.join(text)),
        })
    };
    match (file("tls_cert"), file("tls_key")) {
        (Some(certificate), Some(key)) => {
            Some(TlsFiles { certificate: certificate.into_inner(), key: key.into_inner() })
        }
        (certificate, key) => {
            if certificate.is_some() && section.value("tls_key").is_none() {
                section.missing("tls_key", "add the private key that belongs to `tls_cert`");
            }
            if key.is_some() && section.value("tls_cert").is_none() {
                section.missing("tls_cert", "add the certificate that belongs to `tls_key`");
            }
            None
        }
    }
}

fn log_level(text: &str) -> Result<LogLevel, Wrong> {
    let all = LogLevel::ALL.map(LogLevel::as_str);
    LogLevel::ALL.into_iter().find(|level| level.as_str() == text).ok_or_else(|| {
        let remedy = match closest(text, all) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("use one of {}", all.join(", ")),
        };
        Wrong::new(format!("`{}` is not a log level", printable(text)), remedy)
    })
}

fn below<'w>(root: &Section<'w>, key: &str, known: &[&str]) -> Option<Section<'w>> {
    let (at, table) = root.table(key, &format!("[{key}]"))?;
    Some(Section::new(root.findings(), table, at, format!("[{key}]"), known))
}

fn inner<T>(items: Vec<toml::Spanned<T>>) -> Vec<T> {
    items.into_iter().map(toml::Spanned::into_inner).collect()
}
