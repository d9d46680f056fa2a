//! Packets: in clear until the key exchange (RFC 4253, 6), then AES-256-GCM (RFC 5647, as OpenSSH implements it) or
//! ChaCha20-Poly1305 (OpenSSH's `PROTOCOL.chacha20poly1305`).

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ring::aead::{
    AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
    chacha20_poly1305_openssh::{OpeningKey, SealingKey},
};

use crate::error::Error;

/// Maximum length of a packet, as in OpenSSH.
const MAX_PACKET_LENGTH: usize = 256 << 10;

const LENGTH_SIZE: usize = 4;
const TAG_SIZE: usize = 16;
const MIN_PADDING: usize = 4;

/// A cipher algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// Preferred by banger's ssh configuration: most processors have instructions for it.
    Aes256Gcm,
    /// For clients without AES-GCM, such as dropbear's.
    ChaCha20Poly1305,
}

impl Algorithm {
    pub(crate) const ALL: [Self; 2] = [Self::Aes256Gcm, Self::ChaCha20Poly1305];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes256-gcm@openssh.com",
            Self::ChaCha20Poly1305 => "chacha20-poly1305@openssh.com",
        }
    }

    /// Returns the length of its key, in bytes.
    pub(crate) fn key_length(self) -> usize {
        match self {
            Self::Aes256Gcm => 32,
            Self::ChaCha20Poly1305 => 64,
        }
    }
}

/// Encrypts the packets of one direction.
pub(crate) struct Sealing {
    key: SealingKind,
    sequence: u32,
}

enum SealingKind {
    Clear,
    Gcm(Box<Gcm>),
    ChaCha(Box<SealingKey>),
}

/// Decrypts the packets of one direction.
pub(crate) struct Opening {
    key: OpeningKind,
    sequence: u32,
}

enum OpeningKind {
    Clear,
    Gcm(Box<Gcm>),
    ChaCha(Box<OpeningKey>),
}

struct Gcm {
    key: LessSafeKey,
    nonce: [u8; NONCE_LEN],
}

impl Gcm {
    fn new(key: &[u8], iv: &[u8]) -> Result<Box<Self>, Error> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| Error::Crypto)?;
        let nonce = *iv.first_chunk().ok_or(Error::Crypto)?;
        Ok(Box::new(Self { key: LessSafeKey::new(key), nonce }))
    }

    /// Returns the nonce for the next packet: four fixed bytes and an eight-byte counter.
    fn next_nonce(&mut self) -> Nonce {
        let current = Nonce::assume_unique_for_key(self.nonce);
        if let Some(counter) = self.nonce.last_chunk_mut::<8>() {
            *counter = u64::from_be_bytes(*counter).wrapping_add(1).to_be_bytes();
        }
        current
    }
}

impl Sealing {
    pub(crate) fn clear() -> Self {
        Self { key: SealingKind::Clear, sequence: 0 }
    }

    /// Uses another key from the next packet on; `restart` sets the packet's number to 0.
    pub(crate) fn change(
        &mut self,
        algorithm: Algorithm,
        key: &[u8],
        iv: &[u8],
        restart: bool,
    ) -> Result<(), Error> {
        self.key = match algorithm {
            Algorithm::Aes256Gcm => SealingKind::Gcm(Gcm::new(key, iv)?),
            Algorithm::ChaCha20Poly1305 => {
                SealingKind::ChaCha(Box::new(SealingKey::new(key.first_chunk().ok_or(Error::Crypto)?)))
            }
        };
        if restart {
            self.sequence = 0;
        }
        Ok(())
    }

    /// Appends the packet with `payload` to `out`.
    pub(crate) fn seal(&mut self, payload: &[u8], out: &mut BytesMut) -> Result<(), Error> {
        let (block, before) = match self.key {
            SealingKind::Clear => (8, LENGTH_SIZE + 1),
            SealingKind::Gcm(_) => (16, 1),
            SealingKind::ChaCha(_) => (8, 1),
        };
        let padding = block - (before + payload.len() + MIN_PADDING) % block + MIN_PADDING;
        let length = u32::try_from(1 + payload.len() + padding).map_err(|_| Error::TooLong)?;
        let mut packet = out.split_off(out.len());
        packet.put_u32(length);
        packet.put_u8(u8::try_from(padding).map_err(|_| Error::TooLong)?);
        packet.put_slice(payload);
        packet.put_bytes(0, padding);
        match &mut self.key {
            SealingKind::Clear => {}
            SealingKind::Gcm(gcm) => {
                let (nonce, aad) = (gcm.next_nonce(), Aad::from(length.to_be_bytes()));
                let sealed = packet.get_mut(LENGTH_SIZE..).unwrap_or_default();
                let tag = gcm.key.seal_in_place_separate_tag(nonce, aad, sealed);
                packet.put_slice(tag.map_err(|_| Error::Crypto)?.as_ref());
            }
            SealingKind::ChaCha(key) => {
                let mut tag = [0; TAG_SIZE];
                key.seal_in_place(self.sequence, &mut packet, &mut tag);
                packet.put_slice(&tag);
            }
        }
        self.sequence = self.sequence.wrapping_add(1);
        out.unsplit(packet);
        Ok(())
    }
}

impl Opening {
    pub(crate) fn clear() -> Self {
        Self { key: OpeningKind::Clear, sequence: 0 }
    }

