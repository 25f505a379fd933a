use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::proxy::Environment;

/// The folder where state lies: as asked for, else the user's data folder (XDG Base Directory Specification), made
/// absolute so that what we print works from anywhere.
pub(crate) fn data_dir(asked: Option<&Path>, environment: &Environment) -> Result<PathBuf, Failure> {
    let folder = match asked {
        Some(folder) => folder.to_owned(),
        None => default_data_dir(environment)
            .ok_or_else(|| Failure::configuration("there is no HOME to keep data in: say where with --data-dir DIR"))?,
    };
    absolute(&folder)
}

/// The same file, whatever the current folder is.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::configuration(format!("`{}`: {error}", path.display())))
}

fn default_data_dir(environment: &Environment) -> Option<PathBuf> {
    let folder = |name: &str| environment.get(name).map(Path::new).filter(|path| path.is_absolute());
    let data = folder("XDG_DATA_HOME").map(Path::to_owned).or_else(|| Some(folder("HOME")?.join(".local/share")))?;
    Some(data.join("postern"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_lies_where_xdg_says() {
        let environment = |pairs: &[(&str, &str)]| -> Environment {
            pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let of = |pairs: &[(&str, &str)]| default_data_dir(&environment(pairs));
        assert_eq!(of(&[("HOME", "/h")]), Some("/h/.local/share/postern".into()));
        assert_eq!(of(&[("HOME", "/h"), ("XDG_DATA_HOME", "/d")]), Some("/d/postern".into()));
        assert_eq!(of(&[("HOME", "/h"), ("XDG_DATA_HOME", "relative")]), Some("/h/.local/share/postern".into()));
        assert_eq!(of(&[]), None);
    }
}
