//! Fetches the objects of a guest's work into a temporary repository, within limits.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};

use crate::{
    GitError, GitState, Guest, GuestGit, GuestRefs, TempRepository, WorkspaceError,
    budget::ResourceLimits,
    existing::{existing, lines},
    git::run,
    guest_refs::GuestRepository,
    process::Process,
    size::size_text,
};

const FETCH: &str = "fetch";

/// The guest's side of a fetch. Every object is named by its id: an old git must permit that, and need not list its
/// refs.
const UPLOAD_PACK: [&str; 6] =
    ["git", "-c", "uploadpack.allowAnySHA1InWant=true", "-c", "uploadpack.hideRefs=refs", "upload-pack"];

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

/// Fetches the objects `wanted`, one per line, and everything reachable from them. git verifies the objects. It reaches
/// the guest only through a socket: the program that connects to the guest is not a child of the confined git.
fn fetch_objects(
    temp_repo: &TempRepository,
    guest_git: &GuestGit,
    path: &[u8],
    wanted: &str,
) -> Result<(), WorkspaceError> {
    // Not two pipes: git ends its side of a socket for all processes that have it open.
    let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let both =
        pair.and_then(|(socket, guest)| Ok((socket, guest.try_clone().map_err(|_| Errno::MFILE)?, guest)));
    let (socket, guest_input, guest_output) =
        both.map_err(|errno| GitError::Run { what: FETCH.to_owned(), source: errno.into() })?;
    let words = guest_git.0.iter().map(OsString::as_os_str);
    let words = words.chain(UPLOAD_PACK.map(OsStr::new)).chain([OsStr::from_bytes(path)]);
    let upload_pack = temp_repo.git().command_through(words, "upload-pack in the VM").with_banger_variables();
    let upload_pack = upload_pack.start_with(guest_input, guest_output)?;

    let url = format!("fd::{}", socket.as_raw_fd());
    #[rustfmt::skip]
    let mut command = temp_repo.command([
        "-c", "fetch.unpackLimit=1", FETCH, "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance",
        "--update-shallow", "--stdin", &url,
    ]);
    command.env("GIT_ALLOW_PROTOCOL", "fd");
    let budget = temp_repo.budget();
    // A pack and its index.
    let file_size = budget.objects.min(budget.space(temp_repo.path())? / 2);
    let limits = ResourceLimits { file_size, memory: budget.memory };
    let command = command.inherit([socket]).within(budget.git_output, Some(limits));
    let Err(error) = run(command, wanted.as_bytes()) else { return Ok(()) };

    let packs = fs::read_dir(temp_repo.path().join("objects/pack")).into_iter().flatten().flatten();
    let mut sizes = packs.filter_map(|pack| pack.metadata().ok()).map(|meta| meta.len());
    Err(if !sizes.any(|size| size >= file_size) {
        with_message_of(upload_pack, error).into()
    } else if file_size < budget.objects {
        let (path, size) = (temp_repo.path().to_owned(), 2 * file_size + 1);
        WorkspaceError::NoSpace { path, size, free: 2 * file_size }
    } else {
        WorkspaceError::TooLarge { what: "new commits", limit: size_text(file_size) }
    })
}

/// Returns the error of a fetch with the message of the guest's `upload_pack`, which may be its reason.
fn with_message_of(upload_pack: Process, error: GitError) -> GitError {
    match error {
        GitError::Failed { what, mut stderr } => {
            if let Err(GitError::Failed { stderr: reason, .. }) = upload_pack.finish() {
                stderr = [stderr, reason]
                    .into_iter()
                    .filter(|text| !text.is_empty())
                    .collect::<Vec<_>>()
                    .join("; ");
            }
            GitError::Failed { what, stderr }
        }
        error => error,
    }
}
