//! Within a crate, files depend on each other one way: no two import from each other, directly or round a corner, and a
//! child module never reaches up into its parent. What two files share lives in a leaf below both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const CRATES: &[&str] = &[
    "auth",
    "certs",
    "cli",
    "connector",
    "management-client",
    "management-server",
    "model",
    "netstack",
    "proto",
    "proxy",
    "tcp",
    "tunnel",
    "web",
];

#[test]
fn files_depend_on_each_other_one_way() {
    let mut circles = Vec::new();
    let mut edges = 0;
    for name in CRATES {
        let graph = imports(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src"));
        edges += graph.values().map(BTreeSet::len).sum::<usize>();
        circles.extend(circle(&graph).map(|files| format!("{name}: {}", files.join(" -> "))));
    }
    assert!(circles.is_empty(), "files that import from each other:\n{}", circles.join("\n"));
    assert!(edges > 50, "only {edges} imports were found");
}

#[test]
fn a_circle_is_found() {
    let graph = |edges: &[(&str, &str)]| {
        let mut graph: Graph = BTreeMap::new();
        for (from, to) in edges {
            graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        graph
    };
    assert_eq!(circle(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    assert!(circle(&graph(&[("a", "b"), ("b", "c"), ("c", "a")])).is_some());
    let modules = BTreeSet::from(["".to_owned(), "http".to_owned(), "http::path".to_owned(), "table".to_owned()]);
    let found = |module: &str, text: &str| mentioned(text, module, &modules);
    assert_eq!(found("table", "use crate::http::path::{Path, Prefix};"), BTreeSet::from(["http::path".to_owned()]));
    assert_eq!(found("table", "use crate::{http::path::Path, table::X};"), BTreeSet::from(["http::path".to_owned()]));
    assert_eq!(found("http::path", "use super::Thing;"), BTreeSet::from(["http".to_owned()]));
    assert_eq!(found("http", "pub(crate) use path::Path;"), BTreeSet::from(["http::path".to_owned()]));
    assert_eq!(found("table", "let x = crate::http::path::parse();"), BTreeSet::from(["http::path".to_owned()]));
    assert_eq!(found("table", "use std::path::Path; use http::HeaderMap;"), BTreeSet::new());
}

/// Module path of a file (`http::path`, the root is empty) to those it names.
type Graph = BTreeMap<String, BTreeSet<String>>;

fn imports(src: &Path) -> Graph {
    let files = files(src, "");
    let modules: BTreeSet<_> = files.keys().cloned().collect();
    let read = |(module, file): (&String, &PathBuf)| {
        let text = fs::read_to_string(file).expect("a source file is readable");
        // Tests may look wherever they like.
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned();
        let code: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        (module.clone(), mentioned(&code.join("\n"), module, &modules))
    };
    let mut graph: Graph = files.iter().map(read).collect();
    // The root hands out names of other files: who takes `crate::Name` depends on the file that it stands in.
    let facade = graph.remove("").unwrap_or_default();
    for (module, file) in files.iter().filter(|(module, _)| !module.is_empty()) {
        let text = fs::read_to_string(file).expect("a source file is readable");
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let targets = graph.entry(module.clone()).or_default();
        if targets.remove("") {
            targets.extend(facade.iter().filter(|home| *home != module && taken_from(home, text, &files)).cloned());
        }
    }
    graph
}

/// Whether `text` takes a name from the crate's root that the root re-exports from `home`.
fn taken_from(home: &str, text: &str, files: &BTreeMap<String, PathBuf>) -> bool {
    let root = fs::read_to_string(&files[""]).expect("the root is readable");
    let names = |text: &str| {
        let mut paths = Vec::new();
        for statement in text.split(';') {
            if let Some((_, tree)) = statement.rsplit_once("use ") {
                expand(tree, "", &mut paths);
            }
        }
        paths
    };
    let handed: Vec<_> = names(&root)
        .into_iter()
        .filter_map(|path| path.strip_prefix(&format!("{home}::")).map(str::to_owned))
        .collect();
    names(text)
        .iter()
        .filter_map(|path| path.strip_prefix("crate::"))
        .any(|name| handed.iter().any(|handed| handed == name))
}

fn files(folder: &Path, prefix: &str) -> BTreeMap<String, PathBuf> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a source folder") {
        let path = entry.expect("an entry").path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned();
        let module = if prefix.is_empty() { stem.clone() } else { format!("{prefix}::{stem}") };
        if path.is_dir() {
            all.extend(files(&path, &module));
        } else if matches!(stem.as_str(), "lib" | "main" | "mod") {
            all.insert(prefix.to_owned(), path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.insert(module, path);
        }
    }
    all
}

/// The modules of the crate that `text`, the code of `module`, names by `use` or by a path from `crate`.
fn mentioned(text: &str, module: &str, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let mut paths = Vec::new();
    for statement in text.split(';') {
        if let Some((_, tree)) =
            statement.rsplit_once("use ").filter(|(before, _)| before.lines().last().is_none_or(is_visibility))
        {
            expand(tree, "", &mut paths);
        }
    }
    paths.extend(text.match_indices("crate::").map(|(at, _)| {
        let path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        text[at..].split(|c: char| !path(c)).next().unwrap_or_default().to_owned()
    }));
    let resolved = paths.iter().filter_map(|path| resolve(path, module, modules));
    resolved.filter(|found| found != module).collect()
}

fn is_visibility(before: &str) -> bool {
    let before = before.trim();
    before.is_empty() || before.starts_with("pub")
}

/// `a::{b, c::{d, e}}` to `a::b`, `a::c::d`, `a::c::e`.
fn expand(tree: &str, prefix: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        paths.push(format!("{prefix}{tree}"));
        return;
    };
    let prefix = format!("{prefix}{}", head.trim());
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inner[start..at].trim().is_empty() {
                    expand(&inner[start..at], &prefix, paths);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The longest part of `path` that is a module of the crate; `None` for what comes from elsewhere.
fn resolve(path: &str, module: &str, modules: &BTreeSet<String>) -> Option<String> {
    let mut segments: Vec<&str> = path.split("::").map(str::trim).collect();
    let own: Vec<&str> = module.split("::").filter(|segment| !segment.is_empty()).collect();
    let mut base = match segments[0] {
        "crate" => Vec::new(),
        "self" => own.clone(),
        "super" => own[..own.len().saturating_sub(1)].to_vec(),
        child if modules.contains(&[&own[..], &[child]].concat().join("::")) && !own.contains(&child) => {
            segments.insert(0, "self");
            own.clone()
        }
        _ => return None,
    };
    let mut named = false;
    for segment in segments[1..].iter().filter(|segment| !segment.is_empty()) {
        let longer = [&base[..], &[*segment]].concat();
        if !modules.contains(&longer.join("::")) {
            named = true;
            break;
        }
        base = longer;
    }
    // `crate::table::Table` names a file; the root is named only by an item that stands in it.
    (named || !base.is_empty()).then(|| base.join("::"))
}

fn circle(graph: &Graph) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    graph.keys().find_map(|start| walk(start, graph, &mut Vec::new(), &mut done))
}

fn walk(at: &str, graph: &Graph, path: &mut Vec<String>, done: &mut BTreeSet<String>) -> Option<Vec<String>> {
    if let Some(seen) = path.iter().position(|module| module == at) {
        let mut files = path[seen..].to_vec();
        files.push(at.to_owned());
        return Some(files);
    }
    if done.contains(at) {
        return None;
    }
    path.push(at.to_owned());
    let found = graph.get(at).into_iter().flatten().find_map(|next| walk(next, graph, path, done));
    path.pop();
    done.insert(at.to_owned());
    found
}
