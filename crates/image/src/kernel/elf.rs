//! ELF headers of kernels and programs.

use object::LittleEndian;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};

use super::KernelError;

pub(crate) const MAGIC: &[u8] = b"\x7fELF";

/// Note type of a PVH entry point: `XEN_ELFNOTE_PHYS32_ENTRY` in Xen's public `elfnote.h`.
const PHYS32_ENTRY: elf::NoteType = elf::NoteType(18);

type Header = elf::FileHeader64<LittleEndian>;

fn header(bytes: &[u8]) -> Result<(&Header, &[elf::ProgramHeader64<LittleEndian>]), &'static str> {
    let header = Header::parse(bytes).map_err(|_| "no 64-bit little-endian ELF header")?;
    if header.endian().is_err() || header.e_machine(LittleEndian) != elf::EM_X86_64 {
        return Err("built for another architecture");
    }
    let segments =
        header.program_headers(LittleEndian, bytes).map_err(|_| "program headers outside the file")?;
    Ok((header, segments))
}

/// Rejects kernels that no VMM can load: not x86-64, nothing to load, or segments outside the file.
pub(crate) fn check_kernel(bytes: &[u8]) -> Result<(), KernelError> {
    let (header, segments) = header(bytes).map_err(KernelError::Elf)?;
    // Relocatable kernels are still ET_EXEC; a position-independent one would be ET_DYN.
    if !matches!(header.e_type(LittleEndian), elf::ET_EXEC | elf::ET_DYN) {
        return Err(KernelError::Elf("an object file, not a linked program"));
    }
    let mut loaded =
        segments.iter().filter(|segment| segment.p_type(LittleEndian) == elf::PT_LOAD).peekable();
    if loaded.peek().is_none() {
        return Err(KernelError::Elf("it has no loadable segment"));
    }
    if loaded.any(|segment| segment.data(LittleEndian, bytes).is_err()) {
        return Err(KernelError::OutOfBounds("loadable segment"));
    }
    Ok(())
}

/// Returns whether a kernel has a PVH entry point, with which QEMU boots an uncompressed kernel.
pub(crate) fn has_pvh_entry(bytes: &[u8]) -> bool {
    let Ok((_, segments)) = header(bytes) else { return false };
    segments.iter().any(|segment| {
        let Ok(Some(mut notes)) = segment.notes(LittleEndian, bytes) else { return false };
        // After a malformed note, the position of the next one is unknown.
        std::iter::from_fn(|| notes.next().ok().flatten())
            .any(|note| note.name() == b"Xen" && note.n_type(LittleEndian) == PHYS32_ENTRY)
    })
}

/// The linkage of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Linkage {
    Static,
    /// The program needs a dynamic linker.
    Dynamic,
}

/// Returns a program's linkage; refuses files that are not x86-64 programs.
pub(crate) fn program(bytes: &[u8]) -> Result<Linkage, &'static str> {
    let (header, segments) = header(bytes)?;
    if !matches!(header.e_type(LittleEndian), elf::ET_EXEC | elf::ET_DYN) {
        return Err("not a program");
    }
    let dynamic = segments.iter().any(|segment| segment.p_type(LittleEndian) == elf::PT_INTERP);
    Ok(if dynamic { Linkage::Dynamic } else { Linkage::Static })
}
