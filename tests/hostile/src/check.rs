//! Checks whether a step kept the promises.

use std::path::{Path, PathBuf};

use crate::{Promise, Step, Violation, client::Run, snapshot::Snapshot, terminal};

/// Maximum memory that a command may allocate, in bytes, unless a test says otherwise. A frame has at most 1 MiB, and
/// a few of them wait at a time.
pub(crate) const MAX_MEMORY: usize = 32 << 20;

/// Maximum growth of the sandbox beyond what the guest has sent, in bytes: records, refs, git's files.
const MAX_DISK: u64 = 256 << 10;

/// Returns the promises that `step` broke. The two snapshots are the states of the sandbox before
/// and after it.
pub(crate) fn violations(
    step: &Step,
    run: &Run,
    max_memory: usize,
    (before, after): (&Snapshot, &Snapshot),
) -> Vec<Violation> {
    let command = &step.command;
    let mut problems = Vec::new();
    let unexpected = unexpected_changes(step, before, after);
    if !unexpected.is_empty() {
        problems.push((Promise::Paths, format!("{unexpected:?} changed")));
    }
    if let Some(peak) = run.peak_memory.filter(|peak| *peak > max_memory) {
        problems.push((Promise::Resources, format!("it allocated {peak} bytes")));
    }
    let growth = after.size().saturating_sub(before.size());
    if growth > run.bytes_sent + MAX_DISK {
        problems.push((Promise::Resources, format!("{growth} bytes on disk for {} sent", run.bytes_sent)));
    }
    problems.extend(run.failure.iter().map(|(promise, failure)| (*promise, failure.clone())));
    let streams = [("standard output", &run.stdout), ("standard error", &run.stderr)];
    for ((stream, bytes), origin) in streams.into_iter().zip(command.origins()) {
        let found = terminal::problems(&command.without_own_returns(bytes), origin, run.is_redrawn);
        problems.extend(found.into_iter().map(|problem| (Promise::Terminal, format!("{stream}: {problem}"))));
    }
    let violation = |(promise, problem)| Violation { promise, command: command.clone(), problem };
    problems.into_iter().map(violation).collect()
}

/// Returns the changed paths that the user did not ask for.
fn unexpected_changes(step: &Step, before: &Snapshot, after: &Snapshot) -> Vec<PathBuf> {
    let mut changed = before.differences(after);
    if changed.is_empty() {
        return changed;
    }
    let mut allowed = step.command.may_change(|path| before.is_dir(&PathBuf::from("home").join(path)));
    if step.is_interrupted() {
        // A client that is killed leaves its temporary repository to the next one.
        allowed.extend(["state/banger/rescue", "cache/banger/workspace"].map(str::to_owned));
    }
    // Directories may be created above an allowed path.
    let is_created_dir = |path: &PathBuf| !before.contains(path) && after.is_dir(path);
    let is_allowed = |path: &PathBuf| {
        let mut roots = allowed.iter().map(Path::new);
        roots.any(|root| path.starts_with(root) || is_created_dir(path) && root.starts_with(path))
    };
    changed.retain(|path| !is_allowed(path));
    changed
}
