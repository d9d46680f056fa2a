//! Compressed streams, detected by their first bytes and never by name.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use liblzma::stream::{CONCATENATED, Stream};

use crate::ImageError;
use crate::error::IoContext;

/// Memory limit of the xz decoder, in bytes; `xz -9` needs 65 MiB.
const MAX_XZ_MEMORY: u64 = 512 << 20;

/// Input buffer in bytes.
const BUFFER_SIZE: usize = 256 << 10;

/// Compression of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Uncompressed,
    Gzip,
    Zstd,
    Xz,
    /// Detected, but not supported.
    Other(&'static str),
}

impl Compression {
    /// Detects the compression from the first bytes of a stream (six are enough).
    pub(crate) fn of(start: &[u8]) -> Self {
        const MAGICS: [(&[u8], Compression); 8] = [
            // RFC 1952, 2.3.1.
            (&[0x1f, 0x8b], Compression::Gzip),
            // RFC 8878, 3.1.1.
            (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
            // The .xz file format, 2.1.1.1.
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Compression::Xz),
            (b"BZh", Compression::Other("bzip2")),
            (&[0x04, 0x22, 0x4d, 0x18], Compression::Other("lz4")),
            // LZ4 frame format, "legacy frame"; written by `lz4 -l` and the kernel's build.
            (&[0x02, 0x21, 0x4c, 0x18], Compression::Other("lz4 (legacy)")),
            (&[0x5d, 0, 0], Compression::Other("lzma")),
            (&[0x89, b'L', b'Z', b'O'], Compression::Other("lzo")),
        ];
        MAGICS
            .iter()
            .find(|(magic, _)| start.starts_with(magic))
            .map_or(Compression::Uncompressed, |(_, compression)| *compression)
    }
}

/// Decompresses `input`; `Err` holds the name of an unsupported compression.
pub(crate) fn decompressed<'a>(
    input: impl Read + 'a,
) -> io::Result<Result<Box<dyn Read + 'a>, &'static str>> {
    let mut input = BufReader::with_capacity(BUFFER_SIZE, input);
    let mut start = Vec::with_capacity(6);
    input.by_ref().take(6).read_to_end(&mut start)?;
    let compression = Compression::of(&start);
    decoder(compression, BufReader::with_capacity(BUFFER_SIZE, io::Cursor::new(start).chain(input)))
}

/// Returns a decoder for all members or frames of a `compression` stream; `Err` as for [`decompressed`].
pub(crate) fn decoder<'a>(
    compression: Compression,
    input: impl BufRead + 'a,
) -> io::Result<Result<Box<dyn Read + 'a>, &'static str>> {
    Ok(Ok(match compression {
        Compression::Uncompressed => Box::new(input),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(input)?),
        Compression::Xz => {
            let stream = Stream::new_stream_decoder(MAX_XZ_MEMORY, CONCATENATED).map_err(io::Error::other)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
        }
        Compression::Other(name) => return Ok(Err(name)),
    }))
}

/// Reason why a read failed.
#[derive(Debug)]
pub(crate) enum ReadError {
    TooLarge,
    Io(io::Error),
}

/// Reads all of `input`, up to `limit` bytes.
pub(crate) fn read_limited(input: impl Read, limit: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    input.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    if bytes.len() as u64 > limit { Err(ReadError::TooLarge) } else { Ok(bytes) }
}

/// Reads the whole file; `None` if it is over `limit`.
pub(crate) fn read_file(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, ImageError> {
    let file = File::open(path).during("open", path)?;
    match read_limited(file, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(ReadError::TooLarge) => Ok(None),
        Err(ReadError::Io(source)) => {
            Err(ImageError::Io { operation: "read", path: path.to_owned(), source })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn compressed(program: &str, args: &[&str], bytes: &[u8]) -> Vec<u8> {
        crate::archive::testing::pipe(program, args, bytes)
    }

    #[test]
    fn output_of_real_compressors_is_decompressed() {
        let bytes: Vec<u8> = (0..300_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for (program, args) in
            [("gzip", &["-c"][..]), ("xz", &["-c"]), ("zstd", &["-c"]), ("zstd", &["-19", "--long=27", "-c"])]
        {
            let compressed = compressed(program, args, &bytes);
            let mut twice = compressed.clone();
            twice.write_all(&compressed).unwrap();
            let back = read_limited(decompressed(&twice[..]).unwrap().unwrap(), 1 << 30).unwrap();
            assert!(back == [&bytes[..], &bytes[..]].concat(), "{program} {args:?}");
            let cut = decompressed(&compressed[..compressed.len() / 2]).unwrap().unwrap();
            assert!(matches!(read_limited(cut, 1 << 30), Err(ReadError::Io(_))), "{program} {args:?} cut");
            let capped = decompressed(&compressed[..]).unwrap().unwrap();
            assert!(matches!(read_limited(capped, 1000), Err(ReadError::TooLarge)));
        }
    }

    #[test]
    fn unsupported_compressions_are_named() {
        for (start, name) in [(&b"BZh91AY"[..], "bzip2"), (&[0x04, 0x22, 0x4d, 0x18, 0, 0, 0], "lz4")] {
            assert_eq!(decompressed(start).unwrap().err(), Some(name));
        }
    }

    #[test]
    fn short_uncompressed_input_is_returned_unchanged() {
        let bytes = read_limited(decompressed(&b"abc"[..]).unwrap().unwrap(), 10).unwrap();
        assert_eq!(bytes, b"abc");
    }
}
