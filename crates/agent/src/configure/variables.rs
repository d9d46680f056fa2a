//! The image's environment variables, and a profile that keeps its `PATH` in login shells.

use std::{collections::BTreeMap, io, path::Path};

use super::files::install;

/// Maximum number of an image's variables.
const MAX_VARIABLES: usize = 1000;

/// Scripts that `/etc/profile` reads after it has set its own path.
const PROFILE_DIR: &str = "etc/profile.d";
const PROFILE: &str = "etc/profile.d/banger-image.sh";

/// Returns variables of the form `NAME=VALUE` by name. Skips entries that cannot be variables.
pub(crate) fn by_name(variables: &[String]) -> BTreeMap<String, String> {
    let pairs = variables.iter().filter_map(|variable| variable.split_once('='));
    let usable =
        pairs.filter(|(name, value)| !name.is_empty() && !name.contains('\0') && !value.contains('\0'));
    usable.take(MAX_VARIABLES).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Sets `path` in login shells of the system at `root`, if its `/etc/profile` reads other scripts.
pub(super) fn write_path_profile(root: &Path, path: &str) -> io::Result<()> {
    if !root.join(PROFILE_DIR).is_dir() {
        return Ok(());
    }
    let quoted = path.replace('\'', r"'\''");
    let text = format!("# PATH of this VM's image, set by banger.\nPATH='{quoted}'\nexport PATH\n");
    install(&root.join(PROFILE), text.as_bytes(), Some(0o644))
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    #[test]
    fn invalid_variables_are_skipped_and_the_last_value_of_a_name_wins() {
        let variables = ["A=1", "B=a=b", "=c", "C", "D\0=1", "E=\0", "A=2", "F="].map(str::to_owned);
        let pairs = [("A", "2"), ("B", "a=b"), ("F", "")];
        assert_eq!(
            by_name(&variables),
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
        );
        let many: Vec<_> = (0..2000).map(|n| format!("N{n}=")).collect();
        assert_eq!(by_name(&many).len(), MAX_VARIABLES);
    }

    #[test]
    fn the_profile_quotes_special_characters_in_the_path() {
        let root = tempfile::tempdir().unwrap();
        write_path_profile(root.path(), "/a").unwrap();
        assert!(!root.path().join("etc").exists());
        fs::create_dir_all(root.path().join(PROFILE_DIR)).unwrap();
        let path = "/it's/$(here):/b";
        write_path_profile(root.path(), path).unwrap();
        let script = ". \"$0\"; printf %s \"$PATH\"";
        let sourced =
            Command::new("/bin/sh").args(["-c", script]).arg(root.path().join(PROFILE)).output().unwrap();
        assert_eq!(String::from_utf8(sourced.stdout).unwrap(), path);
    }
}
