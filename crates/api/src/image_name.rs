//! Names of images, local and in a registry.
//!
//! The grammar is that of the `distribution/reference` package, which Docker, Podman and containerd share:
//! `[REGISTRY[:PORT]/]REPOSITORY[:TAG][@DIGEST]`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Digest, InvalidDigest};

/// Registry of names that do not specify one.
const DEFAULT_REGISTRY: &str = "docker.io";

/// Prefix of that registry's official images.
const OFFICIAL: &str = "library/";

/// Tag of names with neither a tag nor a digest.
const DEFAULT_TAG: &str = "latest";

/// Maximum length of registry and repository together, in bytes.
const MAX_REPOSITORY: usize = 255;

/// Maximum length of a tag, in bytes.
const MAX_TAG: usize = 128;

/// Error for a text that is not an image's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidImageName {
    /// The name, or a part of it, is empty.
    #[error("an image's {0} cannot be empty")]
    Empty(&'static str),
    /// A part is too long.
    #[error("an image's {part} has at most {limit} characters, this one has {length}")]
    TooLong {
        /// The part.
        part: &'static str,
        /// Its limit.
        limit: usize,
        /// Its length.
        length: usize,
    },
    /// A character is not allowed at its position.
    #[error("{character:?} at position {position} cannot be in an image's {part}: use {allowed}")]
    Character {
        /// The first wrong character.
        character: char,
        /// Its position, counted from 1.
        position: usize,
        /// The part that contains it.
        part: &'static str,
        /// Characters that are allowed there.
        allowed: &'static str,
    },
    /// The text before the first slash looks like a registry, but is not a valid host.
    #[error("{0:?} is not a registry host")]
    Host(String),
    /// The text after the `@` is not a digest.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
}

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Returns the registry's host, with its port if it has one: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the path in the registry: `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the tag; `latest` if there is neither a tag nor a digest.
    pub fn tag(&self) -> Option<&str> {
        let default = self.digest.is_none().then_some(DEFAULT_TAG);
        self.tag.as_deref().or(default)
    }

    /// Returns the digest of the manifest or index, if it is part of the name.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Returns the local name: the shortest form that keeps the tag.
    pub fn name(&self) -> ImageName {
        let mut text = self.short_repository();
        if let Some(tag) = self.tag() {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        ImageName(text)
    }

    /// Returns the local name of the image with this digest, which stays valid when the tag moves.
    pub fn name_of(&self, digest: Digest) -> ImageName {
        Self { tag: None, digest: Some(digest), ..self.clone() }.name()
    }

    fn short_repository(&self) -> String {
        // Without its registry, `docker.io/foo.io/bar` would be an image in the registry foo.io.
        let ambiguous = self.repository.split_once('/').is_some_and(|(first, _)| is_registry(first));
        if self.registry != DEFAULT_REGISTRY || ambiguous {
            return format!("{}/{}", self.registry, self.repository);
        }
        let official = self.repository.strip_prefix(OFFICIAL).filter(|name| !name.contains('/'));
        official.unwrap_or(&self.repository).to_owned()
    }
}

impl FromStr for Reference {
    type Err = InvalidImageName;

    fn from_str(text: &str) -> Result<Self, InvalidImageName> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let after_path = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (path, tag) = match rest[after_path..].split_once(':') {
            Some((name, tag)) => {
                let colon = after_path + name.len();
                (&rest[..colon], Some(checked_tag(tag, colon + 1)?))
            }
            None => (rest, None),
        };
        if path.is_empty() {
            return Err(InvalidImageName::Empty("name"));
        }
        let registry = path.split_once('/').map(|(first, _)| first).filter(|first| is_registry(first));
        let (registry, repository) = match registry {
            Some(registry) => {
                check_registry(registry)?;
                check_repository(&path[registry.len() + 1..], registry.len() + 1)?;
                (registry, path[registry.len() + 1..].to_owned())
            }
            None => {
                check_repository(path, 0)?;
                (DEFAULT_REGISTRY, path.to_owned())
            }
        };
        let official = registry == DEFAULT_REGISTRY && !repository.contains('/');
        let repository = if official { OFFICIAL.to_owned() + &repository } else { repository };
        let length = registry.len() + 1 + repository.len();
        if length > MAX_REPOSITORY {
            return Err(InvalidImageName::TooLong { part: "name", limit: MAX_REPOSITORY, length });
        }
        Ok(Self { registry: registry.to_owned(), repository, tag: tag.map(str::to_owned), digest })
    }
}

