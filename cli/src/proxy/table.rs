//! Every flag and variable of NetBird's proxy, and the few of our own, as one table: `--help`, parsing and the refusal
//! of what is not there yet all read it.

/// What a value must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any text.
    Text,
    /// A text that must not be shown.
    Secret,
    /// A Go bool; the bare flag means true.
    Bool,
    /// A whole number up to this one.
    Number(u32),
    /// A whole number; what is none ends the start even when it comes from a variable.
    StrictNumber,
    /// A Go duration.
    Duration,
}

/// One setting.
#[derive(Debug)]
pub(crate) struct Setting {
    /// The long flag without dashes; empty for what only a variable can say.
    pub(crate) flag: &'static str,
    /// The environment variable.
    pub(crate) variable: &'static str,
    /// What a value must look like.
    pub(crate) kind: Kind,
    /// Which word stands for the value in `--help`.
    pub(crate) placeholder: &'static str,
    /// NetBird's default, as text.
    pub(crate) default: &'static str,
    /// One sentence for `--help`; empty keeps it out of there.
    pub(crate) help: &'static str,
    /// What a value other than the default asks for in vain, and what to do; `None` where nothing is missing.
    pub(crate) missing: Option<&'static str>,
}

const fn text(
    flag: &'static str,
    variable: &'static str,
    placeholder: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { flag, variable, kind: Kind::Text, placeholder, default, help, missing: None }
}

impl Setting {
    const fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    const fn missing(mut self, what: &'static str) -> Self {
        self.missing = Some(what);
        self
    }

    /// How people find it again: `--flag (VARIABLE)`.
    pub(crate) fn name(&self) -> String {
        if self.flag.is_empty() { self.variable.to_owned() } else { format!("--{} ({})", self.flag, self.variable) }
    }
}

const fn switch(flag: &'static str, variable: &'static str, help: &'static str) -> Setting {
    text(flag, variable, "BOOL", "false", help).kind(Kind::Bool)
}

const fn variable(variable: &'static str, kind: Kind, default: &'static str) -> Setting {
    text("", variable, "", default, "").kind(kind)
}

const NO_ACME: &str = "certificates cannot be ordered yet: put a pair into --cert-dir and leave this out";
const NO_PSK: &str = "pre-shared keys are not there yet: leave it out";
const NO_CLIENT: &str = "the tunnel has no such setting: leave it out";
const NO_OIDC: &str = "logins at an identity provider are not there yet: leave it out";
const NO_CROWDSEC: &str = "CrowdSec is not consulted yet: leave it out";
const NO_GEO: &str = "country rules are not there yet: leave it out";
const NO_LIMIT: &str = "this limit is not there yet: leave it out";
const NO_BUFFER: &str = "buffer sizes are not adjustable: leave it out";

