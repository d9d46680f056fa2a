//! The host's Debian package sources, which guests use too: such a mirror is reachable, permitted and near.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Returns lines for an apt `sources.list` (sources.list(5)) with Debian's `suite`, its updates and its security
/// fixes.
///
/// The lines are the host's own, from `/etc/apt/sources.list` and `/etc/apt/sources.list.d`, with the host's release
/// replaced by `suite`. There are none if this host has no Debian sources. Third-party sources and those that only work
/// on this host (files, discs) are left out. So are URLs with a password, which everyone who has the image could read.
///
/// `BANGER_DEBIAN_MIRROR` (a URL such as `http://HOST/debian`) replaces all of them; it must have updates too.
pub(super) fn lines(suite: &str) -> Vec<String> {
    if let Some(mirror) = std::env::var("BANGER_DEBIAN_MIRROR").ok().filter(|mirror| is_usable(mirror)) {
        return [suite.to_owned(), format!("{suite}-updates")]
            .map(|suite| format!("deb {}{mirror} {suite} main", key(None)))
            .into();
    }
    let release = os_release();
    if release.get("ID").map(String::as_str) != Some("debian") {
        return Vec::new();
    }
    let Some(host) = release.get("VERSION_CODENAME") else { return Vec::new() };
    host_sources(Path::new("/etc/apt"), host, suite)
}

/// Parses `/etc/os-release`.
fn os_release() -> HashMap<String, String> {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned())).collect()
}

/// Returns the sources in the directory `apt` of Debian's release `host`, for `suite`. Unreadable files are skipped.
fn host_sources(apt: &Path, host: &str, suite: &str) -> Vec<String> {
    let mut files = vec![apt.join("sources.list")];
    let parts = fs::read_dir(apt.join("sources.list.d")).into_iter().flatten().flatten();
    files.extend(parts.map(|entry| entry.path()));
    files.sort();
    let mut lines = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let sources = match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => text.lines().filter_map(parse_line).collect(),
            Some("sources") => text.split("\n\n").flat_map(parse_stanza).collect(),
            _ => Vec::new(),
        };
        for source in sources {
            let Some(rest) = source.suite.strip_prefix(host) else { continue };
            let is_selected =
                matches!(rest, "" | "-updates" | "-security") && source.components.contains("main");
            let line = format!("deb {}{} {suite}{rest} main", key(source.signed_by.as_deref()), source.uri);
            if is_selected && is_usable(&source.uri) && !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines
}

#[derive(Debug)]
struct Source {
    uri: String,
    suite: String,
    components: String,
    signed_by: Option<String>,
}

/// Parses `deb [signed-by=FILE] URI SUITE COMPONENT...`.
fn parse_line(line: &str) -> Option<Source> {
    let rest = line.split('#').next()?.trim().strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?.to_owned(), words.next()?.to_owned());
    let components = words.collect::<Vec<_>>().join(" ");
    Some(Source { uri, suite, components, signed_by: signed_by.map(str::to_owned) })
}

/// Parses a stanza of a deb822 file: one source for each pair of URI and suite.
fn parse_stanza(text: &str) -> Vec<Source> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let fields: HashMap<String, &str> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim().to_ascii_lowercase(), value.trim()))
        .collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or_default();
    if !field("types").split_whitespace().any(|kind| kind == "deb") || field("enabled") == "no" {
        return Vec::new();
    }
    let source = |uri: &str, suite: &str| Source {
        uri: uri.to_owned(),
        suite: suite.to_owned(),
        components: field("components").to_owned(),
        signed_by: fields.get("signed-by").map(|key| (*key).to_owned()),
    };
    let uris = field("uris").split_whitespace();
    uris.flat_map(|uri| field("suites").split_whitespace().map(move |suite| (uri, suite)))
        .map(|(uri, suite)| source(uri, suite))
        .collect()
}

/// Returns whether a guest can use the source and may see its URI.
fn is_usable(uri: &str) -> bool {
    let address = uri.strip_prefix("http://").or_else(|| uri.strip_prefix("https://"));
    address.is_some_and(|address| {
        !address.is_empty()
            && !address.contains(|c: char| c == '@' || c == '[' || c.is_whitespace() || c.is_control())
    })
}

/// Returns the `signed-by` option: the source's key file, else Debian's keyring if it is installed.
fn key(signed_by: Option<&str>) -> String {
    const DEBIAN: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let file = signed_by.filter(|file| file.starts_with('/') && !file.contains([' ', ']']));
    match file.or(Some(DEBIAN).filter(|file| Path::new(file).exists())) {
        Some(file) => format!("[signed-by={file}] "),
        None => String::new(),
    }
}

/// Returns the files with the keys of `lines`.
pub(super) fn key_files(lines: &[String]) -> Vec<PathBuf> {
    let sources = lines.iter().filter_map(|line| parse_line(line));
    sources.filter_map(|source| source.signed_by).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_and_deb822_sources_are_parsed() {
        let dir = tempfile::tempdir().unwrap();
        let apt = dir.path();
        fs::create_dir(apt.join("sources.list.d")).unwrap();
        fs::write(
            apt.join("sources.list"),
            "# deb http://no.test/ trixie main\n\
             deb [arch=amd64 signed-by=/k.gpg] http://a.test/debian trixie main contrib # why\n\
             deb-src http://a.test/debian trixie main\n\
             deb [signed-by=/k.gpg] http://user:secret@b.test/debian trixie main\n\
             deb [signed-by=/k.gpg] file:/mirror trixie main\n\
             deb [signed-by=/k.gpg] http://other.test/ stable main\n",
        )
        .unwrap();
        fs::write(
            apt.join("sources.list.d/x.sources"),
            "Types: deb deb-src\n# note\nURIs: http://s.test/security\nSuites: trixie-security\n\
             Components: main\nSigned-By: /k.gpg\n\nTypes: deb\nEnabled: no\nURIs: http://off.test/\n\
             Suites: trixie\nComponents: main\n",
        )
        .unwrap();
        fs::write(apt.join("sources.list.d/x.list.disabled"), "deb http://off.test/ trixie main\n").unwrap();
        let expected = [
            "deb [signed-by=/k.gpg] http://a.test/debian bookworm main",
            "deb [signed-by=/k.gpg] http://s.test/security bookworm-security main",
        ];
        assert_eq!(host_sources(apt, "trixie", "bookworm"), expected);
        assert!(host_sources(Path::new("/nonexistent"), "trixie", "bookworm").is_empty());
    }
}
