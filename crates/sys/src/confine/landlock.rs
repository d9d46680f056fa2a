//! Builds the Landlock ruleset of a confinement: files, TCP ports, signals, and abstract Unix sockets.

use std::{io, os::fd::OwnedFd};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    PathFdError, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope, make_bitflags,
};

use super::policy::{Access, PathRule, Sockets};

/// Newest version of the interface whose restrictions are used. An older kernel applies those that it knows.
const NEWEST: ABI = ABI::V9;

/// Returns a ruleset with these rules, or `None` if the kernel has no Landlock.
pub(super) fn ruleset(rules: &[PathRule], sockets: Sockets) -> io::Result<Option<OwnedFd>> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(NEWEST)))
        .map_err(failed)?;
    let denied_tcp = match sockets {
        Sockets::Denied | Sockets::Unix => AccessNet::from_all(ABI::V4),
        Sockets::Internet => AccessNet::BindTcp.into(),
        Sockets::Names => BitFlags::EMPTY,
    };
    if !denied_tcp.is_empty() {
        ruleset = ruleset.handle_access(denied_tcp).map_err(failed)?;
    }
    let mut ruleset = ruleset.create().map_err(failed)?;
    for rule in rules {
        let Some(path) = open(rule)? else { continue };
        ruleset = ruleset.add_rule(PathBeneath::new(path, rights(rule.access))).map_err(failed)?;
    }
    Ok(ruleset.into())
}

/// Opens the path of a rule. Returns `None` if it does not exist: a missing rule only refuses more.
fn open(rule: &PathRule) -> io::Result<Option<PathFd>> {
    match PathFd::new(&rule.path) {
        Ok(path) => Ok(Some(path)),
        Err(PathFdError::OpenCall { source, .. }) => match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied => {
                Ok(None)
            }
            _ => Err(source),
        },
        Err(error) => Err(io::Error::other(error)),
    }
}

fn rights(access: Access) -> BitFlags<AccessFs> {
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let write = make_bitflags!(AccessFs::{WriteFile | Truncate});
    match access {
        Access::Read => read,
        Access::Run => read | AccessFs::Execute,
        Access::Connect => read | AccessFs::ResolveUnix,
        Access::Write => read | write,
        Access::Device => read | write | AccessFs::IoctlDev,
        Access::All => {
            let changes = make_bitflags!(AccessFs::{
                MakeReg | MakeDir | MakeSym | MakeSock | MakeFifo | RemoveFile | RemoveDir | Refer | ResolveUnix
            });
            read | write | changes
        }
    }
}

fn failed(error: RulesetError) -> io::Error {
    io::Error::other(error)
}
