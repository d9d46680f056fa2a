//! Names and ids.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Maximum length of a name in characters: that of a DNS label, because a VM's name becomes one.
const MAX_LEN: usize = 63;

/// Error for a text that is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// The text is empty.
    #[error("a name cannot be empty")]
    Empty,
    /// The text is too long.
    #[error("a name has at most {MAX_LEN} characters, this one has {0}")]
    TooLong(usize),
    /// A character is not allowed in a name.
    #[error("{character:?} at position {position} cannot be in a name: use {allowed}")]
    Character {
        /// The first wrong character.
        character: char,
        /// Its position, counted from 1.
        position: usize,
        /// Characters that are allowed.
        allowed: &'static str,
    },
    /// The first or last character is allowed only inside a name.
    #[error("a name cannot {0} with {1:?}")]
    Edge(&'static str, char),
}

fn check(text: &str, inner: &[char], allowed: &'static str) -> Result<(), InvalidName> {
    let is_inner = |c: char| inner.contains(&c);
    for (index, character) in text.chars().enumerate() {
        if !(character.is_ascii_lowercase() || character.is_ascii_digit() || is_inner(character)) {
            return Err(InvalidName::Character { character, position: index + 1, allowed });
        }
    }
    if text.len() > MAX_LEN {
        return Err(InvalidName::TooLong(text.len()));
    }
    match (text.chars().next(), text.chars().next_back()) {
        (None, _) | (_, None) => Err(InvalidName::Empty),
        (Some(first), _) if is_inner(first) => Err(InvalidName::Edge("begin", first)),
        (_, Some(last)) if is_inner(last) => Err(InvalidName::Edge("end", last)),
        _ => Ok(()),
    }
}

macro_rules! checked_text {
    ($(#[$doc:meta])* $type:ident, $error:ty, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Returns the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $type {
            type Err = $error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $check(text)?;
                Ok(Self(text.to_owned()))
            }
        }
        impl TryFrom<String> for $type {
            type Error = $error;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                $check(&text)?;
                Ok(Self(text))
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.0
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
    /// A VM's name: 1 to 63 of `a-z 0-9 -`, with `-` at neither end.
    VmName, InvalidName, |text: &str| check(text, &['-'], "a-z, 0-9 and -")
}

checked_text! {
    /// An image's or kernel's name: 1 to 63 of `a-z 0-9 - . _`, with a letter or digit at both ends.
    Name, InvalidName, |text: &str| check(text, &['-', '.', '_'], "a-z, 0-9, -, . and _")
}

/// Error for a text that is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id is 16 hexadecimal digits")]
pub struct InvalidId;

checked_text! {
    /// An id: 8 random bytes as 16 hexadecimal digits.
    Id, InvalidId, |text: &str| {
        let hex = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hex { Ok(()) } else { Err(InvalidId) }
    }
}

impl Id {
    /// Creates an id from 8 random bytes.
    pub fn from_random(bytes: [u8; 8]) -> Self {
        Self(format!("{:016x}", u64::from_be_bytes(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn errors_for_invalid_names_give_the_character_and_position() {
        for (text, message) in [
            ("", "a name cannot be empty"),
            ("Box", "'B' at position 1 cannot be in a name: use a-z, 0-9 and -"),
            ("my box", "' ' at position 3 cannot be in a name: use a-z, 0-9 and -"),
            ("bøx", "'ø' at position 2 cannot be in a name: use a-z, 0-9 and -"),
            ("../x", "'.' at position 1 cannot be in a name: use a-z, 0-9 and -"),
            ("-box", "a name cannot begin with '-'"),
            ("box-", "a name cannot end with '-'"),
        ] {
            assert_eq!(text.parse::<VmName>().unwrap_err().to_string(), message, "{text}");
        }
        assert_eq!("a".repeat(64).parse::<VmName>(), Err(InvalidName::TooLong(64)));
        assert!("a".repeat(63).parse::<VmName>().is_ok());
        assert!("debian-12.1".parse::<Name>().is_ok());
    }

    proptest! {
        #[test]
        fn a_vm_name_is_a_valid_dns_label_and_file_name(text in "\\PC{0,70}") {
            if let Ok(name) = text.parse::<VmName>() {
                prop_assert!(!name.as_str().contains(['/', '.', '\0']));
                prop_assert!((1..=63).contains(&name.as_str().len()));
                prop_assert_eq!(name.as_str(), text);
            }
        }

        #[test]
        fn a_generated_id_can_be_parsed(bytes in any::<[u8; 8]>()) {
            let id = Id::from_random(bytes);
            prop_assert_eq!(id.as_str().parse::<Id>().unwrap(), id);
        }
    }
}
