use std::collections::BTreeSet;
use std::ffi::OsString;

use clap::Command;

/// Lets one dash do what two do (`-url X`, `-private=true`), as in Go, for every long flag that some command has.
/// What follows `--` is left alone.
pub(crate) fn doubled(command: &Command, arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut known = BTreeSet::new();
    collect(command, &mut known);
    let mut flags_end = false;
    arguments
        .into_iter()
        .map(|argument| {
            flags_end |= argument == "--";
            match argument.to_str().and_then(single_dashed) {
                Some(name) if !flags_end && known.contains(name) => {
                    let mut doubled = OsString::from("-");
                    doubled.push(&argument);
                    doubled
                }
                Some(_) | None => argument,
            }
        })
        .collect()
}

/// The name in `-name` or `-name=value`.
fn single_dashed(argument: &str) -> Option<&str> {
    let name = argument.strip_prefix('-').filter(|name| !name.starts_with('-'))?;
    Some(name.split_once('=').map_or(name, |(name, _)| name))
}

fn collect(command: &Command, known: &mut BTreeSet<String>) {
    known.extend(command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned));
    known.extend(["help".to_owned(), "version".to_owned()]);
    for inner in command.get_subcommands() {
        collect(inner, known);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn one_dash_works_as_well_as_two() {
        let written = ["postern", "proxy", "-url", "x", "-private=true", "--addr", ":1", "-h", "-x", "-", "--", "-url"];
        let read = ["postern", "proxy", "--url", "x", "--private=true", "--addr", ":1", "-h", "-x", "-", "--", "-url"];
        assert_eq!(doubled(&Cli::command(), written.map(OsString::from)), read.map(OsString::from));
    }
}
