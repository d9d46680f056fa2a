//! Packets: a length, a type, a request id, and fields. Their content is untrusted: every read is checked against the
//! length.

use std::io::{self, Read};

/// Maximum length of a packet, in bytes; OpenSSH's value.
pub(super) const MAX_PACKET: usize = 256 << 10;

/// Maximum file data in one packet, in bytes; OpenSSH's value, which leaves room for the other fields.
pub(super) const MAX_DATA: usize = MAX_PACKET - 1024;

/// A field is missing or truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reads the next packet, without its length; returns `None` at the end.
pub(super) fn read(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    let mut filled = 0;
    while filled < length.len() {
        match from.read(length.get_mut(filled..).unwrap_or_default()) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let length = u32::from_be_bytes(length) as usize;
    if length == 0 || length > MAX_PACKET {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("invalid packet length: {length} bytes"),
        ));
    }
    let mut packet = vec![0; length];
    from.read_exact(&mut packet)?;
    Ok(Some(packet))
}

/// The unread part of a packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn new(packet: &'a [u8]) -> Self {
        Self(packet)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*field)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// Reads a length and that many bytes.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()? as usize;
        let (field, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(field)
    }
}

/// A packet under construction.
#[derive(Debug)]
pub(super) struct Packet(Vec<u8>);

impl Packet {
    /// Creates a packet of this type, without an id.
    pub(super) fn new(kind: u8) -> Self {
        Self(vec![0, 0, 0, 0, kind])
    }

    /// Creates a packet of this type, in response to request `id`.
    pub(super) fn with_id(kind: u8, id: u32) -> Self {
        Self::new(kind).u32(id)
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        // Too long a field makes the packet too long, which `finish` rejects.
        self.0.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    /// Returns the encoded packet.
    pub(super) fn finish(mut self) -> io::Result<Vec<u8>> {
        let length = self.0.len().saturating_sub(4);
        let header = u32::try_from(length).ok().filter(|_| length <= MAX_PACKET);
        let header =
            header.ok_or_else(|| io::Error::other(format!("response of {length} bytes is too long")))?;
        if let Some(header_field) = self.0.first_chunk_mut() {
            *header_field = header.to_be_bytes();
        }
        Ok(self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fields_of_an_encoded_packet_are_read_back(a in any::<u32>(), b in any::<u64>(), text in prop::collection::vec(any::<u8>(), 0..200)) {
            let wire = Packet::with_id(7, a).u64(b).bytes(&text).finish().unwrap();
            let packet = read(&mut wire.as_slice()).unwrap().unwrap();
            let mut fields = Fields::new(&packet);
            prop_assert_eq!(fields.byte(), Ok(7));
            prop_assert_eq!((fields.u32(), fields.u64(), fields.bytes()), (Ok(a), Ok(b), Ok(text.as_slice())));
            prop_assert_eq!(fields.byte(), Err(Malformed));
        }

        #[test]
        fn reading_any_bytes_returns_packets_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut remaining = bytes.as_slice();
            while let Ok(Some(packet)) = read(&mut remaining) {
                let mut fields = Fields::new(&packet);
                while fields.bytes().is_ok() {}
            }
        }
    }

    #[test]
    fn packets_with_an_invalid_length_are_rejected() {
        assert!(read(&mut [0xff, 0xff, 0xff, 0xff, 1].as_slice()).is_err());
        assert!(read(&mut [0, 0, 0, 0].as_slice()).is_err());
        assert!(read(&mut [0, 0].as_slice()).is_err());
        assert!(read(&mut [].as_slice()).unwrap().is_none());
    }
}