/// In the order of `--help`.
pub(crate) const TABLE: &[Setting] = &[
    text("mgmt", "NB_PROXY_MANAGEMENT_ADDRESS", "URL", "https://api.netbird.io:443", "Management server; anything but https is plaintext"),
    text("mgmt-ca", "POSTERN_MANAGEMENT_CA", "FILE", "", "Trust this CA for the management server instead of the system's"),
    text("domain", "NB_PROXY_DOMAIN", "NAME", "", "Name of this proxy at management: the cluster whose services it serves"),
    text("url", "NB_PROXY_URL", "URL", "", "Where this proxy is reached, the target of CNAMEs; stands in for --domain"),
    text("addr", "NB_PROXY_ADDRESS", "ADDR", ":443", "Where HTTPS is served; `:443` means all interfaces"),
    text("cert-dir", "NB_PROXY_CERTIFICATE_DIRECTORY", "DIR", "./certs", "Folder of the certificate and its key; changes are taken up while running"),
    text("cert-file", "NB_PROXY_CERTIFICATE_FILE", "FILE", "tls.crt", "Certificate with its chain (PEM), inside --cert-dir"),
    text("cert-key-file", "NB_PROXY_CERTIFICATE_KEY_FILE", "FILE", "tls.key", "Its key (PEM), inside --cert-dir"),
    text("health-addr", "NB_PROXY_HEALTH_ADDRESS", "ADDR", "localhost:8080", "Health checks and /metrics; empty turns them off"),
    text("log-level", "NB_PROXY_LOG_LEVEL", "LEVEL", "info", "panic, fatal, error, warn, info, debug or trace"),
    text("trusted-proxies", "NB_PROXY_TRUSTED_PROXIES", "LIST", "", "Addresses and CIDRs, by comma, whose X-Forwarded-* headers are believed"),
    text("forwarded-proto", "NB_PROXY_FORWARDED_PROTO", "WORD", "auto", "What X-Forwarded-Proto says: auto, http or https"),
    switch("require-subdomain", "NB_PROXY_REQUIRE_SUBDOMAIN", "Tell management that services need a name below --domain"),
    text("supports-custom-ports", "NB_PROXY_SUPPORTS_CUSTOM_PORTS", "BOOL", "true", "Tell management that services may have ports of their own (not there yet: false is announced)").kind(Kind::Bool)
        .missing("services cannot have ports of their own yet: leave it out"),
    text("max-session-idle-timeout", "NB_PROXY_MAX_SESSION_IDLE_TIMEOUT", "TIME", "0", "Upper bound for the idle time of relayed TCP and UDP").kind(Kind::Duration),
    text("max-dial-timeout", "NB_PROXY_MAX_DIAL_TIMEOUT", "TIME", "0", "Upper bound for the time that a target may take").kind(Kind::Duration).missing(NO_LIMIT),
    switch("debug", "NB_PROXY_DEBUG_LOGS", "The same as --log-level debug (deprecated)"),
    switch("acme-certs", "NB_PROXY_ACME_CERTIFICATES", "Order certificates by ACME (not there yet)").missing(NO_ACME),
    text("acme-addr", "NB_PROXY_ACME_ADDRESS", "ADDR", ":80", "Listener for http-01, with --acme-certs"),
    text("acme-dir", "NB_PROXY_ACME_DIRECTORY", "URL", "https://acme-v02.api.letsencrypt.org/directory", "ACME directory, with --acme-certs"),
    text("acme-eab-kid", "NB_PROXY_ACME_EAB_KID", "ID", "", "External account, with --acme-certs"),
    text("acme-eab-hmac-key", "NB_PROXY_ACME_EAB_HMAC_KEY", "KEY", "", "Key of the external account, with --acme-certs").kind(Kind::Secret),
    text("acme-challenge-type", "NB_PROXY_ACME_CHALLENGE_TYPE", "TYPE", "tls-alpn-01", "tls-alpn-01 or http-01, with --acme-certs"),
    text("cert-lock-method", "NB_PROXY_CERT_LOCK_METHOD", "WORD", "auto", "auto, flock or k8s-lease, with --acme-certs"),
    text("wildcard-cert-dir", "NB_PROXY_WILDCARD_CERT_DIR", "DIR", "", "Folder of wildcard certificates (not there yet)").missing(
        "wildcard certificates are not read from a folder yet: name the pair with --cert-dir, --cert-file and --cert-key-file",
    ),
    switch("debug-endpoint", "NB_PROXY_DEBUG_ENDPOINT", "Debug endpoint (not there yet)")
        .missing("there is no debug endpoint yet: leave it out and use /metrics on --health-addr"),
    text("debug-endpoint-addr", "NB_PROXY_DEBUG_ENDPOINT_ADDRESS", "ADDR", "localhost:8444", "Its address, with --debug-endpoint"),
    switch("private", "NB_PROXY_PRIVATE", "Serve tunnel peers too, on ports 443 and 80 of each account's tunnel"),
    text("wg-port", "NB_PROXY_WG_PORT", "PORT", "0", "UDP port of the WireGuard tunnel; 0 takes a free one and keeps it. Fits one account").kind(Kind::Number(65_535)),
    text("data-dir", "NB_PROXY_DATA_DIR", "DIR", "", "Where tunnel keys and ports are kept [default: `tunnel` inside --cert-dir]"),
    text("preshared-key", "NB_PROXY_PRESHARED_KEY", "KEY", "", "WireGuard pre-shared key (not there yet)").kind(Kind::Secret).missing(NO_PSK),
    switch("proxy-protocol", "NB_PROXY_PROXY_PROTOCOL", "Expect PROXY protocol headers (not there yet)")
        .missing("PROXY protocol is not understood yet: leave it out and turn it off in the load balancer"),
    text("geo-data-dir", "NB_PROXY_GEO_DATA_DIR", "DIR", "/var/lib/netbird/geolocation", "Country database (not there yet)").missing(NO_GEO),
    text("crowdsec-api-url", "NB_PROXY_CROWDSEC_API_URL", "URL", "", "CrowdSec (not there yet)").missing(NO_CROWDSEC),
    text("crowdsec-api-key", "NB_PROXY_CROWDSEC_API_KEY", "KEY", "", "Its key, with --crowdsec-api-url").kind(Kind::Secret),
    text("oidc-id", "NB_PROXY_OIDC_CLIENT_ID", "ID", "netbird-proxy", "Identity provider (not there yet)").missing(NO_OIDC),
    text("oidc-secret", "NB_PROXY_OIDC_CLIENT_SECRET", "SECRET", "", "Identity provider (not there yet)").kind(Kind::Secret).missing(NO_OIDC),
    text("oidc-endpoint", "NB_PROXY_OIDC_ENDPOINT", "URL", "https://api.netbird.io/oauth2", "Identity provider (not there yet)").missing(NO_OIDC),
    text("oidc-scopes", "NB_PROXY_OIDC_SCOPES", "LIST", "openid,profile,email", "Identity provider (not there yet)").missing(NO_OIDC),
    variable("NB_PROXY_TOKEN", Kind::Secret, ""),
    variable("NB_PROXY_ALLOW_INSECURE", Kind::Bool, "false"),
    // A batch is applied without waiting for anything, so it always ends within the time.
    variable("NB_PROXY_MAPPING_BATCH_WATCHDOG", Kind::Duration, "0"),
    variable("NB_PROXY_PREALLOCATED_BUFFERS", Kind::StrictNumber, "0").missing(NO_CLIENT),
    variable("NB_PROXY_MAX_BATCH_SIZE", Kind::StrictNumber, "0").missing(NO_CLIENT),
    variable("NB_PROXY_CLIENT_LOG_LEVEL", Kind::Text, "warn").missing(NO_CLIENT),
    variable("NB_PROXY_TUNNEL_CACHE_TTL", Kind::Duration, "300s"),
    variable("NB_PROXY_DISABLE_GEOLOCATION", Kind::Bool, "false"),
    variable("NB_PROXY_MAX_IDLE_CONNS", Kind::Number(u32::MAX), "100"),
    variable("NB_PROXY_MAX_IDLE_CONNS_PER_HOST", Kind::Number(u32::MAX), "100"),
    variable("NB_PROXY_MAX_CONNS_PER_HOST", Kind::Number(u32::MAX), "0").missing(NO_LIMIT),
    variable("NB_PROXY_IDLE_CONN_TIMEOUT", Kind::Duration, "90s"),
    variable("NB_PROXY_TLS_HANDSHAKE_TIMEOUT", Kind::Duration, "10s"),
    variable("NB_PROXY_EXPECT_CONTINUE_TIMEOUT", Kind::Duration, "1s"),
    variable("NB_PROXY_RESPONSE_HEADER_TIMEOUT", Kind::Duration, "0"),
    variable("NB_PROXY_WRITE_BUFFER_SIZE", Kind::Number(u32::MAX), "0").missing(NO_BUFFER),
    variable("NB_PROXY_READ_BUFFER_SIZE", Kind::Number(u32::MAX), "0").missing(NO_BUFFER),
    // Nothing is compressed on the way to an upstream, so both answers are honoured.
    variable("NB_PROXY_DISABLE_COMPRESSION", Kind::Bool, "false"),
    variable("NB_PROXY_MAX_INFLIGHT", Kind::Number(u32::MAX), "0").missing(NO_LIMIT),
    // Belongs to the debug client.
    variable("NB_PROXY_DEBUG_ADDRESS", Kind::Text, "localhost:8444"),
];

/// The row of a flag or, where there is none, of a variable.
///
/// # Panics
/// For a name that the table does not have.
pub(crate) fn setting(name: &str) -> &'static Setting {
    TABLE
        .iter()
        .find(|setting| setting.flag == name || setting.variable == name)
        .expect("callers name rows of the table")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_name_stands_once() {
        let flags: Vec<_> = TABLE.iter().map(|setting| setting.flag).filter(|flag| !flag.is_empty()).collect();
        let variables: Vec<_> = TABLE.iter().map(|setting| setting.variable).collect();
        assert_eq!(flags.len(), BTreeSet::from_iter(&flags).len());
        assert_eq!(variables.len(), BTreeSet::from_iter(&variables).len());
    }
}
