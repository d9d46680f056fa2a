//! The key by which ssh knows the server.

use base64::prelude::{BASE64_STANDARD, Engine};
use ring::{
    error::{KeyRejected, Unspecified},
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};

use super::Message;

/// What keys of this kind are called.
pub(super) const ALGORITHM: &str = "ssh-ed25519";

/// An Ed25519 key.
#[derive(Debug)]
pub(in crate::ssh) struct HostKey(Ed25519KeyPair);

impl HostKey {
    /// The bytes of a new one (PKCS #8).
    pub(in crate::ssh) fn generate() -> Result<Vec<u8>, Unspecified> {
        Ok(Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())?.as_ref().to_vec())
    }

    /// The one that has these bytes.
    pub(in crate::ssh) fn read(bytes: &[u8]) -> Result<Self, KeyRejected> {
        Ed25519KeyPair::from_pkcs8(bytes).map(Self)
    }

    /// Its public part, as a line of a known_hosts file has it.
    pub(in crate::ssh) fn public(&self) -> String {
        format!("{ALGORITHM} {}", BASE64_STANDARD.encode(self.blob()))
    }

    /// Its public part, as messages have it.
    pub(super) fn blob(&self) -> Vec<u8> {
        let public = self.0.public_key().as_ref();
        Message::fields().bytes(ALGORITHM.as_bytes()).bytes(public).as_bytes().to_vec()
    }

    /// Its signature of `what`, as messages have it.
    pub(super) fn sign(&self, what: &[u8]) -> Vec<u8> {
        let signature = self.0.sign(what);
        Message::fields().bytes(ALGORITHM.as_bytes()).bytes(signature.as_ref()).as_bytes().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_made() {
        let bytes = HostKey::generate().unwrap();
        let key = HostKey::read(&bytes).unwrap();
        assert_eq!(key.public(), HostKey::read(&bytes).unwrap().public());
        assert!(key.public().starts_with("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"));
        assert!(HostKey::read(b"nonsense").is_err());
    }
}
