use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use postern_model::{HostName, PathMapping, PathRewrite, Restrictions, Secret, ServiceId, TargetOptions};
use toml::Spanned;
use toml::de::DeValue;

use crate::desired::{Service, User};

use super::access;
use super::section::{Section, Wrong, printable};
use super::values::{self, Upstream};

const KNOWN: [&str; 11] = [
    "host",
    "upstream",
    "access",
    "path",
    "pass_host_header",
    "rewrite_redirects",
    "headers",
    "allow",
    "block",
    "timeout",
    "skip_tls_verify",
];
const PATH: [&str; 3] = ["path", "upstream", "strip"];
/// NetBird's limit of custom headers.
const MOST_HEADERS: usize = 16;
const HOST: &str = "host = \"app.example.com\"";
const UPSTREAM: &str = "upstream = \"http://127.0.0.1:3000\"";

/// Every `[service.…]` without a mistake; the mistakes of the others are noted.
pub(super) fn read(root: &Section<'_>, users: &BTreeMap<String, Option<User>>) -> BTreeMap<ServiceId, Service> {
    let Some((_, table)) = root.table("service", "[service.app]") else { return BTreeMap::new() };
    let mut hosts = BTreeMap::new();
    let mut services = BTreeMap::new();
    // In the order of the text, so that the second of two equal hosts is the one that is wrong.
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in entries {
        let id = values::service_id(key.get_ref())
            .map_err(|Wrong { message, remedy }| root.findings().add(&key.span(), message, remedy))
            .ok();
        let Some(table) = value.get_ref().as_table() else {
            root.wrong_type(&format!("service.{}", printable(key.get_ref())), value, "a table", "[service.app]");
            continue;
        };
        let title = format!("[service.{}]", printable(key.get_ref()));
        let section = Section::new(root.findings(), table, value.span(), title, &KNOWN);
        let service = service(&section, users, &mut hosts);
        if let (Some(id), Some(service)) = (id, service) {
            services.insert(id, service);
        }
    }
    services
}

/// Where each host was claimed first, and by which section.
type Hosts = BTreeMap<HostName, (Range<usize>, String)>;

fn service(section: &Section<'_>, users: &BTreeMap<String, Option<User>>, hosts: &mut Hosts) -> Option<Service> {
    let host = section.parsed("host", HOST, values::host);
    if section.value("host").is_none() {
        section.missing("host", format!("add the name it is published under, such as `{HOST}`"));
    }
    if let Some(host) = &host {
        claim(section, host, hosts);
    }
    let access = access::read(section, users);
    let options = options(section);
    let paths = paths(section, &options);
    let cidrs = |key| section.parsed_list(key, &format!("{key} = [\"10.0.0.0/8\"]"), values::cidr);
    let restrictions = Restrictions {
        allowed_cidrs: cidrs("allow").into_iter().map(Spanned::into_inner).collect(),
        blocked_cidrs: cidrs("block").into_iter().map(Spanned::into_inner).collect(),
        ..Restrictions::default()
    };
    empty_allow_list(section);
    Some(Service {
        pass_host_header: section.flag("pass_host_header").unwrap_or(false),
        // What an upstream redirects to by its own address, nobody outside could follow.
        rewrite_redirects: section.flag("rewrite_redirects").unwrap_or(true),
        host: host?.into_inner(),
        access: access?,
        paths: paths?,
        restrictions,
    })
}

fn claim(section: &Section<'_>, host: &Spanned<HostName>, hosts: &mut Hosts) {
    if let Some((at, owner)) = hosts.get(host.get_ref()) {
        let (line, _) = section.findings().position(at.start);
        section.findings().add(
            &host.span(),
            format!("the host `{}` is already taken by {owner} in line {line}", host.get_ref()),
            "give each service a host of its own, or make one a path of the other with [[service.NAME.path]]",
        );
    } else {
        hosts.insert(host.get_ref().clone(), (host.span(), section.name().to_owned()));
    }
}

/// `allow = []` reads as "nobody" to one and as "no limit" to another.
fn empty_allow_list(section: &Section<'_>) {
    if let Some(value) = section.value("allow")
        && value.get_ref().as_array().is_some_and(|list| list.is_empty())
    {
        section.wrong(
            value,
            format!("`allow` in {} is empty", section.name()),
            "list the ranges that may enter, or remove the key",
        );
    }
}

fn options(section: &Section<'_>) -> TargetOptions {
    TargetOptions {
        skip_tls_verify: section.flag("skip_tls_verify").unwrap_or_default(),
        request_timeout: section.parsed("timeout", "timeout = \"30s\"", values::duration).map(Spanned::into_inner),
        custom_headers: headers(section),
        ..TargetOptions::default()
    }
}

