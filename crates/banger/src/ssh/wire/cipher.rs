//! Packets: in clear until the key exchange (RFC 4253, 6), then AES-256-GCM (RFC 5647, as OpenSSH implements it).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::error::WireError;

/// Name of the cipher.
pub(super) const ALGORITHM: &str = "aes256-gcm@openssh.com";

/// Maximum length of a packet, as in OpenSSH.
const MAX_PACKET_LENGTH: usize = 256 << 10;

const LENGTH_SIZE: usize = 4;
const TAG_SIZE: usize = 16;
const BLOCK_SIZE: usize = 16;
const CLEAR_BLOCK_SIZE: usize = 8;
const MIN_PADDING: usize = 4;

/// Cipher for one direction of a connection.
#[derive(Debug)]
pub(super) enum Cipher {
    Clear,
    Gcm { key: Box<LessSafeKey>, nonce: [u8; NONCE_LEN] },
}

impl Cipher {
    pub(super) fn new(key: &[u8], nonce: [u8; NONCE_LEN]) -> Result<Self, WireError> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| WireError::Crypto)?;
        Ok(Self::Gcm { key: Box::new(LessSafeKey::new(key)), nonce })
    }

    /// Appends the packet with `payload` to `out`.
    pub(super) fn seal(&mut self, payload: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
        let (block, before) = match self {
            Self::Clear => (CLEAR_BLOCK_SIZE, LENGTH_SIZE + 1),
            Self::Gcm { .. } => (BLOCK_SIZE, 1),
        };
        let padding = block - (before + payload.len() + MIN_PADDING) % block + MIN_PADDING;
        let length = u32::try_from(1 + payload.len() + padding).map_err(|_| WireError::TooLong)?;
        out.put_u32(length);
        let mut packet = out.split_off(out.len());
        packet.put_u8(u8::try_from(padding).map_err(|_| WireError::TooLong)?);
        packet.put_slice(payload);
        packet.put_bytes(0, padding);
        if let Self::Gcm { key, nonce } = self {
            let tag = key.seal_in_place_separate_tag(
                next_nonce(nonce),
                Aad::from(length.to_be_bytes()),
                &mut packet,
            );
            packet.put_slice(tag.map_err(|_| WireError::Crypto)?.as_ref());
        }
        out.unsplit(packet);
        Ok(())
    }

    /// Returns the payload of the next packet; `None` if more bytes are needed.
    pub(super) fn open(&mut self, bytes: &mut BytesMut) -> Result<Option<Bytes>, WireError> {
        let Some(header) = bytes.first_chunk::<LENGTH_SIZE>().copied() else { return Ok(None) };
        let length = u32::from_be_bytes(header) as usize;
        if !(1 + MIN_PADDING..=MAX_PACKET_LENGTH).contains(&length) {
            return Err(WireError::TooLong);
        }
        let tag = if matches!(self, Self::Clear) { 0 } else { TAG_SIZE };
        if bytes.len() < LENGTH_SIZE + length + tag {
            bytes.reserve(LENGTH_SIZE + length + tag - bytes.len());
            return Ok(None);
        }
        bytes.advance(LENGTH_SIZE);
        let mut packet = bytes.split_to(length + tag);
        if let Self::Gcm { key, nonce } = self {
            key.open_in_place(next_nonce(nonce), Aad::from(header), &mut packet)
                .map_err(|_| WireError::Crypto)?;
        }
        packet.truncate(length);
        let padding = usize::from(packet.get_u8());
        let payload = packet.len().checked_sub(padding).filter(|_| padding >= MIN_PADDING);
        packet.truncate(payload.ok_or(WireError::Malformed)?);
        Ok(Some(packet.freeze()))
    }
}

/// Returns the nonce for a packet: four fixed bytes and an eight-byte counter.
fn next_nonce(nonce: &mut [u8; NONCE_LEN]) -> Nonce {
    let current = Nonce::assume_unique_for_key(*nonce);
    if let Some(counter) = nonce.last_chunk_mut::<8>() {
        *counter = u64::from_be_bytes(*counter).wrapping_add(1).to_be_bytes();
    }
    current
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: usize = 32;

    fn ciphers(clear: bool) -> [Cipher; 2] {
        [(); 2].map(|()| if clear { Cipher::Clear } else { Cipher::new(&[7; KEY], [9; NONCE_LEN]).unwrap() })
    }

    proptest! {
        #[test]
        fn sealed_packets_can_be_opened_from_chunks_of_any_size(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 1..6),
            clear in any::<bool>(),
            step in 1usize..50,
        ) {
            let [mut sealing, mut opening] = ciphers(clear);
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
            clear in any::<bool>(),
        ) {
            let mut buffer = BytesMut::from(bytes.as_slice());
            let [mut opening, _] = ciphers(clear);
            while let Ok(Some(_)) = opening.open(&mut buffer) {}
        }
    }

    #[test]
    fn a_modified_packet_is_rejected() {
        let [mut sealing, mut opening] = ciphers(false);
        let mut wire = BytesMut::new();
        sealing.seal(b"payload", &mut wire).unwrap();
        wire[6] ^= 1;
        assert!(opening.open(&mut wire).is_err());
    }

    #[test]
    fn a_packet_length_over_the_limit_is_rejected_before_its_data() {
        assert!(Cipher::Clear.open(&mut BytesMut::from(&[0xff; 4][..])).is_err());
    }
}
