//! Small ELF files, kernels and modules for tests.

use super::features::BOOT_MODULES;

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

/// Creates a 64-bit ELF executable with the segments `(type, content)`.
pub(crate) fn elf(segments: &[(u32, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 64 + 56 * segments.len()];
    put(&mut bytes, 0, *b"\x7fELF\x02\x01\x01");
    put(&mut bytes, 16, 2u16.to_le_bytes()); // ET_EXEC
    put(&mut bytes, 18, 62u16.to_le_bytes()); // EM_X86_64
    put(&mut bytes, 20, 1u32.to_le_bytes());
    put(&mut bytes, 32, 64u64.to_le_bytes()); // e_phoff
    put(&mut bytes, 52, 64u16.to_le_bytes());
    put(&mut bytes, 54, 56u16.to_le_bytes());
    put(&mut bytes, 56, u16::try_from(segments.len()).unwrap().to_le_bytes());
    for (i, (kind, content)) in segments.iter().enumerate() {
        let header = 64 + 56 * i;
        let offset = bytes.len() as u64;
        put(&mut bytes, header, kind.to_le_bytes());
        put(&mut bytes, header + 8, offset.to_le_bytes());
        put(&mut bytes, header + 32, (content.len() as u64).to_le_bytes());
        put(&mut bytes, header + 40, (content.len() as u64).to_le_bytes());
        put(&mut bytes, header + 48, 4u64.to_le_bytes());
        bytes.extend(*content);
        bytes.resize(bytes.len().next_multiple_of(16), 0);
    }
    bytes
}

/// Creates a kernel of `release` with all features built in, except the modules named in `without`.
pub(crate) fn vmlinux(release: &str, without: &[&str]) -> Vec<u8> {
    let mut text = format!("Linux version {release} (test) #1\0").into_bytes();
    for feature in BOOT_MODULES.iter().filter(|feature| !without.contains(&feature.module)) {
        text.extend(feature.signature());
    }
    // Some bulk for the compressors.
    text.extend((0..100_000u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()));
    let mut note = Vec::new();
    note.extend([4u32, 8, 18].iter().flat_map(|n| n.to_le_bytes()));
    note.extend(b"Xen\0");
    note.extend(0x0100_0000u64.to_le_bytes());
    elf(&[(1, &text), (4, &note)])
}

/// Creates a bzImage around `payload`, laid out as by the kernel's build.
pub(crate) fn bzimage(payload: &[u8]) -> Vec<u8> {
    let before = 700;
    let mut bytes = vec![0; 5 * 512 + before];
    bytes[0x1f1] = 4;
    put(&mut bytes, 0x1fe, [0x55, 0xaa]);
    put(&mut bytes, 0x202, *b"HdrS");
    put(&mut bytes, 0x206, 0x20fu16.to_le_bytes());
    bytes[0x211] = 1;
    put(&mut bytes, 0x248, u32::try_from(before).unwrap().to_le_bytes());
    put(&mut bytes, 0x24c, u32::try_from(payload.len()).unwrap().to_le_bytes());
    bytes.extend(payload);
    bytes.extend([0; 1000]);
    bytes
}

/// Creates a module: an ELF object with a `.modinfo` section.
pub(crate) fn module(records: &[&str]) -> Vec<u8> {
    let info: Vec<u8> = records.iter().flat_map(|record| [record.as_bytes(), b"\0"].concat()).collect();
    let names = b"\0.modinfo\0.shstrtab\0";
    let mut bytes = vec![0; 64];
    put(&mut bytes, 0, *b"\x7fELF\x02\x01\x01");
    put(&mut bytes, 16, 1u16.to_le_bytes()); // ET_REL
    put(&mut bytes, 18, 62u16.to_le_bytes());
    put(&mut bytes, 20, 1u32.to_le_bytes());
    put(&mut bytes, 52, 64u16.to_le_bytes());
    put(&mut bytes, 58, 64u16.to_le_bytes());
    put(&mut bytes, 60, 3u16.to_le_bytes());
    put(&mut bytes, 62, 2u16.to_le_bytes());
    let mut sections = vec![(0u32, 0u32, 0u64, 0u64)];
    for (name, kind, content) in [(1, 1, &info[..]), (10, 3, &names[..])] {
        sections.push((name, kind, bytes.len() as u64, content.len() as u64));
        bytes.extend(content);
    }
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let table = bytes.len() as u64;
    put(&mut bytes, 40, table.to_le_bytes());
    for (name, kind, offset, size) in sections {
        let mut section = [0; 64];
        put(&mut section, 0, name.to_le_bytes());
        put(&mut section, 4, kind.to_le_bytes());
        put(&mut section, 24, offset.to_le_bytes());
        put(&mut section, 32, size.to_le_bytes());
        bytes.extend(section);
    }
    bytes
}
