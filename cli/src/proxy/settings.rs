use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use postern_model::{HostName, Secret};
use postern_proxy::{ForwardedProto, UpstreamLimits};
use url::Url;

use super::values::Values;
use crate::address::listen_address;
use crate::failure::Failure;
use crate::logging::Level;

/// What `postern proxy` runs with: every flag and variable, checked.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The management server.
    pub(crate) management: Server,
    /// What proves to it that we may ask.
    pub(crate) token: Secret,
    /// May the token travel in clear?
    pub(crate) allow_insecure: bool,
    /// Our name at management.
    pub(crate) domain: HostName,
    /// Capability: services need a name below the domain.
    pub(crate) require_subdomain: bool,
    /// Where HTTPS is served.
    pub(crate) https: SocketAddr,
    /// Where health is served.
    pub(crate) health: Option<SocketAddr>,
    /// The certificate's file.
    pub(crate) certificate: PathBuf,
    /// Its key's file.
    pub(crate) key: PathBuf,
    /// Forwarders to believe.
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// What X-Forwarded-Proto says.
    pub(crate) forwarded_proto: ForwardedProto,
    /// Limits towards upstreams.
    pub(crate) upstream: UpstreamLimits,
    /// The WireGuard tunnels.
    pub(crate) tunnel: Tunnels,
}

/// `--private` and what belongs to it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tunnels {
    /// Are tunnel peers served?
    pub(crate) inbound: bool,
    /// The UDP port; 0 takes a free one.
    pub(crate) port: u16,
    /// Where keys and ports are kept.
    pub(crate) data_dir: PathBuf,
    /// How long management's word on a peer holds.
    pub(crate) cache_ttl: Duration,
}

/// A management server's address.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) tls: bool,
    /// IPv6 without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Trusted instead of the system's roots.
    pub(crate) ca_file: Option<PathBuf>,
}

/// How much is logged, which is settled before the rest so that the rest can be logged.
pub(crate) fn level(values: &Values) -> (Level, Option<String>) {
    if values.switch("debug") {
        return (Level::Debug, None);
    }
    Level::parse_or_info(values.text("log-level"))
}

/// Checks everything, in NetBird's order, and lists every mistake.
pub(crate) fn settings(values: &Values, workers: usize) -> Result<Settings, Failure> {
    let mut mistakes = Vec::new();
    let token = note(&mut mistakes, token(values));
    mistakes.extend(values.mistakes.iter().cloned());
    let forwarded_proto = note(&mut mistakes, forwarded_proto(values.text("forwarded-proto")));
    let domain = note(&mut mistakes, domain(values.text("domain"), values.text("url")));
    let trusted_proxies = note(&mut mistakes, trusted_proxies(values.text("trusted-proxies")));
    mistakes.extend(values.in_vain());
    let management = note(&mut mistakes, server(values));
    let https = note(&mut mistakes, listen("addr", values.text("addr")));
    let health = match values.text("health-addr") {
        "" => Some(None),
        text => note(&mut mistakes, listen("health-addr", text)).map(Some),
    };
    let folder = PathBuf::from(values.text("cert-dir"));
    let checked = (token, forwarded_proto, domain, trusted_proxies, management, https, health);
    match checked {
        (
            Some(token),
            Some(forwarded_proto),
            Some(domain),
            Some(trusted_proxies),
            Some(management),
            Some(https),
            Some(health),
        ) if mistakes.is_empty() => Ok(Settings {
            management,
            token,
            allow_insecure: values.switch("NB_PROXY_ALLOW_INSECURE"),
            domain,
            require_subdomain: values.switch("require-subdomain"),
            https,
            health,
            tunnel: tunnels(values, &folder),
            certificate: folder.join(values.text("cert-file")),
            key: folder.join(values.text("cert-key-file")),
            trusted_proxies,
            forwarded_proto,
            upstream: upstream(values, workers),
        }),
        _ => Err(Failure::mistakes(mistakes)),
    }
}

fn note<T>(mistakes: &mut Vec<String>, result: Result<T, String>) -> Option<T> {
    result.map_err(|mistake| mistakes.push(mistake)).ok()
}

fn token(values: &Values) -> Result<Secret, String> {
    match values.text("NB_PROXY_TOKEN").trim() {
        "" => {
            Err("NB_PROXY_TOKEN is not set: put the token of this proxy there; `postern token add NAME` makes one"
                .into())
        }
        token => Ok(Secret::from(token)),
    }
}

fn forwarded_proto(text: &str) -> Result<ForwardedProto, String> {
    match text {
        "auto" => Ok(ForwardedProto::Auto),
        "http" => Ok(ForwardedProto::Http),
        "https" => Ok(ForwardedProto::Https),
        _ => Err(format!("--forwarded-proto (NB_PROXY_FORWARDED_PROTO) must be auto, http or https, not `{text}`")),
    }
}

