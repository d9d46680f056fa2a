//! Extracts the ELF `vmlinux` from a `bzImage`: finds the payload by the setup header and decompresses it.
//!
//! Layout and fields: Documentation/arch/x86/boot.rst of Linux, "The Real-Mode Kernel Header". Payloads:
//! arch/x86/boot/compressed/Makefile. For every compressor except gzip, the build appends the uncompressed size as 4
//! bytes, little endian (scripts/Makefile.lib, "size_append").

use std::borrow::Cow;
use std::io::{self, Read};

use super::KernelError;
use super::elf;
use crate::codec::{self, Compression, ReadError};

/// Maximum size of an uncompressed kernel, in bytes. Distributions' are 50 to 100 MB.
pub(crate) const MAX_VMLINUX: u64 = 512 << 20;

/// Size of a decompressed block of a legacy LZ4 frame, in bytes (LZ4 frame format, "Legacy frame").
const LZ4_BLOCK: usize = 8 << 20;

const BOOT_FLAG: usize = 0x1fe;
const HEADER_MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const SETUP_SECTS: usize = 0x1f1;
const LOAD_FLAGS: usize = 0x211;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// Extracts the ELF `vmlinux` from a `vmlinux` (may be compressed) or a `vmlinuz`.
///
/// # Errors
/// Returns an error if the bytes are not an x86-64 kernel, are damaged, or have an unsupported compression.
pub fn extract_vmlinux(bytes: &[u8]) -> Result<Cow<'_, [u8]>, KernelError> {
    let vmlinux = if bytes.is_empty() {
        return Err(KernelError::Empty);
    } else if bytes.starts_with(elf::MAGIC) {
        Cow::Borrowed(bytes)
    } else if is_bzimage(bytes) {
        Cow::Owned(decompress(payload(bytes)?)?)
    } else if Compression::of(bytes) != Compression::Uncompressed {
        Cow::Owned(decompress(bytes)?)
    } else {
        return Err(KernelError::NotKernel);
    };
    elf::check_kernel(&vmlinux)?;
    Ok(vmlinux)
}

/// Returns whether a file may be a kernel. `start` is its first 1 KiB, or all of it if shorter.
pub(super) fn may_be_kernel(start: &[u8]) -> bool {
    start.starts_with(elf::MAGIC) || is_bzimage(start) || Compression::of(start) != Compression::Uncompressed
}

fn is_bzimage(bytes: &[u8]) -> bool {
    field(bytes, BOOT_FLAG) == Some([0x55, 0xaa]) && field(bytes, HEADER_MAGIC) == Some(*b"HdrS")
}

fn field<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

/// Returns the compressed kernel in a bzImage.
fn payload(bytes: &[u8]) -> Result<&[u8], KernelError> {
    const HEADER: KernelError = KernelError::OutOfBounds("setup header");
    const PAYLOAD: KernelError = KernelError::OutOfBounds("payload");
    let version = u16::from_le_bytes(field(bytes, VERSION).ok_or(HEADER)?);
    // Before 2.08 there was no payload_offset; bit 0 of loadflags distinguishes a bzImage from a zImage.
    let [flags] = field(bytes, LOAD_FLAGS).ok_or(HEADER)?;
    if version < 0x208 || flags & 1 == 0 {
        return Err(KernelError::OldProtocol { version });
    }
    let [sectors] = field(bytes, SETUP_SECTS).ok_or(HEADER)?;
    // "If this field contains 0, the real value is 4"; the boot sector is not included in it.
    let setup = (usize::from(if sectors == 0 { 4 } else { sectors }) + 1) * 512;
    let position = |offset| {
        field(bytes, offset).and_then(|field| usize::try_from(u32::from_le_bytes(field)).ok()).ok_or(HEADER)
    };
    let start = setup.checked_add(position(PAYLOAD_OFFSET)?).ok_or(PAYLOAD)?;
    let end = start.checked_add(position(PAYLOAD_LENGTH)?).ok_or(PAYLOAD)?;
    bytes.get(start..end).filter(|payload| !payload.is_empty()).ok_or(PAYLOAD)
}

fn decompress(payload: &[u8]) -> Result<Vec<u8>, KernelError> {
    match Compression::of(payload) {
        Compression::Gzip => read("gzip", flate2::read::GzDecoder::new(payload)),
        Compression::Zstd => {
            let decoder =
                zstd::stream::read::Decoder::with_buffer(payload).map_err(|e| damaged("zstd", e))?;
            read("zstd", decoder.single_frame())
        }
        // Decode only the first stream: the appended size follows it.
        Compression::Xz => read("xz", first_xz_stream(payload)?),
        Compression::Other("lz4 (legacy)") => legacy_lz4(payload),
        Compression::Other(name) => Err(KernelError::Compression(name)),
        Compression::Uncompressed if payload.starts_with(elf::MAGIC) => Ok(payload.to_vec()),
        Compression::Uncompressed => {
            Err(KernelError::UnknownPayload { start: payload[..payload.len().min(8)].to_vec() })
        }
    }
}

fn first_xz_stream(payload: &[u8]) -> Result<impl Read + '_, KernelError> {
    // xz -9e, which the kernel's build uses with a 32 MiB dictionary, needs under 100 MiB.
    let stream = liblzma::stream::Stream::new_stream_decoder(256 << 20, 0)
        .map_err(|error| damaged("xz", io::Error::other(error)))?;
    Ok(liblzma::bufread::XzDecoder::new_stream(payload, stream))
}

fn read(format: &'static str, decoder: impl Read) -> Result<Vec<u8>, KernelError> {
    codec::read_limited(decoder, MAX_VMLINUX).map_err(|error| match error {
        ReadError::TooLarge => KernelError::TooLarge { limit: MAX_VMLINUX },
        ReadError::Io(source) => damaged(format, source),
    })
}

fn damaged(format: &'static str, source: io::Error) -> KernelError {
    KernelError::Damaged { format, source }
}

/// Decompresses a legacy LZ4 frame: a magic, then blocks with their compressed size; no end marker.
fn legacy_lz4(payload: &[u8]) -> Result<Vec<u8>, KernelError> {
    let mut rest = payload.get(4..).unwrap_or_default();
    let mut output = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    // Four bytes or fewer are not a block, but the uncompressed size appended by the kernel's build.
    while rest.len() > 4 {
        let size = field(rest, 0).map_or(0, u32::from_le_bytes);
        let compressed = usize::try_from(size).ok().and_then(|size| rest.get(4..size.checked_add(4)?));
        let compressed = compressed.ok_or_else(|| damaged("lz4", io::ErrorKind::UnexpectedEof.into()))?;
        let decompressed = lz4_flex::block::decompress_into(compressed, &mut block)
            .map_err(|error| damaged("lz4", io::Error::new(io::ErrorKind::InvalidData, error)))?;
        if (output.len() + decompressed) as u64 > MAX_VMLINUX {
            return Err(KernelError::TooLarge { limit: MAX_VMLINUX });
        }
        output.extend_from_slice(&block[..decompressed]);
        rest = &rest[4 + compressed.len()..];
    }
    if let Some(size) = field(rest, 0).map(u32::from_le_bytes)
        && u64::from(size) != output.len() as u64
    {
        return Err(damaged("lz4", io::Error::new(io::ErrorKind::InvalidData, "wrong decompressed size")));
    }
    Ok(output)
}