    /// Uses another key from the next packet on; `restart` sets the packet's number to 0.
    pub(crate) fn change(
        &mut self,
        algorithm: Algorithm,
        key: &[u8],
        iv: &[u8],
        restart: bool,
    ) -> Result<(), Error> {
        self.key = match algorithm {
            Algorithm::Aes256Gcm => OpeningKind::Gcm(Gcm::new(key, iv)?),
            Algorithm::ChaCha20Poly1305 => {
                OpeningKind::ChaCha(Box::new(OpeningKey::new(key.first_chunk().ok_or(Error::Crypto)?)))
            }
        };
        if restart {
            self.sequence = 0;
        }
        Ok(())
    }

    /// Returns whether packets are not encrypted yet.
    pub(crate) fn is_clear(&self) -> bool {
        matches!(self.key, OpeningKind::Clear)
    }

    /// Returns the number of packets opened since the start, or since the restart.
    pub(crate) fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Returns the payload of the next packet; `None` if more bytes are needed.
    pub(crate) fn open(&mut self, bytes: &mut BytesMut) -> Result<Option<Bytes>, Error> {
        let Some(header) = bytes.first_chunk::<LENGTH_SIZE>().copied() else { return Ok(None) };
        let (length, tag_size) = match &self.key {
            OpeningKind::Clear => (header, 0),
            OpeningKind::Gcm(_) => (header, TAG_SIZE),
            OpeningKind::ChaCha(key) => (key.decrypt_packet_length(self.sequence, header), TAG_SIZE),
        };
        let length = u32::from_be_bytes(length) as usize;
        if !(1 + MIN_PADDING..=MAX_PACKET_LENGTH).contains(&length) {
            return Err(Error::TooLong);
        }
        let total = LENGTH_SIZE + length + tag_size;
        if bytes.len() < total {
            bytes.reserve(total - bytes.len());
            return Ok(None);
        }
        let mut packet = bytes.split_to(total);
        match &mut self.key {
            OpeningKind::Clear => packet.advance(LENGTH_SIZE),
            OpeningKind::Gcm(gcm) => {
                packet.advance(LENGTH_SIZE);
                let nonce = gcm.next_nonce();
                gcm.key.open_in_place(nonce, Aad::from(header), &mut packet).map_err(|_| Error::Crypto)?;
            }
            OpeningKind::ChaCha(key) => {
                let tag = packet.split_off(LENGTH_SIZE + length);
                let tag = tag.first_chunk().ok_or(Error::Crypto)?;
                key.open_in_place(self.sequence, &mut packet, tag).map_err(|_| Error::Crypto)?;
                packet.advance(LENGTH_SIZE);
            }
        }
        self.sequence = self.sequence.wrapping_add(1);
        packet.truncate(length);
        let padding = usize::from(packet.get_u8());
        let payload = packet.len().checked_sub(padding).filter(|_| padding >= MIN_PADDING);
        packet.truncate(payload.ok_or(Error::Malformed)?);
        Ok(Some(packet.freeze()))
    }
}

impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealing").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair(algorithm: Option<Algorithm>) -> (Sealing, Opening) {
        let (mut sealing, mut opening) = (Sealing::clear(), Opening::clear());
        if let Some(algorithm) = algorithm {
            let key = vec![7; algorithm.key_length()];
            sealing.change(algorithm, &key, &[9; 12], false).unwrap();
            opening.change(algorithm, &key, &[9; 12], false).unwrap();
        }
        (sealing, opening)
    }

    fn any_algorithm() -> impl Strategy<Value = Option<Algorithm>> {
        prop::option::of(prop::sample::select(Algorithm::ALL.as_slice()))
    }

    proptest! {
        #[test]
        fn sealed_packets_can_be_opened_from_chunks_of_any_size(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 1..6),
            algorithm in any_algorithm(),
            step in 1usize..50,
        ) {
            let (mut sealing, mut opening) = pair(algorithm);
            let mut wire = BytesMut::new();
            for payload in &payloads {
                sealing.seal(payload, &mut wire).unwrap();
            }
            let (mut buffer, mut opened) = (BytesMut::new(), Vec::new());
            for part in wire.chunks(step) {
                buffer.extend_from_slice(part);
                while let Some(payload) = opening.open(&mut buffer).unwrap() {
                    opened.push(payload.to_vec());
                }
            }
            prop_assert_eq!(opened, payloads);
        }

        #[test]
        fn opening_any_bytes_returns_packets_or_an_error(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            algorithm in any_algorithm(),
        ) {
            let mut buffer = BytesMut::from(bytes.as_slice());
            let (_, mut opening) = pair(algorithm);
            while let Ok(Some(_)) = opening.open(&mut buffer) {}
        }

        #[test]
        fn a_modified_packet_is_rejected(at in 0usize..40, algorithm in prop::sample::select(Algorithm::ALL.as_slice())) {
            let (mut sealing, mut opening) = pair(Some(algorithm));
            let mut wire = BytesMut::new();
            sealing.seal(b"payload", &mut wire).unwrap();
            let at = at % wire.len();
            wire[at] ^= 1;
            // A modified length may ask for more bytes.
            prop_assert!(!matches!(opening.open(&mut wire), Ok(Some(_))));
        }
    }

    #[test]
    fn a_packet_length_over_the_limit_is_rejected_before_its_data() {
        assert!(Opening::clear().open(&mut BytesMut::from(&[0xff; 4][..])).is_err());
    }
}
