//! The corpora of the fuzz targets, replayed through the very functions that the targets run: nothing panics, attacks are
//! refused, and their harmless twins are understood.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Judges an input: `true` where it is understood. Panics where a promise is broken.
type Target = fn(&[u8]) -> bool;

const TARGETS: &[(&str, Target)] = &[
    ("canonical_request", postern_proxy::fuzz::canonical_request),
    ("client_hello", postern_proxy::fuzz::client_hello),
    ("handle_segment", postern_tcp::world::replay),
    ("ip_ingress", postern_netstack::fuzz::ip_ingress),
    ("mapping_conversion", postern_proto::fuzz::conversions),
    ("tunnel_datagram", postern_netstack::fuzz::datagram),
    ("upstream_answer", postern_proxy::fuzz::upstream_answer),
];

#[test]
fn every_input_of_the_corpora_is_judged_as_its_name_says() {
    let mut wrong = Vec::new();
    for (target, judge) in TARGETS {
        let (mut accepted, mut refused) = (0, 0);
        for file in files(&fuzz().join("corpus").join(target)) {
            let name = stem(&file);
            let understood = judge(&fs::read(&file).expect("an input is readable"));
            let expected = match name.split_once('-') {
                Some(("accepted", _)) => Some(true),
                Some(("refused", _)) => Some(false),
                Some(_) | None => None,
            };
            if expected.is_some_and(|expected| expected != understood) {
                wrong.push(format!("{target}/{name} was {}", if understood { "understood" } else { "refused" }));
            }
            accepted += usize::from(expected == Some(true));
            refused += usize::from(expected == Some(false));
        }
        assert!(
            accepted > 0 && refused > 0,
            "the corpus of {target} has {accepted} accepted and {refused} refused inputs"
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_target_is_replayed() {
    let names =
        |folder: &str| -> BTreeSet<String> { files(&fuzz().join(folder)).iter().map(|file| stem(file)).collect() };
    let replayed: BTreeSet<String> = TARGETS.iter().map(|(target, _)| (*target).to_owned()).collect();
    assert_eq!(names("fuzz_targets"), replayed);
    assert_eq!(names("corpus"), replayed);
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

fn stem(file: &Path) -> String {
    file.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned()
}