impl fmt::Display for Reference {
    /// Writes the whole reference, with all defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = self.tag() {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Returns whether the first part of a path is a host.
fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':', '[']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

/// Checks `HOST[:PORT]`; the host may be an IPv6 address in brackets.
fn check_registry(registry: &str) -> Result<(), InvalidImageName> {
    const PART: &str = "registry";
    let brackets = registry.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (host, port) = match brackets {
        Some((address, after)) => {
            allow(PART, address, 1, "0-9, a-f and : in brackets", |c| c.is_ascii_hexdigit() || c == ':')?;
            if !after.is_empty() && !after.starts_with(':') {
                return Err(InvalidImageName::Host(registry.to_owned()));
            }
            (address, after.strip_prefix(':'))
        }
        None => {
            let (host, port) = registry.split_once(':').map_or((registry, None), |(h, p)| (h, Some(p)));
            allow(PART, host, 0, "a-z, A-Z, 0-9, . and -", |c| {
                c.is_ascii_alphanumeric() || matches!(c, '.' | '-')
            })?;
            (host, port)
        }
    };
    if host.split('.').any(|label| label.is_empty() || label.starts_with('-') || label.ends_with('-')) {
        return Err(InvalidImageName::Host(host.to_owned()));
    }
    let Some(port) = port else { return Ok(()) };
    allow("registry's port", port, registry.len() - port.len(), "0-9", |c| c.is_ascii_digit())?;
    if port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Ok(());
    }
    Err(InvalidImageName::TooLong { part: "registry's port", limit: 5, length: port.len() })
}

/// Checks that components are letters and digits, separated by one `.`, one or two `_`, or any number of `-`.
fn check_repository(path: &str, offset: usize) -> Result<(), InvalidImageName> {
    const PART: &str = "name";
    const ALLOWED: &str = "a-z and 0-9, with one of . _ - between them";
    let mut at = offset;
    for component in path.split('/') {
        if component.is_empty() {
            return Err(InvalidImageName::Empty("name between slashes"));
        }
        allow(PART, component, at, ALLOWED, |c| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-')
        })?;
        if let Some(index) = misplaced_separator(component) {
            let character = component[index..].chars().next().unwrap_or_default();
            let position = at + index + 1;
            return Err(InvalidImageName::Character { character, position, part: PART, allowed: ALLOWED });
        }
        at += component.len() + 1;
    }
    Ok(())
}

/// Returns the index of a separator at an end, or of too many separators in a row.
fn misplaced_separator(component: &str) -> Option<usize> {
    let is_separator = |c: char| matches!(c, '.' | '_' | '-');
    let mut at = 0;
    while let Some(start) = component[at..].find(is_separator).map(|index| at + index) {
        let rest = &component[start..];
        let run = &rest[..rest.find(|c| !is_separator(c)).unwrap_or(rest.len())];
        let inside = start > 0 && run.len() < rest.len();
        if !inside || !(matches!(run, "." | "_" | "__") || run.chars().all(|c| c == '-')) {
            return Some(start);
        }
        at = start + run.len();
    }
    None
}

fn checked_tag(tag: &str, offset: usize) -> Result<&str, InvalidImageName> {
    const PART: &str = "tag";
    const ALLOWED: &str = "a-z, A-Z, 0-9 and _, then also . and -";
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    match tag.chars().next() {
        None => return Err(InvalidImageName::Empty(PART)),
        Some(character) if !word(character) => {
            return Err(InvalidImageName::Character {
                character,
                position: offset + 1,
                part: PART,
                allowed: ALLOWED,
            });
        }
        Some(_) => allow(PART, tag, offset, ALLOWED, |c| word(c) || matches!(c, '.' | '-'))?,
    }
    if tag.len() > MAX_TAG {
        return Err(InvalidImageName::TooLong { part: PART, limit: MAX_TAG, length: tag.len() });
    }
    Ok(tag)
}

