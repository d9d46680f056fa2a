//! The agent's parameters on the kernel command line: `banger.root=overlay|plain`, `banger.work=0|1` and
//! `banger.ready=PORT`.

use std::fs;

use banger_proto::READY_PORT;

use super::error::{BootError, failed};

/// Layout of the root file system on the disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RootKind {
    /// The first disk is the read-only lower layer, the second the upper layer.
    Overlay,
    /// The first disk is mounted directly, writable.
    Plain,
}

/// The host's parameters for this boot.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CmdLine {
    pub(super) root: RootKind,
    /// Whether to mount the next disk at `/root`.
    pub(super) work: bool,
    /// Vsock port on the host that the agent dials when the guest is up.
    pub(super) ready_port: u32,
}

impl CmdLine {
    pub(super) fn read() -> Result<Self, BootError> {
        let path = "/proc/cmdline";
        Self::parse(&fs::read_to_string(path).map_err(failed("read", path))?)
    }

    fn parse(line: &str) -> Result<Self, BootError> {
        let mut parsed = Self { root: RootKind::Plain, work: false, ready_port: READY_PORT };
        for word in line.split_ascii_whitespace().filter(|word| word.starts_with("banger.")) {
            if let Some(port) = word.strip_prefix("banger.ready=") {
                parsed.ready_port = port.parse().map_err(|_| BootError::CmdLine(word.to_owned()))?;
                continue;
            }
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
    fn banger_parameters_are_parsed_from_the_kernel_command_line() {
        let parse = |line| CmdLine::parse(line).ok();
        let full = parse("console=ttyS0 banger.root=overlay quiet banger.work=1\n");
        assert_eq!(full, Some(CmdLine { root: RootKind::Overlay, work: true, ready_port: READY_PORT }));
        assert_eq!(
            parse("quiet"),
            Some(CmdLine { root: RootKind::Plain, work: false, ready_port: READY_PORT })
        );
        assert_eq!(parse("banger.ready=70000").map(|parsed| parsed.ready_port), Some(70_000));
        assert_eq!(parse("banger.ready=here"), None);
        assert_eq!(parse("banger.root=tape"), None);
        assert_eq!(parse("banger.wrok=1"), None);
    }
}
