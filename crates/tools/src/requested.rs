//! Parses the version to install from a file's text.

use std::borrow::Cow;

use super::{
    note::quoted,
    range::{Choice, Range},
    word::{InvalidWord, Version},
};

/// The version of a tool to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestedVersion {
    pub(super) version: Version,
    pub(super) reason: String,
    /// Every version that satisfies the file, if known.
    pub(super) range: Option<Range>,
}

/// Errors of a text that names no version to install.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum VersionError {
    /// The text is a path or revision, not a version.
    #[error("{0} is not a version that can be installed")]
    NotAVersion(String),
    #[error("{0} is not a supported version range")]
    Range(String),
    #[error("no version in {0} can be requested")]
    NoVersion(String),
    #[error("{text} is not a version: {error}")]
    Word { text: String, error: InvalidWord },
}

impl RequestedVersion {
    /// Parses a file's text for `tool`.
    pub(super) fn of(tool: &str, text: &str) -> Result<Self, VersionError> {
        let text = text.trim();
        let normalized_text = normalized(tool, text);
        let word = normalized_text.as_ref();
        if word.is_empty()
            || word == "system"
            || ["path:", "ref:", "sub-"].iter().any(|p| word.starts_with(p))
        {
            return Err(VersionError::NotAVersion(quoted(text)));
        }
        if is_range(word) {
            return Self::from_range(word);
        }
        let version =
            word.parse::<Version>().map_err(|error| VersionError::Word { text: quoted(text), error })?;
        let reason =
            if word == text { "as written".to_owned() } else { format!("written as {}", quoted(text)) };
        let is_plain = word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let range =
            if version.is_latest() { Range::parse("*") } else { Range::parse(word).filter(|_| is_plain) };
        Ok(Self { version, reason, range })
    }

    fn from_range(text: &str) -> Result<Self, VersionError> {
        let range = Range::parse(text).ok_or_else(|| VersionError::Range(quoted(text)))?;
        let (version, reason) = match range.choice() {
            None => return Err(VersionError::NoVersion(quoted(text))),
            Some(Choice::Latest) => (Version::latest(), format!("{} allows the latest", quoted(text))),
            Some(Choice::Newest(numbers)) => {
                let version = numbers.parse().map_err(|_| VersionError::NoVersion(quoted(text)))?;
                (version, format!("{} allows {numbers}", quoted(text)))
            }
        };
        Ok(Self { version, reason, range: Some(range) })
    }
}

fn is_range(text: &str) -> bool {
    text.contains(|c: char| "<>=!^~*|,".contains(c) || c.is_whitespace())
        || text.split('.').any(|part| matches!(part, "x" | "X"))
}

/// Converts names that only one tool's files use, as mise does.
fn normalized<'a>(tool: &str, text: &'a str) -> Cow<'a, str> {
    let text = text.strip_prefix("prefix:").unwrap_or(text);
    let is_number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let without = |prefix: &str| text.strip_prefix(prefix).filter(|rest| is_number(rest));
    if let Some(rest) = without("v") {
        return rest.into();
    }
    match (tool, text) {
        ("node", "node" | "stable" | "current") => "latest".into(),
        ("node", "lts/*") => "lts".into(),
        ("node", _) => text.strip_prefix("lts/").map_or(text.into(), |name| format!("lts-{name}").into()),
        ("go", _) => without("go").unwrap_or(text).into(),
        ("ruby", _) => without("ruby-").unwrap_or(text).into(),
        ("python", _) => without("cpython-").or(without("cpython@")).unwrap_or(text).into(),
        // Java 8 and earlier use this prefix.
        ("java", _) => without("1.")
            .map(|rest| rest.split_once('.').map_or(rest, |(major, _)| major))
            .unwrap_or(text)
            .into(),
        ("rust", "latest") => "stable".into(),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_text_produces_a_version_and_a_reason() {
        for (tool, text, version, reason) in [
            ("node", "20.11.1", "20.11.1", "as written"),
            ("node", " v20 ", "20", "written as \"v20\""),
            ("node", "lts/*", "lts", "written as \"lts/*\""),
            ("node", "lts/iron", "lts-iron", "written as \"lts/iron\""),
            ("node", "node", "latest", "written as \"node\""),
            ("node", "20.x", "20", "\"20.x\" allows 20"),
            ("node", ">=18", "latest", "\">=18\" allows the latest"),
            ("python", ">=3.11,<4", "3", "\">=3.11,<4\" allows 3"),
            ("python", "cpython-3.12", "3.12", "written as \"cpython-3.12\""),
            ("python", "pypy3.10-7.3.15", "pypy3.10-7.3.15", "as written"),
            ("go", "go1.22.3", "1.22.3", "written as \"go1.22.3\""),
            ("ruby", "ruby-3.2.2", "3.2.2", "written as \"ruby-3.2.2\""),
            ("ruby", "jruby-9.4.0.0", "jruby-9.4.0.0", "as written"),
            ("java", "1.8.0", "8", "written as \"1.8.0\""),
            ("java", "temurin-21.0.1+12", "temurin-21.0.1+12", "as written"),
            ("rust", "stable", "stable", "as written"),
            ("erlang", "prefix:26", "26", "written as \"prefix:26\""),
        ] {
            let requested = RequestedVersion::of(tool, text).unwrap();
            assert_eq!(
                (requested.version.as_str(), requested.reason.as_str()),
                (version, reason),
                "{tool} {text}"
            );
        }
    }

    #[test]
    fn texts_without_an_installable_version_are_rejected() {
        for (text, error) in [
            ("", "\"\" is not a version that can be installed"),
            ("system", "\"system\" is not a version that can be installed"),
            ("path:/opt/node", "\"path:/opt/node\" is not a version that can be installed"),
            ("ref:main", "\"ref:main\" is not a version that can be installed"),
            (">=a", "\">=a\" is not a supported version range"),
            (">=20 <18", "no version in \">=20 <18\" can be requested"),
            ("-g", "\"-g\" is not a version: it cannot begin with '-'"),
            ("$(id)", "\"$(id)\" is not a version: '$' at position 1"),
        ] {
            let message = RequestedVersion::of("node", text).unwrap_err().to_string();
            assert!(message.starts_with(error), "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn requested_versions_are_valid_words(tool in "node|go|java|python|rust|x", text in "(lts/|v|go|1\\.|>=|[ -~]|\\PC){0,12}") {
            if let Ok(requested) = RequestedVersion::of(&tool, &text) {
                prop_assert_eq!(requested.version.as_str().parse::<Version>(), Ok(requested.version));
            }
        }
    }
}
