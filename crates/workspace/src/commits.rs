//! What was committed in a guest, and what was not yet, brought into the host's repository under names of its own. The
//! user's branches, index and files are never touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::PermissionsExt,
    },
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    Changes, Repository, Scratch, WorkspaceError,
    error::{reading, writing},
    git::{GitError, is_ours, odd, run},
    record::Pulled,
    repository::object_id,
};

/// Where the guest's refs are in the scratch.
const FETCHED: &str = "refs/guest/";

/// What work is called that is in no commit of the guest's, and where stays what others have taken the names of.
const UNCOMMITTED: &str = "uncommitted";
const REPLACED: &str = "replaced/";

/// How git is reached in a guest: the program here, with all its arguments, to which `git upload-pack PATH` is added.
#[derive(Debug, Clone)]
pub struct Reach(pub Vec<OsString>);

/// Brings what is committed in the guest that `changes` are of, and those changes, into `repository` under
/// `refs/banger/NAME/`. When the guest `has_own_refs`, its git is asked, by `reach`.
///
/// # Errors
/// When the guest's git cannot be asked or what it sends is not whole, or the repository cannot be written.
pub fn pull(
    repository: &Repository,
    name: &str,
    changes: &Changes,
    reach: Option<&Reach>,
) -> Result<Pulled, WorkspaceError> {
    let scratch = changes.scratch();
    let place = format!("refs/banger/{name}/");
    let mut refs = Vec::new();
    let mut head = changes.sent().map(str::to_owned);
    if let Some(reach) = reach {
        fetch(scratch, reach, changes)?;
        for (fetched, id) in fetched(scratch)? {
            let own = fetched.strip_prefix(FETCHED).unwrap_or(&fetched);
            if changes.head() == Some(own) {
                head = Some(id.clone());
            }
            if own != "HEAD" && !changes.was_sent(&id) {
                refs.push((format!("{place}{own}"), id));
            }
        }
    }
    let uncommitted = uncommitted(scratch, changes, head.as_deref(), name)?;
    refs.extend(head.map(|id| (format!("{place}HEAD"), id)));
    refs.extend(uncommitted.clone().map(|id| (format!("{place}{UNCOMMITTED}"), id)));
    take_over(&scratch.path().join("objects"), &repository.common.join("objects"))?;
    refs.sort();
    let replaced = update(repository, &place, &refs, changes.pulled())?;
    Ok(Pulled { refs, uncommitted: uncommitted.is_some(), replaced })
}

/// Fetches all branches, and what is checked out, into the scratch. What comes is checked by git.
fn fetch(scratch: &Scratch, reach: &Reach, changes: &Changes) -> Result<(), WorkspaceError> {
    let mut url = b"ext::".to_vec();
    for word in &reach.0 {
        url.extend(word.as_bytes().iter().flat_map(|byte| escaped(*byte)));
        url.push(b' ');
    }
    url.extend_from_slice(b"git %s ");
    url.extend(changes.guest().iter().flat_map(|byte| escaped(*byte)));
    #[rustfmt::skip]
    let mut arguments: Vec<OsString> = [
        "-c", "protocol.allow=never", "-c", "protocol.ext.allow=always", "-c", "fetch.unpackLimit=1",
        "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance",
        "--update-shallow",
    ].map(OsString::from).to_vec();
    arguments.push(OsString::from_vec(url));
    arguments.push(format!("+refs/heads/*:{FETCHED}heads/*").into());
    if changes.head() == Some("HEAD") {
        arguments.push(format!("+HEAD:{FETCHED}HEAD").into());
    }
    let mut command = scratch.command(arguments);
    command.envs(std::env::vars_os().filter(|(name, _)| is_ours(name)));
    run(command, &[])?;
    Ok(())
}

/// As git's `ext` wants a word.
fn escaped(byte: u8) -> Vec<u8> {
    match byte {
        b'%' | b' ' => vec![b'%', byte],
        _ => vec![byte],
    }
}

fn fetched(scratch: &Scratch) -> Result<Vec<(String, String)>, WorkspaceError> {
    let listed = scratch.run(&["for-each-ref", "--format=%(refname) %(objectname)", FETCHED], &[])?;
    pairs(listed)
}

/// A name and an id a line, as for-each-ref was asked for.
fn pairs(listed: Vec<u8>) -> Result<Vec<(String, String)>, WorkspaceError> {
    let listed = String::from_utf8(listed).map_err(|_| odd("for-each-ref", "a name that is no UTF-8"))?;
    let pairs = listed.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs.map(|(name, id)| (name.into(), id.into())).collect())
}

/// A commit of the guest's files on top of `head`, if they are not as that has them.
fn uncommitted(
    scratch: &Scratch,
    changes: &Changes,
    head: Option<&str>,
    name: &str,
) -> Result<Option<String>, WorkspaceError> {
    let tree = |commit: &str| -> Result<String, GitError> {
        object_id(&scratch.run(&["rev-parse", "--verify", &format!("{commit}^{{tree}}")], &[])?)
    };
    let work = tree(changes.work())?;
    let before = head.map_or_else(|| Ok(changes.base().to_owned()), tree)?;
    if work == before {
        return Ok(None);
    }
    let message = format!("Uncommitted work in VM {name}");
    let mut arguments = vec!["commit-tree", &work, "-m", &message];
    if let Some(head) = head {
        arguments.extend(["-p", head]);
    }
    let mut command = scratch.command(arguments);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    for whose in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{whose}_NAME"), "banger")
            .env(format!("GIT_{whose}_EMAIL"), "banger@localhost")
            .env(format!("GIT_{whose}_DATE"), format!("@{now} +0000"));
    }
    Ok(Some(object_id(&run(command, &[])?)?))
}

