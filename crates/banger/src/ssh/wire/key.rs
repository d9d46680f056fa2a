//! The key by which ssh knows the server.

use ring::{
    error::{KeyRejected, Unspecified},
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};

use super::Message;

/// What keys of this kind are called.
pub(super) const ALGORITHM: &str = "ssh-ed25519";

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

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
        format!("{ALGORITHM} {}", base64(&self.blob()))
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

pub(super) fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let bits =
            part.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - part.len()));
        for place in 0..4 {
            let digit = BASE64.get((bits >> (18 - 6 * place) & 63) as usize).copied().unwrap_or_default();
            text.push(if place > part.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

/// What `parts`, one after another, are the base64 of; `None` when they are none.
pub(super) fn unbase64<'a>(parts: impl Iterator<Item = &'a str>) -> Option<Vec<u8>> {
    let digits: Vec<u8> = parts.flat_map(str::bytes).collect();
    let mut bytes = Vec::new();
    for four in digits.chunks(4) {
        let [.., last] = *<&[u8; 4]>::try_from(four).ok()?;
        let filled = four.iter().position(|digit| *digit == b'=').unwrap_or(4);
        let mut bits = 0u32;
        for digit in four.get(..filled)? {
            let value = BASE64.iter().position(|known| known == digit)?;
            bits = bits << 6 | u32::try_from(value).ok()?;
        }
        // One digit is no byte yet, and after a filler come only fillers.
        if filled < 2 || (filled < 4 && last != b'=') {
            return None;
        }
        bits <<= 6 * (4 - filled);
        bytes.extend(bits.to_be_bytes().get(1..filled)?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_the_rfc_has_it() {
        // RFC 4648, 10.
        for (text, encoded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(text.as_bytes()), encoded);
            assert_eq!(unbase64([encoded].into_iter()).unwrap(), text.as_bytes());
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
        assert_eq!(unbase64(["+", "/8="].into_iter()).unwrap(), [0xfb, 0xff]);
        for none in ["Zg", "Z===", "Zg=a", "=Zg=", "Zm9*"] {
            assert_eq!(unbase64([none].into_iter()), None, "{none}");
        }
    }

    #[test]
    fn a_key_is_read_as_it_was_made() {
        let bytes = HostKey::generate().unwrap();
        let key = HostKey::read(&bytes).unwrap();
        assert_eq!(key.public(), HostKey::read(&bytes).unwrap().public());
        assert!(key.public().starts_with("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"));
        assert!(HostKey::read(b"nonsense").is_err());
    }
}
