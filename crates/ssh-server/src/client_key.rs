//! The user's key for a guest's sshd, in OpenSSH's format without a passphrase (its `PROTOCOL.key`).

use std::fmt;

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use ring::{
    error::Unspecified,
    rand::{SecureRandom, SystemRandom},
    signature::{Ed25519KeyPair, KeyPair},
};

use crate::{
    fields::{Fields, Malformed, Message},
    host_key::ALGORITHM,
};

const MAGIC: &[u8] = b"openssh-key-v1\0";
const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";

/// Characters of base64 in a line, as OpenSSH writes it.
const LINE_LENGTH: usize = 70;

/// Block size for padding the private part, which applies even without encryption.
const BLOCK_SIZE: usize = 8;

/// Comment of the key, in both files and in the guest.
const COMMENT: &str = "made-by-banger";

/// A user's Ed25519 key.
#[derive(Debug)]
pub struct ClientKey {
    /// The public part in wire format.
    blob: Bytes,
}

/// Error for a file without such a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidKey;

impl fmt::Display for InvalidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is not an OpenSSH Ed25519 key without a passphrase")
    }
}

impl From<Malformed> for InvalidKey {
    fn from(_: Malformed) -> Self {
        Self
    }
}

impl ClientKey {
    /// Returns the content of a file with a new key.
    ///
    /// # Errors
    /// Returns an error if the system provides no random numbers.
    pub fn generate() -> Result<Vec<u8>, Unspecified> {
        let (mut seed, mut check) = ([0; 32], [0; 4]);
        let random = SystemRandom::new();
        random.fill(&mut seed)?;
        random.fill(&mut check)?;
        encode_file(&seed, u32::from_be_bytes(check))
    }

    /// Reads the key from a file's content.
    ///
    /// # Errors
    /// Returns an error if the file has no such key.
    pub fn read(bytes: &[u8]) -> Result<Self, InvalidKey> {
        let text = std::str::from_utf8(bytes).map_err(|_| InvalidKey)?;
        let inner =
            text.trim().strip_prefix(BEGIN).and_then(|text| text.strip_suffix(END)).ok_or(InvalidKey)?;
        let bytes =
            BASE64_STANDARD.decode(inner.split_whitespace().collect::<String>()).map_err(|_| InvalidKey)?;
        let mut fields = Fields::new(Bytes::from(bytes));
        if fields.take(MAGIC.len())? != MAGIC {
            return Err(InvalidKey);
        }
        let unprotected = [fields.bytes()?, fields.bytes()?, fields.bytes()?] == ["none", "none", ""];
        if !unprotected || fields.u32()? != 1 {
            return Err(InvalidKey);
        }
        let blob = fields.bytes()?;
        let mut private = Fields::new(fields.bytes()?);
        let checks_match = private.u32()? == private.u32()?;
        let (algorithm, public, pair) = (private.bytes()?, private.bytes()?, private.bytes()?);
        let seed = pair.get(..32).ok_or(InvalidKey)?;
        let is_pair = Ed25519KeyPair::from_seed_and_public_key(seed, &public).is_ok();
        if checks_match && is_pair && algorithm == ALGORITHM && blob == public_blob(&public) {
            return Ok(Self { blob });
        }
        Err(InvalidKey)
    }

    /// Returns the public part as a line of an `authorized_keys` file.
    pub fn public(&self) -> String {
        format!("{ALGORITHM} {} {COMMENT}", BASE64_STANDARD.encode(&self.blob))
    }
}

fn public_blob(public: &[u8]) -> Bytes {
    Bytes::copy_from_slice(Message::fields().bytes(ALGORITHM.as_bytes()).bytes(public).as_bytes())
}

/// Returns the file of the key with this `seed`. It has `check` twice, by which OpenSSH detects a wrong passphrase.
fn encode_file(seed: &[u8; 32], check: u32) -> Result<Vec<u8>, Unspecified> {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| Unspecified)?;
    let public = pair.public_key().as_ref();
    let private = Message::fields()
        .u32(check)
        .u32(check)
        .bytes(ALGORITHM.as_bytes())
        .bytes(public)
        .bytes(&[seed, public].concat())
        .bytes(COMMENT.as_bytes());
    let mut private = private.as_bytes().to_vec();
    let padding = private.len().next_multiple_of(BLOCK_SIZE) - private.len();
    private.extend((1..).take(padding));
    let all = Message::fields()
        .raw(MAGIC)
        .bytes(b"none")
        .bytes(b"none")
        .bytes(b"")
        .u32(1)
        .bytes(&public_blob(public))
        .bytes(&private);
    let mut text = format!("{BEGIN}\n");
    for (number, digit) in BASE64_STANDARD.encode(all.as_bytes()).chars().enumerate() {
        if number > 0 && number % LINE_LENGTH == 0 {
            text.push('\n');
        }
        text.push(digit);
    }
    text.push_str(&format!("\n{END}\n"));
    Ok(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, process::Command};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn client_keys_are_compatible_with_openssh() {
        let dir = tempfile::tempdir().unwrap();
        let keygen = |args: &[&str]| {
            let out = Command::new("ssh-keygen").args(args).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap()
        };
        let path = dir.path().join("ours");
        let bytes = ClientKey::generate().unwrap();
        fs::write(&path, &bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let ours = ClientKey::read(&bytes).unwrap().public();
        assert_eq!(keygen(&["-y", "-f", path.to_str().unwrap()]), format!("{ours}\n"));

        let path = dir.path().join("theirs");
        let read_generated = |passphrase: &str, kind: &str| {
            let _ = fs::remove_file(&path);
            keygen(&["-q", "-t", kind, "-N", passphrase, "-C", COMMENT, "-f", path.to_str().unwrap()]);
            ClientKey::read(&fs::read(&path).unwrap())
        };
        let theirs = read_generated("", "ed25519").unwrap().public();
        assert_eq!(fs::read_to_string(dir.path().join("theirs.pub")).unwrap(), format!("{theirs}\n"));
        assert_eq!(read_generated("secret", "ed25519").unwrap_err(), InvalidKey);
        assert_eq!(read_generated("", "ecdsa").unwrap_err(), InvalidKey);
    }

    proptest! {
        #[test]
        fn reading_a_damaged_key_never_returns_another_key(at in 0usize..400, with in any::<u8>()) {
            let mut bytes = encode_file(&[7; 32], 9).unwrap();
            let good = ClientKey::read(&bytes).unwrap().public();
            let at = at % bytes.len();
            bytes[at] = with;
            if let Ok(key) = ClientKey::read(&bytes) {
                prop_assert_eq!(key.public(), good);
            }
            bytes.truncate(at);
            let _ = ClientKey::read(&bytes);
        }
    }
}
