//! User settings that a guest receives: SSH keys, a locale, proxies, and certificates.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Certificates, ProxyVariables};

/// Maximum number of keys: the user's own, and some of the people they work with.
const MAX_KEYS: usize = 16;

/// Maximum length of a key in bytes; the largest RSA keys have about 3000.
const MAX_KEY_LEN: usize = 4096;

/// Maximum length of a locale's name in bytes; the names of glibc have about 20.
const MAX_LOCALE_LEN: usize = 63;

/// Error for invalid user settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidGuestSettings {
    /// There are too many keys.
    #[error("{0} authorized keys; the limit is {MAX_KEYS}")]
    TooManyKeys(usize),
    /// A line that is not a public key; options are not allowed.
    #[error("{0:?} is not a public key: use a kind, base64 and a comment, in {MAX_KEY_LEN} bytes at most")]
    Key(String),
    /// A name that no locale can have.
    #[error("{0:?} is not a locale: use a name such as de_DE.UTF-8")]
    Locale(String),
}

/// User settings that a guest receives at each start. All are optional.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Unchecked")]
pub struct GuestSettings {
    authorized_keys: Vec<String>,
    locale: Option<String>,
    proxies: ProxyVariables,
    certificates: Certificates,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Unchecked {
    authorized_keys: Vec<String>,
    locale: Option<String>,
    proxies: ProxyVariables,
    certificates: Certificates,
}

impl GuestSettings {
    /// Creates settings from these keys and this locale.
    ///
    /// # Errors
    /// Returns an error if a key or the locale's name is invalid, or there are too many keys.
    pub fn new(authorized_keys: Vec<String>, locale: Option<String>) -> Result<Self, InvalidGuestSettings> {
        if authorized_keys.len() > MAX_KEYS {
            return Err(InvalidGuestSettings::TooManyKeys(authorized_keys.len()));
        }
        if let Some(line) = authorized_keys.iter().find(|line| !is_key(line)) {
            return Err(InvalidGuestSettings::Key(line.chars().take(80).collect()));
        }
        match locale {
            Some(name) if !Self::is_locale(&name) => {
                Err(InvalidGuestSettings::Locale(name.chars().take(80).collect()))
            }
            locale => Ok(Self { authorized_keys, locale, ..Self::default() }),
        }
    }

    /// Returns these settings with proxies.
    #[must_use]
    pub fn with_proxies(self, proxies: ProxyVariables) -> Self {
        Self { proxies, ..self }
    }

    /// Returns these settings with certificates.
    #[must_use]
    pub fn with_certificates(self, certificates: Certificates) -> Self {
        Self { certificates, ..self }
    }

    /// Returns whether `name` can be the name of a locale.
    pub fn is_locale(name: &str) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-@".contains(&byte);
        (1..=MAX_LOCALE_LEN).contains(&name.len()) && name.bytes().all(plain)
    }

    /// Returns the public keys that may log in as root if the image has an sshd, each a line of an `authorized_keys`
    /// file.
    pub fn authorized_keys(&self) -> &[String] {
        &self.authorized_keys
    }

    /// Returns the proxies of the guest's sessions.
    pub fn proxies(&self) -> &ProxyVariables {
        &self.proxies
    }

    /// Returns the certificates for the guest's system store.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Returns the locale to set if the image has it, in the syntax of `LANG`.
    pub fn locale(&self) -> Option<&str> {
        self.locale.as_deref()
    }
}

impl TryFrom<Unchecked> for GuestSettings {
    type Error = InvalidGuestSettings;
    fn try_from(unchecked: Unchecked) -> Result<Self, Self::Error> {
        Ok(Self::new(unchecked.authorized_keys, unchecked.locale)?
            .with_proxies(unchecked.proxies)
            .with_certificates(unchecked.certificates))
    }
}

/// Returns whether `line` is a key type, a key and an optional comment. In an `authorized_keys` file, options may
/// precede them; these are commands to sshd, so they are rejected.
fn is_key(line: &str) -> bool {
    let mut words = line.split(' ');
    let kind = words.next().unwrap_or_default();
    let key = words.next().unwrap_or_default();
    let in_kind = |byte: u8| byte.is_ascii_alphanumeric() || b"-@.".contains(&byte);
    let in_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    let known = ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| kind.starts_with(prefix));
    line.len() <= MAX_KEY_LEN
        && !line.chars().any(char::is_control)
        && known
        && kind.bytes().all(in_kind)
        && !key.is_empty()
        && key.bytes().all(in_base64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(lines: &[&str]) -> Result<GuestSettings, InvalidGuestSettings> {
        GuestSettings::new(lines.iter().map(|line| (*line).to_owned()).collect(), None)
    }

    #[test]
    fn keys_with_options_or_line_breaks_are_rejected() {
        let good = ["ssh-ed25519 AAAA", "ssh-rsa AA+/== me at home", "sk-ssh-ed25519@openssh.com AAAA me"];
        assert_eq!(keys(&good).unwrap().authorized_keys(), good);
        let long = format!("ssh-rsa {}", "A".repeat(MAX_KEY_LEN));
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
            assert!(matches!(keys(&[bad]), Err(InvalidGuestSettings::Key(_))), "{bad:?}");
        }
        assert_eq!(keys(&["ssh-rsa A"; 17]), Err(InvalidGuestSettings::TooManyKeys(17)));
    }

    #[test]
    fn settings_in_json_are_optional_and_validated() {
        let parse = |json: &str| serde_json::from_str::<GuestSettings>(json);
        assert_eq!(parse("{}").unwrap(), GuestSettings::default());
        assert_eq!(parse(r#"{"locale":"sr_RS.UTF-8@latin"}"#).unwrap().locale(), Some("sr_RS.UTF-8@latin"));
        for bad in
            [r#"{"locale":"../x"}"#, r#"{"locale":""}"#, r#"{"authorized_keys":["x"]}"#, r#"{"key":1}"#]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
