//! Writes cpio archives in the "newc" format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).

/// Type bits of a mode, as in `st_mode`.
const DIRECTORY: u32 = 0o040000;
const FILE: u32 = 0o100000;
const CHAR_DEVICE: u32 = 0o020000;

/// An archive in memory. It holds nothing of the host: owners are root, times 0, inode numbers ascend.
#[derive(Debug, Default)]
pub(super) struct Cpio {
    bytes: Vec<u8>,
    inodes: u32,
}

/// Error for content over 4 GiB, whose size does not fit into 8 hexadecimal digits.
#[derive(Debug)]
pub(super) struct TooLarge;

impl Cpio {
    pub(super) fn directory(&mut self, path: &str) -> Result<(), TooLarge> {
        self.entry(path, DIRECTORY | 0o755, (0, 0), b"")
    }

    pub(super) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> Result<(), TooLarge> {
        self.entry(path, FILE | permissions, (0, 0), content)
    }

    pub(super) fn char_device(
        &mut self,
        path: &str,
        permissions: u32,
        device: (u32, u32),
    ) -> Result<(), TooLarge> {
        self.entry(path, CHAR_DEVICE | permissions, device, b"")
    }

    /// Adds the end marker and returns the archive.
    pub(super) fn finish(mut self) -> Result<Vec<u8>, TooLarge> {
        self.inodes = 0;
        self.entry("TRAILER!!!", 0, (0, 0), b"")?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<(), TooLarge> {
        let size = u32::try_from(content.len()).map_err(|_| TooLarge)?;
        let name = u32::try_from(path.len() + 1).map_err(|_| TooLarge)?;
        let inode = self.inodes;
        self.inodes += 1;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let (major, minor) = device;
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