/// Rejects the first character that is not allowed; `offset` characters precede `text`.
fn allow(
    part: &'static str,
    text: &str,
    offset: usize,
    allowed: &'static str,
    is_allowed: impl Fn(char) -> bool,
) -> Result<(), InvalidImageName> {
    match text.chars().enumerate().find(|(_, character)| !is_allowed(*character)) {
        Some((index, character)) => {
            Err(InvalidImageName::Character { character, position: offset + index + 1, part, allowed })
        }
        None => Ok(()),
    }
}

/// Local name of an image: any valid reference, as it was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

impl ImageName {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the image in a registry that this name refers to.
    ///
    /// # Errors
    /// Never returns an error: the name was parsed when it was created.
    pub fn reference(&self) -> Result<Reference, InvalidImageName> {
        self.0.parse()
    }
}

impl FromStr for ImageName {
    type Err = InvalidImageName;

    fn from_str(text: &str) -> Result<Self, InvalidImageName> {
        text.parse::<Reference>().map(|_| Self(text.to_owned()))
    }
}

impl TryFrom<String> for ImageName {
    type Error = InvalidImageName;
    fn try_from(text: String) -> Result<Self, InvalidImageName> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.0
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn references_are_expanded_and_shortened() {
        for (text, whole, name) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("docker.io/library/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("docker.io/alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
            ("org/thing", "docker.io/org/thing:latest", "org/thing:latest"),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("docker.io/foo.io/bar", "docker.io/foo.io/bar:latest", "docker.io/foo.io/bar:latest"),
            ("ghcr.io/org/thing:V1_2-x", "ghcr.io/org/thing:V1_2-x", "ghcr.io/org/thing:V1_2-x"),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            (
                "localhost:5000/a__b/c--d",
                "localhost:5000/a__b/c--d:latest",
                "localhost:5000/a__b/c--d:latest",
            ),
            ("[::1]:5000/x:1", "[::1]:5000/x:1", "[::1]:5000/x:1"),
            ("x:5000", "docker.io/library/x:5000", "x:5000"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!((&*reference.to_string(), reference.name().as_str()), (whole, name), "{text}");
        }
        let pinned: Reference = format!("alpine@{HASH}").parse().unwrap();
        assert_eq!((pinned.tag(), pinned.digest()), (None, Some(HASH.parse().unwrap())));
        let both: Reference = format!("alpine:3@{HASH}").parse().unwrap();
        assert_eq!(both.name_of(HASH.parse().unwrap()), pinned.name());
    }

    #[test]
    fn errors_for_invalid_names_give_the_character_and_position() {
        for (text, message) in [
            ("", "an image's name cannot be empty"),
            (":x", "an image's name cannot be empty"),
            ("a:", "an image's tag cannot be empty"),
            ("a//b", "an image's name between slashes cannot be empty"),
            (
                "org/Thing",
                "'T' at position 5 cannot be in an image's name: use a-z and 0-9, with one of . _ - between them",
            ),
            (
                "a-",
                "'-' at position 2 cannot be in an image's name: use a-z and 0-9, with one of . _ - between them",
            ),
            ("../x", "\"..\" is not a registry host"),
            ("a.b:x/c", "'x' at position 5 cannot be in an image's registry's port: use 0-9"),
            (
                "a:-1",
                "'-' at position 3 cannot be in an image's tag: use a-z, A-Z, 0-9 and _, then also . and -",
            ),
            ("a@sha256:12", "a digest is sha256: followed by 64 digits of 0-9 and a-f"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap_err().to_string(), message, "{text}");
        }
        for text in [
            "a___b",
            "a..b",
            "a.-b",
            "http://x/y",
            "a b",
            "x@y",
            "a:b:c",
            "[::1/x",
            "[::1]x/y",
            "[]/x",
            "h:0/x",
            "h:99999/x",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
        assert!("a".repeat(300).parse::<Reference>().is_err());
        assert!(format!("a:{}", "t".repeat(129)).parse::<Reference>().is_err());
    }

    proptest! {
        #[test]
        fn a_valid_reference_can_be_formatted_and_parsed_again(text in "[a-zA-Z0-9._:/@\\[\\]-]{0,40}|\\PC{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.name().reference().unwrap().to_string(), reference.to_string());
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap().name(), reference.name());
                prop_assert!(!reference.to_string().contains(char::is_whitespace));
            }
        }
    }
}
