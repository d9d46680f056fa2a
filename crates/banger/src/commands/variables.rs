//! Environment variables for guest commands, from flags and files.

use std::{fs, path::PathBuf};

use banger_api::{ApiError, ErrorKind};

/// Returns the variables in `files`, then `overrides`, which override them.
pub(super) fn variables(
    files: &[PathBuf],
    overrides: Vec<(String, String)>,
) -> Result<Vec<(String, String)>, ApiError> {
    let mut all = Vec::new();
    for path in files {
        let invalid =
            |why: String| ApiError::new(ErrorKind::Invalid, format!("cannot use {}: {why}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| invalid(error.to_string()))?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                all.push(variable(line).map_err(|why| invalid(format!("line {}: {why}", number + 1)))?);
            }
        }
    }
    all.extend(overrides);
    Ok(all)
}

/// Parses a variable as `NAME=VALUE`, or `NAME` for its value in this process.
pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => (text, std::env::var(text).map_err(|_| format!("{text} is not set; use {text}=VALUE"))?),
    };
    if name.is_empty() {
        return Err("a variable needs a name".to_owned());
    }
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_files_are_parsed_line_by_line_and_errors_name_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        fs::write(&path, "# a comment\n\nA=1\n B=x=y z\n").unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let files = [path.clone()];
        let all = variables(&files, vec![pair("A", "2")]).unwrap();
        assert_eq!(all, [pair("A", "1"), pair("B", "x=y z"), pair("A", "2")]);
        fs::write(&path, "A=1\n=2\n").unwrap();
        let error = variables(&files, Vec::new()).unwrap_err();
        assert!(error.message.ends_with("line 2: a variable needs a name"), "{}", error.message);
        assert!(variables(&[dir.path().join("none")], Vec::new()).is_err());
    }
}