fn headers(section: &Section<'_>) -> Vec<(http::HeaderName, Secret)> {
    const EXAMPLE: &str = "headers = { X-Api-Key = \"…\" }";
    let Some((at, table)) = section.table("headers", EXAMPLE) else { return Vec::new() };
    if table.len() > MOST_HEADERS {
        section.findings().add(
            &at,
            format!("{} sets {} headers", section.name(), table.len()),
            format!("set at most {MOST_HEADERS}"),
        );
    }
    let mut headers: BTreeMap<String, (http::HeaderName, Secret)> = BTreeMap::new();
    for (key, value) in table {
        let Some(text) = value.get_ref().as_str() else {
            section.wrong_type("headers", value, "a table of texts", EXAMPLE);
            continue;
        };
        let parsed = values::header_name(key.get_ref()).map_err(|wrong| (key.span(), wrong));
        let value = values::header_value(text).map_err(|wrong| (value.span(), wrong));
        let add = |(at, Wrong { message, remedy })| section.findings().add(&at, message, remedy);
        let (name, value) = (parsed.map_err(add).ok(), value.map_err(add).ok());
        let (Some(name), Some(value)) = (name, value) else { continue };
        if headers.insert(name.as_str().to_owned(), (name.clone(), value)).is_some() {
            section.findings().add(&key.span(), format!("the header `{name}` is set twice"), "remove one of them");
        }
    }
    headers.into_values().collect()
}

fn paths(section: &Section<'_>, options: &TargetOptions) -> Option<Vec<PathMapping>> {
    let mut paths: BTreeMap<String, PathMapping> = BTreeMap::new();
    let mut whole = true;
    match section.parsed("upstream", UPSTREAM, values::upstream) {
        Some(upstream) => {
            let mapping = mapping("/".to_owned(), upstream.into_inner(), PathRewrite::Strip, options);
            paths.insert("/".to_owned(), mapping);
        }
        None if section.value("upstream").is_some() => whole = false,
        None if section.value("path").is_none() => {
            section.missing("upstream", format!("add where it leads, such as `{UPSTREAM}`"));
            whole = false;
        }
        None => {}
    }
    for (at, mapping) in path_sections(section, options) {
        let Some(mapping) = mapping else {
            whole = false;
            continue;
        };
        // `/app` and `/app/` are one prefix.
        let key = format!("/{}", mapping.path.trim_matches('/'));
        match paths.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(mapping);
            }
            Entry::Occupied(entry) => section.findings().add(
                &at,
                format!("the path `{}` of {} is given twice", entry.key(), section.name()),
                "give each path once; `upstream` of the service itself is `/`",
            ),
        }
    }
    (whole && !paths.is_empty()).then(|| paths.into_values().collect())
}

fn path_sections(section: &Section<'_>, options: &TargetOptions) -> Vec<(Range<usize>, Option<PathMapping>)> {
    const EXAMPLE: &str = "[[service.app.path]]";
    let Some(value) = section.value("path") else { return Vec::new() };
    let Some(list) = value.get_ref().as_array() else {
        section.wrong_type("path", value, "a list of tables", EXAMPLE);
        return vec![(value.span(), None)];
    };
    if list.is_empty() {
        section.wrong(value, format!("`path` in {} is empty", section.name()), "add a path, or remove the key");
    }
    let one = |item: &Spanned<DeValue<'_>>| {
        let Some(table) = item.get_ref().as_table() else {
            section.wrong_type("path", item, "a list of tables", EXAMPLE);
            return None;
        };
        let name = format!("a path of {}", section.name());
        path_section(&Section::new(section.findings(), table, item.span(), name, &PATH), options)
    };
    list.iter().map(|item| (item.span(), one(item))).collect()
}

fn path_section(section: &Section<'_>, options: &TargetOptions) -> Option<PathMapping> {
    let path = section.parsed("path", "path = \"/api\"", values::path);
    let upstream = section.parsed("upstream", UPSTREAM, values::upstream);
    let rewrite = match section.flag("strip") {
        Some(false) => PathRewrite::Preserve,
        Some(true) | None => PathRewrite::Strip,
    };
    for (key, example) in [("path", "path = \"/api\""), ("upstream", UPSTREAM)] {
        if section.value(key).is_none() {
            section.missing(key, format!("add `{example}`"));
        }
    }
    Some(mapping(path?.into_inner(), upstream?.into_inner(), rewrite, options))
}

fn mapping(path: String, upstream: Upstream, path_rewrite: PathRewrite, options: &TargetOptions) -> PathMapping {
    let Upstream { target, direct: direct_upstream } = upstream;
    PathMapping { path, target, options: TargetOptions { path_rewrite, direct_upstream, ..options.clone() } }
}
