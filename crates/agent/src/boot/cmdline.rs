//! The agent's own words on the kernel's command line: `banger.root=overlay|plain` and `banger.work=0|1`.

use std::fs;

use super::error::{BootError, failed};

/// How the root file system is made of disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RootKind {
    /// The first disk, read-only, under what is written to the second.
    Overlay,
    /// The first disk as it is.
    Plain,
}

/// What the host wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CmdLine {
    pub(super) root: RootKind,
    /// Whether the next disk is to be mounted at `/root`.
    pub(super) work: bool,
}

impl CmdLine {
    pub(super) fn read() -> Result<Self, BootError> {
        let path = "/proc/cmdline";
        Self::parse(&fs::read_to_string(path).map_err(failed("read", path))?)
    }

    fn parse(line: &str) -> Result<Self, BootError> {
        let mut parsed = Self { root: RootKind::Plain, work: false };
        for word in line.split_ascii_whitespace().filter(|word| word.starts_with("banger.")) {
            match word {
                "banger.root=overlay" => parsed.root = RootKind::Overlay,
                "banger.root=plain" => parsed.root = RootKind::Plain,
                "banger.work=1" => parsed.work = true,
                "banger.work=0" => parsed.work = false,
                other => return Err(BootError::CmdLine(other.to_owned())),
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_words_are_read_among_the_kernels() {
        let parse = |line| CmdLine::parse(line).ok();
        let full = parse("console=ttyS0 banger.root=overlay quiet banger.work=1\n");
        assert_eq!(full, Some(CmdLine { root: RootKind::Overlay, work: true }));
        assert_eq!(parse("quiet"), Some(CmdLine { root: RootKind::Plain, work: false }));
        assert_eq!(parse("banger.root=tape"), None);
        assert_eq!(parse("banger.wrok=1"), None);
    }
}
