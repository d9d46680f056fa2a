//! Fetches the objects of a guest's work into a temporary repository, within limits.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use crate::{
    GitState, Guest, GuestGit, GuestRefs, TempRepository, WorkspaceError,
    budget::ResourceLimits,
    existing::{existing, lines},
    git::run,
    guest_refs::GuestRepository,
    size::size_text,
};

/// Asks the guest's git for all work, and fetches its objects. `git_dir` is the repository's directory in the guest.
///
/// # Errors
/// Returns an error if git does not run there, or if its answers or objects are malformed, incomplete or too large.
pub fn fetch_refs(
    guest: &Guest,
    state: &GitState,
    git_dir: &[u8],
    guest_git: &GuestGit,
) -> Result<GuestRefs, WorkspaceError> {
    let (record, temp_repo) = (guest.record(), guest.temp_repo());
    let id_length = record.state.id_length;
    let path = record.guest_path();
    let repository = GuestRepository {
        git: temp_repo.git(),
        guest_git,
        path,
        git_dir,
        id_length,
        budget: temp_repo.budget(),
    };
    let refs = repository.refs(state, guest.has_own_index())?;
    let sent = existing(temp_repo, &record.state.commits)?;
    let wanted = lines(refs.ids().into_iter().filter(|id| !sent.contains(*id)));
    if !wanted.is_empty() {
        // git asks for nothing that its own refs contain.
        let known: String = sent.iter().map(|id| format!("{id} refs/sent/{id}\n")).collect();
        temp_repo.write("packed-refs", known.as_bytes())?;
        fetch_objects(temp_repo, guest_git, path, &wanted)?;
    }
    Ok(refs)
}

/// Fetches the objects `wanted`, one per line, and everything reachable from them. git verifies the objects.
fn fetch_objects(
    temp_repo: &TempRepository,
    guest_git: &GuestGit,
    path: &[u8],
    wanted: &str,
) -> Result<(), WorkspaceError> {
    let mut url = b"ext::".to_vec();
    for word in &guest_git.0 {
        url.extend(word.as_bytes().iter().flat_map(|byte| escaped(*byte)));
        url.push(b' ');
    }
    // Every object is named by its id. An old git in the guest must permit that, and need not list its refs.
    url.extend_from_slice(b"git -c uploadpack.allowAnySHA1InWant=true -c uploadpack.hideRefs=refs %s ");
    url.extend(path.iter().flat_map(|byte| escaped(*byte)));
    #[rustfmt::skip]
    let mut arguments: Vec<OsString> = [
        "-c", "fetch.unpackLimit=1", "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance",
        "--update-shallow", "--stdin",
    ].map(OsString::from).to_vec();
    arguments.push(OsString::from_vec(url));
    let mut command = temp_repo.command(arguments).with_banger_variables();
    command.env("GIT_ALLOW_PROTOCOL", "ext");
    let budget = temp_repo.budget();
    // A pack and its index.
    let file_size = budget.objects.min(budget.space(temp_repo.path())? / 2);
    let limits = ResourceLimits { file_size, memory: budget.memory };
    let result = run(command.within(budget.git_output, Some(limits)), wanted.as_bytes());
    result.map(drop).map_err(|error| {
        let packs = fs::read_dir(temp_repo.path().join("objects/pack")).into_iter().flatten().flatten();
        let mut sizes = packs.filter_map(|pack| pack.metadata().ok()).map(|meta| meta.len());
        if !sizes.any(|size| size >= file_size) {
            error.into()
        } else if file_size < budget.objects {
            let (path, size) = (temp_repo.path().to_owned(), 2 * file_size + 1);
            WorkspaceError::NoSpace { path, size, free: 2 * file_size }
        } else {
            WorkspaceError::TooLarge { what: "new commits", limit: size_text(file_size) }
        }
    })
}

/// Escapes a byte for git's `ext` transport.
fn escaped(byte: u8) -> Vec<u8> {
    match byte {
        b'%' | b' ' => vec![b'%', byte],
        _ => vec![byte],
    }
}
