//! The key that identifies the server to ssh.

use base64::prelude::{BASE64_STANDARD, Engine};
use ring::{
    error::{KeyRejected, Unspecified},
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};

use crate::fields::Message;

/// Name of this kind of key.
pub(crate) const ALGORITHM: &str = "ssh-ed25519";

/// An Ed25519 host key.
#[derive(Debug)]
pub struct HostKey(Ed25519KeyPair);

impl HostKey {
    /// Returns the bytes of a new key (PKCS #8).
    ///
    /// # Errors
    /// Returns an error if the system provides no random numbers.
    pub fn generate() -> Result<Vec<u8>, Unspecified> {
        Ok(Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())?.as_ref().to_vec())
    }

    /// Reads a key from its bytes.
    ///
    /// # Errors
    /// Returns an error if they are no such key.
    pub fn read(bytes: &[u8]) -> Result<Self, KeyRejected> {
        Ed25519KeyPair::from_pkcs8(bytes).map(Self)
    }

    /// Returns the public part as in a line of a `known_hosts` file.
    pub fn public(&self) -> String {
        format!("{ALGORITHM} {}", BASE64_STANDARD.encode(self.blob()))
    }

    /// Returns the public part in wire format.
    pub(crate) fn blob(&self) -> Vec<u8> {
        let public = self.0.public_key().as_ref();
        Message::fields().bytes(ALGORITHM.as_bytes()).bytes(public).as_bytes().to_vec()
    }

    /// Returns the signature of `data` in wire format.
    pub(crate) fn sign(&self, data: &[u8]) -> Vec<u8> {
        let signature = self.0.sign(data);
        Message::fields().bytes(ALGORITHM.as_bytes()).bytes(signature.as_ref()).as_bytes().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_is_read_and_other_bytes_are_rejected() {
        let bytes = HostKey::generate().unwrap();
        let key = HostKey::read(&bytes).unwrap();
        assert_eq!(key.public(), HostKey::read(&bytes).unwrap().public());
        assert!(key.public().starts_with("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"));
        assert!(HostKey::read(b"nonsense").is_err());
    }
}
