//! The header of vsock packets (virtio 1.2, 5.10.6).

/// The context id of the host.
pub(crate) const HOST_CID: u64 = 2;

/// Size of a header, in bytes.
pub(crate) const HEADER_SIZE: usize = 44;

/// Maximum payload of a packet from the guest, in bytes; Linux sends no larger ones.
pub(crate) const MAX_PAYLOAD: usize = 64 << 10;

/// The type of stream packets.
pub(crate) const STREAM: u16 = 1;

/// Flag of SHUTDOWN: its sender stops receiving.
pub(crate) const SHUTDOWN_RECEIVE: u32 = 1;
/// Flag of SHUTDOWN: its sender stops sending.
pub(crate) const SHUTDOWN_SEND: u32 = 2;
/// Both directions are closed.
pub(crate) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// Operations.
pub(crate) mod op {
    pub(crate) const REQUEST: u16 = 1;
    pub(crate) const RESPONSE: u16 = 2;
    pub(crate) const RST: u16 = 3;
    pub(crate) const SHUTDOWN: u16 = 4;
    pub(crate) const RW: u16 = 5;
    pub(crate) const CREDIT_UPDATE: u16 = 6;
    pub(crate) const CREDIT_REQUEST: u16 = 7;
}

/// The header of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) src_cid: u64,
    pub(crate) dst_cid: u64,
    pub(crate) src_port: u32,
    pub(crate) dst_port: u32,
    /// Bytes of payload after the header.
    pub(crate) len: u32,
    pub(crate) kind: u16,
    pub(crate) op: u16,
    pub(crate) flags: u32,
    /// Bytes that the sender buffers for this connection.
    pub(crate) buf_alloc: u32,
    /// Bytes of this connection that the sender has consumed so far, modulo 2^32.
    pub(crate) fwd_cnt: u32,
}

impl Header {
    pub(crate) fn from_bytes(bytes: &[u8; HEADER_SIZE]) -> Self {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
        let double = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Self {
            src_cid: double(0),
            dst_cid: double(8),
            src_port: word(16),
            dst_port: word(20),
            len: word(24),
            kind: half(28),
            op: half(30),
            flags: word(32),
            buf_alloc: word(36),
            fwd_cnt: word(40),
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&self.src_cid.to_le_bytes());
        put(&self.dst_cid.to_le_bytes());
        for word in [self.src_port, self.dst_port, self.len] {
            put(&word.to_le_bytes());
        }
        put(&self.kind.to_le_bytes());
        put(&self.op.to_le_bytes());
        for word in [self.flags, self.buf_alloc, self.fwd_cnt] {
            put(&word.to_le_bytes());
        }
        bytes
    }

    /// Returns the packet that resets the connection of this packet.
    pub(crate) fn reset(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            len: 0,
            kind: self.kind,
            op: op::RST,
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_the_layout_of_the_specification() {
        let bytes: [u8; HEADER_SIZE] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let header = Header::from_bytes(&bytes);
        assert_eq!(header.src_cid, 0x0706_0504_0302_0100);
        assert_eq!(header.dst_cid, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!(header.src_port, 0x1312_1110);
        assert_eq!((header.kind, header.op), (0x1d1c, 0x1f1e));
        assert_eq!(header.fwd_cnt, 0x2b2a_2928);
        assert_eq!(header.to_bytes(), bytes);
    }
}
