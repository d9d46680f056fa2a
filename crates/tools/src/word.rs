//! Validated words: the only form in which a repository's names reach anything that is executed.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::Serialize;

/// Maximum length of a word, in bytes. The longest version of a released tool has about 40.
const MAX_WORD: usize = 64;

/// Errors of an invalid word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidWord {
    /// The text is empty.
    #[error("it is empty")]
    Empty,
    /// The text is too long.
    #[error("it has {0} bytes, more than {MAX_WORD}")]
    TooLong(usize),
    /// The text contains a character that is not allowed.
    #[error("{character:?} at position {position} is not allowed: use {allowed}")]
    Character {
        /// The first such character.
        character: char,
        /// Its position, counted from 1.
        position: usize,
        /// The characters that are allowed.
        allowed: &'static str,
    },
    /// The first character is not allowed in this position.
    #[error("it cannot begin with {0:?}")]
    Start(char),
}

/// The characters that one kind of word allows.
struct Alphabet {
    allowed_first: fn(char) -> bool,
    allowed_rest: fn(char) -> bool,
    allowed: &'static str,
}

const NAME: Alphabet = Alphabet {
    allowed_first: |c| c.is_ascii_lowercase() || c.is_ascii_digit(),
    allowed_rest: |c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_'),
    allowed: "a-z, 0-9, - and _",
};

const WORD: Alphabet = Alphabet {
    allowed_first: |c| c.is_ascii_alphanumeric(),
    allowed_rest: |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-'),
    allowed: "letters, digits, ., _, + and -",
};

const VARIABLE: Alphabet = Alphabet {
    allowed_first: |c| c.is_ascii_alphabetic() || c == '_',
    allowed_rest: |c| c.is_ascii_alphanumeric() || c == '_',
    allowed: "letters, digits and _",
};

fn check(text: &str, alphabet: &Alphabet) -> Result<(), InvalidWord> {
    if text.len() > MAX_WORD {
        return Err(InvalidWord::TooLong(text.len()));
    }
    let first = text.chars().next().ok_or(InvalidWord::Empty)?;
    if let Some((index, character)) = text.chars().enumerate().find(|(_, c)| !(alphabet.allowed_rest)(*c)) {
        return Err(InvalidWord::Character { character, position: index + 1, allowed: alphabet.allowed });
    }
    if (alphabet.allowed_first)(first) { Ok(()) } else { Err(InvalidWord::Start(first)) }
}

macro_rules! checked_text {
    ($(#[$doc:meta])* $type:ident, $alphabet:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $type(String);

        impl $type {
            /// Returns the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $type {
            type Err = InvalidWord;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                check(text, &$alphabet)?;
                Ok(Self(text.to_owned()))
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

checked_text! {
    /// A tool's name in mise: 1 to 64 of `a-z 0-9 - _`, beginning with a letter or digit.
    ToolName, NAME
}

checked_text! {
    /// A version to request: a version, the beginning of one, a channel, or `latest`. 1 to 64 letters, digits and
    /// `. _ + -`, beginning with a letter or digit.
    Version, WORD
}

checked_text! {
    /// A component or target of a toolchain. 1 to 64 letters, digits and `. _ + -`, beginning with a letter or digit.
    Word, WORD
}

checked_text! {
    /// The name of an environment variable: 1 to 64 letters, digits and `_`, not beginning with a digit.
    VariableName, VARIABLE
}

impl Version {
    /// Returns `latest`, the newest version.
    pub fn latest() -> Self {
        Self("latest".to_owned())
    }

    /// Returns whether this is `latest`.
    pub fn is_latest(&self) -> bool {
        self.0 == "latest"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn invalid_words_produce_specific_errors() {
        let long = "a".repeat(65);
        for (text, message) in [
            ("", "it is empty"),
            ("-rf", "it cannot begin with '-'"),
            ("a b", "' ' at position 2 is not allowed: use a-z, 0-9, - and _"),
            ("Node", "'N' at position 1 is not allowed: use a-z, 0-9, - and _"),
            ("npm:x", "':' at position 4 is not allowed: use a-z, 0-9, - and _"),
            (&long, "it has 65 bytes, more than 64"),
        ] {
            assert_eq!(text.parse::<ToolName>().unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn names_and_versions_of_real_tools_are_accepted() {
        for text in ["20", "1.80.1", "3.13t", "temurin-21.0.1+12", "nightly-2024-01-31", "lts-iron", "latest"]
        {
            assert_eq!(text.parse::<Version>().unwrap().as_str(), text);
        }
        for text in ["node", "dotnet-core", "1password-cli", "a_b"] {
            assert_eq!(text.parse::<ToolName>().unwrap().as_str(), text);
        }
        for (text, valid) in [("_A1", true), ("a", true), ("1A", false), ("A-B", false), ("A=", false)] {
            assert_eq!(text.parse::<VariableName>().is_ok(), valid, "{text}");
        }
    }

    proptest! {
        #[test]
        fn words_with_shell_metacharacters_are_rejected(text in "[-a-zA-Z0-9.+_ $`;&|<>*?\\[\\]{}()'\"\\\\~!#%,:@=/\n\t]{0,8}|\\PC{0,8}") {
            let harmless = text.chars().all(|c| c.is_ascii_alphanumeric() || ".+_-".contains(c))
                && text.starts_with(|c: char| c.is_ascii_alphanumeric());
            prop_assert_eq!(text.parse::<Version>().is_ok(), harmless);
            if text.parse::<ToolName>().is_ok() {
                prop_assert!(harmless);
            }
        }
    }
}