/// `--domain` and `-url` say the same thing; either is enough, and both must agree.
fn domain(domain: &str, url: &str) -> Result<HostName, String> {
    let named = |text: &str, from: &str| HostName::parse(text).map_err(|error| format!("{from}: `{text}` is {error}"));
    let domain = match domain {
        "" => None,
        text => Some(named(text, "--domain (NB_PROXY_DOMAIN)")?),
    };
    let reached = match url {
        "" => None,
        text => {
            let from = "-url (NB_PROXY_URL)";
            // The README's own example has no scheme.
            let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
            let parsed = Url::parse(&whole).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
            let host = parsed.as_ref().and_then(Url::host_str);
            let host =
                host.ok_or_else(|| format!("{from}: `{text}` is no URL; write it as https://proxy.example.com"))?;
            Some(named(host, from)?)
        }
    };
    match (domain, reached) {
        (None, None) => Err("--domain (NB_PROXY_DOMAIN) is not set: say which cluster this proxy serves, \
                             for example --domain proxy.example.com"
            .into()),
        (Some(domain), Some(reached)) if domain != reached => Err(format!(
            "--domain says {domain} and -url says {reached}: they name the same thing, so give one of them or make them agree"
        )),
        (Some(name), _) | (None, Some(name)) => Ok(name),
    }
}

fn trusted_proxies(text: &str) -> Result<Vec<IpNet>, String> {
    let network = |item: &str| item.parse::<IpNet>().or_else(|_| item.parse::<IpAddr>().map(IpNet::from));
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| {
            network(item).map_err(|_| {
                format!(
                    "--trusted-proxies (NB_PROXY_TRUSTED_PROXIES): `{item}` is neither an address nor a CIDR; \
                     write 10.0.0.0/8,192.0.2.7"
                )
            })
        })
        .collect()
}

fn server(values: &Values) -> Result<Server, String> {
    let text = values.text("mgmt");
    let wrong = || {
        format!("--mgmt (NB_PROXY_MANAGEMENT_ADDRESS): `{text}` is no URL of a server; write it as https://host:port")
    };
    let url = Url::parse(text).map_err(|_| wrong())?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
    let ca_file = Some(values.text("mgmt-ca")).filter(|file| !file.is_empty()).map(PathBuf::from);
    let tls = url.scheme() == "https";
    if ca_file.is_some() && !tls {
        return Err(format!("--mgmt-ca is for https, and --mgmt is `{text}`: leave it out or use https"));
    }
    Ok(Server {
        tls,
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        // What gRPC assumes for either scheme.
        port: explicit_port(&url, text).unwrap_or(443),
        ca_file,
    })
}

/// The port as written; `Url` hides `:80` behind `http`.
fn explicit_port(url: &Url, text: &str) -> Option<u16> {
    let written = text.split_once("://").is_some_and(|(_, rest)| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.rsplit(':').next().is_some_and(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
            && authority.contains(':')
    });
    if written { url.port_or_known_default() } else { None }
}

fn tunnels(values: &Values, certificates: &Path) -> Tunnels {
    /// NetBird's.
    const USUAL_TTL: Duration = Duration::from_secs(300);
    let data_dir = match values.text("data-dir") {
        "" => certificates.join("tunnel"),
        folder => PathBuf::from(folder),
    };
    let port = values.number("wg-port").and_then(|port| u16::try_from(port).ok()).unwrap_or_default();
    let cache_ttl = values.duration("NB_PROXY_TUNNEL_CACHE_TTL").filter(|ttl| !ttl.is_zero()).unwrap_or(USUAL_TTL);
    Tunnels { inbound: values.switch("private"), port, data_dir, cache_ttl }
}

fn listen(flag: &str, text: &str) -> Result<SocketAddr, String> {
    listen_address(text).map_err(|mistake| format!("--{flag}: {mistake}"))
}

/// Go counts for the process, a worker for itself. Zero means no bound, and a year is none.
fn upstream(values: &Values, workers: usize) -> UpstreamLimits {
    const NO_BOUND: Duration = Duration::from_secs(365 * 24 * 3600);
    let mut limits = UpstreamLimits::default();
    let count = |name| {
        values.number(name).map(|count| match count as usize {
            0 => usize::MAX,
            count => count.div_ceil(workers.max(1)),
        })
    };
    let time = |name| values.duration(name).map(|time| if time.is_zero() { NO_BOUND } else { time });
    set(&mut limits.max_idle, count("NB_PROXY_MAX_IDLE_CONNS"));
    set(&mut limits.max_idle_per_host, count("NB_PROXY_MAX_IDLE_CONNS_PER_HOST"));
    set(&mut limits.idle_timeout, time("NB_PROXY_IDLE_CONN_TIMEOUT"));
    set(&mut limits.tls_handshake_timeout, time("NB_PROXY_TLS_HANDSHAKE_TIMEOUT"));
    set(&mut limits.expect_continue_timeout, values.duration("NB_PROXY_EXPECT_CONTINUE_TIMEOUT"));
    let header = values.duration("NB_PROXY_RESPONSE_HEADER_TIMEOUT");
    limits.response_header_timeout = header.filter(|time| !time.is_zero()).or(limits.response_header_timeout);
    limits
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}