/// Copies all objects of `from` into `to`, an index never before its pack.
fn take_over(from: &Path, to: &Path) -> Result<(), WorkspaceError> {
    for folder in files(from)? {
        let name = folder.file_name().unwrap_or_default();
        let of_objects = name == "pack" || name.len() == 2;
        if !of_objects || !folder.is_dir() {
            continue;
        }
        let target = to.join(name);
        fs::create_dir_all(&target).map_err(writing(&target))?;
        let mut all = files(&folder)?;
        all.sort_by_key(|path| path.extension() == Some(OsStr::new("idx")));
        for file in all {
            let of_pack = file.extension().is_some_and(|kind| kind == "pack" || kind == "idx");
            if name != "pack" || of_pack {
                copy(&file, &target)?;
            }
        }
    }
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<std::path::PathBuf>, WorkspaceError> {
    let entries = fs::read_dir(folder).map_err(reading(folder))?;
    entries.map(|entry| Ok(entry.map_err(reading(folder))?.path())).collect()
}

/// Copies `file` into `folder`, whole and read-only, unless it is there.
fn copy(file: &Path, folder: &Path) -> Result<(), WorkspaceError> {
    let target = folder.join(file.file_name().unwrap_or_default());
    if target.exists() {
        return Ok(());
    }
    let copied = || -> io::Result<()> {
        let mut copy = tempfile::Builder::new().prefix("tmp_obj_banger_").tempfile_in(folder)?;
        io::copy(&mut fs::File::open(file)?, copy.as_file_mut())?;
        copy.as_file().set_permissions(fs::Permissions::from_mode(0o444))?;
        copy.as_file().sync_data()?;
        copy.persist(&target).map_err(|error| error.error)?;
        Ok(())
    };
    copied().map_err(writing(&target))
}

/// Sets `refs`, with a log of what they were, in place of all that is under `place`. What was not `pulled` from the same
/// VM, or from a branch that is gone, stays by another name, unless the new refs have it too.
fn update(
    repository: &Repository,
    place: &str,
    refs: &[(String, String)],
    pulled: &BTreeMap<String, String>,
) -> Result<BTreeSet<String>, WorkspaceError> {
    let mut replaced = BTreeSet::new();
    let mut before = String::new();
    for (name, old) in standing(repository, place)? {
        let new = refs.iter().find(|(other, _)| *other == name).map(|(_, id)| id);
        let own = name.strip_prefix(place).unwrap_or_default();
        if own.starts_with(REPLACED) || new == Some(&old) {
            continue;
        }
        // A ref that stays has it in its log; what was uncommitted and is not any more is committed, or undone.
        let known = pulled.get(&name) == Some(&old) && (new.is_some() || own == UNCOMMITTED);
        if !known && !is_within(repository, &old, refs)? {
            let kept = format!("{place}{REPLACED}{}", old.get(..12).unwrap_or(&old));
            if replaced.insert(kept.clone()) {
                before.push_str(&format!("update {kept} {old}\n"));
            }
        }
        if new.is_none() {
            before.push_str(&format!("delete {name} {old}\n"));
        }
    }
    // By themselves and first: a branch may be called as a folder of branches was.
    if !before.is_empty() {
        update_refs(repository, &before)?;
    }
    let updates: String = refs.iter().map(|(name, id)| format!("update {name} {id}\n")).collect();
    update_refs(repository, &updates)?;
    Ok(replaced)
}

/// The refs under `place`, each with its commit.
fn standing(repository: &Repository, place: &str) -> Result<Vec<(String, String)>, WorkspaceError> {
    let mut command = repository.git.command(["for-each-ref", "--format=%(refname) %(objectname)", place]);
    command.current_dir(&repository.root);
    pairs(run(command, &[])?)
}

/// Whether one of `refs` has the commit `id` in its history.
fn is_within(repository: &Repository, id: &str, refs: &[(String, String)]) -> Result<bool, WorkspaceError> {
    let ids = refs.iter().map(|(_, id)| id.as_str());
    let mut command =
        repository.git.command(["rev-list", "--max-count=1", id, "--not"].into_iter().chain(ids));
    command.current_dir(&repository.root);
    Ok(run(command, &[])?.is_empty())
}

/// Carries out `changes`, as git's update-ref wants them, all or none.
fn update_refs(repository: &Repository, changes: &str) -> Result<(), WorkspaceError> {
    let arguments = ["update-ref", "--create-reflog", "-m", "banger vm workspace pull", "--stdin"];
    let mut command = repository.git.command(arguments);
    command.current_dir(&repository.root);
    run(command, changes.as_bytes())?;
    Ok(())
}
