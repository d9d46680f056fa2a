//! Small kernels and root file systems, as archives.

use anyhow::Result;

/// Returns a tar archive with these files.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, *bytes)?;
    }
    Ok(tar.into_inner()?)
}

/// Returns a kernel archive: an ELF file with the strings that identify the built-in drivers that a VM needs.
pub(crate) fn kernel() -> Result<Vec<u8>> {
    let words = [
        "Linux version 6.1.0-fake (test) #1",
        "virtio-pci",
        "virtio-mmio",
        "virtio-blk",
        "EXT4-fs",
        "overlayfs: ",
        "virtio_vsock",
        "virtio/net:",
        "virtio_rng.%d",
    ];
    let text = words.join("\0") + "\0";
    // Note of a kernel that boots by PVH: name size 4, content size 8, type 18.
    let mut note: Vec<u8> = [4u32, 8, 18].iter().flat_map(|number| number.to_le_bytes()).collect();
    note.extend(b"Xen\0");
    note.extend(0x0100_0000u64.to_le_bytes());
    tar(&[("kernel", &elf(&[(1, text.as_bytes()), (4, &note)]))])
}

/// Returns the agent for boot initrds: a static program, which no guest of these tests runs.
pub(crate) fn agent() -> Vec<u8> {
    elf(&[(1, b"banger-agent")])
}

/// Returns an x86-64 executable with segments of these types.
fn elf(segments: &[(u32, &[u8])]) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    // Executable, x86-64, version, entry, program headers at 64, no sections, flags.
    header.extend([2u16, 62].iter().flat_map(|n| n.to_le_bytes()));
    header.extend(1u32.to_le_bytes());
    header.extend([0u64, 64, 0].iter().flat_map(|n| n.to_le_bytes()));
    header.extend(0u32.to_le_bytes());
    header.extend(
        [64u16, 56, u16::try_from(segments.len()).unwrap_or(0), 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()),
    );
    let mut contents = Vec::new();
    let begin = 64 + 56 * segments.len();
    for (kind, content) in segments {
        let (offset, size) = ((begin + contents.len()) as u64, content.len() as u64);
        header.extend(kind.to_le_bytes());
        header.extend(0u32.to_le_bytes());
        header.extend([offset, 0, 0, size, size, 4].iter().flat_map(|n| n.to_le_bytes()));
        contents.extend(*content);
        contents.resize(contents.len().next_multiple_of(16), 0);
    }
    header.extend(contents);
    header
}
