//! Pulls a guest's commits and uncommitted work into the host's repository, under separate refs. The user's branches,
//! index and files are never changed.

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
    Changes, Repository, TempRepository, WorkspaceError,
    error::{reading, writing},
    git::{GitError, is_banger_variable, run, unexpected_output},
    record::Pulled,
    repository::object_id,
};

/// Prefix of the guest's refs in the temporary repository.
const FETCHED: &str = "refs/guest/";

/// Name of the ref for uncommitted work, and the prefix for commits whose ref was replaced.
const UNCOMMITTED: &str = "uncommitted";
const REPLACED: &str = "replaced/";

/// How to run git in a guest: a program on the host with its arguments, to which `git upload-pack PATH` is appended.
#[derive(Debug, Clone)]
pub struct GuestGit(pub Vec<OsString>);

/// Pulls the guest's commits and `changes` into `repository`, under `refs/banger/NAME/`.
///
/// `guest_git` is needed to fetch from the guest's git if the guest `has_own_refs`.
///
/// # Errors
/// Returns an error if fetching from the guest fails, if its data is incomplete, or if the repository cannot be
/// written.
pub fn pull(
    repository: &Repository,
    name: &str,
    changes: &Changes,
    guest_git: Option<&GuestGit>,
) -> Result<Pulled, WorkspaceError> {
    repository.check_writable_parts()?;
    let temp_repo = changes.temp_repo();
    let prefix = format!("refs/banger/{name}/");
    let mut refs = Vec::new();
    let mut head = changes.sent().map(str::to_owned);
    if let Some(guest_git) = guest_git {
        fetch(temp_repo, guest_git, changes)?;
        for (fetched, id) in fetched_refs(temp_repo)? {
            let guest_ref = fetched.strip_prefix(FETCHED).unwrap_or(&fetched);
            if changes.head() == Some(guest_ref) {
                head = Some(id.clone());
            }
            if guest_ref != "HEAD" && !changes.was_sent(&id) {
                refs.push((format!("{prefix}{guest_ref}"), id));
            }
        }
    }
    let uncommitted = uncommitted(temp_repo, changes, head.as_deref(), name)?;
    refs.extend(head.map(|id| (format!("{prefix}HEAD"), id)));
    refs.extend(uncommitted.clone().map(|id| (format!("{prefix}{UNCOMMITTED}"), id)));
    copy_objects(&temp_repo.path().join("objects"), &repository.common_dir.join("objects"))?;
    refs.sort();
    let replaced = update(repository, &prefix, &refs, changes.pulled())?;
    Ok(Pulled { refs, uncommitted: uncommitted.is_some(), replaced })
}

/// Fetches all branches, and a detached `HEAD`, into the temporary repository. git verifies the objects.
fn fetch(temp_repo: &TempRepository, guest_git: &GuestGit, changes: &Changes) -> Result<(), WorkspaceError> {
    let mut url = b"ext::".to_vec();
    for word in &guest_git.0 {
        url.extend(word.as_bytes().iter().flat_map(|byte| escaped(*byte)));
        url.push(b' ');
    }
    url.extend_from_slice(b"git %s ");
    url.extend(changes.guest_path().iter().flat_map(|byte| escaped(*byte)));
    #[rustfmt::skip]
    let mut arguments: Vec<OsString> = [
        "-c", "fetch.unpackLimit=1", "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance",
        "--update-shallow",
    ].map(OsString::from).to_vec();
    arguments.push(OsString::from_vec(url));
    arguments.push(format!("+refs/heads/*:{FETCHED}heads/*").into());
    if changes.head() == Some("HEAD") {
        arguments.push(format!("+HEAD:{FETCHED}HEAD").into());
    }
    let mut command = temp_repo.command(arguments);
    command.env("GIT_ALLOW_PROTOCOL", "ext");
    command.envs(std::env::vars_os().filter(|(name, _)| is_banger_variable(name)));
    run(command, &[])?;
    Ok(())
}

/// Escapes a byte for git's `ext` transport.
fn escaped(byte: u8) -> Vec<u8> {
    match byte {
        b'%' | b' ' => vec![b'%', byte],
        _ => vec![byte],
    }
}

fn fetched_refs(temp_repo: &TempRepository) -> Result<Vec<(String, String)>, WorkspaceError> {
    let listed = temp_repo.run(&["for-each-ref", "--format=%(refname) %(objectname)", FETCHED], &[])?;
    parse_refs(listed)
}

/// Parses lines of a name and an id, as for-each-ref prints them.
fn parse_refs(listed: Vec<u8>) -> Result<Vec<(String, String)>, WorkspaceError> {
    let listed =
        String::from_utf8(listed).map_err(|_| unexpected_output("for-each-ref", "a name is not UTF-8"))?;
    let pairs = listed.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs.map(|(name, id)| (name.into(), id.into())).collect())
}

