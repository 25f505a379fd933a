//! The arrows of ARCHITECTURE.md, asserted from `cargo metadata`: who may depend on whom, and which third parties a
//! crate may name.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// `crate <- who may depend on it`, as ARCHITECTURE.md draws it. `tests` and `bench` may depend on everything.
const ARROWS: &[(&str, &[&str])] = &[
    (
        "model",
        &["proto", "auth", "certs", "tunnel", "proxy", "connector", "management-client", "management-server", "cli"],
    ),
    ("proto", &["management-client", "management-server"]),
    ("auth", &["proxy", "management-server", "cli"]),
    ("web", &["proxy", "management-server"]),
    ("certs", &["proxy", "management-server", "cli"]),
    ("proxy", &["cli"]),
    ("tcp", &["netstack"]),
    ("netstack", &["tunnel"]),
    ("tunnel", &["proxy", "connector"]),
    ("connector", &["cli"]),
    ("management-client", &["cli"]),
    ("management-server", &["cli"]),
    ("cli", &[]),
];

/// Third parties that only some crates may name, so that each concern has one home.
const HOMES: &[(&str, &[&str])] = &[
    ("tonic", &["proto", "management-client", "management-server"]),
    ("prost", &["proto", "management-client", "management-server"]),
    ("rcgen", &["certs"]),
    ("boringtun", &["netstack"]),
    ("smoltcp", &["netstack"]),
    ("quinn-udp", &["tunnel"]),
    ("sqlx", &["management-server"]),
    ("argon2", &["auth", "management-server"]),
    ("jsonwebtoken", &["auth"]),
    ("anyhow", &["cli"]),
    ("clap", &["cli"]),
];

/// Crates without a runtime in them.
const PURE: &[&str] = &["model", "netstack", "tcp", "web"];
const RUNTIMES: &[&str] = &["tokio", "hyper", "tonic", "socket2"];

#[test]
fn crates_depend_on_each_other_along_the_arrows() {
    let dependencies = normal_dependencies();
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (from, all) in &dependencies {
        for to in all.iter().filter_map(|name| name.strip_prefix("postern-")) {
            let allowed = arrows.get(to).unwrap_or_else(|| panic!("ARROWS does not know the crate {to}"));
            if !free(from) && !allowed.contains(&from.as_str()) {
                wrong.push(format!("{from} must not depend on {to}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(dependencies.contains_key("proxy"), "cargo metadata listed {:?}", dependencies.keys());
}

#[test]
fn third_parties_stay_in_their_homes() {
    let mut wrong = Vec::new();
    for (from, all) in normal_dependencies() {
        for (party, homes) in HOMES {
            if !free(&from) && all.contains(*party) && !homes.contains(&from.as_str()) {
                wrong.push(format!("{from} must not name {party}; it lives in {homes:?}"));
            }
        }
        if PURE.contains(&from.as_str()) {
            for runtime in RUNTIMES.iter().filter(|runtime| all.contains(**runtime)) {
                wrong.push(format!("{from} is pure and must not name {runtime}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Two crypto providers, or an h2 below its floor, compile and fail at run time.
#[test]
fn the_tree_has_one_crypto_provider_and_a_sound_h2() {
    let tree = tree();
    let versions = |name: &str| -> Vec<&str> {
        tree.iter().filter(|package| package.name == name).map(|package| package.version.as_str()).collect()
    };
    for banned in ["openssl", "openssl-sys", "reqwest"] {
        assert_eq!(versions(banned), Vec::<&str>::new(), "{banned} is in the tree");
    }
    let ring = cargo(&["tree", "--workspace", "--locked", "--prefix", "depth", "--invert", "ring", "--depth", "1"]);
    let users: Vec<_> = ring.lines().filter_map(|line| line.strip_prefix('1')?.split(' ').next()).collect();
    assert_eq!(users, ["boringtun"], "only WireGuard may use ring; whoever speaks TLS finds one provider");
    assert_eq!(versions("rustls").len(), 1, "one rustls, found {:?}", versions("rustls"));
    let h2 = versions("h2");
    assert_eq!(h2.len(), 1, "one h2, found {h2:?}");
    let patch: u32 = h2[0].strip_prefix("v0.4.").and_then(|patch| patch.parse().ok()).expect("h2 0.4");
    assert!(patch >= 20, "h2 {} closes connections with many small DATA frames (RUSTSEC-2026-0258)", h2[0]);
}

/// Copyleft does not get into the binary.
#[test]
fn every_licence_is_permissive() {
    let permissive = |licence: &str| {
        let licence = licence.replace('/', " OR ");
        licence.split(" AND ").all(|part| {
            part.trim_matches(['(', ')'])
                .split(" OR ")
                .any(|one| PERMISSIVE.contains(&one.trim_matches(['(', ')', ' '])))
        })
    };
    assert!(permissive("(MIT OR GPL-3.0) AND Zlib") && !permissive("MIT AND GPL-3.0") && !permissive(""));
    let wrong: Vec<_> = tree().into_iter().filter(|package| !permissive(&package.licence)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

const PERMISSIVE: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
    licence: String,
}

/// What is linked or run to build the workspace here: optional dependencies that nobody turned on are not in it.
fn tree() -> BTreeSet<Package> {
    let text = cargo(&["tree", "--workspace", "--locked", "--prefix", "none", "--format", "{p}\t{l}"]);
    let package = |line: &str| {
        let (package, licence) = line.trim_end_matches(" (*)").split_once('\t')?;
        let mut words = package.split(' ');
        Some(Package { name: words.next()?.to_owned(), version: words.next()?.to_owned(), licence: licence.to_owned() })
    };
    let packages: BTreeSet<_> = text.lines().filter_map(package).collect();
    assert!(packages.len() > 100, "cargo tree printed {text}");
    packages
}

fn free(name: &str) -> bool {
    matches!(name, "tests" | "bench")
}

/// Crate (without the `postern-` prefix) to what it names in `[dependencies]`.
fn normal_dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let text = cargo(&["metadata", "--format-version", "1", "--locked", "--no-deps"]);
    let metadata: Value = serde_json::from_str(&text).expect("cargo metadata speaks JSON");
    let packages = metadata["packages"].as_array().expect("packages").iter();
    packages
        .map(|package| {
            let name = package["name"].as_str().expect("a name").trim_start_matches("postern-").to_owned();
            let dependencies = package["dependencies"].as_array().expect("dependencies").iter();
            let normal = dependencies.filter(|d| d["kind"].is_null()).filter_map(|d| d["name"].as_str());
            (name, normal.map(str::to_owned).collect())
        })
        .collect()
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}
