//! What of its user's a guest gets.

use serde::{Deserialize, Serialize};

/// Most keys: a user's own, and some of those who work with them.
const KEYS: usize = 16;

/// Longest key in bytes: RSA's largest has some 3000.
const KEY: usize = 4096;

/// Longest name of a locale in bytes; those of glibc have some 20.
const LOCALE: usize = 63;

/// Why something cannot be given to a guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPersonal {
    /// There are too many keys.
    #[error("there can be {KEYS} authorized keys at most, not {0}")]
    TooManyKeys(usize),
    /// A line that is no public key; options have no place in it.
    #[error("{0:?} is not a public key: use a kind, base64 and a comment, in {KEY} bytes at most")]
    Key(String),
    /// A name that no locale has.
    #[error("{0:?} is not a locale: use a name such as de_DE.UTF-8")]
    Locale(String),
}

/// What of its user's a guest gets at a start. All of it can be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Personal {
    authorized_keys: Vec<String>,
    locale: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Unchecked {
    authorized_keys: Vec<String>,
    locale: Option<String>,
}

impl Personal {
    /// Those keys and that locale.
    ///
    /// # Errors
    /// When a key is none, there are too many, or no locale has that name.
    pub fn new(authorized_keys: Vec<String>, locale: Option<String>) -> Result<Self, InvalidPersonal> {
        if authorized_keys.len() > KEYS {
            return Err(InvalidPersonal::TooManyKeys(authorized_keys.len()));
        }
        if let Some(line) = authorized_keys.iter().find(|line| !is_key(line)) {
            return Err(InvalidPersonal::Key(line.chars().take(80).collect()));
        }
        match locale {
            Some(name) if !Self::is_locale(&name) => {
                Err(InvalidPersonal::Locale(name.chars().take(80).collect()))
            }
            locale => Ok(Self { authorized_keys, locale }),
        }
    }

    /// Whether a locale may be called `name`.
    pub fn is_locale(name: &str) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-@".contains(&byte);
        (1..=LOCALE).contains(&name.len()) && name.bytes().all(plain)
    }

    /// Public keys by which root may be logged in as, where the image has an sshd; each a line as in an
    /// `authorized_keys` file.
    pub fn authorized_keys(&self) -> &[String] {
        &self.authorized_keys
    }

    /// The locale to have where the image knows it, as `LANG` would name it.
    pub fn locale(&self) -> Option<&str> {
        self.locale.as_deref()
    }
}

impl TryFrom<Unchecked> for Personal {
    type Error = InvalidPersonal;
    fn try_from(unchecked: Unchecked) -> Result<Self, Self::Error> {
        Self::new(unchecked.authorized_keys, unchecked.locale)
    }
}

/// Whether `line` is a kind of key, a key and perhaps a comment. What may come before that in an `authorized_keys` file
/// are options, which are orders to sshd.
fn is_key(line: &str) -> bool {
    let mut words = line.split(' ');
    let kind = words.next().unwrap_or_default();
    let key = words.next().unwrap_or_default();
    let in_kind = |byte: u8| byte.is_ascii_alphanumeric() || b"-@.".contains(&byte);
    let in_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    let known = ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| kind.starts_with(prefix));
    line.len() <= KEY
        && !line.chars().any(char::is_control)
        && known
        && kind.bytes().all(in_kind)
        && !key.is_empty()
        && key.bytes().all(in_base64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(lines: &[&str]) -> Result<Personal, InvalidPersonal> {
        Personal::new(lines.iter().map(|line| (*line).to_owned()).collect(), None)
    }

    #[test]
    fn a_key_is_one_line_and_gives_no_orders() {
        let good = ["ssh-ed25519 AAAA", "ssh-rsa AA+/== me at home", "sk-ssh-ed25519@openssh.com AAAA me"];
        assert_eq!(keys(&good).unwrap().authorized_keys(), good);
        let long = format!("ssh-rsa {}", "A".repeat(KEY));
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 ",
            "ssh-ed25519 AA\nssh-ed25519 BB",
            "ssh-ed25519 AA\r",
            "ssh-ed25519  AA",
            "command=\"id\" ssh-ed25519 AA",
            "# ssh-ed25519 AA",
            &long,
        ] {
            assert!(matches!(keys(&[bad]), Err(InvalidPersonal::Key(_))), "{bad:?}");
        }
        assert_eq!(keys(&["ssh-rsa A"; 17]), Err(InvalidPersonal::TooManyKeys(17)));
    }

    #[test]
    fn what_comes_as_json_is_checked_and_may_be_left_out() {
        let of = |json: &str| serde_json::from_str::<Personal>(json);
        assert_eq!(of("{}").unwrap(), Personal::default());
        assert_eq!(of(r#"{"locale":"sr_RS.UTF-8@latin"}"#).unwrap().locale(), Some("sr_RS.UTF-8@latin"));
        for bad in
            [r#"{"locale":"../x"}"#, r#"{"locale":""}"#, r#"{"authorized_keys":["x"]}"#, r#"{"key":1}"#]
        {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