/// Commits the guest's files on top of `head`, if they differ from it.
fn uncommitted(
    temp_repo: &TempRepository,
    changes: &Changes,
    head: Option<&str>,
    name: &str,
) -> Result<Option<String>, WorkspaceError> {
    let tree = |commit: &str| -> Result<String, GitError> {
        object_id(&temp_repo.run(&["rev-parse", "--verify", &format!("{commit}^{{tree}}")], &[])?)
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
    let mut command = temp_repo.command(arguments);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    for role in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{role}_NAME"), "banger")
            .env(format!("GIT_{role}_EMAIL"), "banger@localhost")
            .env(format!("GIT_{role}_DATE"), format!("@{now} +0000"));
    }
    Ok(Some(object_id(&run(command, &[])?)?))
}

/// Copies all objects of `from` to `to`, each pack before its index.
fn copy_objects(from: &Path, to: &Path) -> Result<(), WorkspaceError> {
    for dir in files(from)? {
        let name = dir.file_name().unwrap_or_default();
        let is_object_dir = name == "pack" || name.len() == 2;
        if !is_object_dir || !dir.is_dir() {
            continue;
        }
        let target = to.join(name);
        fs::create_dir_all(&target).map_err(writing(&target))?;
        let mut all = files(&dir)?;
        all.sort_by_key(|path| path.extension() == Some(OsStr::new("idx")));
        for file in all {
            let is_pack_file = file.extension().is_some_and(|kind| kind == "pack" || kind == "idx");
            if name != "pack" || is_pack_file {
                copy(&file, &target)?;
            }
        }
    }
    Ok(())
}

fn files(dir: &Path) -> Result<Vec<std::path::PathBuf>, WorkspaceError> {
    let entries = fs::read_dir(dir).map_err(reading(dir))?;
    entries.map(|entry| Ok(entry.map_err(reading(dir))?.path())).collect()
}

/// Copies `file` into `dir`, atomically and read-only, unless it exists.
fn copy(file: &Path, dir: &Path) -> Result<(), WorkspaceError> {
    let target = dir.join(file.file_name().unwrap_or_default());
    if target.exists() {
        return Ok(());
    }
    let copied = || -> io::Result<()> {
        let mut copy = tempfile::Builder::new().prefix("tmp_obj_banger_").tempfile_in(dir)?;
        io::copy(&mut fs::File::open(file)?, copy.as_file_mut())?;
        copy.as_file().set_permissions(fs::Permissions::from_mode(0o444))?;
        copy.as_file().sync_data()?;
        copy.persist(&target).map_err(|error| error.error)?;
        Ok(())
    };
    copied().map_err(writing(&target))
}

/// Replaces all refs under `prefix` by `refs`, with reflogs.
///
/// An old commit is kept under `replaced/`, unless it was `pulled` from this VM and its branch still exists, or the
/// new refs contain it.
fn update(
    repository: &Repository,
    prefix: &str,
    refs: &[(String, String)],
    pulled: &BTreeMap<String, String>,
) -> Result<BTreeSet<String>, WorkspaceError> {
    let mut replaced = BTreeSet::new();
    let mut before = String::new();
    for (name, old) in existing_refs(repository, prefix)? {
        let new = refs.iter().find(|(other, _)| *other == name).map(|(_, id)| id);
        let short_name = name.strip_prefix(prefix).unwrap_or_default();
        if short_name.starts_with(REPLACED) || new == Some(&old) {
            continue;
        }
        // A ref that stays has the old commit in its reflog. Uncommitted work that has vanished was committed or
        // undone.
        let known = pulled.get(&name) == Some(&old) && (new.is_some() || short_name == UNCOMMITTED);
        if !known && !is_reachable(repository, &old, refs)? {
            let kept = format!("{prefix}{REPLACED}{}", old.get(..12).unwrap_or(&old));
            if replaced.insert(kept.clone()) {
                before.push_str(&format!("update {kept} {old}\n"));
            }
        }
        if new.is_none() {
            before.push_str(&format!("delete {name} {old}\n"));
        }
    }
    // Apply these first and separately: a new branch may have the name of an old directory of branches.
    if !before.is_empty() {
        update_refs(repository, &before)?;
    }
    let updates: String = refs.iter().map(|(name, id)| format!("update {name} {id}\n")).collect();
    update_refs(repository, &updates)?;
    Ok(replaced)
}

/// Returns the refs under `prefix`, each with its commit.
fn existing_refs(repository: &Repository, prefix: &str) -> Result<Vec<(String, String)>, WorkspaceError> {
    let command = repository.command(["for-each-ref", "--format=%(refname) %(objectname)", prefix]);
    parse_refs(run(command, &[])?)
}

/// Returns whether the history of one of `refs` contains the commit `id`.
fn is_reachable(
    repository: &Repository,
    id: &str,
    refs: &[(String, String)],
) -> Result<bool, WorkspaceError> {
    let ids = refs.iter().map(|(_, id)| id.as_str());
    let command = repository.command(["rev-list", "--max-count=1", id, "--not"].into_iter().chain(ids));
    Ok(run(command, &[])?.is_empty())
}

/// Applies `changes`, in the format of `git update-ref --stdin`, all or none.
fn update_refs(repository: &Repository, changes: &str) -> Result<(), WorkspaceError> {
    let arguments =
        ["update-ref", "--no-deref", "--create-reflog", "-m", "banger vm workspace pull", "--stdin"];
    let command = repository.command(arguments);
    run(command, changes.as_bytes())?;
    Ok(())
}
