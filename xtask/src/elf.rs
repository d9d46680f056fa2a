//! Detects static ELF programs.

use anyhow::{Context, Result, ensure};

const PT_INTERP: u32 = 3;

/// Returns whether the 64-bit little-endian ELF program in `bytes` needs no dynamic loader.
pub(crate) fn is_static(bytes: &[u8]) -> Result<bool> {
    ensure!(bytes.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit little-endian ELF file");
    let u16_at = |at: usize| field::<2>(bytes, at).map(u16::from_le_bytes);
    let headers = usize::try_from(u64::from_le_bytes(field(bytes, 0x20)?))?;
    let (size, count) = (usize::from(u16_at(0x36)?), usize::from(u16_at(0x38)?));
    for number in 0..count {
        let at = headers.checked_add(number * size).context("program headers out of range")?;
        if u32::from_le_bytes(field(bytes, at)?) == PT_INTERP {
            return Ok(false);
        }
    }
    Ok(true)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk::<N>());
    field.copied().context("the ELF file is truncated in its headers")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(kinds: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[0x20] = 64;
        bytes[0x36] = 56;
        bytes[0x38] = u8::try_from(kinds.len()).unwrap();
        for kind in kinds {
            bytes.extend(kind.to_le_bytes());
            bytes.extend([0; 52]);
        }
        bytes
    }

    #[test]
    fn a_program_that_names_a_loader_is_not_static() {
        assert!(is_static(&program(&[1, 2])).unwrap());
        assert!(!is_static(&program(&[6, PT_INTERP, 1])).unwrap());
    }

    #[test]
    fn truncated_files_and_files_that_are_not_elf_are_rejected() {
        assert!(is_static(b"#!/bin/sh").is_err());
        assert!(is_static(&program(&[1])[..64]).is_err());
    }
}
